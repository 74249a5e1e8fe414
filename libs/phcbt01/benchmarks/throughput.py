"""PHCBT01 against `cat`, and what a million regions cost.

    python benchmarks/throughput.py [--mebibytes 512] [--rounds 7] [--folder /dev/shm]

Routes are the same on both sides: read() from a file in memory, then write(), to another file in
memory or to /dev/null. Outputs are opened for appending, because `cat` would otherwise let the
kernel copy (copy_file_range) and never see the bytes. Time is CPU time, the child's included:
nothing here waits, and other work on the machine adds none. Contestants take turns (.ci/race.py has
to be on PYTHONPATH, as ./run bench puts it).
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from phcbt01 import Data, Decoder, Encoder, Region, encoded_size, read_index
from race import race

if TYPE_CHECKING:
    from collections.abc import Callable

    from phcbt01 import Buffer

GOAL = 0.9
REGION = 65536
CHUNK = 262144


def main() -> int:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    count = options.mebibytes * 16
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        payload, stream = folder / "payload", folder / "stream"
        with payload.open("wb") as file:
            noise = os.urandom(REGION)
            file.writelines(noise for _ in range(count))
        encode(payload, stream, count)
        for what, sink in (("file in memory", folder / "out"), ("/dev/null", Path("/dev/null"))):
            compare(what, payload, stream, sink, count, options.rounds)
    print(f"peak RSS so far {peak_rss()} MiB")
    many_regions()
    return 0


def compare(what: str, payload: Path, stream: Path, sink: Path, count: int, rounds: int) -> None:
    """Race encoding and decoding against copying the same payload, by CPU time."""

    def timed(step: Callable[[], None]) -> Callable[[], float]:
        def work() -> float:
            empty(sink)
            start = cpu_seconds()
            step()
            return cpu_seconds() - start

        return work

    peer = ("cat", timed(lambda: cat(payload, sink)))
    steps: dict[str, Callable[[], None]] = {
        "encode": lambda: encode(payload, sink, count),
        "decode": lambda: decode(stream, sink),
    }
    for name, step in steps.items():
        title = f"PHCBT01 to {what}, CPU time"
        race(title, (name, timed(step)), peer, count * REGION, GOAL, rounds=rounds)


def empty(sink: Path) -> None:
    if sink.is_file():
        sink.unlink()


def opened(sink: Path) -> int:
    return os.open(sink, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def cat(source: Path, sink: Path) -> None:
    """Copy with cat."""
    out = opened(sink)
    subprocess.run(["cat", str(source)], stdout=out, check=True)
    os.close(out)


def encode(payload: Path, sink: Path, count: int) -> None:
    """Frame the payload as regions of 64 KiB, every second one of the disk."""
    source, out = os.open(payload, os.O_RDONLY), opened(sink)
    buffer = memoryview(bytearray(CHUNK))
    views = [buffer[at : at + REGION] for at in range(0, CHUNK, REGION)]
    offsets = iter(range(0, 2 * count * REGION, 2 * REGION))
    encoder = Encoder(2 * count * REGION, count)
    os.write(out, encoder.start())
    while got := os.readv(source, views):
        pieces: list[Buffer] = []
        for view in views[: got // REGION]:
            pieces += (encoder.region(Region(next(offsets), REGION)), encoder.data(view))
        os.writev(out, pieces)
    encoder.finish()
    os.close(source)
    os.close(out)


def decode(stream: Path, sink: Path) -> None:
    """Decode the stream and write its payload."""
    source, out = os.open(stream, os.O_RDONLY), opened(sink)
    buffer = memoryview(bytearray(CHUNK))
    decoder = Decoder()
    while got := os.readv(source, [buffer]):
        decoder.receive_data(buffer[:got])
        for event in decoder.events():
            if isinstance(event, Data):
                os.write(out, event.view)
    decoder.close()
    os.close(source)
    os.close(out)


def many_regions(count: int = 1_000_000, length: int = 16) -> None:
    """Encode, decode and index a million regions in a process of this size."""
    out = io.BytesIO()
    encoder = Encoder(2 * count * length, count)
    payload = bytes(length)
    start = cpu_seconds()
    out.write(encoder.start())
    for number in range(count):
        out.write(encoder.region(Region(2 * number * length, length)))
        out.write(encoder.data(payload))
    encoder.finish()
    encoded = cpu_seconds()
    index = read_index(out)
    done = cpu_seconds()
    size = encoded_size(count, count * length)
    if index.stream_size != size:
        raise AssertionError(f"{index.stream_size} bytes instead of {size}")
    print(
        f"{count} regions: encode {(encoded - start) / count * 1e6:.2f} us each, index"
        f" {(done - encoded) / count * 1e6:.2f} us each; peak RSS {peak_rss()} MiB,"
        f" {size >> 20} MiB of it the stream"
    )


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children it waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_rss() -> int:
    """Return the largest size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
