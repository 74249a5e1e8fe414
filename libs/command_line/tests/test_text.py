"""Values and messages as text for people."""

from __future__ import annotations

from command_line.text import duration, local_time, printable, size, utc, with_notes


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


def test_a_name_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\nc\td [red]é") == "a?[2Jb?c?d [red]é"


def test_times() -> None:
    assert [duration(seconds) for seconds in (0, 61, 93784.9)] == [
        "0:00:00",
        "0:01:01",
        "1 d 2:03:04",
    ]
    assert utc(1_700_000_000) == "2023-11-14 22:13:20"
    assert local_time(1_700_000_000)[-6:] in {":13:20", ":43:20", ":58:20"}
    assert utc(10**30) == local_time(10**30) == str(10**30)
