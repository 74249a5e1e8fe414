"""Root's rights: kept by the jobs that need them, given up by all others."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nutanix_backend.settings import rights
from nutanix_backend.settings.parameters import parse
from ptcomm import Job, JobType, Level

from apps.nutanix_backend.tests.conftest import BACKEND, MIB, Daemon

if TYPE_CHECKING:
    from apps.nutanix_backend.tests.conftest import Product

pytestmark = pytest.mark.security
NOBODY = 65_534
KEPT = ("transport=kernel", "disks are restored to this host")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder as the package leaves it: of another user than root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, whose rights are given up")
    folder = tmp_path / "host" / "state"
    folder.mkdir(mode=0o700, parents=True)
    os.chown(folder, NOBODY, NOBODY)
    for above in folder.parents:
        mode = above.stat().st_mode
        if not mode & stat.S_IXOTH:
            above.chmod(mode | 0o011)
    return folder


@pytest.fixture
def backend(state: Path) -> tuple[str, ...]:
    """The backend as a package has it: in folders that every user can read.

    A home that is closed to others, with this checkout or its Python in it, is opened up to there,
    for the backend alone: it gets mounts of its own.
    """
    behind = state.parent / "homes"
    mounts: list[str] = []
    for used in (sys.base_prefix, sys.prefix, __file__):
        for home, below in pairwise(reversed((Path(used), *Path(used).parents))):
            if home.stat().st_mode & stat.S_IXOTH or str(below) in "".join(mounts):
                continue
            kept = behind / str(len(mounts))
            kept.mkdir(parents=True)
            mounts.append(
                f"mount --bind {home} {kept}; mount -t tmpfs -o mode=755 tmpfs {home};"
                f"mkdir {below}; mount --bind {kept / below.name} {below};"
            )
    if not mounts:
        return BACKEND
    apart = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
    return (*apart, f'{"".join(mounts)} exec "$0" "$@"', *BACKEND)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


def status_of(daemon: Daemon) -> dict[str, list[str]]:
    """What the kernel says of the backend."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return {name: text.split() for name, _, text in (line.partition(":") for line in lines)}


def test_a_backup_keeps_nothing_of_root(
    state: Path, backend: tuple[str, ...], tmp_path: Path
) -> None:
    with Daemon(tmp_path / "daemon", backend) as daemon:
        daemon.start_backup((("state_dir", str(state)),))
        found = status_of(daemon)
        daemon.fatal()
    assert found["Uid"] == found["Gid"] == [str(NOBODY)] * 4
    assert found["Groups"] == []
    assert {int(found[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert found["NoNewPrivs"] == ["1"]
    assert os.stat(f"/proc/{os.getpid()}").st_uid == 0  # noqa: PTH116 - a process, not a path


def test_disks_are_restored_to_this_host_by_root(
    state: Path, backend: tuple[str, ...], tmp_path: Path
) -> None:
    """The folder is root's, as that of bacula-fd's restores is; the log is still the user's."""
    where = tmp_path / "restored"
    with Daemon(tmp_path / "daemon", backend) as daemon:
        daemon.start_restore(where, restore_to="disk", state_dir=state)
        assert status_of(daemon)["Uid"] == ["0"] * 4
        assert daemon.give_file(f"{where}/@vsphere/w/disks/w.raw", b"D" * 4096) is not None
        daemon.finish()
    assert owners(where) == {0}
    assert owners(state) == {NOBODY}


def test_root_writes_its_log_through_no_link(
    state: Path, backend: tuple[str, ...], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of root")
    (state / "log").mkdir()
    (state / "log" / "backend.log").symlink_to(victim)
    with Daemon(tmp_path / "daemon", backend) as daemon:
        daemon.start_restore(tmp_path / "restored", state_dir=state)
        daemon.offer_file("/@vsphere/web/web.vmx", 10)
        assert "is not usable: Too many levels of symbolic links" in daemon.fatal()
    assert victim.read_text() == "of root"


def test_the_doctor_looks_as_the_user_of_the_jobs(state: Path, backend: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*backend, "doctor", f"state_dir={state}"], capture_output=True, text=True, check=False
    )
    user = pwd.getpwuid(NOBODY).pw_name
    assert f"{state} can be written by user {user}" in done.stdout, done.stdout + done.stderr
    assert "the kernel initiator cannot be used: it needs root" in done.stdout


def test_jobs_of_the_user_and_of_root_share_the_state(
    product: Product, state: Path, backend: tuple[str, ...]
) -> None:
    """Two backups, a new VM and disk images of the chain; the images alone are made by root."""
    assert state == product.root / "state"
    product.command = backend
    guest = product.guest(4 * MIB)
    product.good_backup(Level.FULL, guest)
    guest.write(0, MIB, 4096)
    changed = product.good_backup(Level.INCREMENTAL, guest)
    where = product.assert_restores(changed, guest)
    product.good_restore()
    product.good_restore(restore_via="image")
    assert owners(where) == {0}
    assert owners(state) == {NOBODY}


@pytest.mark.parametrize(
    ("given", "job", "needed"),
    [
        ({}, None, ""),
        ({"transport": "kernel"}, None, KEPT[0]),
        ({"transport": "auto"}, {"type": JobType.BACKUP}, ""),
        ({"restore_to": "disk"}, {"type": JobType.BACKUP}, ""),
        ({}, {"type": JobType.RESTORE, "where": ""}, ""),
        ({}, {"type": JobType.RESTORE, "where": "/"}, ""),
        ({}, {"type": JobType.RESTORE, "where": "/tmp/restored"}, KEPT[1]),
        ({}, {"type": JobType.RESTORE, "where": "", "regex_where": "!x!y!"}, KEPT[1]),
        ({"restore_to": "ahv"}, {"type": JobType.RESTORE, "where": "/tmp/restored"}, ""),
        ({"restore_to": "disk"}, {"type": JobType.RESTORE, "where": ""}, KEPT[1]),
        ({"disk_path": "/dev/sdx"}, {"type": JobType.RESTORE, "where": ""}, KEPT[1]),
    ],
)
def test_what_needs_root(given: dict[str, str], job: dict[str, object] | None, needed: str) -> None:
    info = Job(name="j", job_id=1, **job) if job else None  # type: ignore[arg-type]  # of the table
    assert rights.reason_for_root(parse(given.items()), info) == needed
