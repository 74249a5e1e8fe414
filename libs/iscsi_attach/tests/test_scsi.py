"""SCSI command blocks and replies, on bytes."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iscsi_attach import _scsi


def test_command_blocks_have_the_standard_layout() -> None:
    assert _scsi.read(0x0102030405060708, 0x10203).hex() == "88000102030405060708000102030000"
    assert _scsi.write(1, 2).hex() == "8a000000000000000001000000020000"
    assert _scsi.synchronize_cache().hex() == "91" + "00" * 15
    assert _scsi.test_unit_ready() == bytes(6)
    assert _scsi.inquiry(None, 96).hex() == "120000006000"
    assert _scsi.inquiry(0x83, 4096).hex() == "120183100000"
    assert _scsi.report_luns(4104).hex() == "a00000000000000010080000"
    assert _scsi.read_capacity(32).hex() == "9e10" + "00" * 8 + "000000200000"


@given(st.lists(st.integers(0, 0x3FFF)), st.integers(0, 64))
def test_luns_round_trip_even_when_cut(luns: list[int], cut: int) -> None:
    entries = b"".join(struct.pack(">H6x", lun | (0x4000 if lun > 255 else 0)) for lun in luns)
    reply = struct.pack(">I4x", len(entries)) + entries
    shown = reply[: max(8, len(reply) - cut)]
    assert _scsi.parse_luns(shown) == (luns[: (len(shown) - 8) // 8], len(reply))


@given(st.integers(0, 2**40), st.sampled_from([512, 4096]))
def test_capacity(blocks: int, block_size: int) -> None:
    reply = struct.pack(">QI20x", blocks, block_size)
    assert _scsi.parse_capacity(reply) == ((blocks + 1) * block_size, block_size)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        struct.pack(">QH", 1, 512),
        struct.pack(">QI", 1, 0),
        struct.pack(">QI", 1, 520),
        struct.pack(">QI", 1, 2**31),
        struct.pack(">QI", 2**64 - 1, 512),
    ],
)
def test_impossible_capacities_are_refused(reply: bytes) -> None:
    with pytest.raises(_scsi.BadReplyError):
        _scsi.parse_capacity(reply)


def _page(number: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0, number, len(body)) + body


def test_serial_number_loses_its_padding() -> None:
    assert _scsi.parse_serial(_page(0x80, b"  ABC 1 \0") + b"beyond the page") == "ABC 1"


def _designator(kind: int, value: bytes, association: int = 0) -> bytes:
    return bytes([1, association << 4 | kind, 0, len(value)]) + value


def test_the_naa_identity_is_preferred() -> None:
    t10, naa = _designator(1, b"NUTANIX x "), _designator(3, bytes.fromhex("6506b8d0"))
    eui, port = _designator(2, b"\x01\x02"), _designator(3, b"\xff", association=1)
    assert _scsi.parse_designator(_page(0x83, t10 + port + naa)) == "naa.6506b8d0"
    assert _scsi.parse_designator(_page(0x83, t10 + port + eui)) == "eui.0102"
    assert _scsi.parse_designator(_page(0x83, t10 + port)) == "t10.NUTANIX x"
    assert _scsi.parse_designator(_page(0x83, port)) == ""


@given(st.binary(max_size=80))
def test_decoders_answer_or_refuse_whatever_comes(data: bytes) -> None:
    for decode in (
        _scsi.parse_luns,
        _scsi.parse_device_type,
        _scsi.parse_capacity,
        _scsi.parse_serial,
        _scsi.parse_designator,
    ):
        for reply in (data, _page(0x80, data), _page(0x83, data)):
            with contextlib.suppress(_scsi.BadReplyError):
                decode(reply)


def test_what_passes_and_what_stays() -> None:
    assert _scsi.Sense(6, 0x2900).is_passing  # power on or reset
    assert not _scsi.Sense(6, 0x2A09).is_passing  # the capacity has changed
    assert _scsi.Sense(2, 0x0401).is_passing  # becoming ready
    assert not _scsi.Sense(2, 0x3A00).is_passing  # no medium
    assert _scsi.Sense(0xB, 0).is_passing
    assert not _scsi.Sense(3, 0x1100).is_passing
    assert str(_scsi.Sense(3, 0x1100)) == "medium error (ASC/ASCQ 11/00)"
    assert str(_scsi.Sense(0xE, 0x1D00)) == "sense key 0xe (ASC/ASCQ 1d/00)"
