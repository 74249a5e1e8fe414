"""Level 1: headers by hand, bad headers, and what the decoder costs."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ptcomm import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    LocalProtocolError,
    Packet,
    PacketDecoder,
    RemoteProtocolError,
    Status,
    encode_packet,
)
from ptcomm.testing import chunks, split_everywhere

# hypothesis itself compares bytes with numbers, which python -bb does not forgive
pytestmark = pytest.mark.filterwarnings("ignore::BytesWarning:hypothesis")

WIRE = b"C000013\nHello Bacula\nD000003\n\x00\xff\nF000000\nI000005\nnote\nT000000\n"
PACKETS = [
    (Status.COMMAND, b"Hello Bacula\n"),
    (Status.DATA, b"\x00\xff\n"),
    (Status.END_OF_DATA, b""),
    (Status.INFO, b"note\n"),
    (Status.TERMINATE, b""),
]


def decode(pieces: list[bytes]) -> tuple[list[tuple[Status, bytes]], str | None, int | None]:
    """What a decoder makes of the pieces: packets, then the code and offset of its error."""
    decoder = PacketDecoder()
    packets: list[tuple[Status, bytes]] = []
    try:
        for piece in pieces:
            decoder.receive_data(piece)
            for packet in decoder.packets():
                packets.append((packet.status, bytes(packet.payload)))  # noqa: PERF401 - keeps what came before an error
    except RemoteProtocolError as error:
        return packets, error.code, error.offset
    return packets, None, None


def test_wire_constants() -> None:
    assert HEADER_SIZE == 8
    assert MAX_PAYLOAD == 999_999


def test_packets_do_not_depend_on_the_cut() -> None:
    for pieces in split_everywhere(WIRE):
        assert decode(pieces) == (PACKETS, None, None)


def test_packets_are_encoded_as_the_hand_written_bytes() -> None:
    parts = [part for status, payload in PACKETS for part in encode_packet(status, payload)]
    assert b"".join(parts) == WIRE


def test_payload_objects_are_passed_through() -> None:
    first, second = bytearray(b"abc"), memoryview(b"defg")
    header, *parts = encode_packet(Status.DATA, first, second)
    assert header == b"D000007\n"
    assert parts[0] is first
    assert parts[1] is second


def test_the_length_is_in_bytes_whatever_the_items() -> None:
    assert encode_packet(Status.DATA, memoryview(b"abcdefgh").cast("I"))[0] == b"D000008\n"


@pytest.mark.parametrize(
    ("status", "size"),
    [(Status.DATA, MAX_PAYLOAD + 1), (Status.END_OF_DATA, 1), (Status.TERMINATE, 1)],
)
def test_packets_that_do_not_exist_are_not_encoded(status: Status, size: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_packet(status, bytes(size))


@pytest.mark.parametrize(
    ("header", "code", "offset"),
    [
        (b"X000000\n", "bad-status", 0),
        (b"c000000\n", "bad-status", 0),
        (b"\x00000000\n", "bad-status", 0),
        (b"\xc3000000\n", "bad-status", 0),
        (b"D+00001\n", "bad-length", 1),
        (b"D-00001\n", "bad-length", 1),
        (b"D 00001\n", "bad-length", 1),
        (b"D00001 \n", "bad-length", 6),
        (b"D00 001\n", "bad-length", 3),
        (b"D0x0001\n", "bad-length", 2),
        (b"D1_0000\n", "bad-length", 2),
        (b"D0000\xb2\xb2\n", "bad-length", 5),
        (b"D\xd9\xa0\xd9\xa0\xd9\xa0\n", "bad-length", 1),  # Arabic-Indic zeros
        (b"D000001 ", "bad-length", 7),
        (b"D000001\r", "bad-length", 7),
        (b"D0000010", "bad-length", 7),
        (b"F000001\n", "bad-length", 1),
        (b"T000001\n", "bad-length", 1),
    ],
)
def test_bad_headers(header: bytes, code: str, offset: int) -> None:
    for pieces in split_everywhere(WIRE + header + b"rest"):
        assert decode(pieces) == (PACKETS, code, len(WIRE) + offset)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 10])
def test_an_unfinished_packet_is_pending(size: int) -> None:
    decoder = PacketDecoder()
    decoder.receive_data(WIRE[: 21 + size])
    assert [packet.status for packet in decoder.packets()] == [Status.COMMAND]
    assert decoder.pending == size
    assert decoder.received == 21 + size


def test_an_offset_says_where_a_packet_began() -> None:
    decoder = PacketDecoder()
    decoder.receive_data(WIRE)
    assert [packet.offset for packet in decoder.packets()] == [0, 21, 32, 40, 53]


def test_empty_input_changes_nothing() -> None:
    decoder = PacketDecoder()
    decoder.receive_data(b"")
    assert decoder.next_packet() is None
    assert decoder.received == 0


def test_a_payload_is_a_readonly_view_of_the_block_it_came_in() -> None:
    block = bytearray(b"D000003\nabcD000003\ndef")
    decoder = PacketDecoder()
    decoder.receive_data(block)
    payloads = [packet.payload for packet in decoder.packets()]
    assert [payload.obj is block for payload in payloads] == [True, True]
    assert all(payload.readonly for payload in payloads)


def test_a_payload_that_straddles_blocks_is_readonly_too() -> None:
    decoder = PacketDecoder()
    for piece in (b"D000003\na", b"bc"):
        decoder.receive_data(piece)
    assert decoder.next_packet() == Packet(Status.DATA, memoryview(b"abc"))
    assert decoder.next_packet() is None


def test_a_claimed_length_allocates_nothing() -> None:
    tracemalloc.start()
    decoder = PacketDecoder()
    decoder.receive_data(b"D999999\nx")
    assert decoder.next_packet() is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000


def test_a_packet_in_single_bytes_costs_little_memory() -> None:
    wire = b"".join(encode_packet(Status.DATA, bytes(20_000)))
    decoder = PacketDecoder()
    tracemalloc.start()
    packets = []
    for piece in chunks(wire, 1):
        decoder.receive_data(piece)
        packets += list(decoder.packets())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [packet.payload.nbytes for packet in packets] == [20_000]
    assert peak < 100_000


headers = st.builds(
    lambda status, size: b"%c%06d\n" % (status, size),
    st.sampled_from(b"CDFTIWQEASNRPOVx"),
    st.integers(0, 12),
)
wires = st.lists(headers | st.binary(max_size=12), max_size=12).map(b"".join)


@given(wires)
@example(WIRE)
def test_accepted_bytes_are_encoded_as_they_came(data: bytes) -> None:
    packets, _, offset = decode([data])
    again = b"".join(part for packet in packets for part in encode_packet(*packet))
    assert data.startswith(again)
    assert len(again) <= (len(data) if offset is None else offset)


@given(wires, st.lists(st.integers(1, 20), max_size=20))
def test_no_input_depends_on_the_cut(data: bytes, sizes: list[int]) -> None:
    pieces, rest = [], data
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert decode([*pieces, rest]) == decode([data])


def test_what_completes_a_packet_is_known_once_its_header_is_here() -> None:
    decoder = PacketDecoder()
    assert decoder.missing == 0
    decoder.receive_data(b"D00000")
    assert decoder.next_packet() is None
    assert decoder.missing == 0
    decoder.receive_data(b"6\nab")
    assert decoder.next_packet() is None
    assert decoder.missing == 4
    decoder.receive_data(b"c")
    assert decoder.missing == 3
    decoder.receive_data(b"def")
    assert decoder.missing == 0
    packet = decoder.next_packet()
    assert packet is not None
    assert bytes(packet.payload) == b"abcdef"
    assert decoder.missing == 0


def test_a_payload_in_a_block_of_its_own_is_not_copied() -> None:
    decoder, payload = PacketDecoder(), b"x" * 1000
    for block in (b"D001000\n", payload):
        decoder.receive_data(block)
    (packet,) = decoder.packets()
    assert packet.payload.obj is payload


def test_where_a_packet_stood_is_no_part_of_what_it_says() -> None:
    assert Packet(Status.DATA, memoryview(b"")).offset == 0
    assert Packet(Status.DATA, memoryview(b"x"), 7) == Packet(Status.DATA, memoryview(b"x"), 9)
