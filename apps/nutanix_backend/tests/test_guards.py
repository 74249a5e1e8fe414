"""Guards: what a backup makes on the cluster is undone in order, whatever happens and whenever."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import iscsi_attach
import pytest
from command_line.cancel import Cancelled
from nutanix_backend.cluster import journal
from nutanix_backend.cluster.guards import (
    REFERENCE,
    TEMPORARY,
    IscsiSessionGuard,
    SnapshotGuard,
    VolumeGroupGuard,
    _target_of,
    new_secret,
    push_undo,
)
from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.cluster.objects import OBJECTS
from nutanix_backend.cluster.transport import choose
from nutanix_backend.errors import SourceError
from prism_client import Consistency, ServerError, Task, TaskFailed, VolumeGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nutanix_backend.cluster.journal import Journal
    from prism_client import Vm

    from apps.nutanix_backend.tests.conftest import FakePrism, Fault

INITIATOR = "iqn.2026-11.com.podheitor:host"
CREATES = ("create point", "create group", "attach client")


class Daylight(Exception):
    """Something that goes wrong while everything is open."""


def server_error(words: str = "internal error") -> ServerError:
    """What Prism answers on a bad day."""
    return ServerError(words, status=500)


def task_failed() -> TaskFailed:
    """What Prism says of a task that failed."""
    return TaskFailed("failed", task=Task("t", "snapshot", "FAILED", 100, {}, {}, "tools"))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "state"


@pytest.fixture
def log(state_dir: Path) -> Iterator[Journal]:
    """The journal of a job."""
    with journal.opened(state_dir, "job.1", "prism:9440") as opened:
        yield opened


@pytest.fixture
def backup_of(vm: Vm, log: Journal) -> Callable[..., SnapshotGuard]:
    """Open a snapshot and a volume group, run a body, unwind."""

    def run(
        prism: FakePrism,
        body: Callable[[SnapshotGuard], object],
        consistency: str = "crash",
        name: str = "podheitor job.1",
    ) -> SnapshotGuard:
        with ExitStack() as stack:
            guard = SnapshotGuard(prism.client, log, vm, name, consistency)
            snapshot = stack.enter_context(guard)
            group = VolumeGroupGuard(snapshot, ["d1@p"], INITIATOR, new_secret(chap=True))
            assert len(stack.enter_context(group).secret or "") >= 12, "iSCSI wants 12 characters"
            body(snapshot)
        return snapshot

    return run


@pytest.fixture
def backup(
    prism: FakePrism, backup_of: Callable[..., SnapshotGuard]
) -> Callable[..., SnapshotGuard]:
    """The same on one Prism."""
    return partial(backup_of, prism)


def keep(snapshot: SnapshotGuard) -> None:
    """The end of a good backup."""
    snapshot.prolong()
    snapshot.keep()


def nothing(_snapshot: SnapshotGuard) -> None:
    """A body that does nothing."""


def is_clean(prism: FakePrism) -> bool:
    """Whether nothing at all is left."""
    return not (prism.points or prism.groups or prism.attached)


def test_undo_goes_backwards(prism: FakePrism, backup: Callable[..., SnapshotGuard]) -> None:
    backup(nothing)
    assert is_clean(prism)
    undone = [call for call in prism.calls if call.startswith(("detach", "delete"))]
    assert undone == ["detach client", "delete group", "delete point"]


def test_only_a_kept_recovery_point_outlives_the_guard(
    prism: FakePrism, backup: Callable[..., SnapshotGuard]
) -> None:
    snapshot = backup(keep)
    assert not prism.groups
    (point,) = prism.points.values()
    assert point.ext_id == snapshot.recovery_point.ext_id
    assert snapshot.recovery_point.expires
    assert point.expires
    assert point.expires - snapshot.recovery_point.expires > 0.9 * (REFERENCE - TEMPORARY)


def test_a_prolonged_recovery_point_that_was_not_recorded_goes(
    prism: FakePrism, backup: Callable[..., SnapshotGuard]
) -> None:
    """It would be nobody's for longer than a year."""

    def fail(snapshot: SnapshotGuard) -> None:
        snapshot.prolong()
        raise Daylight

    with pytest.raises(Daylight):
        backup(fail)
    assert is_clean(prism)


