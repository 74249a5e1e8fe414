"""The command line, as an administrator meets it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from phcbt01 import __main__, testing
from phcbt01.__main__ import main
from phcbt01._output import replacing

P = 4096
OLD = b"\x11" * (32 * P)
NEW = OLD[: 16 * P] + bytes(8 * P) + OLD[: 8 * P] + b"grown"


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old.raw", tmp_path / "new.raw"
    old.write_bytes(OLD)
    new.write_bytes(NEW)
    return old, new


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_diff_verify_info_apply(
    tmp_path: Path, images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    delta, result = tmp_path / "d.phcbt01", tmp_path / "result.raw"
    assert run("diff", *images, "-o", delta, "--block-size", P) == 0
    assert capsys.readouterr().out == f"{delta}: written, a disk of 131077 bytes, 2 regions\n"
    assert run("verify", delta) == 0
    assert capsys.readouterr().out == f"{delta}: valid, a disk of 131077 bytes, 2 regions\n"
    assert run("info", delta) == 0
    summary = capsys.readouterr().out
    assert summary.splitlines() == [
        "original_size  131077",
        "region_count   2",
        "data_bytes     32773",
        "stream_bytes   32829",
    ]
    assert run("info", "--regions", delta) == 0
    table = capsys.readouterr().out.removeprefix(summary).splitlines()
    assert [line.split() for line in table] == [
        [],
        ["offset", "length", "payload", "at"],
        ["65536", "32768", "40"],
        ["131072", "5", "32824"],
    ]
    assert run("apply", images[0], delta, "--output", result) == 0
    assert capsys.readouterr().out == f"{result}: written, a disk of 131077 bytes\n"
    assert result.read_bytes() == NEW
    assert result.stat().st_blocks * 512 == 25 * P
    assert listing(tmp_path) == ["d.phcbt01", "new.raw", "old.raw", "result.raw"]
    assert delta.stat().st_mode & 0o777 == result.stat().st_mode & 0o777 == 0o600


def test_merge_and_apply_a_chain(tmp_path: Path, images: tuple[Path, Path]) -> None:
    first, second, both = (tmp_path / name for name in ("1", "2", "both"))
    first.write_bytes(testing.encode(len(OLD), [(10, b"abc")]))
    second.write_bytes(testing.encode(len(OLD) + 10, [(11, b"X"), (len(OLD), b"y")]))
    assert run("merge", first, second, "-o", both) == 0
    assert run("apply", images[0], both, "-o", tmp_path / "one") == 0
    assert run("apply", images[0], first, second, "-o", tmp_path / "other") == 0
    expected = OLD[:10] + b"aXc" + OLD[13:] + b"y" + bytes(9)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes() == expected


def test_apply_to_nothing(tmp_path: Path) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(10, [(8, b"z")]))
    assert run("apply", "/dev/null", delta, "-o", tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == bytes(8) + b"z\0"


def test_an_existing_output_needs_overwrite(
    tmp_path: Path, images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    delta, result = tmp_path / "delta", tmp_path / "result"
    delta.write_bytes(testing.encode(len(OLD), [(0, b"x")]))
    result.write_bytes(b"precious")
    assert run("apply", images[0], delta, "-o", result) == 1
    assert run("diff", *images, "-o", result) == 1
    assert run("merge", delta, "-o", result) == 1
    line = f"phcbt01: {result}: exists already (--overwrite replaces it)\n"
    assert capsys.readouterr().err == line * 3
    assert result.read_bytes() == b"precious"
    assert run("apply", images[0], delta, "-o", result, "--overwrite") == 0
    assert result.read_bytes() == b"x" + OLD[1:]


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    result = tmp_path / "result"

    def write_while_another_does() -> None:
        with replacing(result, overwrite=False) as partial:
            partial.write_bytes(b"mine")
            result.write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        write_while_another_does()
    assert result.read_bytes() == b"theirs"
    assert listing(tmp_path) == ["result"]


@pytest.mark.parametrize("command", ["info", "verify", "apply", "merge"])
def test_an_invalid_delta_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    images: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(len(OLD), [(0, b"abc")])[:-1])
    output = ["-o", tmp_path / "out"]
    arguments: dict[str, list[object]] = {
        "info": [delta],
        "verify": [delta],
        "apply": [images[0], delta, *output],
        "merge": [delta, *output],
    }
    assert run(command, *arguments[command]) == 1
    printed = capsys.readouterr()
    what = f"{delta}: the stream ends 1 bytes before the end of a region"
    assert printed.err == f"phcbt01: {what} (truncated at byte 42 of the stream)\n"
    assert printed.out == ""
    assert listing(tmp_path) == ["delta", "new.raw", "old.raw"]


def test_a_base_larger_than_the_disk_is_refused(
    tmp_path: Path, images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(10, []))
    assert run("apply", images[0], delta, "-o", tmp_path / "out") == 1
    assert "a disk of 10 bytes cannot follow 131072 bytes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", tmp_path / "nothing") == 1
    assert capsys.readouterr().err == f"phcbt01: {tmp_path}/nothing: No such file or directory\n"


def test_a_shrunk_image_is_one_line(
    tmp_path: Path, images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("diff", images[1], images[0], "-o", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert err == "phcbt01: the new image has 131072 bytes, the old one 131077\n"
    assert listing(tmp_path) == ["new.raw", "old.raw"]


def test_a_block_device_as_output(
    tmp_path: Path, images: tuple[Path, Path], device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(len(NEW), [(0, b"abc")]))
    before = device.read_bytes()
    assert run("apply", images[0], delta, "-o", device) == 1
    assert "exists already" in capsys.readouterr().err
    assert device.read_bytes() == before
    assert run("apply", images[0], delta, "-o", device, "--overwrite") == 0
    disk = b"abc" + OLD[3:] + bytes(5)
    assert device.read_bytes() == disk + before[len(disk) :]


def test_as_a_program(tmp_path: Path) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(10, [(8, b"z")]))
    command = [sys.executable, "-bb", "-m", "phcbt01", "verify", str(delta)]
    good = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (good.returncode, good.stderr) == (0, "")
    delta.write_bytes(b"")
    bad = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (1, "", 1)


def test_the_exit_status_is_that_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["phcbt01", "verify", "/dev/null"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(__main__.__file__), run_name="__main__")
    assert caught.value.code == 1


def test_a_reader_that_goes_away_is_no_second_error_at_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(100, [(8, b"z")]))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert __main__.main(["info", str(delta)]) == 1
        output.flush()  # as Python does when it exits


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    delta = tmp_path / "delta"
    delta.write_bytes(testing.encode(100, [(8, b"z")]))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "phcbt01", "info", "--regions", str(delta)]
    found = subprocess.run(
        command, check=False, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (1, "phcbt01: Broken pipe\n")


def test_the_fuzzer_runs_and_finds_nothing() -> None:
    script = Path(__file__).parents[1] / "fuzz" / "fuzz_decode.py"
    command = [sys.executable, str(script), "--seconds", "1"]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "no findings" in found.stdout
