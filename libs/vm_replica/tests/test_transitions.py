"""Every event of a failover in every state, with steps that fail and crashes at any moment."""

from __future__ import annotations

import itertools
import json
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from vm_replica.failover import ledger, transitions
from vm_replica.failover.conductor import OUTSIDE, Conductor
from vm_replica.failover.errors import FailoverFailed, FailoverRefused, LedgerError
from vm_replica.failover.transitions import Copy, Event, Record, State, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from vm_replica.failover.ledger import Ledger


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power is not cut here, and thousands of commands are run."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Killed(BaseException):
    """The process is gone: no call of it has an effect any more."""


@attrs.frozen
class Trouble:
    """What goes wrong: at the nth call, before or after its effect; for good, or as a kill."""

    call: int
    after: bool
    kill: bool = False
    lasting: bool = False


@attrs.define
class World:
    """Source, store and copies: what is really there. It survives the process."""

    source_on: bool = True
    fenced: bool = False
    closed: bool = False
    generation: int = 1
    copies: dict[str, str] = attrs.field(factory=dict)
    kinds: dict[str, bool] = attrs.field(factory=dict)
    trouble: Trouble | None = None
    calls: int = 0
    dead: bool = False

    @contextmanager
    def call(self, *, may_fail: bool = True) -> Iterator[None]:
        """Surround an effect: here things go wrong."""
        if self.dead:
            raise Killed
        self.calls += 1
        due = self._is_due(may_fail=may_fail)
        if due and self.trouble and not self.trouble.after:
            self._go_wrong()
        yield
        if due:
            self._go_wrong()

    def _is_due(self, *, may_fail: bool) -> bool:
        trouble = self.trouble
        if trouble is None or not (trouble.kill or may_fail):
            return False
        return self.calls == trouble.call or (trouble.lasting and self.calls > trouble.call)

    def _go_wrong(self) -> None:
        assert self.trouble
        if self.trouble.kill:
            self.dead = True
            raise Killed
        raise FailoverFailed("it went wrong")

    # --- the store

    def fence(self) -> None:
        with self.call():
            self.fenced = True

    def unfence(self) -> None:
        with self.call():
            self.fenced = False

    def close(self) -> None:
        with self.call():
            self.closed = True

    # --- the source

    def is_on(self) -> bool:
        return self.source_on

    def shut_down(self) -> None:
        with self.call():
            self.source_on = False

    def last_cycle(self) -> None:
        with self.call():
            assert not self.source_on
            assert not self.fenced
            self.generation += 1

    def power_on(self) -> None:
        with self.call():
            self.source_on = True

    # --- the copies

    def refuse_unfit(self, *, test: bool = False) -> None:
        """Everything fits."""

    def refuse_unknown(self) -> None:
        """The source is known."""

    def refuse_unwatched(self) -> None:
        """Everything can be watched."""

    def refuse_foreign(self, copy: Copy) -> None:
        """Everything is here."""

    def refuse_lost(self, copy: Copy) -> None:
        if self.copies.get(copy.key) != "whole":
            raise FailoverRefused("the copy is not found")

    def intend(self, *, test: bool) -> Copy:
        return Copy(str(uuid4()), "test" if test else "copy", "fake", "here", self.generation)

    def make(self, copy: Copy, *, test: bool) -> str:
        self.kinds[copy.key] = test
        with self.call():
            self.copies[copy.key] = "half"
        with self.call():
            self.copies[copy.key] = "whole"
        return "made"

    def watch(self, copy: Copy) -> str:
        assert self.copies[copy.key] == "whole"
        with self.call():
            return "it lives"

    def note_drill(self, generation: int, *, fault: str = "", seen: str = "") -> None:
        assert bool(fault) != bool(seen)
        assert generation <= self.generation

    def turn(self, record: Record, *, recovers: bool) -> AbstractContextManager[None]:
        assert record.doing
        assert recovers or not record.backwards
        return nullcontext()

    def remove(self, copy: Copy, *, test: bool) -> None:
        assert self.kinds.get(copy.key, test) is test
        with self.call():
            if copy.key in self.copies:
                self.copies[copy.key] = "half"
        with self.call():
            self.copies.pop(copy.key, None)


