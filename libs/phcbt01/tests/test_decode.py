"""The decoder's events and its order of calls. What it refuses is in test_invalid.py."""

from __future__ import annotations

import tracemalloc

import pytest
from phcbt01 import Data, Decoder, End, FormatError, Header, Region, UsageError, testing

STREAM = testing.encode(100, [(8, b"abcd"), (12, b"xyz"), (99, b"!")])


def test_events_in_their_order() -> None:
    decoder = Decoder()
    decoder.receive_data(STREAM)
    assert list(decoder.events()) == [
        Header(100, 3),
        Region(8, 4),
        Data(8, memoryview(b"abcd")),
        Region(12, 3),
        Data(12, memoryview(b"xyz")),
        Region(99, 1),
        Data(99, memoryview(b"!")),
        End(),
    ]
    assert decoder.close() == Header(100, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 16, 17, 24, 40, 1000])
def test_pieces_of_any_size_give_the_same(size: int) -> None:
    assert testing.decode(STREAM, cuts=range(size, len(STREAM), size)) == testing.decode(STREAM)


def test_empty_pieces_change_nothing() -> None:
    assert testing.decode(STREAM, cuts=[0, 0, 24, 24, 45, 45]) == testing.decode(STREAM)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "header is due"), (30, "header is due"), (42, "ends 2 bytes before the end of a region")],
)
def test_what_is_missing_is_said(size: int, shown: str) -> None:
    decoder = Decoder()
    decoder.receive_data(STREAM[:size])
    list(decoder.events())
    with pytest.raises(FormatError, match=shown):
        decoder.close()


def test_draining_again_gives_nothing_more() -> None:
    decoder = Decoder()
    assert list(decoder.events()) == []
    found = []
    for at in range(len(STREAM)):
        decoder.receive_data(STREAM[at : at + 1])
        found += list(decoder.events())
        assert list(decoder.events()) == []
    assert [type(event) for event in found].count(Region) == 3
    assert decoder.close() == Header(100, 3)


def test_a_stream_without_regions_is_valid() -> None:
    found = testing.check_input(testing.encode(0, []), cuts=[1])
    assert (found.header, found.regions, found.ended, found.fault) == (Header(0, 0), [], True, None)


def test_payload_is_a_window_on_the_callers_buffer() -> None:
    buffer = bytearray(STREAM)
    decoder = Decoder()
    decoder.receive_data(buffer)
    for event in decoder.events():
        if isinstance(event, Data):
            assert event.view.obj is buffer


def test_a_drained_decoder_holds_no_buffer() -> None:
    buffer = bytearray(STREAM[:30])
    decoder = Decoder()
    decoder.receive_data(buffer)
    list(decoder.events())
    buffer.clear()  # a BufferError, if anyone still looked at it


def test_any_kind_of_contiguous_buffer_is_taken() -> None:
    decoder = Decoder()
    decoder.receive_data(memoryview(STREAM).cast("Q"))
    assert len(list(decoder.events())) == 8
    assert decoder.close() == Header(100, 3)


def test_events_can_be_drained_in_several_goes() -> None:
    decoder = Decoder()
    decoder.receive_data(STREAM)
    assert next(decoder.events()) == Header(100, 3)
    assert next(decoder.events()) == Region(8, 4)
    assert len(list(decoder.events())) == 6
    assert decoder.close() == Header(100, 3)


def test_undrained_events_are_not_lost_silently() -> None:
    decoder = Decoder()
    decoder.receive_data(STREAM)
    next(decoder.events())
    with pytest.raises(UsageError):
        decoder.receive_data(b"")
    with pytest.raises(UsageError):
        decoder.close()


def test_an_error_is_final() -> None:
    decoder = Decoder()
    decoder.receive_data(b"x" * 24)
    with pytest.raises(FormatError) as first:
        list(decoder.events())
    for call in (lambda: decoder.receive_data(b""), lambda: list(decoder.events()), decoder.close):
        with pytest.raises(FormatError) as later:
            call()
        assert later.value is first.value


def test_truncation_is_final() -> None:
    decoder = Decoder()
    decoder.receive_data(STREAM[:61])
    list(decoder.events())
    with pytest.raises(FormatError, match="ends 2 bytes before the end of a region") as caught:
        decoder.close()
    assert caught.value.offset == 61
    with pytest.raises(FormatError):
        decoder.receive_data(STREAM[61:])


def test_a_closed_decoder_takes_no_more() -> None:
    decoder = Decoder()
    decoder.receive_data(STREAM)
    list(decoder.events())
    decoder.close()
    for call in (lambda: decoder.receive_data(b""), lambda: list(decoder.events()), decoder.close):
        with pytest.raises(UsageError):
            call()


def test_memory_is_flat_over_a_gibibyte() -> None:
    region, count = 1 << 16, 1 << 14
    payload = memoryview(bytes(region))
    header = testing.encode(region * count, [])[:16] + count.to_bytes(8, "little")
    decoder = Decoder()
    decoder.receive_data(header)
    list(decoder.events())
    received = 0
    tracemalloc.start()
    for number in range(count):
        decoder.receive_data(Region(number * region, region).offset.to_bytes(8, "little"))
        list(decoder.events())
        decoder.receive_data(region.to_bytes(8, "little"))
        list(decoder.events())
        decoder.receive_data(payload)
        received += sum(len(event.view) for event in decoder.events() if isinstance(event, Data))
    decoder.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert received == 1 << 30
    assert peak < 64 * 1024
