"""Every call of a full, an incremental and a restore, against everything a server may do wrong.

A job is taken apart into its steps, each with the guards and the journal that it runs under; the
iSCSI session, which is no call of Prism, is left out. A step is run once to see its calls, then
once for each of them and each fault. It succeeds, or ends in one error of ours that carries the
server's words; it ends in time; it makes nothing twice; and what it could not undo the journal
knows, so that the sweep before the next job removes it. That the steps make every call of a job is
shown by running jobs.
"""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs
import prism_client as pc
import pytest
from command_line.text import with_notes
from nutanix_backend.cluster import journal, sweep
from nutanix_backend.cluster.guards import DiskPlace as NewPlace
from nutanix_backend.cluster.guards import (
    GroupSnapshot,
    ImageGuard,
    NewDiskGuard,
    SnapshotGuard,
    VmGuard,
    VolumeGroupGuard,
)
from nutanix_backend.cluster.range_offer import RangeOffer
from nutanix_backend.disks import ranged
from nutanix_backend.disks.plan import plan_disks
from nutanix_backend.errors import BackendError
from nutanix_backend.references.state import DiskReference, Reference
from nutanix_backend.settings import parameters
from prism_lab import Lab
from ptcomm import Level, Message
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nutanix_backend.cluster.journal import Journal
    from prism_lab.faults import Faults

MIB, BLOCK = 1 << 20, 64 << 10
SILENCE = 0.5  # seconds that the client waits for a byte
LONGEST = 12.0  # seconds that a step may take: three silences for a call that is tried three times
RETRY_AFTER = 7.0  # seconds, which no pause of the client's own is
WORDS = "the lab says no"
NAME = "podheitor matrix"
INITIATOR = "iqn.2026-11.com.example:matrix"
TEMPORARY = ("recovery_points", "vm_snapshots", "volume_groups", "images")
_ID = re.compile(r"[^/]*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}[^/]*")

Order = Callable[["Faults", str, int], object]


def refusal(status: int, times: int = 1) -> Order:
    return lambda f, call, skip: f.status(call, status, times=times, skip=skip, message=WORDS)


FOR_EVER = 99
FAULTS: dict[str, Order] = {
    **{str(status): refusal(status) for status in (401, 403, 404, 408, 412, 500, 501, 503)},
    "401 for ever": refusal(401, FOR_EVER),
    "503 for ever": refusal(503, FOR_EVER),
    "429": lambda f, call, skip: f.status(
        call, 429, skip=skip, retry_after=RETRY_AFTER, message=WORDS
    ),
    "time-out": lambda f, call, skip: f.delay(call, 1.5 * SILENCE, skip=skip),
    "reset before": lambda f, call, skip: f.reset(call, skip=skip),
    "reset for ever": lambda f, call, skip: f.reset(call, skip=skip, times=FOR_EVER),
    "reset after": lambda f, call, skip: f.reset(call, skip=skip, after_effect=True),
    "broken off": lambda f, call, skip: f.truncate(call, skip=skip),
    "truncated JSON": lambda f, call, skip: f.cut_json(call, skip=skip),
    "wrong content type": lambda f, call, skip: f.html(call, skip=skip),
    "wrong content type after": lambda f, call, skip: f.html(call, skip=skip, after_effect=True),
    "slow drip": lambda f, call, skip: f.drip(call, 1.2 * SILENCE, skip=skip),
}


class ShortPauses:
    """The client's clock, with pauses that are over at once; `asked` is how long they should be."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        time.sleep(min(seconds, 0.01))


class NoTargets:
    """The lab's iSCSI side, which no call of the matrix reaches: it is slow to start."""

    iqn = ""

    def create(self, _name: str) -> NoTargets:
        return self

    def change(self, *_what: object) -> None:
        pass

    add_disk = remove_disk = allow = forbid = remove = change

    def sessions(self) -> list[object]:
        return []

    stop = change


