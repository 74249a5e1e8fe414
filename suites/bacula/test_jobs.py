"""Every kind of job through a real Director, Storage Daemon and File Daemon."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from prism_lab._model import Named

from suites.bacula.harness.site import KIB, MIB, same

if TYPE_CHECKING:
    from suites.bacula.harness.console import BaculaJob
    from suites.bacula.harness.site import Site

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_chain(site: Site) -> None:
    """Full, Incremental, Differential, Incremental: each point in time, to a folder and to a VM."""
    guest = site.guest(32 * MIB, 8 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    guest.write(0, 3 * MIB + 123, 400 * KIB)
    site.good("Incremental", base=full)
    guest.write(1, 5 * MIB, 200 * KIB)
    differential = site.good("Differential", base=full)
    guest.write(0, 20 * MIB, 300 * KIB)
    last = site.good("Incremental", base=differential)

    site.assert_every_good_job_restores()
    made = site.restore(last, "/")
    assert made.status == "T", made.words
    site.assert_made(last, f"{guest.name}-restore-{made.job_id}")


def test_sparse_fulls(site: Site) -> None:
    """A full of what is allocated; one in place of an incremental; and one of each format."""
    guest = site.guest(32 * MIB, 8 * MIB)
    site.define(f"vm={guest.name} full_format=sparse")
    full = site.good("Full")
    assert full.size < 24 * MIB, "the disks are 40 MiB"
    guest.write(0, 3 * MIB + 123, 400 * KIB)
    site.good("Incremental", base=full)
    shutil.rmtree(site.state_dir / "bitmap")
    site.references += 2  # nobody knows the old ones any more
    guest.write(1, 5 * MIB, 200 * KIB)
    instead = site.backup("Incremental")
    assert instead.said("is backed up in full: no state of this VM is on this host")
    guest.write(0, 20 * MIB, 300 * KIB)
    last = site.backup("Incremental")
    assert not last.said("is backed up in full")

    site.assert_every_good_job_restores()
    made = site.restore(last, "/")
    assert made.status == "T", made.words
    site.assert_made(last, f"{guest.name}-restore-{made.job_id}")


def test_restore_options(site: Site) -> None:
    """Options are offered and edited in bconsole, text and yes/no alike."""
    guest = site.guest(4 * MIB, 2 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")

    named = site.restore(full, "/", restore_vm_name="a new name", restore_powerstate="on")
    assert named.status == "T", named.words
    site.assert_made(full, "a new name")
    target = site.folder / "one disk.raw"
    target.write_bytes(b"in the way")
    options = {"disk": "1", "disk_path": str(target)}
    refused = site.restore(full, "/", **options)
    assert refused.status == "f"
    assert refused.said(f"{target} exists: give overwrite=yes")
    done = site.restore(full, "/", overwrite="yes", **options)
    assert done.status == "T", done.words
    assert same(target, guest.disks[1])


def test_a_restore_drill(site: Site) -> None:
    """A VM is made, watched and gone; its verdict is in the job log, good or not."""
    guest = site.guest(4 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    before = site.lab.state()["vms"]
    drill = site.restore(full, "/", restore_drill="yes", drill_wait="2")
    assert drill.status == "T", drill.words
    assert drill.said("lives: it stayed on, and nothing more is known of it")
    failed = site.restore(full, "/", restore_drill="yes", drill_wait="2", drill_sign="tools")
    assert failed.status == "f", failed.words
    assert failed.said("but its guest tools did not answer")
    assert site.lab.state()["vms"] == before


def test_single_files(site: Site, tmp_path: Path) -> None:
    """Files instead of disks, out of a Full with two Incrementals, chosen in bconsole."""
    root = tmp_path / "root"
    (root / "etc" / "nginx").mkdir(parents=True)
    guest = site.guest(16 * MIB)
    site.define(f"vm={guest.name}")
    jobs: list[BaculaJob] = []
    for number, level in enumerate(("Full", "Incremental", "Incremental")):
        (root / "etc" / "nginx" / f"{number}.conf").write_text(f"of job {number}")
        guest.disks[0].write_bytes(bytes(16 * MIB))
        subprocess.run(["mke2fs", "-q", "-F", "-d", root, guest.disks[0], "16m"], check=True)
        jobs.append(site.good(level, base=jobs[-1] if jobs else None))
    for number, job in enumerate(jobs):
        where = site.folder / f"files-{number}"
        done = site.restore(job, where, file="/etc/nginx/*.conf")
        assert done.status == "T", done.words
        folder = where / guest.name / "disk0" / "etc" / "nginx"
        assert sorted(path.name for path in folder.iterdir()) == [
            f"{before}.conf" for before in range(number + 1)
        ]
        assert (folder / f"{number}.conf").read_text() == f"of job {number}"
        assert done.said("the files are read from staged disks, which need up to")
        assert not list(where.rglob("*.raw")), "the user gets files, not the disk"


def test_estimate_listing_and_query(site: Site) -> None:
    """What an administrator can ask before there is a backup."""
    guest = site.guest(4 * MIB, 2 * MIB)
    site.define(f"vm={guest.name}")
    estimate = site.console.say(f"estimate listing job={site.name} level=Full")
    assert f"@nutanix/lab-cluster/{guest.ext_id}/vm-metadata.json" in estimate
    assert estimate.count(".raw") == 2
    assert "2000 OK estimate files=3" in estimate

    def listing(path: str) -> str:
        return site.console.say(f'.ls client=client plugin="{site.plugin}" path={path}')

    assert "lab-cluster" in listing("/")
    assert guest.name in listing("/lab-cluster")
    assert listing(f"/lab-cluster/{guest.name}").count(".raw") == 2

    def query(what: str) -> str:
        return site.console.say(f'.query client=client plugin="{site.plugin}" parameter={what}')

    assert "name=lab-cluster" in query("clusters")
    assert f"name={guest.name}" in query("vms")
    assert query("disks").count(f"vm={guest.name}") == 2
    assert "name=lab-net" in query("subnets")
    assert "name=default-container" in query("containers")


def test_filesets_of_the_guide(site: Site) -> None:
    """One VM, patterns, categories, two plugin lines: the files that the guide shows.

    web02 has a disk for scratch data.
    """
    site.references = 4  # web01 is saved by four jobs
    daily, test = Named("Backup", value="Daily"), Named("Environment", value="Test")
    site.lab._world.categories.update({found.ext_id: found for found in (daily, test)})
    for name in ("web01", "web02", "web-test", "db01"):
        guest = site.guest(2 * MIB, *([MIB] if name == "web02" else []), name=name)
        if name.startswith("web"):
            site.lab._vm(guest.ext_id).categories = [daily.ext_id]
    site.lab._vm("web-test").categories.append(test.ext_id)
    site.lab._vm("web02").disks[-1].index = 7
    saved, without = {}, {}
    for example in sorted(EXAMPLES.glob("fileset-*.conf")):
        site.define_from(example)
        job = site.good("Full")
        saved[example.stem] = {manifest.content["vm_name"] for manifest in job.manifests}
        if any(manifest.content.get("excluded") for manifest in job.manifests):
            without[example.stem] = job
    assert saved == {
        "fileset-one-vm": {"web01"},
        "fileset-pattern": {"web01", "web02", "db01"},
        "fileset-site": {"web01", "web02", "db01"},
        "fileset-two-lines": {"web01", "web02", "web-test", "db01"},
    }
    assert set(without) == {"fileset-site"}
    left_out = without["fileset-site"]
    site.assert_restores(*(job for job in site.jobs if job is not left_out))
    restored = site.restore(left_out, site.folder / "restored-site")
    assert restored.status == "T", restored.words
    assert restored.said("VM web02 disk 1 (1.0 MiB) is missing: it is not in the backup")


def test_vm_that_fails(site: Site) -> None:
    """It is reported and the job goes on; with abort_on_error the job fails."""
    guests = [site.guest(2 * MIB, name=f"aof-{number}") for number in range(2)]
    site.define("vm=aof-*")
    site.lab.faults.fail_task("POST */recovery-points", skip=1, message="no snapshot today")
    job = site.backup("Full")
    assert job.status == "W", job.words
    (good,) = (g for g in guests if not job.said(f"VM {g.name} is not backed up"))
    assert [manifest.vm_id for manifest in job.manifests] == [good.ext_id]
    site.assert_restores(job)

    site.name += "-abort"
    site.define("vm=aof-* abort_on_error=yes")
    site.lab.faults.fail_task("POST */recovery-points", skip=1, message="no snapshot today")
    failed = site.backup("Full")
    assert failed.status == "f", failed.words
    assert failed.said("no snapshot today")


def test_accurate_job(site: Site) -> None:
    """An Accurate Incremental does not take the files of its Full for deleted."""
    guest = site.guest(8 * MIB)
    site.define(f"vm={guest.name}", options="  Accurate = yes")
    full = site.good("Full")
    guest.write(0, 3 * MIB, 100 * KIB)
    site.good("Incremental", base=full)
    site.assert_every_good_job_restores()


def test_wrong_parameters(site: Site) -> None:
    """A job that cannot work fails before anything is made, with one line that says why."""
    guest = site.guest(2 * MIB)
    site.define(f"vm={guest.name} password=not-this-one")
    job = site.backup("Full")
    assert job.status == "f", job.words
    first, *rest = [line for line in job.log if line.startswith("client") and "rror: " in line]
    assert "Fatal error: " in first
    assert "answered 401: wrong user name or password; check user, password or key" in first
    # what bacula-fd 15.0.3 adds by itself to every fatal message of a backend
    assert all("PTCOMM cannot get packet header from backend" in line for line in rest), rest
    assert not guest.recovery_points()
