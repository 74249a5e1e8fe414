"""The doctor: every line that it can say, on a host that is well and on hosts that are not."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import iscsi_attach
import pytest
from iscsi_attach import kernel
from nutanix_backend.doctor import command, daemon, prism
from nutanix_backend.doctor.finding import Finding
from nutanix_backend.doctor.rights import RIGHTS
from ptcomm import Level

if TYPE_CHECKING:
    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20


@attrs.frozen
class Host:
    """A host with a bacula-fd in a folder of its own, and the product on it."""

    product: Product
    root: Path
    capture: pytest.CaptureFixture[str]

    @property
    def program(self) -> Path:
        return self.root / "sbin/bacula-fd"

    @property
    def backend(self) -> Path:
        return self.root / "sbin/podheitor-nutanix-backend"

    @property
    def config(self) -> Path:
        return self.root / "bacula-fd.conf"

    @property
    def plugins(self) -> Path:
        return self.root / "plugins"

    def install(self) -> None:
        self.program.parent.mkdir(parents=True)
        self.program.touch(mode=0o755)
        self.backend.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nutanix_backend\n')
        self.backend.chmod(0o755)
        self.config.write_text(f"FileDaemon {{\n  plugin directory = {self.plugins}\n}}\n")
        self.plugins.mkdir()
        for name in (daemon.PLUGIN, daemon.FRAMEWORK):
            (self.plugins / name).touch()

    def doctor(self, **parameters: object) -> tuple[int, dict[str, str]]:
        """What it returns, and for each topic the state and the text it found."""
        given = [f"{name}={value}" for name, value in self.product.parameters(**parameters)]
        return self.run("--fd", str(self.program), "--fd-config", str(self.config), *given)

    def run(self, *arguments: str) -> tuple[int, dict[str, str]]:
        parser = argparse.ArgumentParser()
        command.add_parser(parser.add_subparsers())
        status = command.run(parser.parse_args(["doctor", *arguments]))
        lines = self.capture.readouterr().out.splitlines()
        found: dict[str, str] = {}
        for line in lines:
            topic, text = line[5:20].strip(), f"{line[:5].strip()} {line[20:]}"
            found[topic] = f"{found[topic]}\n{text}" if topic in found else text
        assert status == any("FAIL " in text for text in found.values())
        return status, found


@pytest.fixture
def well(product: Product, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    """A host on which nothing is wrong."""
    healthy = Host(product, tmp_path / "fd", capsys)
    healthy.install()
    return healthy


def test_nothing_is_wrong(well: Host, lab: Lab) -> None:
    guest = well.product.guest(MIB)
    full = well.product.good_backup(Level.FULL, guest)
    status, found = well.doctor()
    assert found.pop("chain") == "note no incremental is recorded yet, of 1 jobs"
    incremental = well.product.good_backup(Level.INCREMENTAL, guest)
    status, found = well.doctor(vm=guest.name)
    assert status == 0, [text for text in found.values() if "FAIL" in text]
    assert (
        found.pop("chain")
        == f"ok job {incremental.job_name} received the name of the previous job ({full.job_name})"
    )
    assert found.pop("daemon") == f"note {well.program} does not run: start it when all is well"
    assert found.pop("backend").startswith(f"ok {well.backend} answers after ")
    assert found.pop("plugin") == f"ok {well.plugins}/podheitor-nutanix-fd.so"
    assert found.pop("qemu-img").startswith("ok /")
    assert found.pop("initiator") == "ok libiscsi.so.7, in user space"
    assert found.pop("state").startswith(f"ok {well.product.root}/state can be written by user ")
    assert found.pop("prism") == f"ok {lab.pc_host} answers"
    assert found.pop("certificate") == f"ok signed by the CA in {lab.ca_file}"
    assert found.pop("account") == f"ok user {lab.user}"
    tried = f"ok 9 of the {len(RIGHTS)} rights in docs/rights.md were tried"
    assert found.pop("rights").startswith(tried)
    assert found.pop("data services").startswith(f"ok {lab.data_services_ip} of cluster ")
    assert found.pop("vm") == f"ok 1 VMs: {guest.name}"
    assert not found


@pytest.mark.parametrize(
    ("wanted", "why_not", "says"),
    [
        ("auto", "", "ok open-iscsi, in the kernel"),
        ("kernel", "", "ok open-iscsi, in the kernel"),
        (
            "auto",
            "it needs root",
            "ok libiscsi.so.7, in user space; the kernel initiator cannot be used: it needs root",
        ),
        ("kernel", "it needs root", "FAIL transport=kernel cannot be used: it needs root"),
    ],
)
def test_the_doctor_says_why_the_kernel_is_not_used(
    well: Host, monkeypatch: pytest.MonkeyPatch, wanted: str, why_not: str, says: str
) -> None:
    monkeypatch.setattr(kernel, "unavailable", lambda: why_not)
    _, found = well.doctor(transport=wanted)
    assert found["initiator"] == says


# --- the daemon ----------------------------------------------------------------------------------


def test_the_findings_as_json(well: Host) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    words = ["doctor", "--json", "--fd", str(well.program), "--fd-config", str(well.config)]
    given = [f"{name}={value}" for name, value in well.product.parameters()]
    assert command.run(parser.parse_args([*words, *given])) == 0
    found = {row["topic"]: row["state"] for row in json.loads(well.capture.readouterr().out)}
    assert (found["daemon"], found["prism"]) == ("note", "ok")


def test_a_host_without_bacula(well: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PLACES", (("/nowhere/bacula-fd", "/nowhere/bacula-fd.conf"),))
    monkeypatch.setattr(daemon, "running", lambda: iter(()))
    _, found = well.run()
    assert found["daemon"] == "FAIL bacula-fd is not on this host: install bacula-fd 15"
    assert "backend" not in found


def test_a_daemon_that_runs_is_found_by_its_process(
    well: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(well.program), "-c", "import time; time.sleep(60)"]
    sleeper = subprocess.Popen(words, executable=sys.executable)
    try:
        here = daemon.Daemon(well.program, Path(words[2]), os.geteuid())
        deadline = time.monotonic() + 10
        while here not in daemon.running():  # its words are there a moment after it has begun
            assert time.monotonic() < deadline
        monkeypatch.setattr(daemon, "running", lambda: iter([here]))
        assert daemon.find(None, None) is here
        assert daemon.find(well.program, None) is here
        assert daemon.find(well.program, well.config) == attrs.evolve(
            here, config=well.config, user=None
        )
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_daemon_of_another_user(well: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    here = daemon.Daemon(well.program, well.config, os.geteuid())
    monkeypatch.setattr(daemon, "running", lambda: iter([here]))
    _, found = well.doctor()
    assert found["daemon"] == f"ok {well.program} runs with {well.config}"
    monkeypatch.setattr(daemon, "running", lambda: iter([attrs.evolve(here, user=4711)]))
    _, found = well.doctor()
    assert found["daemon"].startswith(f"note {well.program} runs as user 4711, the doctor as ")


def test_a_daemon_that_is_not_there(well: Host) -> None:
    well.program.unlink()
    _, found = well.doctor()
    assert found["daemon"] == f"FAIL {well.program} is not there: install bacula-fd 15"


def test_a_daemon_started_without_its_path(well: Host) -> None:
    _, found = well.run("--fd", "bacula-fd", "--fd-config", str(well.config))
    assert "FAIL bacula-fd was started without its path" in found["daemon"]


def test_a_configuration_without_a_plugin_directory(well: Host) -> None:
    well.config.write_text("FileDaemon {\n  # Plugin Directory = /usr/lib/bacula\n}\n")
    _, found = well.doctor()
    assert "FAIL" in found["plugin"]
    assert "add `Plugin Directory = /usr/lib/bacula`" in found["plugin"]
    well.config.unlink()
    _, found = well.doctor()
    assert found["plugin"] == f"FAIL {well.config} cannot be read: No such file or directory"


@pytest.mark.parametrize("name", [daemon.PLUGIN, daemon.FRAMEWORK])
def test_a_plugin_that_is_not_a_regular_file(well: Host, name: str) -> None:
    path = well.plugins / name
    path.unlink()
    _, found = well.doctor()
    assert f"FAIL {path} is not there as a regular file" in found["plugin"]
    path.symlink_to(well.config)
    _, found = well.doctor()
    assert f"FAIL {path} is not there as a regular file" in found["plugin"]


def test_a_backend_that_does_not_start(well: Host) -> None:
    well.backend.chmod(0o644)
    _, found = well.doctor()
    assert "does not start for bacula-fd" in found["backend"]
    assert "Permission denied" in found["backend"]
    well.backend.write_text("#!/bin/sh\necho Good morning\n")
    well.backend.chmod(0o755)
    _, found = well.doctor()
    assert "it does not answer with Hello; it says nothing" in found["backend"]
    well.backend.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    _, found = well.doctor()
    assert "it does not answer with Hello; " in found["backend"]
    assert "no such module" in found["backend"]


# --- the host ------------------------------------------------------------------------------------


def test_tools_that_are_missing(well: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise iscsi_attach.LibraryMissing("install libiscsi7", step="load", target="this host")

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(iscsi_attach, "require_library", missing)
    _, found = well.doctor()
    assert "install qemu-utils" in found["qemu-img"]
    assert "install libiscsi7" in found["initiator"]


def test_a_state_folder_that_cannot_be_one(well: Host) -> None:
    _, found = well.doctor(state_dir=well.config)
    assert found["state"].startswith(f"FAIL {well.config} cannot be written: File exists")


def test_a_password_that_others_can_read(well: Host, lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(lab.password)
    file.chmod(0o640)
    status, found = well.doctor(password=None, password_file=file)
    assert "is open to others: chmod 600" in found["parameters"]
    assert status == 1


def test_a_previous_job_that_does_not_arrive(well: Host) -> None:
    guest = well.product.guest(MIB)
    well.product.good_backup(Level.FULL, guest)
    incremental = well.product.good_backup(Level.INCREMENTAL, guest)
    (state,) = (well.product.root / "state/bitmap").rglob("*.json")
    full = well.product.jobs()[0].job_name
    state.write_text(state.read_text().replace(f'"predecessor":"{full}"', '"predecessor":""'))
    _, found = well.doctor()
    assert f"FAIL job {incremental.job_name} was given no previous job" in found["chain"]
    state.write_text("{")
    _, found = well.doctor()
    assert found["chain"] == "note no incremental is recorded yet, of 0 jobs"


def test_parameters_that_cannot_be_read(well: Host) -> None:
    _, found = well.doctor(consistency="good")
    assert found["parameters"].startswith("FAIL consistency=good is not one of")
    assert "prism" not in found


# --- Prism ---------------------------------------------------------------------------------------


def test_a_prism_that_does_not_answer(well: Host) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        _, found = well.doctor(prism=f"127.0.0.1:{nobody.getsockname()[1]}")
    assert "Connection refused" in found["prism"]
    assert "certificate" not in found


def test_a_certificate_that_nobody_vouches_for(well: Host) -> None:
    _, found = well.doctor(ca=None)
    assert found["prism"].startswith("ok")
    assert "is not trusted" in found["certificate"]
    assert "account" not in found
    _, found = well.doctor(ca=None, prism_insecure="yes")
    assert found["certificate"].startswith("note not verified")


def test_a_wrong_password(well: Host) -> None:
    _, found = well.doctor(password="wrong")
    assert found["certificate"].startswith("ok")
    assert found["account"].startswith("FAIL")
    assert "check user, password or key" in found["account"]


def test_an_account_without_rights(well: Host, lab: Lab) -> None:
    lab.faults.status("GET */recovery-points*", 403)
    _, found = well.doctor()
    assert "FAIL View Recovery Point: " in found["rights"]
    assert "needed for every job: give the account a role with the operation" in found["rights"]
    lab.faults.status("GET */config/clusters*", 403, times=9)
    _, found = well.doctor()
    assert found["account"].startswith("ok")
    assert "see docs/rights.md for the role that the account needs" in found["rights"]
    lab.faults.clear()


def test_a_right_that_no_job_needs_is_a_note(well: Host, lab: Lab) -> None:
    lab.faults.status("GET */protection-policies*", 403)
    code, found = well.doctor()
    assert code == 0
    assert "note View Protection Policy: " in found["rights"]
    assert "without it there is no warning" in found["rights"]


def test_every_call_of_a_job_is_a_right_of_the_table(product: Product) -> None:
    guest = product.guest(MIB)
    known = len(product.lab.requests)
    for level in (Level.FULL, Level.INCREMENTAL, Level.INCREMENTAL):
        product.good_backup(level, guest)
    for way in ("volume_group", "image"):
        product.restore(where="/", restore_via=way, restore_powerstate="on")
    calls = {(method, path) for method, path, _ in product.lab.requests[known:]}
    unknown = [
        f"{method} {path}"
        for method, path in calls
        if method != "OPTIONS" and not any(right.allows(method, path) for right in RIGHTS)
    ]
    assert unknown == []
    assert len(calls) > 20


def test_a_cluster_or_a_vm_that_is_not_there(well: Host) -> None:
    _, found = well.doctor(cluster="elsewhere")
    assert "FAIL cluster elsewhere is not known" in found["cluster"]
    _, found = well.doctor(vm="nobody")
    assert "FAIL no VM is called nobody" in found["vm"]


def test_data_services_that_cannot_be_reached(well: Host) -> None:
    _, found = well.doctor(dsip="127.9.9.9")
    assert found["data services"].startswith("FAIL 127.9.9.9 of cluster ")
    assert "does not answer on TCP 3260: Connection refused" in found["data services"]


def test_a_cluster_without_data_services() -> None:
    assert prism._portal("west", None, 1.0) == Finding.bad(
        "data services",
        "cluster west has no data services IP: set one in Prism Element, or give dsip=",
    )