@attrs.frozen
class DiskPlace:
    """A call that a step makes: its pattern, and how many calls before it look like it."""

    call: str
    skip: int


@attrs.define
class Site:
    """A lab, the client on it, and one VM with two recovery points and a change between them."""

    personality: str
    lab: Lab
    client: pc.PrismClient
    clock: ShortPauses
    settings: parameters.Settings
    vm: pc.Vm
    before: pc.RecoveryPoint
    after: pc.RecoveryPoint
    used: pc.RecoveryPoint
    image: Path
    root: Path
    group: str
    name: str = ""
    places: dict[str, list[DiskPlace]] = attrs.field(factory=dict)
    kinds: set[str] = attrs.field(factory=set)
    _journal: Journal | None = None
    _runs: int = 0

    @property
    def journal(self) -> Journal:
        assert self._journal
        return self._journal

    def run(self, step: Callable[[Site], None]) -> bool:
        """Run a step under a name and a journal of its own; say whether that settles everything."""
        self._runs += 1
        self.name = f"{NAME} {uuid.uuid4()}"
        address = parameters.prism_address(self.settings)
        with journal.opened(self.settings.state_dir, f"matrix {self._runs}", address) as opened:
            self._journal = opened
            step(self)
            return opened.is_settled

    def settled(self) -> bool:
        return self.journal.is_settled

    def left(self, *kinds: str) -> list[str]:
        """The ids of what the last run of a step left of some kinds."""
        state = self.lab.state()
        return [i["ext_id"] for kind in kinds for i in state[kind] if i["name"] == self.name]

    def sweep(self) -> list[str]:
        """Do what the next job does first; what that found."""
        return [str(removed) for removed in sweep.sweep(self.client, self.settings)]


# --- the steps


def log_in(site: Site) -> None:
    connect(site.lab, site.clock).close()


def select(site: Site) -> None:
    site.client.clusters.list()
    (vm,) = [vm for vm in site.client.vms.list() if vm.ext_id == site.vm.ext_id]
    assert site.client.protection_policies.of_vm(vm)


def take_a_snapshot(site: Site) -> None:
    with SnapshotGuard(site.client, site.journal, site.vm, site.name, "crash") as guard:
        site.client.vms.get(site.vm.ext_id)
        assert len(site.left("recovery_points", "vm_snapshots")) == 1
        guard.prolong()


def take_a_snapshot_with_a_group(site: Site) -> None:
    if not site.client.recovery_points.most_groups:
        return
    guard = SnapshotGuard(
        site.client, site.journal, site.vm, site.name, "crash", groups=(site.group,)
    )
    with guard:
        assert site.client.volume_groups.get(site.group).disks
        assert GroupSnapshot(guard, site.group, site.name).recovery_point.disks
        guard.prolong()


def attach_a_group(site: Site) -> None:
    """As a restore or a failover gives a VM its group, and looks who else has it."""
    if site.client.recovery_points.most_groups:
        assert not site.client.volume_groups.clients(site.group)
        site.client.volume_groups.attach_vm(site.group, site.vm.ext_id)


def plan_a_full(site: Site) -> None:
    warnings: list[str] = []
    (plan,) = plan_disks(site.client, site.vm.disks, site.after, None, warnings.append)
    assert plan.regions.data_bytes == (MIB if warnings else 2 * BLOCK), "what is not known is read"


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
    assert plan.regions.data_bytes == BLOCK


