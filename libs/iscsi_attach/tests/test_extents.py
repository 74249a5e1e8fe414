"""The pipelined reader, on a disk in memory whose reads end as the test says."""

from __future__ import annotations

import ctypes
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iscsi_attach import DeviceError, Extent, IoFailed, OutOfRange, read_extents
from iscsi_attach.testing import MemoryDevice

CONTENT = bytes(range(256)) * 64  # 16 KiB
SIZE = len(CONTENT)


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    offset = draw(st.integers(0, SIZE))
    return Extent(offset, draw(st.integers(0, SIZE - offset)))


@given(st.lists(extents(), max_size=8), st.integers(300, 5000), st.integers(1, 4))
def test_exactly_the_bytes_asked_for_in_order(wanted: list[Extent], unit: int, depth: int) -> None:
    device = MemoryDevice(CONTENT)
    got: list[tuple[int, bytes]] = []
    for offset, view in read_extents(device, wanted, unit=unit, depth=depth):
        assert 0 < len(view) <= unit
        got.append((offset, bytes(view)))
    expected = b"".join(CONTENT[e.offset : e.offset + e.length] for e in wanted)
    assert b"".join(data for _, data in got) == expected
    assert all(CONTENT[offset : offset + len(data)] == data for offset, data in got)


def test_reads_that_end_out_of_order_are_handed_over_in_order() -> None:
    device = MemoryDevice(CONTENT, automatic=False)
    ended = threading.Thread(target=_release_backwards, args=(device,))
    ended.start()
    pieces = [(o, bytes(v)) for o, v in read_extents(device, [Extent(0, SIZE)], unit=4096, depth=3)]
    ended.join()
    assert pieces == [(at, CONTENT[at : at + 4096]) for at in range(0, SIZE, 4096)]


def _release_backwards(device: MemoryDevice) -> None:
    for _ in range(1000):
        if len(device.pending) == 4:
            break
        threading.Event().wait(0.005)
    for at in (3, 2, 1, 0):
        device.release(at)


def test_as_many_reads_in_flight_as_asked_and_no_more() -> None:
    device = MemoryDevice(CONTENT, automatic=False)
    reader = read_extents(device, [Extent(0, SIZE)], unit=1024, depth=3)
    first = threading.Thread(target=next, args=(reader,))
    first.start()
    for _ in range(1000):
        if len(device.pending) == 4:
            break
        threading.Event().wait(0.005)
    device.release()
    first.join()
    assert len(device.pending) == 3
    _drain(device, reader.close)  # type: ignore[attr-defined]  # an iterator in the contract
    assert device.most_in_flight == 4


def _drain(device: MemoryDevice, close: object) -> None:
    """Close the reader while reads are in flight: it must wait for every one of them."""
    assert callable(close)
    closing = threading.Thread(target=close)
    closing.start()
    while device.pending:
        assert closing.is_alive()
        device.release()
    closing.join(5)
    assert not closing.is_alive()


def test_few_buffers_serve_a_long_read() -> None:
    device = MemoryDevice(CONTENT)
    places: set[int] = set()
    submit = device.submit_read

    def noting(offset: int, buffer: memoryview):  # type: ignore[no-untyped-def]  # as its model
        places.add(_address(buffer))
        return submit(offset, buffer)

    device.submit_read = noting  # type: ignore[method-assign]
    for _ in read_extents(device, [Extent(0, SIZE)], unit=512, depth=2):
        pass
    assert len(places) == 3
    assert all(place % 4096 == 0 for place in places)


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_a_view_cannot_be_used_after_its_turn() -> None:
    reader = read_extents(MemoryDevice(CONTENT), [Extent(0, SIZE)], unit=4096)
    _, view = next(reader)
    next(reader)
    with pytest.raises(ValueError, match="released"):
        bytes(view)


def _copy(piece: tuple[int, memoryview]) -> tuple[int, bytes]:
    return piece[0], bytes(piece[1])


def test_an_error_comes_at_its_place_and_ends_the_reading() -> None:
    device = MemoryDevice(CONTENT, bad_offset=9000)
    reader = read_extents(device, [Extent(0, SIZE)], unit=4096, depth=8)
    for offset in (0, 4096):
        assert _copy(next(reader)) == (offset, CONTENT[offset : offset + 4096])
    with pytest.raises(IoFailed):
        next(reader)
    assert not device.pending


@pytest.mark.parametrize("extent", [Extent(SIZE, 1), Extent(0, SIZE + 1), Extent(SIZE + 5, 0)])
def test_an_extent_outside_of_the_device_is_an_error_before_any_data(extent: Extent) -> None:
    reader = read_extents(MemoryDevice(CONTENT), [Extent(0, 10), extent])
    with pytest.raises(OutOfRange, match=f"not inside its {SIZE} bytes") as caught:
        next(reader)
    assert isinstance(caught.value, DeviceError)


def test_extents_are_taken_as_they_are_needed() -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield Extent(0, 512)

    reader = read_extents(MemoryDevice(CONTENT), endless(), depth=2)  # type: ignore[arg-type]
    for _ in range(5):
        next(reader)
    assert taken <= 8


@pytest.mark.parametrize(("unit", "depth"), [(0, 1), (1, 0)])
def test_unit_and_depth_are_positive(unit: int, depth: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        read_extents(MemoryDevice(CONTENT), [], unit=unit, depth=depth)