@pytest.mark.parametrize("call", CREATES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_create_that_fails_leaves_nothing_even_when_it_had_its_effect(
    prism: FakePrism,
    backup: Callable[..., SnapshotGuard],
    fault: Callable[..., Fault],
    call: str,
    when: str,
) -> None:
    prism.faults[call] = fault(server_error(), when)
    with pytest.raises(ServerError):
        backup(nothing)
    assert is_clean(prism)


@pytest.mark.parametrize("body", [nothing, keep])
def test_a_cancel_at_any_moment_leaves_nothing(
    make_prism: Callable[[], FakePrism],
    backup_of: Callable[..., SnapshotGuard],
    fault: Callable[..., Fault],
    body: Callable[[SnapshotGuard], None],
) -> None:
    """At each call in turn, those of undoing among them: before its effect, after it, or while the
    cluster is still busy with it."""
    whole = make_prism()
    backup_of(whole, body)
    kept_from = whole.calls.index("prolong point") if body is keep else len(whole.calls)
    for moment in range(len(whole.calls)):
        for when in ("before", "after", "early"):
            prism = make_prism()
            prism.faults[moment] = fault(Cancelled("now"), when)
            with pytest.raises(Cancelled):
                backup_of(prism, body)
            prism.let_time_pass()
            assert not prism.groups
            assert not prism.attached
            assert len(prism.points) == (moment > kept_from), (whole.calls[moment], when)


def test_a_cancel_stays_a_cancel_when_prism_does_not_answer_any_more(
    prism: FakePrism, backup: Callable[..., SnapshotGuard], fault: Callable[..., Fault]
) -> None:
    prism.faults[0] = fault(Cancelled("now"))
    prism.faults[1] = fault(server_error("out of order"))
    with pytest.raises(Cancelled):
        backup(nothing)
    assert prism.calls == ["create point", "create point", "list points"]
    assert is_clean(prism)


def test_an_interrupt_is_undone_like_an_error(
    prism: FakePrism, backup: Callable[..., SnapshotGuard]
) -> None:
    def interrupt(_snapshot: SnapshotGuard) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(interrupt)
    assert is_clean(prism)


def test_the_first_error_stays_first_and_tells_what_followed(
    prism: FakePrism, backup: Callable[..., SnapshotGuard], fault: Callable[..., Fault]
) -> None:
    prism.faults["delete group"] = fault(server_error("cannot delete"))

    def fail(_snapshot: SnapshotGuard) -> None:
        raise Daylight

    with pytest.raises(Daylight) as caught:
        backup(fail)
    assert caught.value.__notes__ == ["then undo failed: volume group: cannot delete"]
    assert prism.groups
    assert not prism.points, "later steps are undone all the same"


def test_an_undo_that_fails_alone_is_the_error(
    prism: FakePrism, backup: Callable[..., SnapshotGuard], fault: Callable[..., Fault]
) -> None:
    prism.faults["detach client"] = fault(server_error("cannot detach"))
    with pytest.raises(ServerError, match="cannot detach") as caught:
        backup(nothing)
    assert caught.value.__notes__ == ["while undoing: volume group"]
    assert not prism.points


def test_a_cancel_in_the_middle_of_undoing_wins_over_what_goes_wrong_then(
    fault: Callable[..., Fault],
) -> None:
    tries: list[int] = []

    def undo() -> None:
        tries.append(1)
        raise Cancelled("now") if len(tries) == 1 else Daylight("and then")

    def fail() -> None:
        with ExitStack() as stack:
            push_undo(stack, "the thing", undo)
            raise Daylight("first of all")

    with pytest.raises(Cancelled) as caught:
        fail()
    assert len(tries) == 2
    assert caught.value.__notes__ == ["then undo failed: the thing: and then"]


def test_app_or_crash_tries_both_and_leaves_no_half_made_one(
    prism: FakePrism, backup: Callable[..., SnapshotGuard], fault: Callable[..., Fault]
) -> None:
    prism.faults["create point"] = fault(task_failed(), "after")
    snapshot = backup(keep, "app_or_crash")
    assert list(prism.points) == [snapshot.recovery_point.ext_id]
    assert snapshot.recovery_point.consistency is Consistency.CRASH

    prism.faults["create point"] = fault(task_failed(), "after")
    with pytest.raises(TaskFailed):
        backup(keep, "app", "podheitor job.2")
    assert len(prism.points) == 1


def test_a_guard_can_only_be_built_on_an_open_one(prism: FakePrism, vm: Vm, log: Journal) -> None:
    """The order of the guards is a property of the code: another order does not run."""
    portal = iscsi_attach.Portal("127.0.0.1")
    snapshot = SnapshotGuard(prism.client, log, vm, "n", "crash")
    with pytest.raises(SourceError, match="the recovery point is not open"):
        VolumeGroupGuard(snapshot, [], INITIATOR, None)
    with snapshot:
        group = VolumeGroupGuard(snapshot, [], INITIATOR, None)
        with pytest.raises(SourceError, match="the volume group is not open"):
            IscsiSessionGuard(group, portal, choose("userspace"))
        with group:
            session = IscsiSessionGuard(group, portal, choose("userspace"))
            with pytest.raises(SourceError, match="the iSCSI session is not open"):
                session.attachment  # noqa: B018 - the look is the test
        with pytest.raises(SourceError, match="the volume group is not open"):
            IscsiSessionGuard(group, portal, choose("userspace"))
    with pytest.raises(SourceError, match="the recovery point is not open"):
        VolumeGroupGuard(snapshot, [], INITIATOR, None)


def group_called(target: str) -> VolumeGroup:
    """A volume group whose target has this name."""
    return VolumeGroup("g", "podheitor job.1", "c", target, ())


def test_the_target_is_found_with_or_without_the_prefix_of_an_iqn() -> None:
    iqns = ["iqn.2010-06.com.nutanix:other-1", "iqn.2010-06.com.nutanix:vg-2-tgt0"]
    assert _target_of(group_called("vg-2"), iqns) == iqns[1]
    assert _target_of(group_called("iqn.2010-06.com.nutanix:vg-2"), iqns) == iqns[1]


@pytest.mark.parametrize("target", ["vg-3", ""])
def test_a_target_that_is_not_offered_is_an_error_that_asks_the_right_question(
    target: str,
) -> None:
    with pytest.raises(SourceError, match="is that address of the same cluster"):
        _target_of(group_called(target), ["iqn.2010-06.com.nutanix:vg-2"])


def test_every_kind_of_object_has_its_rules() -> None:
    assert set(OBJECTS) == set(ObjectKind)
