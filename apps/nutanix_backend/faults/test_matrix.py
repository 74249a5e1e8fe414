"""Every call of a full, an incremental and a restore, against everything a server may do wrong.

A job is taken apart into its steps, each with the guards it runs under; the iSCSI session, which is
no call of Prism, is left out. A step is run once to see its calls, then once for each of them and
each fault. It succeeds, or ends in one error of ours that carries the server's words; it ends in
time; it makes nothing twice, and leaves nothing that it does not name in its error.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
import prism_client as pc
import pytest
from nutanix_backend import journal
from nutanix_backend.errors import BackendError, with_notes
from nutanix_backend.guards import SnapshotGuard, VolumeGroupGuard, push_undo
from nutanix_backend.jobs.plan import plan_disks
from nutanix_backend.state import DiskReference, Reference
from prism_client._clock import SystemClock
from prism_lab import Lab

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

    from nutanix_backend.journal import Journal
    from prism_lab.faults import Faults

MIB = 1 << 20
SILENCE = 0.6  # seconds that the client waits for a byte
LONGEST = 12.0  # seconds that a step may take: three silences for a call that is tried three times
WORDS = "the lab says no"
NAME = "podheitor matrix"
_ID = re.compile(r"[^/]*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}[^/]*")

Order = Callable[["Faults", str], object]


def refusal(status: int) -> Order:
    return lambda faults, call: faults.status(call, status, message=WORDS)


FAULTS: dict[str, Order] = {
    **{str(status): refusal(status) for status in (401, 403, 404, 408, 412, 500, 501, 503)},
    "429": lambda faults, call: faults.status(call, 429, retry_after=1, message=WORDS),
    "503 for ever": lambda faults, call: faults.status(call, 503, times=99, message=WORDS),
    "time-out": lambda faults, call: faults.delay(call, 1.5 * SILENCE),
    "reset before": lambda faults, call: faults.reset(call),
    "reset for ever": lambda faults, call: faults.reset(call, times=99),
    "reset after": lambda faults, call: faults.reset(call, after_effect=True),
    "broken off": lambda faults, call: faults.truncate(call),
    "truncated JSON": lambda faults, call: faults.cut_json(call),
    "wrong content type": lambda faults, call: faults.html(call),
    "wrong content type after": lambda faults, call: faults.html(call, after_effect=True),
    "slow drip": lambda faults, call: faults.drip(call, 0.2),
}


class ShortPauses(SystemClock):
    """The client's pauses, without the waiting."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.01))


@attrs.define
class Site:
    """A lab, the client on it, and one VM with a recovery point and changes since."""

    lab: Lab
    client: pc.PrismClient
    journal: Journal
    vm: pc.Vm
    before: pc.RecoveryPoint
    after: pc.RecoveryPoint
    image: Path
    used: pc.RecoveryPoint
    made: list[str] = attrs.field(factory=list)
    calls: dict[str, list[str]] = attrs.field(factory=dict)

    def fresh_name(self) -> str:
        """A name that no other run of a step has used."""
        self.made.append(f"{NAME} {uuid.uuid4()}")
        return self.made[-1]

    def left(self, kind: str) -> list[str]:
        """What the last run of a step left of one kind."""
        found = self.lab.state().get(kind, [])
        return [item["ext_id"] for item in found if self.made and item["name"] == self.made[-1]]


# --- the steps


def log_in(site: Site) -> None:
    connect(site.lab).close()


def select(site: Site) -> None:
    site.client.clusters.list()
    assert [vm for vm in site.client.vms.list() if vm.ext_id == site.vm.ext_id]
    site.client.protection_policies.of_vm(site.vm)


def take_a_snapshot(site: Site) -> None:
    with SnapshotGuard(site.client, site.journal, site.vm, site.fresh_name(), "crash") as guard:
        site.client.vms.get(site.vm.ext_id)
        assert len(site.left("recovery_points") + site.left("vm_snapshots")) == 1
        guard.prolong()


def plan_a_full(site: Site) -> None:
    warnings: list[str] = []
    (plan,) = plan_disks(site.client, site.vm.disks, site.after, None, warnings.append)
    assert bool(warnings) == (plan.regions.data_bytes == MIB), "what cannot be known is read"
    assert plan.regions.data_bytes >= 2 * 65536


def plan_an_incremental(site: Site) -> None:
    site.client.recovery_points.get(site.before.ext_id)
    (disk,) = site.vm.disks
    (old,) = [d for d in site.before.disks if d.disk_ext_id]
    base = Reference(
        site.before.ext_id,
        site.before.vm_recovery_point_ext_id,
        "sha256:",
        (DiskReference(disk.disk_ext_id, disk.size, old.ext_id),),
    )
    (plan,) = plan_disks(site.client, site.vm.disks, site.after, base, list[str]().append)
    assert plan.regions.data_bytes == 65536


def drop_a_reference(site: Site) -> None:
    site.client.recovery_points.delete(site.used.ext_id)


def offer_the_disks(site: Site) -> None:
    snapshot = SnapshotGuard(site.client, site.journal, site.vm, site.fresh_name(), "crash")
    snapshot.is_open = True  # it stands for site.after, which is there
    sources = [disk.ext_id for disk in site.after.disks if disk.disk_ext_id]
    with VolumeGroupGuard(snapshot, sources, "iqn.2026-11.com.example:matrix", chap=False):
        assert len(site.left("volume_groups")) == 1


def look_before_a_restore(site: Site) -> None:
    site.client.clusters.list()
    assert not site.client.vms.find("nobody")


def upload_an_image(site: Site) -> None:
    name, images = site.fresh_name(), site.client.images
    with ExitStack() as stack:
        push_undo(
            stack, name, lambda: [images.delete(i.ext_id) for i in list(images.list(name=name))]
        )
        images.upload(name, site.image)
        assert len(site.left("images")) == 1


