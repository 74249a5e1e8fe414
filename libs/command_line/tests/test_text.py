"""Values and messages as text for people."""

from __future__ import annotations

from command_line.text import size, with_notes


def test_sizes_are_for_people() -> None:
    sizes = [size(1023 * 1024**power) for power in range(6)]
    assert sizes == [
        "1023 B",
        "1023.0 KiB",
        "1023.0 MiB",
        "1023.0 GiB",
        "1023.0 TiB",
        "1047552.0 TiB",
    ]


def test_an_error_and_its_notes_are_one_line() -> None:
    error = ValueError("the disk is full")
    error.add_note("the snapshot was removed")
    assert with_notes(error) == "the disk is full; the snapshot was removed"
    assert with_notes(error, "in other words") == "in other words; the snapshot was removed"
