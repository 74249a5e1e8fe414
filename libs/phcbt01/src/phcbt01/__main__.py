"""`python -m phcbt01`: look at deltas, check them, apply, make and merge them."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phcbt01._apply import apply
from phcbt01._convert import convert
from phcbt01._diff import diff
from phcbt01._identify import Reading, identify
from phcbt01._image import Image
from phcbt01._layout import Layout
from phcbt01._merge import merge, refuse_shrinking
from phcbt01._output import refuse_existing, replacing, writing
from phcbt01._streams import read_chunks
from phcbt01.decode import Decoder
from phcbt01.errors import FormatError, PhcbtError
from phcbt01.files import FileTarget
from phcbt01.index import Index, read_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phcbt01.model import Header


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after one line on stderr that says what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except (PhcbtError, OSError) as error:
        sys.stderr.write(f"phcbt01: {_explain(error)}\n")
        if isinstance(error, BrokenPipeError):
            _forget_output()
        return 1
    return 0


def _forget_output() -> None:
    """Let what nobody reads go nowhere, or Python would fail again to write it when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m phcbt01", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    info = commands.add_parser("info", help="show the header, and the regions if wanted")
    info.add_argument("delta", type=Path)
    info.add_argument("--regions", action="store_true", help="one line per region, in bytes")
    info.set_defaults(run=_info)

    verify = commands.add_parser("verify", help="read all of a delta and say whether it is valid")
    verify.add_argument("delta", type=Path)
    verify.set_defaults(run=_verify)

    identifying = commands.add_parser(
        "identify", help="find the layout of a delta that another program wrote"
    )
    identifying.add_argument("delta", type=Path)
    identifying.set_defaults(run=_identify)

    converting = commands.add_parser("convert", help="write a delta of another layout in ours")
    converting.add_argument("delta", type=Path)
    converting.add_argument("--layout", required=True, help="as `identify` prints it")
    _add_output(converting)
    converting.set_defaults(run=_convert)

    applying = commands.add_parser("apply", help="make a new image from a base and its deltas")
    applying.add_argument("base", type=Path, help="raw image; /dev/null for an empty one")
    applying.add_argument("deltas", type=Path, nargs="+", metavar="delta", help="oldest first")
    _add_output(applying)
    applying.set_defaults(run=_apply)

    differing = commands.add_parser("diff", help="make the delta between two raw images")
    differing.add_argument("old", type=Path)
    differing.add_argument("new", type=Path)
    differing.add_argument("--block-size", type=int, default=65536, metavar="BYTES")
    _add_output(differing)
    differing.set_defaults(run=_diff)

    merging = commands.add_parser("merge", help="make one delta of several")
    merging.add_argument("deltas", type=Path, nargs="+", metavar="delta", help="oldest first")
    _add_output(merging)
    merging.set_defaults(run=_merge)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def _info(options: argparse.Namespace) -> None:
    index = _indexed(options.delta)
    sys.stdout.write(
        f"original_size  {index.header.original_size}\n"
        f"region_count   {index.header.region_count}\n"
        f"data_bytes     {index.data_bytes}\n"
        f"stream_bytes   {index.stream_size}\n"
    )
    if options.regions:
        sys.stdout.write(f"\n{'offset':>19} {'length':>19} {'payload at':>19}\n")
        for entry in index:
            region = entry.region
            sys.stdout.write(f"{region.offset:19} {region.length:19} {entry.position:19}\n")


def _verify(options: argparse.Namespace) -> None:
    decoder = Decoder()
    with options.delta.open("rb", buffering=0) as stream, _named(options.delta):
        for chunk in read_chunks(stream):
            decoder.receive_data(chunk)
            for _ in decoder.events():
                pass
        header = decoder.close()
    sys.stdout.write(f"{options.delta}: valid, {_summary(header)}\n")


def _identify(options: argparse.Namespace) -> None:
    with options.delta.open("rb") as stream, _named(options.delta):
        found = identify(stream)
        size = stream.seek(0, os.SEEK_END)
    valid = [reading for reading in found if reading.index is not None]
    for reading in valid:
        sys.stdout.write(f"{reading.layout}\n    {_evidence(reading.index, size)}\n")
    if not valid:
        raise _not_identified(options.delta, found[0])
    if len(valid) > 1:
        sys.stdout.write(
            f"{options.delta}: {len(valid)} layouts make this file valid. Give a file with more "
            "regions to decide between them.\n"
        )


def _not_identified(delta: Path, best: Reading) -> FormatError:
    assert best.error is not None  # noqa: S101 - no reading is valid
    error = best.error
    what = (
        f"{delta}: no layout makes this file valid; with the best one, {best.layout}: {error.what}"
    )
    return FormatError(error.code, error.offset, what)


def _evidence(index: Index | None, size: int) -> str:
    assert index is not None  # noqa: S101 - a valid reading has an index
    where = f", the last one ends at byte {index[-1].region.end}" if len(index) else ""
    return (
        f"a disk of {index.header.original_size} bytes; {len(index)} regions in ascending order"
        f"{where}; the file ends after the last region, at byte {size}"
    )


def _convert(options: argparse.Namespace) -> None:
    layout = Layout.parse(options.layout)
    with (
        options.delta.open("rb", buffering=0) as stream,
        _named(options.delta),
        writing(options.output, overwrite=options.overwrite) as out,
    ):
        header = convert(stream, out, layout)
    sys.stdout.write(f"{options.output}: written, {_summary(header)}\n")


def _apply(options: argparse.Namespace) -> None:
    sizes = [_indexed(delta).header.original_size for delta in options.deltas]
    with contextlib.ExitStack() as stack:
        base = Image.open(options.base, stack)
        refuse_shrinking([base.size, *sizes])
        output = options.output
        if output.is_block_device():
            refuse_existing(output, overwrite=options.overwrite)
        else:
            output = stack.enter_context(replacing(output, overwrite=options.overwrite))
        _restore(base, options.deltas, output)
    sys.stdout.write(f"{options.output}: written, a disk of {sizes[-1]} bytes\n")


def _restore(base: Image, deltas: Sequence[Path], output: Path) -> None:
    with FileTarget.create(output, base.size) as target:
        base.copy(target)
        for delta in deltas:
            with delta.open("rb", buffering=0) as stream, _named(delta):
                apply(stream, target)


def _diff(options: argparse.Namespace) -> None:
    with writing(options.output, overwrite=options.overwrite) as out:
        header = diff(options.old, options.new, out, block_size=options.block_size)
    sys.stdout.write(f"{options.output}: written, {_summary(header)}\n")


def _merge(options: argparse.Namespace) -> None:
    for delta in options.deltas:
        _indexed(delta)
    with writing(options.output, overwrite=options.overwrite) as out:
        header = merge(options.deltas, out)
    sys.stdout.write(f"{options.output}: written, {_summary(header)}\n")


def _indexed(path: Path) -> Index:
    with path.open("rb") as stream, _named(path):
        return read_index(stream)


def _summary(header: Header) -> str:
    return f"a disk of {header.original_size} bytes, {header.region_count} regions"


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say in which file an invalid stream was found."""
    try:
        yield
    except FormatError as error:
        raise FormatError(error.code, error.offset, f"{path}: {error.what}") from error


def _explain(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
