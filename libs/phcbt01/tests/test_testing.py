"""The test helpers themselves: a check that cannot fail would prove nothing."""

from __future__ import annotations

import pytest
from phcbt01 import Data, EncodeError, ShrunkDisk, decode, testing
from phcbt01._sequence import Fault, Sequence


def test_encode_refuses_what_is_invalid() -> None:
    with pytest.raises(EncodeError):
        testing.encode(1, [(0, b"ab")])


def test_the_memory_target_refuses_to_be_misused() -> None:
    target = testing.MemoryTarget(b"1234")
    with pytest.raises(AssertionError, match="write at 3 leaves a target of 4 bytes"):
        target.write(3, b"ab")
    with pytest.raises(AssertionError, match="zero at 0"):
        target.zero(0, 5)
    with pytest.raises(ShrunkDisk):
        target.resize(3)
    assert target.content == b"1234"


def test_check_input_notices_a_lenient_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that ignores the rules must be found out by the index or by re-encoding."""

    class Lenient(Sequence):
        def advance(self, offset: int, length: int) -> Fault | None:
            super().advance(offset, length)
            return None

    monkeypatch.setattr(decode, "Sequence", Lenient)
    overlapping = bytearray(testing.encode(9, [(0, b"abc"), (3, b"d")]))
    overlapping[43] = 2
    with pytest.raises(AssertionError, match="the index gives"):
        testing.check_input(bytes(overlapping), cuts=[])


def test_check_input_notices_misplaced_data(monkeypatch: pytest.MonkeyPatch) -> None:
    class Misplacing(decode.Decoder):
        def _payload(self) -> Data | None:
            self._disk_offset += 1
            return super()._payload()

    monkeypatch.setattr(testing, "Decoder", Misplacing)
    with pytest.raises(AssertionError, match="data for 1 follows 0 bytes"):
        testing.check_input(testing.encode(9, [(0, b"abc")]), cuts=[])