class OpenDisk:
    """A disk that is open over iSCSI, which is no call of Prism."""

    def read_into(self, _offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes(index & 0xFF for index in range(len(buffer)))


def ask_for_ranges(site: Site) -> None:
    """A job asks once; without a good answer it reads over iSCSI, whatever the reason is."""
    snapshot = SnapshotGuard(site.client, site.journal, site.vm, site.name, "crash")
    plans = plan_disks(site.client, site.vm.disks, site.after, None, list[str]().append)
    cluster = site.client.clusters.list()[0]
    offer = RangeOffer(site.root / site.name / "ranges.json", cluster, list[str]().append)
    ranged.probe(offer, snapshot, plans, {plan.index: OpenDisk() for plan in plans})  # type: ignore[misc]
    assert not offer.is_proven


def drop_a_reference(site: Site) -> None:
    site.client.recovery_points.delete(site.used.ext_id)


def offer_the_disks(site: Site) -> None:
    snapshot = SnapshotGuard(site.client, site.journal, site.vm, site.name, "crash")
    snapshot.is_open = True  # it stands for site.after, which is there
    sources = [disk.ext_id for disk in site.after.disks if disk.disk_ext_id]
    with VolumeGroupGuard(snapshot, sources, INITIATOR, None):
        assert len(site.left("volume_groups")) == 1


def offer_a_new_disk(site: Site) -> None:
    container = site.client.storage_containers.list()[0].ext_id
    place = NewPlace(site.client, site.lab.cluster_ext_id, container)
    guard = NewDiskGuard(place, site.journal, site.name, MIB, INITIATOR, None)
    with guard:
        assert len(site.left("volume_groups")) == 1
        guard.withdraw()
        assert guard.disk.volume_group_ext_id


def look_before_a_restore(site: Site) -> None:
    site.client.clusters.list()
    site.client.subnets.list()
    site.client.categories.list()
    container = site.client.storage_containers.list()[0].ext_id
    site.client.storage_containers.free_bytes(container)
    assert not site.client.vms.find("nobody")
    site.client.images.check_upload()


def upload_an_image(site: Site) -> None:
    upload = site.client.images.upload
    with ImageGuard(
        site.client, site.journal, site.name, lambda name: upload(name, site.image)
    ) as guard:
        assert site.left("images") == [guard.image.ext_id]


def make_a_vm(site: Site) -> None:
    with VmGuard(site.client, site.journal, small_vm(site)) as guard:
        guard.keep()
    site.client.vms.power_on(guard.vm.ext_id)
    assert site.left("vms") == [guard.vm.ext_id]


def try_a_vm(site: Site) -> None:
    """A restore tries in this way whether the cluster makes VMs from disks of volume groups."""
    with VmGuard(site.client, site.journal, small_vm(site)) as guard:
        assert site.left("vms") == [guard.vm.ext_id]
    assert not site.left("vms")


def small_vm(site: Site) -> pc.VmSpec:
    return pc.VmSpec(
        name=site.name,
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


STEPS = (
    log_in, select, take_a_snapshot, take_a_snapshot_with_a_group, attach_a_group, plan_a_full,
    plan_an_incremental, ask_for_ranges, drop_a_reference, offer_the_disks, offer_a_new_disk,
    look_before_a_restore, upload_an_image, make_a_vm, try_a_vm,
)  # fmt: skip


# --- the site


def connect(lab: Lab, clock: ShortPauses) -> pc.PrismClient:
    return pc.connect(
        pc.Endpoint(lab.pc_host, lab.port),
        pc.Basic(lab.user, lab.password),
        pc.Trust(ca_file=lab.ca_file),
        timeout=SILENCE,
        deadline=4.0,
        clock=clock,
    )


def parameters_of(lab: Lab, root: Path) -> tuple[tuple[str, str], ...]:
    config = root / "prism.conf"
    config.touch(mode=0o600)
    config.write_text(
        f"prism={lab.pc_host}\nuser={lab.user}\npassword={lab.password}\nca={lab.ca_file}\n"
    )
    return (
        ("config_file", str(config)),
        ("state_dir", str(root / "state")),
        ("transport", "userspace"),
        ("proxy_mode", "in_cluster"),
    )


def point(client: pc.PrismClient, vm: str) -> pc.RecoveryPoint:
    return client.recovery_points.create(
        vm,
        name="a base of the matrix",
        expires=datetime.now(UTC) + timedelta(days=1),
        consistency=pc.Consistency.CRASH,
    )


@pytest.fixture(scope="module", params=["7.3", "2023.4"], ids=["v4", "v3"])
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tally: Counter[str],
) -> Iterator[Site]:
    root, clock = tmp_path_factory.mktemp("lab"), ShortPauses()
    image = root / "image"
    image.write_bytes(b"image" * 1000)
    with (
        Lab.start(root / "lab", personality=request.param, task_seconds=0.0) as lab,
        connect(lab, clock) as client,
    ):
        lab._groups._targets = NoTargets()  # type: ignore[assignment]
        vm = lab.create_vm("web01", (MIB,))
        lab.protect_vm(vm)
        points = [point(client, vm)]
        for block in (0, 3):
            with lab.disk_file(vm, 0).open("r+b") as file:
                file.seek(block * BLOCK)
                file.write(b"x" * BLOCK)
            points.append(point(client, vm))
        settings = parameters.parse(parameters_of(lab, root))
        running = Site(
            request.param,
            lab,
            client,
            clock,
            settings,
            client.vms.get(vm),
            before=points[1],
            after=points[2],
            used=points[0],
            image=image,
            root=root,
            group=lab.create_volume_group("data", (MIB,), ()),
        )
        tally["personalities"] += 1
        yield running
        assert_clean(running)


def assert_clean(site: Site) -> None:
    """Nothing was made twice, and what came late is swept as well. VMs are reported only."""
    time.sleep(3 * SILENCE)
    reported = "\n".join(site.sweep())
    for kind, names in site.lab.made().items():
        twice = [name for name, count in Counter(names).items() if count > 1 and NAME in name]
        assert not twice, f"{kind} made twice: {twice}"
    for kind, items in site.lab.state().items():
        left = [i["name"] for i in items if NAME in i.get("name", "")]
        assert not [name for name in left if kind != "vms" or name not in reported], kind


def places_of(site: Site, step: Callable[[Site], None], tally: Counter[str]) -> list[DiskPlace]:
    """The calls of a step, in order."""
    if step.__name__ not in site.places:
        known = len(site.lab.requests)
        assert site.run(step)
        made = [(method, path) for method, path, _ in site.lab.requests[known:]]
        remove_vms(site)
        calls = [f"{method} {_ID.sub('*', path)}" for method, path in made]
        site.kinds.update(calls)
        site.places[step.__name__] = [
            DiskPlace(call, sum(is_like(call, *earlier) for earlier in made[:number]))
            for number, call in enumerate(calls)
            # each namespace is probed alike: one stands for all
            if step is not log_in or "/clustermgmt/" in call or "/v3/" in call
        ]
        tally["calls"] += len(site.places[step.__name__])
    return site.places[step.__name__]


def is_like(call: str, method: str, path: str) -> bool:
    """Whether a fault ordered for a call would take this request for it."""
    wanted, _, pattern = call.rpartition(" ")
    return method == wanted and fnmatchcase(path, pattern)


def remove_vms(site: Site) -> None:
    for ext_id in site.left("vms"):
        site.client.vms.delete(ext_id)


# --- the matrix


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_step_survives_a_fault_at_each_of_its_calls(
    site: Site, step: Callable[[Site], None], fault: str, tally: Counter[str]
) -> None:
    wrong = []
    for place in places_of(site, step, tally):
        problems = run_cell(site, step, fault, place, tally)
        wrong += [f"{place.call} ({place.skip}): {problem}" for problem in problems]
    assert not wrong, f"{fault}: {len(wrong)} problems:\n" + "\n".join(wrong)


def run_cell(
    site: Site,
    step: Callable[[Site], None],
    fault: str,
    place: DiskPlace,
    tally: Counter[str],
) -> list[str]:
    """Run a step under a fault at one of its calls; what is wrong with the outcome."""
    if step is drop_a_reference and not exists(site, site.used):
        site.used = point(site.client, site.vm.ext_id)
    tally["cells"] += 1
    FAULTS[fault](site.lab.faults, place.call, place.skip)
    site.clock.asked.clear()
    began = time.monotonic()
    error: Exception | None = None
    try:
        site.run(step)
    except (pc.PrismError, BackendError) as exc:
        error = exc
    except Exception as exc:  # noqa: BLE001 - the matrix goes on, and the test fails at its end
        return [f"{type(exc).__name__}: {exc}"]
    finally:
        took = time.monotonic() - began
        pending = site.lab.faults.pending()
        site.lab.faults.clear()
    tally["successes" if error is None else "typed errors"] += 1
    came = not any(left.skip or left.times == 1 for left in pending)
    return [
        *([] if came else ["the fault never came"]),
        *([] if took <= LONGEST else [f"it took {took:.1f} s"]),
        *wrong_pause(site, fault, place.call),
        *wrong_words(error, fault),
        *wrong_traces(site, error, tally),
    ]


def exists(site: Site, old: pc.RecoveryPoint) -> bool:
    state = site.lab.state()
    return any(p["ext_id"] == old.ext_id for p in state["recovery_points"] + state["vm_snapshots"])


def wrong_pause(site: Site, fault: str, call: str) -> Iterator[str]:
    is_asked_once = call.endswith("/data")  # see ask_for_ranges
    if fault == "429" and not is_asked_once and RETRY_AFTER not in site.clock.asked:
        yield "it did not wait for as long as the server asked"


def wrong_words(error: Exception | None, fault: str) -> Iterator[str]:
    text = "" if error is None else with_notes(error)
    if "\n" in text:
        yield f"the error has several lines: {text}"
    if error is not None and fault[:3].isdigit() and WORDS not in text:
        yield f"the server's words are lost: {type(error).__name__}: {text}"


def wrong_traces(site: Site, error: Exception | None, tally: Counter[str]) -> Iterator[str]:
    """What is left and nobody knows of, or the next job does not remove; what was made twice."""
    text = "" if error is None else with_notes(error)
    made = {kind: names.count(site.name) for kind, names in site.lab.made().items()}
    for kind, count in made.items():
        if count > 1:
            yield f"{count} {kind} were made"
    if not any(made.values()):
        return
    if site.left(*TEMPORARY):
        tally["left to the next job's sweep"] += 1
        if site.settled():
            yield f"something is left, and nobody knows: {text or 'success'}"
        site.sweep()
        if site.left(*TEMPORARY):
            yield f"something is left after a sweep: {text or 'success'}"
    remove_vms(site)


# --- the steps are the whole of a job


class Silence:
    """A watcher of jobs that looks away."""

    def message(self, message: Message) -> None:
        pass

    def file(self, name: str, size: int) -> None:
        pass

    def data(self, count: int) -> None:
        pass


def test_a_job_makes_no_other_calls(site: Site, tally: Counter[str], tmp_path: Path) -> None:
    for step in STEPS:
        places_of(site, step, tally)
    with Lab.start(tmp_path / "lab", personality=site.personality) as lab:
        lab.create_vm("web01", (MIB,))
        lab.protect_vm("web01")
        run_jobs(lab, tmp_path)
        made = {f"{method} {_ID.sub('*', path)}" for method, path, _ in lab.requests}
    assert len(made) > 25
    assert made - site.kinds == set()


def run_jobs(lab: Lab, root: Path) -> None:
    store = Store(root / "store")
    settings = jobs.Settings(
        (sys.executable, "-m", "nutanix_backend"),
        (*parameters_of(lab, root), ("vm", "web01"), ("restore_powerstate", "on")),
        root / "working",
        Silence(),
        timeout=60.0,
    )
    for level in (Level.FULL, Level.INCREMENTAL, Level.INCREMENTAL):
        with lab.disk_file("web01", 0).open("r+b") as file:
            file.seek(5 * BLOCK)
            file.write(uuid.uuid4().bytes)
        assert jobs.backup(store, "nightly", level, settings).status.good
    assert jobs.restore(store, "nightly", settings).status.good