@attrs.frozen
class FragileLedger:
    """A real ledger whose process may die at each write; what it wrote is durable."""

    real: Ledger
    world: World

    @property
    def record(self) -> Record:
        return self.real.record

    def note(self, event: str, what: str, detail: str = "") -> None:
        with self.world.call(may_fail=False):
            self.real.note(event, what, detail)

    def keep(self, record: Record) -> None:
        with self.world.call(may_fail=False):
            self.real.keep(record)


def run(folder: Path, world: World, event: Event, *, abandon: bool = False) -> None:
    """One command in a process of its own."""
    with ledger.opened(folder) as real:
        world.calls, world.dead = 0, False
        fragile = FragileLedger(real, world)
        conductor = Conductor(fragile, world, world, world, lambda _: None)  # type: ignore[arg-type]
        conductor.handle(event, abandon=abandon)


def attempt(folder: Path, world: World, event: Event) -> BaseException | None:
    """A command that may go wrong; how it did."""
    try:
        run(folder, world, event)
    except (FailoverFailed, Killed) as error:
        assert world.trouble
        return error
    return None


AFTER = {
    Event.TEST: State.TESTING,
    Event.PLANNED: State.FAILED_OVER,
    Event.UNPLANNED: State.FAILED_OVER,
    Event.PERMANENT: State.PERMANENT,
    Event.REVERSE: State.PERMANENT,
}
TAKEN_BACK = {Event.TEST, Event.DRILL, Event.PLANNED, Event.UNPLANNED}
ASKED = [event for event in Event if event is not Event.RECOVER]


def legal(record: Record) -> set[Event]:
    """The table again, in the words of the issue."""
    if record.doing:
        return {Event.RECOVER}
    events = {
        State.REPLICATING: {Event.TEST, Event.DRILL, Event.PLANNED, Event.UNPLANNED},
        State.TESTING: {Event.UNPLANNED},
        State.FAILED_OVER: {Event.UNDO, Event.PERMANENT},
        State.PERMANENT: set() if record.reversed else {Event.REVERSE},
        State.FAILING_OVER: set(),
    }[record.state]
    return events | ({Event.END_TEST} if record.test else set())


def at_rest_after(before: Record, event: Event) -> tuple[State, bool]:
    """The state, and whether there is a test copy, when an event has worked."""
    test = event is Event.TEST or (before.test is not None and event is not Event.END_TEST)
    beside = State.TESTING if test else State.REPLICATING
    if event is Event.END_TEST:
        is_beside = before.state in {State.TESTING, State.REPLICATING}
        return (beside if is_beside else before.state), False
    return AFTER.get(event, beside), test


troubles = st.builds(
    Trouble,
    call=st.integers(1, 24),
    after=st.booleans(),
    kill=st.booleans(),
    lasting=st.just(value=False),
)


