"""Streams of other layouts: identified, read, applied and converted."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phcbt01 import (
    OURS,
    Applier,
    Code,
    Data,
    Decoder,
    FileTarget,
    FormatError,
    Header,
    Layout,
    Region,
    UsageError,
    identify,
    read_index,
    testing,
)
from phcbt01.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

CHANGES = [(4096, b"first" * 100), (70_000, b"second"), (99_995, b"end!!")]
LAYOUTS = st.builds(
    Layout,
    st.booleans(),
    st.sampled_from([4, 8]),
    st.sampled_from([4, 8]),
    st.sampled_from([None, 0, 10, 49, 255]),
    st.booleans(),
    st.booleans(),
)


def encode(layout: Layout, size: int, changes: list[tuple[int, bytes]]) -> bytes:
    """Return a stream as a program with this layout would write it."""
    pieces = [layout.build_header(Header(size, len(changes)))]
    for offset, data in changes:
        pieces += [layout.build_region(Region(offset, len(data))), data]
    return b"".join(pieces)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@given(layout=LAYOUTS)
def test_a_layout_is_its_text(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


def test_ours_is_the_default() -> None:
    assert str(OURS) == "little-header64-region64-magic8"
    assert Layout() == OURS


@pytest.mark.parametrize("text", ["", "big", "little-header64-region64-magic9", "x" * 300])
def test_a_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a layout.*little-header64-region64-magic8"):
        Layout.parse(text)


@given(layout=LAYOUTS)
def test_the_layout_of_a_file_is_found(layout: Layout) -> None:
    stream = encode(layout, 100_000, CHANGES)
    found = identify(io.BytesIO(stream))
    valid = [reading.layout for reading in found if reading.index is not None]
    assert layout in valid
    # a byte of zero after the name may be the eighth one, or the first of a field
    assert len(valid) <= 2
    assert read_index(io.BytesIO(stream), layout).data_bytes == 511


@given(layout=LAYOUTS)
def test_it_is_read_and_applied(layout: Layout) -> None:
    stream = encode(layout, 100_000, CHANGES)
    decoder, data = Decoder(layout), bytearray(100_000)
    for start in range(0, len(stream), 7):
        decoder.receive_data(stream[start : start + 7])
        for event in decoder.events():
            if isinstance(event, Data):
                data[event.offset : event.offset + len(event.view)] = event.view
    decoder.close()
    for offset, piece in CHANGES:
        assert data[offset : offset + len(piece)] == piece


def test_it_is_applied_to_an_image(tmp_path: Path) -> None:
    layout = Layout(is_big_endian=True, region_width=4)
    with FileTarget.create(tmp_path / "disk.raw", 100_000) as target:
        applier = Applier(target, layout)
        applier.receive_data(encode(layout, 100_000, CHANGES))
        applier.close()
    image = (tmp_path / "disk.raw").read_bytes()
    assert image[70_000:70_006] == b"second"


def test_a_file_of_another_format_is_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as error:
        identify(io.BytesIO(b"QFI\xfb" + bytes(100)))
    assert error.value.code is Code.BAD_MAGIC


def test_identify_says_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "theirs"
    file.write_bytes(encode(Layout(is_big_endian=True, eighth=49), 100_000, CHANGES))
    assert run("identify", file) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "big-header64-region64-magic8:31"
    assert "a disk of 100000 bytes; 3 regions in ascending order" in second
    assert "the last one ends at byte 100000; the file ends after the last region" in second


def test_identify_needs_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "theirs"
    file.write_bytes(encode(OURS, 100_000, []))
    assert run("identify", file) == 0
    text = capsys.readouterr().out
    assert "4 layouts make this file valid. Give a file with more regions" in text
    assert "the last one" not in text


@pytest.mark.parametrize("length", [7, 8, 20, 60, 200])
def test_a_damaged_file_has_no_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    file = tmp_path / "theirs"
    file.write_bytes(encode(OURS, 100_000, CHANGES)[:length])
    assert run("identify", file) == 1
    assert "no layout makes this file valid; with the best one, " in capsys.readouterr().err


def test_a_stream_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(is_big_endian=True, header_width=4, region_width=4, has_length_first=True)
    file, out = tmp_path / "theirs", tmp_path / "ours"
    file.write_bytes(encode(layout, 100_000, CHANGES))
    assert run("convert", file, "--layout", layout, "-o", out) == 0
    assert out.read_bytes() == testing.encode(100_000, CHANGES)
    assert capsys.readouterr().out == f"{out}: written, a disk of 100000 bytes, 3 regions\n"


@pytest.mark.parametrize("length", [0, 30, 500])
def test_a_stream_that_ends_early_is_not_converted(tmp_path: Path, length: int) -> None:
    file, out = tmp_path / "theirs", tmp_path / "ours"
    file.write_bytes(encode(OURS, 100_000, CHANGES)[:length])
    assert run("convert", file, "--layout", OURS, "-o", out) == 1
    assert not out.exists()
