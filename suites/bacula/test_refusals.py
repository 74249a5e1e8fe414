"""A restore that is refused while the Storage Daemon is sending: the reason alone, within seconds.

The disk is larger than all buffers between the daemons. A console that waits two minutes for the
end of a job, as for one whose Storage Daemon is left while it sends, gives up before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from suites.bacula.harness.site import MIB, assert_quiet

if TYPE_CHECKING:
    from suites.bacula.harness.console import BaculaJob
    from suites.bacula.harness.site import Site

ADDED_BY_BACULA = "PTCOMM cannot get packet header from backend."
"""What bacula-fd 15.0.3 adds to every fatal message of a backend."""


def trouble(job: BaculaJob) -> list[str]:
    """The errors and warnings of all daemons, without the Director's summary."""
    marked = [line for line in job.log if re.search(r"(Fatal error|Error|Warning): ", line)]
    return [line for line in marked if "Termination:" not in line and ADDED_BY_BACULA not in line]


def vm_ids(site: Site) -> set[str]:
    """The VMs on the cluster, which all tests share."""
    return {vm["ext_id"] for vm in site.lab.state()["vms"]}


def test_a_refusal_stands_alone_and_ends_the_job(site: Site) -> None:
    guest = site.guest(300 * MIB)
    site.define(f"vm={guest.name}")
    full = site.good("Full")
    incremental = site.good("Incremental", base=full)
    in_the_way = site.folder / "in the way.raw"
    in_the_way.write_bytes(b"mine")
    before = vm_ids(site)
    refusals = {
        f"{in_the_way} exists: give overwrite=yes": {"disk_path": str(in_the_way)},
        "there is no subnet nowhere on that cluster": {"network_map": "*:nowhere"},
        f"a VM called {guest.name} exists": {"restore_vm_name": guest.name},
        f"VM {guest.name} still exists; restore_identity=old": {"restore_identity": "old"},
        "cluster nowhere is not known to Prism": {"target_cluster": "nowhere"},
        "restore_via=carrier pigeon is not one of": {"restore_via": "carrier pigeon"},
        "has no disk 7": {"disk": "7"},
    }
    for reason, options in refusals.items():
        assert_refused(site.restore(full, "/", **options), reason)
    chain = str(incremental.job_id)  # without its full
    assert_refused(site.console.restore(chain, "/"), "is not part of this restore")
    assert in_the_way.read_bytes() == b"mine"
    assert vm_ids(site) == before, "a refused restore created a VM"


def assert_refused(job: BaculaJob, reason: str) -> None:
    """The job failed, and says why and nothing else."""
    assert job.status == "f", job.words
    (line,) = trouble(job)
    assert reason in line, job.words
    assert "Fatal error: " in line


def test_one_vm_of_two_is_refused(site: Site) -> None:
    """The other is restored; the job says which is not, and why, and is no "Restore OK"."""
    first, second = site.guest(200 * MIB, name="two-1"), site.guest(200 * MIB, name="two-2")
    site.define("vm=two-*")
    full = site.good("Full")
    where = site.folder / "out"
    done = site.restore(full, where)
    assert_quiet(done)
    (gone,) = where.rglob(f"{second.ext_id}/disks/*.raw")
    content = gone.read_bytes()
    gone.unlink()
    (where / f"@nutanix/lab-cluster/{second.ext_id}/vm-metadata.json").unlink()

    half = site.restore(full, where)
    assert half.status == "E", half.words
    assert half.said("*** Restore Error ***")
    (line,) = trouble(half)
    assert "VM two-1 is not restored: " in line
    assert "exists: give overwrite=yes" in line
    assert gone.read_bytes() == content
    assert first.name in line

    none = site.restore(full, where)
    assert none.status == "E", none.words  # an error came before the fatal one
    *reasons, last = trouble(none)
    assert len(reasons) == 2
    assert "no VM is restored: the reasons are above" in last
