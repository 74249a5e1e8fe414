"""Any bytes: packets or RemoteProtocolError, the same whole and cut; packets re-encode."""

from __future__ import annotations

from ptcomm import PacketDecoder, RemoteProtocolError, Status, encode_packet


def check(data: bytes) -> None:
    """Decode the bytes in three ways."""
    whole = _decoded(data, max(len(data), 1))
    for size in (1, 1 + data[0] % 16 if data else 7):
        if _decoded(data, size) != whole:
            raise AssertionError(f"cut into {size} bytes the packets differ")
    wire = b"".join(
        bytes(part) for packet in whole[0] for part in encode_packet(packet[0], packet[1])
    )
    if not data.startswith(wire):
        raise AssertionError("the packets are not what was sent")


def _decoded(data: bytes, size: int) -> tuple[list[tuple[Status, bytes]], object]:
    decoder = PacketDecoder()
    found: list[tuple[Status, bytes]] = []
    try:
        for start in range(0, len(data), size):
            decoder.receive_data(data[start : start + size])
            for packet in decoder.packets():
                found.append((packet.status, bytes(packet.payload)))  # noqa: PERF401 - kept when the next one raises
    except RemoteProtocolError as error:
        return found, (error.code, error.offset)
    return found, decoder.pending
