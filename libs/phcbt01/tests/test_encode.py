"""The encoder: exact bytes, payload untouched, and no way to finish an invalid stream."""

from __future__ import annotations

import pytest
from phcbt01 import EncodeError, Encoder, Region, encoded_size, testing


def started(original_size: int, region_count: int) -> Encoder:
    encoder = Encoder(original_size, region_count)
    encoder.start()
    return encoder


def test_exact_bytes() -> None:
    stream = testing.encode(0x0102030405, [(0x10, b"ab"), (0x12, b"c")])
    assert stream == bytes.fromhex(
        "5048434254303100 0504030201000000 0200000000000000"
        "1000000000000000 0200000000000000 6162"
        "1200000000000000 0100000000000000 63"
    )
    assert len(stream) == encoded_size(2, 3)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_payload_passes_by_as_the_very_object(kind: type) -> None:
    payload = kind(b"abcd")
    encoder = started(100, 1)
    encoder.region(Region(0, 4))
    assert encoder.data(payload) is payload
    encoder.finish()


def test_payload_may_come_in_pieces() -> None:
    encoder = started(100, 1)
    encoder.region(Region(0, 12))
    for piece in (b"ab", b"", memoryview(b"cdefghij").cast("Q"), b"kl"):
        encoder.data(piece)
    encoder.finish()


def refused(encoder: Encoder) -> None:
    """A refusal is final: not even what would have been right is accepted."""
    for call in (
        encoder.start,
        lambda: encoder.region(Region(99, 1)),
        lambda: encoder.data(b""),
        encoder.finish,
    ):
        with pytest.raises(EncodeError, match="finished, or has refused"):
            call()


def test_start_comes_first() -> None:
    encoder = Encoder(100, 1)
    with pytest.raises(EncodeError, match="start"):
        encoder.region(Region(0, 1))
    refused(encoder)
    with pytest.raises(EncodeError, match="start"):
        Encoder(100, 0).finish()


def test_start_comes_once() -> None:
    encoder = started(100, 0)
    with pytest.raises(EncodeError, match="once"):
        encoder.start()
    refused(encoder)


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (Region(7, 2), "comes after the one at 8"),
        (Region(8, 4), "before the previous one ends, at 12"),
        (Region(11, 4), "before the previous one ends, at 12"),
        (Region(99, 2), "past the disk's 100 bytes"),
    ],
)
def test_a_region_in_the_wrong_place_is_refused(region: Region, reason: str) -> None:
    encoder = started(100, 2)
    encoder.region(Region(8, 4))
    encoder.data(b"abcd")
    with pytest.raises(EncodeError, match=reason):
        encoder.region(region)
    refused(encoder)


def test_more_regions_than_counted() -> None:
    encoder = started(100, 0)
    with pytest.raises(EncodeError, match="more regions"):
        encoder.region(Region(0, 1))
    refused(encoder)


def test_a_region_before_the_last_one_is_filled() -> None:
    encoder = started(100, 2)
    encoder.region(Region(0, 4))
    encoder.data(b"abc")
    with pytest.raises(EncodeError, match="1 bytes of the region are missing"):
        encoder.region(Region(4, 1))
    refused(encoder)


def test_more_data_than_the_region_has() -> None:
    encoder = started(100, 1)
    encoder.region(Region(0, 4))
    with pytest.raises(EncodeError, match="5 bytes of data where 4 are due"):
        encoder.data(b"abcde")
    refused(encoder)


def test_data_outside_a_region() -> None:
    encoder = started(100, 1)
    with pytest.raises(EncodeError, match="1 bytes of data where 0 are due"):
        encoder.data(b"a")
    refused(encoder)


def test_finish_with_data_missing() -> None:
    encoder = started(100, 1)
    encoder.region(Region(0, 4))
    with pytest.raises(EncodeError, match="4 bytes of the region are missing"):
        encoder.finish()
    refused(encoder)


def test_finish_with_regions_missing() -> None:
    encoder = started(100, 3)
    encoder.region(Region(0, 1))
    encoder.data(b"a")
    with pytest.raises(EncodeError, match="2 regions are missing"):
        encoder.finish()
    refused(encoder)


def test_a_finished_encoder_takes_no_more() -> None:
    encoder = started(100, 0)
    encoder.finish()
    refused(encoder)


def test_impossible_headers() -> None:
    with pytest.raises(EncodeError):
        Encoder(2**63, 0)
    with pytest.raises(EncodeError):
        Encoder(0, -1)
