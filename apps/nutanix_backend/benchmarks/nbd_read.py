"""Read the dirty extents of an NBD export as virtnbdbackup does: run by /usr/bin/python3.

    nbd_read.py SOCKET read BITMAP OUTPUT   write a stream of them; print how many bytes were read
    nbd_read.py SOCKET fill SOURCE PLACES   write the pieces of SOURCE that PLACES lists

virtnbdbackup itself cannot run without libvirtd: its program begins each backup with libvirt's
backup API, of a domain that runs. This is what it then does, with the library that it does it with
(libnbd; Debian: python3-libnbd): it asks for the status of all blocks, joins extents that touch,
and for each dirty one makes one request, waits for it, and writes a frame around the data.
"""

import pathlib
import sys

import nbd  # type: ignore[import-not-found]

PIECE = 65536
MOST = 4294967295 - 511
"""Bytes that one question about blocks is about."""


def dirty_extents(handle: nbd.NBD) -> list[tuple[int, int]]:
    """Offset and length of each dirty extent; those that touch are one."""
    size, at = handle.get_size(), 0
    runs: list[list[int]] = []

    def note(_context: str, offset: int, entries: list[int], _status: object) -> int:
        nonlocal at
        at = offset
        for length, flags in zip(entries[::2], entries[1::2], strict=True):
            if runs and runs[-1][2] == flags:
                runs[-1][1] += length
            else:
                runs.append([at, length, flags])
            at += length
        return 0

    while at < size:
        handle.block_status(min(MOST, size - at), at, note)
    return [(offset, length) for offset, length, flags in runs if flags]


def read(handle: nbd.NBD, _bitmap: str, output: str) -> None:
    """The extents that the bitmap marks, each in a frame."""
    done = 0
    with pathlib.Path(output).open("wb") as writer:
        for offset, length in dirty_extents(handle):
            writer.write(b"d %016x %016x\r\n" % (offset, length))
            done += writer.write(handle.pread(length, offset))
            writer.write(b"\r\n")
    print(done)


def fill(handle: nbd.NBD, source: str, places: str) -> None:
    """Make the changes that the other contestant finds."""
    with pathlib.Path(source).open("rb") as file:
        for line in pathlib.Path(places).read_text().split():
            file.seek(int(line) * PIECE)
            handle.pwrite(file.read(PIECE), int(line) * PIECE)
    handle.flush()


def main() -> None:
    """Connect, and do it."""
    socket, work, *arguments = sys.argv[1:]
    handle = nbd.NBD()
    if work == "read":
        handle.add_meta_context(f"qemu:dirty-bitmap:{arguments[0]}")
    handle.connect_uri(f"nbd+unix:///?socket={socket}")
    {"read": read, "fill": fill}[work](handle, *arguments)
    handle.shutdown()


if __name__ == "__main__":
    main()
