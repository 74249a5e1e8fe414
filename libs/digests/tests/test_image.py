"""The list is that of the image, whatever was written to it and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import xxhash
from digests import BLOCK, BadList, ImageDigests, encoded_size
from hypothesis import example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = BLOCK // 8
ZERO = bytes.fromhex("b6ef17a3448492b6918780b90550bf34")


def plain_list(image: bytes) -> list[bytes]:
    """The digests of an image, as the page says it and no faster."""
    blocks = (image[at : at + BLOCK] for at in range(0, len(image), BLOCK))
    return [xxhash.xxh3_128(block).digest() for block in blocks]


def plain_root(image: bytes) -> str:
    whole = len(image).to_bytes(8, "little") + b"".join(plain_list(image))
    return f"xxh3-128:{xxhash.xxh3_128(whole).hexdigest()}"


def read(image: ImageDigests, content: bytes) -> list[int]:
    """Read every stale block; return their offsets."""
    stale = list(image.stale())
    for offset, length in stale:
        image.put(offset, content[offset : offset + length])
    return [offset for offset, _ in stale]


writes = st.lists(
    st.tuples(
        st.sampled_from(["data", "zeros", "grow"]),
        st.integers(0, 30),  # pages
        st.integers(1, 20),
        st.integers(0, 255),
        st.sampled_from([0, 0, 1, 511]),  # off the page
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * 8), st.sampled_from([0, 1, 512]), writes)
@example(9, 0, [("data", 0, 8, 1, 0), ("data", 8, 1, 2, 0), ("grow", 0, 1, 0, 0)])
def test_it_follows_what_is_written(
    pages: int, odd: int, changes: list[tuple[str, int, int, int, int]]
) -> None:
    content = bytearray(pages * PAGE + odd)
    image = ImageDigests(len(content))
    for kind, start, length, byte, off in changes:
        if kind == "grow":
            content += bytes(length * PAGE // 2 + off)
            image.resize(len(content))
            continue
        offset = min(start * PAGE + off, len(content))
        amount = min(length * PAGE - off, len(content) - offset)
        if kind == "zeros":
            content[offset : offset + amount] = bytes(amount)
            image.zeros(offset, amount)
        else:
            content[offset : offset + amount] = bytes([byte]) * amount
            image.update(offset, content[offset : offset + amount])
    read(image, bytes(content))
    assert image.root() == plain_root(bytes(content))
    decoded = ImageDigests.decode(image.encode())
    assert decoded.root() == image.root()
    assert decoded.encode() == image.encode()


def test_an_image_that_is_streamed_from_its_beginning_needs_no_reading() -> None:
    content = bytes(range(256)) * (BLOCK // 100)
    image = ImageDigests(len(content))
    for at in range(0, len(content), 983_040):
        image.update(at, memoryview(content)[at : at + 983_040])
    assert not list(image.stale())
    assert image.root() == plain_root(content)


def test_only_blocks_that_are_written_in_part_are_stale() -> None:
    image = ImageDigests(6 * BLOCK - 512)
    image.update(BLOCK, b"x")
    image.update(2 * BLOCK, bytes(BLOCK))
    image.zeros(3 * BLOCK + 1, BLOCK)
    assert [offset // BLOCK for offset, _ in image.stale()] == [1, 3, 4]
    image.update(5 * BLOCK, b"y")
    assert list(image.stale())[-1] == (5 * BLOCK, BLOCK - 512)


def test_two_writes_that_touch_make_a_whole_block() -> None:
    image = ImageDigests(BLOCK)
    image.update(0, bytes(PAGE))
    image.update(PAGE, b"a" * (BLOCK - PAGE))
    assert not list(image.stale())


@pytest.mark.parametrize("second", [0, PAGE, 3 * PAGE])
def test_two_writes_that_do_not_touch_do_not(second: int) -> None:
    image = ImageDigests(BLOCK)
    image.update(0, b"a" * 2 * PAGE)
    image.update(second, b"b" * PAGE)
    assert list(image.stale()) == [(0, BLOCK)]


def test_with_a_stale_block_there_is_neither_root_nor_list() -> None:
    image = ImageDigests.unknown(2 * BLOCK)
    for asked in (image.root, image.encode):
        with pytest.raises(ValueError, match="2 blocks were not read yet"):
            asked()
    assert read(image, bytes(2 * BLOCK)) == [0, BLOCK]
    assert image.root() == ImageDigests(2 * BLOCK).root()


def test_what_was_written_can_be_read_back() -> None:
    image = ImageDigests(4 * BLOCK)
    image.update(BLOCK, b"a" * BLOCK)
    image.zeros(3 * BLOCK, BLOCK)
    root = image.root()
    image.distrust()
    assert read(image, bytes(BLOCK) + b"a" * BLOCK + bytes(2 * BLOCK)) == [BLOCK, 3 * BLOCK]
    assert image.root() == root


def test_what_is_in_doubt_has_to_be_read() -> None:
    image = ImageDigests(4 * BLOCK)
    image.doubt(BLOCK - 1, 2)
    image.doubt(3 * BLOCK, 0)
    assert [offset for offset, _ in image.stale()] == [0, BLOCK]


def test_a_block_is_compared_with_the_list() -> None:
    image = ImageDigests(2 * BLOCK)
    assert image.holds(BLOCK, bytes(BLOCK))
    assert not image.holds(BLOCK, b"a" * BLOCK)
    other = ImageDigests(2 * BLOCK)
    other.put(BLOCK, b"a" * BLOCK)
    assert list(image.differences(other)) == [BLOCK]
    assert image.root() != other.root()


def test_an_image_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="does not shrink"):
        ImageDigests(2).resize(1)


def test_the_known_values_of_the_page() -> None:
    assert plain_list(bytes(BLOCK)) == [ZERO]
    tib = 1 << 40
    sizes = [encoded_size(tib, blocks) for blocks in (1 << 20, (1 << 20) // 10, 0)]
    assert sizes == [16_908_304, 1_808_800, 131_088]


def test_the_size_of_a_list_is_known_beforehand() -> None:
    image = ImageDigests(9 * BLOCK + 5)
    image.update(9 * BLOCK, b"hello")
    assert len(image.encode()) == encoded_size(image.size, 1)


def whole() -> bytearray:
    """A list of nine blocks, two of them with data."""
    image = ImageDigests(8 * BLOCK + 100)
    image.put(2 * BLOCK, b"a" * BLOCK)
    image.put(8 * BLOCK, b"b" * 100)
    return bytearray(image.encode())


def put(at: int, content: bytes) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        data[at : at + len(content)] = content

    return change


@pytest.mark.parametrize(
    "change",
    [
        put(0, b"X"),
        put(8, (1 << 63).to_bytes(8, "little")),
        put(8, (1 << 62).to_bytes(8, "little")),
        put(17, b"\3"),  # a bit behind the last block
        put(16, b"\x0c"),  # a bit too many: the digests do not suffice
        put(16, b"\0"),  # a bit too few
        put(18, ZERO),
        put(34, xxhash.xxh3_128(bytes(100)).digest()),
        lambda data: data.pop(),
        lambda data: data.append(0),
        lambda data: data.clear(),
        lambda data: data.__delitem__(slice(17, None)),
    ],
)
def test_what_is_not_a_list_is_refused(change: Callable[[bytearray], object]) -> None:
    data = whole()
    ImageDigests.decode(data)
    change(data)
    with pytest.raises(BadList):
        ImageDigests.decode(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    for given_data in (data, b"PHDGL01\0" + data):
        try:
            image = ImageDigests.decode(given_data)
        except BadList:
            continue
        assert image.encode() == given_data