def make_a_vm(site: Site) -> None:
    spec = pc.VmSpec(
        name=site.fresh_name(),
        cluster_ext_id=site.lab.cluster_ext_id,
        sockets=1,
        cores_per_socket=1,
        threads_per_core=1,
        memory=1 << 30,
        machine_type=None,
        boot=pc.Boot(),
        disks=(),
        nics=(),
    )
    vm = site.client.vms.create(spec)
    site.client.vms.power_on(vm.ext_id)


STEPS = (
    log_in, select, take_a_snapshot, plan_a_full, plan_an_incremental, drop_a_reference,
    offer_the_disks, look_before_a_restore, upload_an_image, make_a_vm,
)  # fmt: skip


# --- the site


def connect(lab: Lab) -> pc.PrismClient:
    return pc.connect(
        pc.Endpoint(lab.pc_host, lab.port),
        pc.Basic(lab.user, lab.password),
        pc.Trust(ca_file=lab.ca_file),
        timeout=SILENCE,
        deadline=4.0,
        clock=ShortPauses(),
    )


def _point(client: pc.PrismClient, vm: str) -> pc.RecoveryPoint:
    return client.recovery_points.create(
        vm,
        name=f"{NAME} base",
        expires=datetime.now(UTC) + timedelta(days=1),
        consistency=pc.Consistency.CRASH,
    )


@pytest.fixture(scope="module", params=["7.3", "2023.4"], ids=["v4", "v3"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("lab")
    image = root / "image"
    image.write_bytes(b"image" * 1000)
    with Lab.start(root / "lab", personality=request.param, task_seconds=0.0) as lab:
        vm = lab.create_vm("web01", (MIB,))
        with connect(lab) as client:
            points = []
            for block in (0, 3):
                with lab.disk_file(vm, 0).open("r+b") as file:
                    file.seek(block * 65536)
                    file.write(b"x" * 65536)
                points.append(_point(client, vm))
            with journal.opened(root / "state", "matrix", lab.pc_host) as intents:
                yield Site(
                    lab, client, intents, client.vms.get(vm), points[0], points[1], image, points[0]
                )


def calls_of(site: Site, step: Callable[[Site], None], tally: Counter[str]) -> list[str]:
    """The kinds of call that a step makes, as patterns, in order."""
    if step.__name__ not in site.calls:
        known = len(site.lab.requests)
        prepare(site, step)
        step(site)
        clean_up(site, "vms", site.left("vms"))
        made = [f"{method} {_ID.sub('*', path)}" for method, path, _ in site.lab.requests[known:]]
        if step is log_in:  # each namespace is probed alike: one stands for all
            made = [call for call in made if "/clustermgmt/" in call or "/v3/" in call]
        site.calls[step.__name__] = list(dict.fromkeys(made))
        tally["calls"] += len(site.calls[step.__name__])
    return site.calls[step.__name__]


def prepare(site: Site, step: Callable[[Site], None]) -> None:
    """Make what a step uses up."""
    if step is drop_a_reference:
        site.used = _point(site.client, site.vm.ext_id)


# --- the matrix


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_step_survives_a_fault_at_each_of_its_calls(
    site: Site, step: Callable[[Site], None], fault: str, tally: Counter[str]
) -> None:
    wrong = []
    for call in calls_of(site, step, tally):
        prepare(site, step)
        FAULTS[fault](site.lab.faults, call)
        tally["cells"] += 1
        problem = run_cell(site, step, fault, tally)
        if problem:
            wrong.append(f"{call}: {problem}")
    assert not wrong, f"{fault} at {len(wrong)} calls:\n" + "\n".join(wrong)


def run_cell(site: Site, step: Callable[[Site], None], fault: str, tally: Counter[str]) -> str:
    """Run a step under the fault that was ordered; what is wrong with its outcome, or nothing."""
    began = time.monotonic()
    error: Exception | None = None
    try:
        step(site)
    except (pc.PrismError, BackendError) as exc:
        error = exc
    except Exception as exc:  # noqa: BLE001 - the matrix goes on, and the test fails at its end
        site.lab.faults.clear()
        return f"{type(exc).__name__}: {exc}"
    took = time.monotonic() - began
    site.lab.faults.clear()
    tally["successes" if error is None else "typed errors"] += 1
    return outcome(site, error, fault, took)


def outcome(site: Site, error: Exception | None, fault: str, took: float) -> str:
    if took > LONGEST:
        return f"it took {took:.1f} s"
    text = "" if error is None else with_notes(error)
    if "\n" in text:
        return f"the error has several lines: {text}"
    if isinstance(error, pc.ApiError) and fault[:3].isdigit() and fault != "401":
        words = str(error.status) if fault[:3] == str(error.status) else WORDS
        if words not in text:
            return f"the server's words are lost: {text}"
    for kind in ("recovery_points", "vm_snapshots", "volume_groups", "images"):
        left = site.left(kind)
        clean_up(site, kind, left)
        if left and "undo" not in text:
            return f"{len(left)} {kind} are left, and nobody says so: {text or 'success'}"
    vms = site.left("vms")
    clean_up(site, "vms", vms)
    return f"{len(vms)} VMs were made" if len(vms) > 1 else ""


def clean_up(site: Site, kind: str, ext_ids: list[str]) -> None:
    service = "recovery_points" if kind == "vm_snapshots" else kind
    for ext_id in ext_ids:
        if kind == "volume_groups":
            site.client.volume_groups.detach_client(ext_id, "iqn.2026-11.com.example:matrix")
        getattr(site.client, service).delete(ext_id)
