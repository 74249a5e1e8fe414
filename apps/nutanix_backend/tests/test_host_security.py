"""A restore below a folder of another user, and manifests that are very long."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from nutanix_backend import manifest
from nutanix_backend.errors import ManifestError
from ptcomm import Answer, Finish

from apps.nutanix_backend.tests.conftest import Daemon

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.security
NOBODY = 65_534
CONFIGURATION = b'config.version = "8"\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that belongs to another user, and a place for what he wants root to change."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder to another user")
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


def plant(link: Path, target: Path) -> None:
    """What another user does in his folder."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    for path in (link.parent, link):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def restore(where: Path, tmp_path: Path, *files: tuple[str, bytes]) -> str:
    """Restore files there; return the fatal line, empty when all went well."""
    with Daemon(tmp_path / f"daemon-{time.monotonic_ns()}") as daemon:
        daemon.start_restore(where, restore_to="disk", state_dir=tmp_path / "state")
        try:
            for name, content in files:
                if daemon.give_file(f"{where}/{name}", content) is not Answer.OK:
                    daemon.say(Finish())
                    return daemon.fatal()
            daemon.finish()
        except AssertionError as error:
            return str(error)
    return ""


def test_a_restore_writes_through_no_link(home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "crontab"
    victim.write_text("of root\n")
    plant(home / "@vsphere/web/web.vmx.partial", victim)
    plant(home / "@vsphere/web/disks/disk-0-web.raw.partial", victim)
    said = restore(
        home, tmp_path,
        ("@vsphere/web/web.vmx", CONFIGURATION), ("@vsphere/web/disks/web.raw", b"D" * 4096),
    )  # fmt: skip
    assert not said
    assert victim.read_text() == "of root\n"
    assert (home / "@vsphere/web/web.vmx").read_bytes() == CONFIGURATION
    assert (home / "@vsphere/web/disks/disk-0-web.raw").read_bytes() == b"D" * 4096


def test_a_restore_enters_no_folder_by_a_link_of_another_user(home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "of-root"
    secret.mkdir(mode=0o700)
    plant(home / "@vsphere", secret)
    for file in (("@vsphere/web/web.vmx", CONFIGURATION), ("@vsphere/w/disks/w.raw", b"D" * 512)):
        assert "is a link of user 65534: remove it" in restore(home, tmp_path, file)
    assert not list(secret.rglob("*"))


def test_what_is_restored_is_for_its_owner_alone(tmp_path: Path) -> None:
    where = tmp_path / "restored"
    files = (("@vsphere/web/web.vmx", CONFIGURATION), ("@vsphere/web/disks/web.raw", b"D" * 512))
    assert not restore(where, tmp_path, *files)
    modes = {path.stat().st_mode & 0o777 for path in where.rglob("*") if path.is_file()}
    assert modes == {0o600}
    shutil.rmtree(where)


def long_manifest(count: int, *, twice: bool = False) -> bytes:
    disks = [
        {
            "index": 0, "disk_id": f"d{0 if twice else number}", "size": 1, "kind": "raw",
            "file": f"@nutanix/c/11111111-1111-4111-8111-111111111111/disks/disk-0-d{number}.raw",
            "stream_bytes": 1, "regions": 0, "data_bytes": 1, "digest": "x", "base": "",
        }
        for number in range(count)
    ]  # fmt: skip
    plain = {
        "schema": 1, "job": "j", "job_id": 1, "level": "F", "cluster": "c", "cluster_id": "x",
        "vm_id": "11111111-1111-4111-8111-111111111111", "vm_name": "n", "consistency_asked": "a",
        "consistency_got": "a", "recovery_point": "r", "disks": disks,
    }  # fmt: skip
    return json.dumps(plain).encode()


def test_a_manifest_costs_what_its_length_says() -> None:
    """20,000 disks took 8.4 s, and ten times as many would take a hundred times as long."""

    def seconds(count: int) -> float:
        data = long_manifest(count)
        began = time.process_time()
        assert len(manifest.decode(data).disks) == count
        return time.process_time() - began

    small = min(seconds(2_000) for _ in range(3))
    assert seconds(20_000) < 30 * small, "the cost grows faster than the length"
    with pytest.raises(ManifestError, match="is inconsistent about disk 0"):
        manifest.decode(long_manifest(2, twice=True))
    with pytest.raises(ManifestError, match="it holds more than 2000000 values"):
        manifest.decode(long_manifest(200_000))
