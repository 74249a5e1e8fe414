"""Starting, stopping, dying, and the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from prism_lab import Lab, NotInLab, StartFailed
from prism_lab.__main__ import main, size
from prism_lab._server import listen

MIB = 1 << 20


def alive(pid: int) -> bool:
    """A process that only waits to be reaped is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def wait_until(done: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_start_is_quick_and_stop_leaves_nothing(tmp_path: Path) -> None:
    threads, daemons = threading.active_count(), children(os.getpid())
    started = time.monotonic()
    with Lab.start(tmp_path, cluster_name="mine") as lab:
        assert time.monotonic() - started < 2
        assert lab.cluster_name == "mine"
        lab.create_vm("web", [MIB])
        host, run_dir = lab.pc_host, lab.run_dir
        assert len(children(os.getpid())) == len(daemons) + 1
    wait_until(lambda: threading.active_count() == threads)
    assert children(os.getpid()) == daemons
    assert not run_dir.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, 9440), timeout=1)
    lab.stop()  # once more is harmless


def test_labs_run_side_by_side(tmp_path: Path) -> None:
    with Lab.start(tmp_path / "a") as one, Lab.start(tmp_path / "b") as two:
        assert one.pc_host != two.pc_host
        assert one.password != two.password
        one.create_vm("web", [MIB])
        assert two.state()["vms"] == []
        with pytest.raises(NotInLab, match="no VM web"):
            two.disk_file("web", 0)


def test_a_taken_port_is_named(lab: Lab) -> None:
    for address, port in ((lab.pc_host, 9440), (lab.data_services_ip, 3260)):
        with pytest.raises(StartFailed, match=f"{address}:{port} cannot be used: Address already"):
            listen(address, port)


def test_a_silent_client_does_not_hold_the_lab_up(lab: Lab) -> None:
    with socket.create_connection((lab.pc_host, lab.port), timeout=5):
        answer = requests.get(
            f"https://{lab.pc_host}:9440/api/vmm/v4.0/ahv/config/vms",
            auth=(lab.user, lab.password),
            verify=str(lab.ca_file),
            timeout=5,
        )
        assert answer.ok


def test_sizes() -> None:
    assert [size(text) for text in ("512", "64K", "3m", "4G", "1T")] == [
        512, 65536, 3 * MIB, 4 << 30, 1 << 40,
    ]  # fmt: skip
    for text in ("", "G", "-1", "1.5G", "ten"):
        with pytest.raises(Exception, match="is not a size"):
            size(text)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prism_lab", *arguments, "--dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lab"
    up = command(folder, "up", "--detach", "--name", "demo")
    assert up.returncode == 0, up.stderr
    about = json.loads((folder / "lab.json").read_text())
    assert (folder / "lab.json").stat().st_mode & 0o777 == 0o600
    assert about["pc"] in up.stdout
    assert about["password"] in up.stdout

    def run(*arguments: str) -> str:
        assert main([*arguments, "--dir", str(folder)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out.strip()

    def fails(*arguments: str) -> str:
        assert main([*arguments, "--dir", str(folder)]) == 1
        return capsys.readouterr().err

    try:
        vm = run("vm", "create", "web", "--disk", "8M", "--disk", "1G")
        disk = Path(run("vm", "path", "web", "0"))
        run("vm", "write", "web", "0", "1M", "--text", "hello")
        run("vm", "write", "web", "0", "2M", "--random", "1M")
        source = tmp_path / "source"
        source.write_bytes(os.urandom(100))
        run("vm", "write", vm, "0", "4M", "--file", str(source))
        content = disk.read_bytes()
        assert content[MIB : MIB + 5] == b"hello"
        assert content[4 * MIB : 4 * MIB + 100] == source.read_bytes()
        run("vm", "discard", "web", "0", "2M", "1M")
        assert not any(disk.read_bytes()[2 * MIB : 3 * MIB])
        run("vm", "grow", "web", "0", "16M")
        assert disk.stat().st_size == 16 * MIB
        assert run("vm", "list") == f"{vm}  web  ON  {16 * MIB} {1 << 30}"
        assert "disk ends" in fails("vm", "write", "web", "0", "16M", "--text", "x")
        assert "there is no disk 7" in fails("vm", "path", "web", "7")
        assert "no VM nosuch" in fails("vm", "path", "nosuch", "0")
        assert "already" in fails("up")

        with requests.Session() as http:
            http.trust_env, http.verify = False, about["ca"]
            http.auth = (about["user"], about["password"])
            url = f"https://{about['pc']}:9440/api/dataprotection/v4.0/config/recovery-points"
            body = {
                "name": "x",
                "expirationTime": "2099-01-01T00:00:00Z",
                "vmRecoveryPoints": [{"vmExtId": vm}],
            }
            headers = {"NTNX-Request-Id": "1"}
            run("fault", "status", "POST */recovery-points", "--status", "429")
            assert http.post(url, json=body, headers=headers, timeout=10).status_code == 429
            run("fault", "drop")
            run("fault", "clear")
            assert http.post(url, json=body, headers=headers, timeout=10).status_code == 202
        wait_until(lambda: json.loads(run("state", "--json"))["recovery_points"])
        state = json.loads(run("state", "--json"))
        point = state["recovery_points"][0]["ext_id"]
        copy = run("rp", "path", point, state["vms"][0]["disks"][0]["ext_id"])
        assert Path(copy).read_bytes() == disk.read_bytes()
        assert "recovery_points: 1" in run("state")
        assert "no volume group" in fails("kill-target", "x")
    finally:
        run("down")
    assert not alive(about["pid"])
    assert "no lab runs" in fails("down")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_daemons_do_not_outlive_the_lab(tmp_path: Path, number: signal.Signals) -> None:
    assert command(tmp_path, "up", "--detach").returncode == 0
    about = json.loads((tmp_path / "lab.json").read_text())
    daemons = children(about["pid"])
    assert daemons
    os.kill(about["pid"], number)
    wait_until(lambda: not any(alive(pid) for pid in [about["pid"], *daemons]))
    assert (tmp_path / "lab.json").exists() == (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        assert command(tmp_path, "down").returncode == 0
    assert not Path(about["control"]).parent.exists()


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert command(blocked, "up", "--detach").returncode == 1
    (tmp_path / "ca.pem").mkdir()
    failed = command(tmp_path, "up", "--detach")
    assert failed.returncode == 1
    assert "ca.pem" in failed.stderr