class Failovers(RuleBasedStateMachine):
    """Events, failures, kills, and cycles of the source in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        self.world = World()
        self.left_behind: set[str] = set()

    def teardown(self) -> None:
        self.scratch.cleanup()

    @property
    def record(self) -> Record:
        return ledger.read(self.folder)

    @rule(event=st.sampled_from(ASKED))
    def ask(self, event: Event) -> None:
        """An event works, or is refused with what is possible instead and changes nothing."""
        before, world = self.record, attrs.evolve(self.world)
        copies = dict(self.world.copies)
        if event not in legal(before):
            with pytest.raises(FailoverRefused, match="possible: ") as refused:
                run(self.folder, self.world, event)
            for possible in legal(before):
                assert possible.value in str(refused.value)
            assert (self.record, self.world.copies) == (before, copies)
            assert (self.world.fenced, self.world.source_on) == (world.fenced, world.source_on)
            assert ledger.history(self.folder)[-1].what == "refused"
            return
        run(self.folder, self.world, event)
        after = self.record
        assert (after.state, after.test is not None) == at_rest_after(before, event)
        assert ledger.history(self.folder)[-1].what == "end"

    @rule(event=st.sampled_from(ASKED), trouble=troubles)
    def go_wrong(self, event: Event, trouble: Trouble) -> None:
        """A step fails: the event is taken back at once, or left to recovery if it cannot be."""
        before = self.record
        if event not in legal(before):
            return
        self.world.trouble = trouble
        ended = attempt(self.folder, self.world, event)
        self.world.trouble = None
        after = self.record
        if isinstance(ended, FailoverFailed):
            assert not trouble.kill
            if event in TAKEN_BACK:
                assert (after.state, after.doing) == (before.state, "")
            else:
                assert after.doing == event.value
                assert any("recover" in note for note in ended.__notes__)

    @precondition(lambda self: self.record.doing)
    @rule(trouble=st.none() | troubles)
    def recover(self, trouble: Trouble | None) -> None:
        """What broke off is taken back or completed, however often recovery itself breaks off."""
        before = self.record
        event = Event(before.doing)
        self.world.trouble = trouble
        ended = attempt(self.folder, self.world, Event.RECOVER)
        self.world.trouble = None
        after = self.record
        if ended:
            return
        if event in TAKEN_BACK:
            had_test = event not in {Event.TEST, Event.DRILL} and before.test is not None
            assert after.state is (State.TESTING if had_test else State.REPLICATING)
        else:
            assert (after.state, after.test is not None) == at_rest_after(before, event)

    @precondition(lambda self: self.record.doing)
    @rule()
    def abandon(self) -> None:
        """A host that is gone for good does not keep the replica in between."""
        before = self.record
        self.world.trouble = Trouble(0, after=False, lasting=True)
        local = {Step.UNFENCE, Step.CLOSE}
        turned = transitions.begin(before, Event.RECOVER)
        possible = not local & set(transitions.steps(turned))
        with nullcontext() if possible else pytest.raises(FailoverFailed):
            run(self.folder, self.world, Event.RECOVER, abandon=True)
        self.world.trouble = None
        after = self.record
        assert bool(after.doing) != possible
        had, has = ({copy.key for copy in (r.copy, r.test) if copy} for r in (before, after))
        self.left_behind |= (had - has) & set(self.world.copies)
        if before.source_off and not after.source_off:
            self.world.source_on = True  # by hand, as the log says

    @rule()
    def cycle(self) -> None:
        """The source goes on as long as it is not refused."""
        if not self.world.fenced and self.world.source_on:
            self.world.generation += 1

    @invariant()
    def never_two_that_go_on(self) -> None:
        """Whenever a copy is complete that is no test, the source is refused."""
        if any(
            state == "whole" and not self.world.kinds[key] and key not in self.left_behind
            for key, state in self.world.copies.items()
        ):
            assert self.world.fenced

    @invariant()
    def at_rest_all_is_as_recorded(self) -> None:
        record, world = self.record, self.world
        assert set(transitions.possible(record)) == legal(record)
        if record.doing:
            return
        known = {copy.key for copy in (record.copy, record.test) if copy}
        assert known == {k for k in world.copies if k not in self.left_behind}
        assert all(world.copies[key] == "whole" for key in known)
        over = record.state in {State.FAILED_OVER, State.PERMANENT}
        assert record.fenced == world.fenced == over
        assert (record.copy is not None) == over
        assert world.closed == (record.state is State.PERMANENT)
        assert world.source_on != record.source_off
        if not over:
            assert world.source_on

    @invariant()
    def the_log_says_what_happened(self) -> None:
        lines = ledger.history(self.folder)
        assert len(lines) == sum(1 for _ in _log_lines(self.folder))
        for before, after in itertools.pairwise(lines):
            assert before.at <= after.at


def _log_lines(folder: Path) -> Iterator[object]:
    path = folder / ledger.LOG
    text = path.read_text() if path.exists() else ""
    return (json.loads(line) for line in text.splitlines() if line)


Failovers.TestCase.settings = settings(stateful_step_count=30, max_examples=80, deadline=None)
test_failovers = Failovers.TestCase


# --- every event in every state, exhaustively ----------------------------------------------------

PATHS: dict[str, list[Event]] = {
    "replicating": [],
    "testing": [Event.TEST],
    "failed over": [Event.UNPLANNED],
    "failed over, planned": [Event.PLANNED],
    "failed over in a drill": [Event.TEST, Event.UNPLANNED],
    "permanent": [Event.UNPLANNED, Event.PERMANENT],
    "permanent after a drill": [Event.TEST, Event.UNPLANNED, Event.PERMANENT],
    "reversed": [Event.PLANNED, Event.PERMANENT, Event.REVERSE],
}


@pytest.mark.parametrize("event", ASKED, ids=lambda event: event.value)
@pytest.mark.parametrize("path", PATHS)
def test_every_event_in_every_state_killed_at_every_call(
    tmp_path: Path, path: str, event: Event
) -> None:
    """After each kill recovery leads to rest, and the event can be asked for again."""
    for number in itertools.count(1):
        for after in (False, True):
            folder = tmp_path / f"{number}-{after}"
            folder.mkdir()
            world = World()
            for step in PATHS[path]:
                run(folder, world, step)
            start = ledger.read(folder)
            if event not in legal(start):
                with pytest.raises(FailoverRefused):
                    run(folder, world, event)
                return
            world.trouble = Trouble(number, after=after, kill=True)
            survived = attempt(folder, world, event) is None
            world.trouble = None
            if ledger.read(folder).doing:
                run(folder, world, Event.RECOVER)
            found = ledger.read(folder)
            assert not found.doing
            assert found.state in {start.state, at_rest_after(start, event)[0]}
            known = {copy.key for copy in (found.copy, found.test) if copy}
            assert set(world.copies) == known
            assert world.source_on != found.source_off
            if survived:
                return


def test_what_can_be_abandoned_is_outside() -> None:
    """No step on the receiver itself is ever passed by."""
    assert {Step.FENCE, Step.UNFENCE, Step.CLOSE, Step.MAKE_COPY, Step.LAST_CYCLE}.isdisjoint(
        OUTSIDE
    )


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        ledger.opened(tmp_path),
        pytest.raises(LedgerError, match="another failover command is working on"),
        ledger.opened(tmp_path),
    ):
        pass


def test_a_damaged_record_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / ledger.RECORD).write_text('{"schema":1,"state":"failed')
    with pytest.raises(LedgerError, match=r"failover\.json cannot be used"):
        ledger.read(tmp_path)


def test_the_log_survives_a_torn_line(tmp_path: Path) -> None:
    run(tmp_path, World(), Event.TEST)
    with (tmp_path / ledger.LOG).open("ab") as file:
        file.write(b'\n{"at":"2026')
    before = ledger.history(tmp_path)
    run(tmp_path, World(), Event.END_TEST)
    lines = ledger.history(tmp_path)
    assert lines[: len(before)] == before
    assert lines[-1].detail.endswith("the replica is replicating")


@pytest.mark.security
def test_the_log_believes_the_kernel_about_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "the-boss")
    monkeypatch.setenv("LOGNAME", "the-boss")
    with ledger.opened(tmp_path) as held:
        held.note("unplanned", "begin")
    (line,) = ledger.history(tmp_path)
    assert line.who
    assert "the-boss" not in line.who
