"""The chain of a VM: what a job may stand on, against a Director that decides what counts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nutanix_backend.backup.chain import Chain
from nutanix_backend.errors import ChainError, SourceError
from nutanix_backend.references import state
from prism_client import ServerError
from ptcomm import Level, Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.nutanix_backend.tests.conftest import FakePrism, Fault, JobByHand

FULL, INCREMENTAL, DIFFERENTIAL = Level.FULL, Level.INCREMENTAL, Level.DIFFERENTIAL
VM = "11111111-1111-4111-8111-111111111111"


@attrs.define
class Host:
    """The jobs of one VM, one after the other, as the backend leads them."""

    prism: FakePrism
    file: state.StateFile
    job_by_hand: Callable[..., JobByHand]
    number: int = 0
    warnings: list[str] = attrs.field(factory=list)

    def backup(
        self,
        level: Level,
        previous: str = "",
        *,
        vm_fails: bool = False,
        series: str = "job",
        **parameters: str,
    ) -> Ran:
        """One job; its base, and the reference it leaves."""
        self.number += 1
        name = f"{series}.2026-11-29_11.00.00_{self.number:02}"
        job = self.job_by_hand(name, level, previous, tuple(parameters.items()))
        with self.file.locked():
            chain = Chain(job.context, self.prism.client, self.file)
            try:
                base = chain.base("web01")
                chain.drop_obsolete(base)
                fail_if(vm_fails)
            except Exception as error:
                chain.record_failure(error)
                self.warnings = job.endpoint.texts(Severity.WARNING)
                if not vm_fails:
                    raise
                return Ran(name, None, None)
            point = self.prism.add_point(VM)
            is_v4 = self.prism.recovery_points.generation == "v4"
            left = state.Reference(
                point.ext_id if is_v4 else "",
                point.vm_recovery_point_ext_id,
                f"of {name}",
                (),
                snapshot_uuid="" if is_v4 else point.ext_id,
            )
            chain.record(left)
        self.warnings = job.endpoint.texts(Severity.WARNING)
        return Ran(name, base, left)

    def recorded(self) -> list[str]:
        """The recovery points in the state."""
        loaded, _ = self.file.load()
        return [reference.point for reference in loaded.references()]


def fail_if(vm_fails: bool) -> None:
    """What comes between the plan and the record."""
    if vm_fails:
        raise SourceError("the VM failed")


@attrs.frozen
class Ran:
    """A job that ran: its name, what it stood on, what it left (None: the VM failed)."""

    name: str
    base: state.Reference | None
    left: state.Reference | None

    @property
    def point(self) -> str:
        """The recovery point it left."""
        assert self.left
        return self.left.point


@pytest.fixture
def host(prism: FakePrism, tmp_path: Path, job_by_hand: Callable[..., JobByHand]) -> Host:
    """A host that has never seen the VM."""
    return Host(prism, state.StateFile(tmp_path / "state" / "cluster" / "vm.json", VM), job_by_hand)


def test_a_full_stands_on_nothing_and_warns_of_nothing(host: Host) -> None:
    assert host.backup(FULL).base is None
    assert not host.warnings


def test_two_jobs_of_one_vm_have_chains_of_their_own(host: Host) -> None:
    """A job to disk every night and one to tape every week take no base from each other."""
    disk = host.backup(FULL, series="disk")
    tape = host.backup(FULL, series="tape")
    for _ in range(3):
        following = host.backup(INCREMENTAL, disk.name, series="disk")
        assert following.base == disk.left
        disk = following
    assert host.backup(INCREMENTAL, tape.name, series="tape").base == tape.left
    assert not host.warnings


def test_fulls_that_fail_later_do_not_cost_the_good_one(host: Host) -> None:
    """The Director counts none of the later fulls: a differential stands on the first."""
    good = host.backup(FULL)
    assert host.backup(INCREMENTAL, good.name).base == good.left
    for _ in range(4):
        host.backup(FULL)
    assert host.backup(DIFFERENTIAL, good.name).base == good.left
    assert not host.warnings


def test_a_newer_proven_full_replaces_the_older(host: Host) -> None:
    old = host.backup(FULL)
    host.backup(INCREMENTAL, old.name)
    new = host.backup(FULL)
    host.backup(INCREMENTAL, new.name)
    host.backup(FULL)
    host.backup(FULL)
    assert new.point in host.recorded()
    assert old.point not in host.recorded()


def test_an_incremental_stands_on_its_predecessor(host: Host) -> None:
    full = host.backup(FULL)
    first = host.backup(INCREMENTAL, full.name)
    second = host.backup(INCREMENTAL, first.name)
    assert (first.base, second.base) == (full.left, first.left)
    assert not host.warnings


@pytest.mark.parametrize(("before", "after"), [("v3", "v4"), ("v4", "v3")])
def test_another_api_between_two_jobs_makes_a_full_that_says_why(
    host: Host, prism: FakePrism, before: str, after: str
) -> None:
    prism.recovery_points.generation = before
    full = host.backup(FULL)
    prism.recovery_points.generation = after
    again = host.backup(INCREMENTAL, full.name)
    assert again.base is None
    (warning,) = host.warnings
    assert f"backed up in full: Prism is used over its API {after} now" in warning
    assert "of an earlier job" in warning
    assert host.backup(INCREMENTAL, again.name).base == again.left, "the new API has its own chain"
    (warning,) = host.warnings
    assert full.left
    assert f"{full.left.point_id} is not needed any more" in warning
    assert full.point in prism.points, "it is not ours to delete over an API that does not know it"
    assert full.point not in host.recorded()


def test_a_reference_goes_when_the_job_after_it_is_proven_to_have_landed(
    host: Host, prism: FakePrism
) -> None:
    full = host.backup(FULL)
    first = host.backup(INCREMENTAL, full.name)
    second = host.backup(INCREMENTAL, first.name)
    third = host.backup(INCREMENTAL, second.name)
    assert list(prism.points) == [full.point, second.point, third.point], (
        "the third may not have landed, and a differential would stand on the full"
    )
    again = host.backup(FULL)
    assert list(prism.points) == [full.point, third.point, again.point]
    last = host.backup(INCREMENTAL, again.name)
    assert list(prism.points) == [again.point, last.point]


def test_where_references_are_lean_the_full_does_not_stay(host: Host, prism: FakePrism) -> None:
    full = host.backup(FULL, references="lean")
    first = host.backup(INCREMENTAL, full.name, references="lean")
    second = host.backup(INCREMENTAL, first.name, references="lean")
    assert list(prism.points) == [first.point, second.point]
    assert host.backup(DIFFERENTIAL, full.name, references="lean").base is None
    assert "backed up in full: no reference of this VM is recorded" in host.warnings[0]


def test_a_differential_stands_on_its_full_after_any_number_of_incrementals(host: Host) -> None:
    full = previous = host.backup(FULL)
    for _ in range(4):
        previous = host.backup(INCREMENTAL, previous.name)
    differential = previous = host.backup(DIFFERENTIAL, full.name)
    for _ in range(3):
        previous = host.backup(INCREMENTAL, previous.name)
    assert host.backup(DIFFERENTIAL, full.name).base == differential.base == full.left
    assert not host.warnings


def test_a_full_that_the_director_lost_is_not_what_a_differential_stands_on(host: Host) -> None:
    full = host.backup(FULL)
    host.backup(FULL)
    differential = host.backup(DIFFERENTIAL, full.name)
    last = host.backup(INCREMENTAL, differential.name)
    last = host.backup(INCREMENTAL, last.name)
    assert host.backup(DIFFERENTIAL, full.name).base == full.left


def test_a_job_that_the_director_lost_is_not_stood_on(host: Host, prism: FakePrism) -> None:
    full = host.backup(FULL)
    lost = host.backup(INCREMENTAL, full.name)
    again = host.backup(INCREMENTAL, full.name)
    assert again.base == full.left
    assert lost.point not in prism.points
    assert host.recorded() == [full.point, again.point]


@pytest.mark.parametrize("level", [FULL, DIFFERENTIAL])
def test_while_a_job_is_not_proven_the_newest_reference_before_it_stays(
    host: Host, level: Level
) -> None:
    """The Director may lose the job: the next incremental then stands on the one before."""
    full = host.backup(FULL)
    if level is FULL:
        newest = host.backup(INCREMENTAL, full.name)
        host.backup(FULL)
    else:
        newest = host.backup(DIFFERENTIAL, full.name)
        host.backup(DIFFERENTIAL, full.name)
    assert host.backup(INCREMENTAL, newest.name).base == newest.left


def test_a_job_in_which_the_vm_failed_is_walked_past(host: Host) -> None:
    full = host.backup(FULL)
    failed = host.backup(INCREMENTAL, full.name, vm_fails=True)
    again = host.backup(INCREMENTAL, failed.name, vm_fails=True)
    assert host.backup(INCREMENTAL, again.name).base == full.left
    assert not host.warnings


def test_a_failure_before_anything_is_decided_is_walked_past_too(
    host: Host, prism: FakePrism, fault: Callable[..., Fault]
) -> None:
    """Prism is not well when it is asked for the reference."""
    full = host.backup(FULL)
    prism.faults["get point"] = fault(ServerError("busy", status=503))
    failed = host.backup(INCREMENTAL, full.name, vm_fails=True)
    assert "get point" in prism.calls
    assert host.backup(INCREMENTAL, failed.name).base == full.left


def test_a_full_in_which_the_vm_failed_begins_a_chain_without_it(host: Host) -> None:
    """The restore of that chain would not get the full before it."""
    host.backup(FULL)
    failed = host.backup(FULL, vm_fails=True)
    assert host.backup(INCREMENTAL, failed.name).base is None
    (warning,) = host.warnings
    assert warning == (
        "VM web01 is backed up in full: "
        f"no reference of this VM is recorded for job {failed.name} or before it"
    )


def test_a_differential_stands_on_exactly_its_full(host: Host, prism: FakePrism) -> None:
    full = host.backup(FULL)
    for _ in range(3):
        assert host.backup(DIFFERENTIAL, full.name).base == full.left
        assert len(prism.points) <= 3, "of the full, the last differential and this one"


def test_a_differential_walks_past_nothing(host: Host) -> None:
    first = host.backup(FULL)
    failed = host.backup(FULL, first.name, vm_fails=True)
    assert host.backup(DIFFERENTIAL, failed.name).base is None
    assert f"this VM failed in the full backup {failed.name}" in host.warnings[0]


def test_an_incremental_after_a_differential_stands_on_it(host: Host, prism: FakePrism) -> None:
    full = host.backup(FULL)
    first = host.backup(INCREMENTAL, full.name)
    differential = host.backup(DIFFERENTIAL, full.name)
    assert differential.base == full.left, "not of the incremental: a restore would not have it"
    last = host.backup(INCREMENTAL, differential.name)
    assert last.base == differential.left
    assert list(prism.points) == [full.point, differential.point, last.point]
    assert first.point not in prism.points


@pytest.mark.parametrize(
    ("previous", "reason"),
    [
        ("", "the Director named no previous job"),
        ("job.0", "no reference of this VM is recorded for job job.0 or before it"),
    ],
)
@pytest.mark.parametrize("level", [INCREMENTAL, DIFFERENTIAL])
def test_without_a_known_predecessor_the_vm_is_backed_up_in_full_and_that_is_said(
    host: Host, level: Level, previous: str, reason: str
) -> None:
    host.backup(FULL)
    assert host.backup(level, previous).base is None
    assert host.warnings == [f"VM web01 is backed up in full: {reason}"]


def test_where_no_full_is_wanted_the_reason_is_an_error(host: Host) -> None:
    with pytest.raises(ChainError) as caught:
        host.backup(INCREMENTAL, "job.0", fallback_to_full="no")
    assert str(caught.value) == (
        "VM web01 has no base for this level: no state of this VM is on this host; "
        "run a full backup, or set fallback_to_full=yes"
    )


def test_a_reference_that_is_gone_from_the_cluster_is_not_stood_on(
    host: Host, prism: FakePrism
) -> None:
    full = host.backup(FULL)
    prism.points.clear()
    assert host.backup(INCREMENTAL, full.name).base is None
    assert "the reference of the previous job is gone from the cluster" in host.warnings[0]


def test_state_that_is_lost_costs_a_full_and_says_so(host: Host, tmp_path: Path) -> None:
    full = host.backup(FULL)
    path = tmp_path / "state" / "cluster" / "vm.json"
    path.write_text("{")
    again = host.backup(INCREMENTAL, full.name)
    assert again.base is None
    assert f"the state file {path} cannot be used" in host.warnings[0]
    assert host.backup(INCREMENTAL, again.name).base == again.left


def test_what_cannot_be_deleted_stays_recorded_until_it_can(
    host: Host, prism: FakePrism, fault: Callable[..., Fault]
) -> None:
    full = host.backup(FULL)
    first = host.backup(INCREMENTAL, full.name)
    second = host.backup(INCREMENTAL, first.name)
    prism.faults["delete point"] = fault(ServerError("busy", status=503))
    third = host.backup(INCREMENTAL, second.name)
    assert third.base == second.left
    assert host.warnings == [
        f"recovery point {first.point} is not needed any more, but stays for now: busy"
    ]
    assert host.recorded() == [full.point, first.point, second.point, third.point]
    fourth = host.backup(INCREMENTAL, third.name)
    assert list(prism.points) == host.recorded() == [full.point, third.point, fourth.point]


def test_a_failure_that_cannot_be_recorded_stays_the_first_error(
    host: Host, job_by_hand: Callable[..., JobByHand], prism: FakePrism, tmp_path: Path
) -> None:
    (tmp_path / "vm.new").mkdir()
    chain = Chain(job_by_hand().context, prism.client, host.file)
    error = SourceError("the VM failed")
    chain.record_failure(error)
    (note,) = error.__notes__
    assert note.startswith("then: the state of the VM cannot be saved")


def test_a_predecessor_that_points_back_ends_the_walk() -> None:
    """A job name that came twice, or a damaged file: never for ever."""
    failed = [
        state.JobRecord(name, 1, "I", previous, state.FAILED, None)
        for name, previous in (("a", "b"), ("b", "a"))
    ]
    loop = state.VmState(state.SCHEMA, VM, tuple(failed))
    assert state.find_base(loop, "I", "a").reference is None
    assert state.find_base(None, "I", "a").reason == "no state of this VM is on this host"


# --- against a Director --------------------------------------------------------------------------


class Director:
    """What the catalog knows: which jobs are good, and what a restore of each is made of."""

    def __init__(self) -> None:
        self.good: list[tuple[Level, Ran]] = []

    def previous(self, level: Level) -> str:
        """The predecessor it names: the last good job, or the last good full."""
        if level is FULL:
            return ""
        named = [ran for kind, ran in self.good if level is INCREMENTAL or kind is FULL]
        return named[-1].name if named else ""

    def level(self, wanted: Level) -> Level:
        """Without a full there is nothing but a full."""
        return wanted if any(kind is FULL for kind, _ in self.good) else FULL

    def chain(self, level: Level) -> list[Ran]:
        """The jobs that a restore of a new job of this level would get besides it."""
        if level is FULL:
            return []
        kinds = [kind for kind, _ in self.good]
        start = len(kinds) - 1 - kinds[::-1].index(FULL)
        since = self.good[start:]
        if level is DIFFERENTIAL:
            return [since[0][1]]
        differentials = [n for n, (kind, _) in enumerate(since) if kind is DIFFERENTIAL]
        return [since[0][1], *(ran for _, ran in since[(differentials or [1])[-1] :])]


steps = st.lists(
    st.tuples(
        st.sampled_from([FULL, INCREMENTAL, INCREMENTAL, DIFFERENTIAL]),
        st.sampled_from(["good", "good", "good", "job fails", "vm fails", "both fail"]),
        st.sampled_from(["", "", "", "", "state lost", "points lost", "deletes fail"]),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(steps)
def test_no_job_stands_on_what_its_restore_would_not_get(
    make_prism: Callable[[], FakePrism],
    job_by_hand: Callable[..., JobByHand],
    fault: Callable[..., Fault],
    jobs: list[tuple[Level, str, str]],
) -> None:
    """Whatever fails, is lost or is repeated; and nothing is forgotten on the cluster."""
    with TemporaryDirectory() as folder:
        prism, director = make_prism(), Director()
        host = Host(prism, state.StateFile(Path(folder) / "vm.json", VM), job_by_hand)
        forgotten: set[str] = set()
        for wanted, outcome, accident in jobs:
            forgotten |= suffer(accident, host, fault)
            level = director.level(wanted)
            ran = host.backup(
                level, director.previous(level), vm_fails=outcome in {"vm fails", "both fail"}
            )
            check(host, director, level, ran, forgotten)
            if outcome in {"good", "vm fails"}:
                director.good.append((level, ran))


def suffer(accident: str, host: Host, fault: Callable[..., Fault]) -> set[str]:
    """Let something happen between two jobs; returns the recovery points nobody knows any more."""
    host.prism.faults.clear()
    if accident == "state lost":
        forgotten = set(host.recorded())
        host.file.save(state.VmState(state.SCHEMA, VM, ()))
        return forgotten
    if accident == "points lost":
        host.prism.points.clear()
    if accident == "deletes fail":
        host.prism.faults["delete point"] = fault(ServerError("busy", status=503))
    return set()


def check(host: Host, director: Director, level: Level, ran: Ran, forgotten: set[str]) -> None:
    """The invariants, after a job and before the Director judges it."""
    if ran.base:
        assert ran.base in [job.left for job in director.chain(level)]
        if level is DIFFERENTIAL:
            assert director.chain(level)[0].left == ran.base
    elif ran.left and level is not FULL:
        assert any("is backed up in full: " in warning for warning in host.warnings)
    on_cluster = set(host.prism.points)
    assert on_cluster - forgotten <= set(host.recorded()), "a recovery point is forgotten"
    if ran.left:
        assert ran.point in on_cluster


@settings(max_examples=50)
@given(st.lists(st.sampled_from([FULL, DIFFERENTIAL, INCREMENTAL, INCREMENTAL]), max_size=12))
def test_while_nothing_fails_every_job_has_its_base_and_few_points_are_enough(
    make_prism: Callable[[], FakePrism], job_by_hand: Callable[..., JobByHand], levels: list[Any]
) -> None:
    with TemporaryDirectory() as folder:
        prism, director = make_prism(), Director()
        host = Host(prism, state.StateFile(Path(folder) / "vm.json", VM), job_by_hand)
        for wanted in levels:
            level = director.level(wanted)
            ran = host.backup(level, director.previous(level))
            assert (ran.base is None) == (level is FULL)
            assert not host.warnings
            assert len(prism.points) <= 4, "this job, its base, the newest before, and the full"
            director.good.append((level, ran))
