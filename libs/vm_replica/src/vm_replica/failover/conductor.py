"""Carrying out an event: each step is written down, done, and written down as done."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import attrs
from command_line.text import with_notes

from vm_replica.failover import transitions
from vm_replica.failover.errors import DrillFailed, FailoverRefused
from vm_replica.failover.transitions import Event, Step

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from vm_replica.failover.ledger import Ledger
    from vm_replica.failover.transitions import Copy, Record

log = logging.getLogger(__name__)

OUTSIDE = {Step.REMOVE_COPY, Step.REMOVE_TEST_COPY, Step.POWER_ON}
"""Steps that need a host which may be gone for good; they can be abandoned."""
_OF_TESTS = {Step.MAKE_TEST_COPY, Step.WATCH_TEST_COPY, Step.REMOVE_TEST_COPY}


class FailoverReplica(Protocol):
    """What a failover needs of the store."""

    def fence(self) -> None:
        """Refuse every cycle of the source from now on."""
        ...

    def unfence(self) -> None:
        """Accept cycles again, on the last generation."""
        ...

    def close(self) -> None:
        """End the relation to the source for good."""
        ...

    def note_drill(self, generation: int, *, fault: str = "", seen: str = "") -> None:
        """Record how a drill of a generation ended: what is wrong, or what was seen."""
        ...


class Source(Protocol):
    """The VM that is replicated, on its own cluster."""

    def refuse_unfit(self) -> None:
        """Raise FailoverRefused when it cannot be shut down from here; does nothing."""
        ...

    def refuse_unknown(self) -> None:
        """Raise FailoverRefused when it cannot be switched on from here; does nothing."""
        ...

    def is_on(self) -> bool:
        """Whether it runs."""
        ...

    def shut_down(self) -> None:
        """Shut the guest down and return when it is off."""
        ...

    def last_cycle(self) -> None:
        """Return when the replica holds what the VM was when it was off."""
        ...

    def power_on(self) -> None:
        """Switch it on, unless it is on."""
        ...


class Copies(Protocol):
    """Where copies of the replica's restore points are made."""

    def refuse_unfit(self, *, test: bool) -> None:
        """Raise FailoverRefused when no copy can be made; makes nothing."""
        ...

    def refuse_unwatched(self) -> None:
        """Raise FailoverRefused when a copy cannot be watched there."""
        ...

    def refuse_foreign(self, copy: Copy) -> None:
        """Raise FailoverRefused when this one cannot be removed from here; removes nothing."""
        ...

    def refuse_lost(self, copy: Copy) -> None:
        """Raise FailoverRefused when this one was made, and is not found any more."""
        ...

    def intend(self, *, test: bool) -> Copy:
        """Choose name, place, key and generation of a copy that is about to be made."""
        ...

    def make(self, copy: Copy, *, test: bool) -> str:
        """Make it, independent of the replica; a test copy reaches no network. Say what it is."""
        ...

    def watch(self, copy: Copy) -> str:
        """Start it and say what shows that it lives; raise DrillFailed when nothing does."""
        ...

    def remove(self, copy: Copy, *, test: bool) -> None:
        """Remove all there is of it, which may be nothing or a part."""
        ...

    def turn(self, record: Record, *, recovers: bool) -> AbstractContextManager[None]:
        """Hold while the begin of an event is written down, so that one begins after the other.

        Raises FailoverRefused when the failover of another VM is in the way of this one.
        """
        ...


@attrs.frozen
class Conductor:
    """Takes the replica of one ledger from state to state; `source` is None if none was given."""

    ledger: Ledger
    replica: FailoverReplica
    source: Source | None
    copies: Copies
    say: Callable[[str], object]

    def handle(self, event: Event, *, abandon: bool = False) -> Record:
        """Carry `event` out. When a step fails it is taken back, and the error raised.

        `abandon` passes by steps whose host does not answer any more: what stays there is named in
        the log. Raises FailoverRefused (nothing was done), FailoverFailed, and what steps raise.
        """
        try:
            record = transitions.begin(self.ledger.record, event)
            self._refuse_unfit(record, abandon=abandon)
            if event is Event.UNDO and record.copy:
                self._refuse_lost(record.copy, abandon=abandon)
            self._write_down(event, record)
        except FailoverRefused as error:
            self.ledger.note(event.value, "refused", str(error))
            raise
        try:
            self._perform(event, abandon=abandon)
        except BaseException as error:
            self._turn_back(event, error)
            raise
        return self.ledger.record

    def _write_down(self, event: Event, record: Record) -> None:
        with self.copies.turn(record, recovers=event is Event.RECOVER):
            self.ledger.note(event.value, "begin", record.doing)
            self.ledger.keep(record)

    def _refuse_unfit(self, record: Record, *, abandon: bool) -> None:
        """What can be known to fail is not begun: nobody shuts a source down for nothing."""
        for step in transitions.steps(record):
            copy = _copy(record, step)
            if abandon and step in OUTSIDE:
                continue
            match step:
                case Step.MAKE_COPY | Step.MAKE_TEST_COPY:
                    self.copies.refuse_unfit(test=step in _OF_TESTS)
                case Step.WATCH_TEST_COPY:
                    self.copies.refuse_unwatched()
                case Step.REMOVE_COPY | Step.REMOVE_TEST_COPY if copy:
                    self.copies.refuse_foreign(copy)
                case Step.SHUT_DOWN:
                    self._source().refuse_unfit()
                case Step.POWER_ON:
                    self._source().refuse_unknown()

    def _refuse_lost(self, copy: Copy, *, abandon: bool) -> None:
        """The source is not switched on beside a copy that may go on running under another name."""
        try:
            self.copies.refuse_lost(copy)
        except FailoverRefused as error:
            if not abandon:
                raise
            self._note(Event.UNDO, "left behind", f"{self._whose(Step.REMOVE_COPY)}: {error}")

    def _perform(self, event: Event, *, abandon: bool = False) -> None:
        for step in transitions.steps(self.ledger.record):
            try:
                self._do(event, step)
            except Exception as error:
                if not (abandon and step in OUTSIDE):
                    raise
                log.warning("abandoned: %s", step.value, exc_info=error)
                self._note(event, "left behind", f"{self._whose(step)}: {with_notes(error)}")
                self.ledger.keep(transitions.done(self.ledger.record, step))
        before = self.ledger.record
        after = transitions.finish(before)
        what = f"{before.doing} is taken back" if before.backwards else f"{before.doing} is done"
        self._note(event, "end", f"{what}: the replica is {after.state.value}")
        self.ledger.keep(after)

    def _do(self, event: Event, step: Step) -> None:
        """Do a step. Its intent is durable before it acts."""
        if step is Step.SHUT_DOWN and not self._source().is_on():
            self._note(event, "step", "the source is off already")
            return
        copy = None
        if step in {Step.MAKE_COPY, Step.MAKE_TEST_COPY}:
            copy = self.copies.intend(test=step in _OF_TESTS)
        record = transitions.intend(self.ledger.record, step, copy)
        detail = f": {copy.name} of generation {copy.generation} at {copy.place}" if copy else ""
        self._note(event, "step", step.value + detail)
        self.ledger.keep(record)
        self._act(step, record)
        self.ledger.keep(transitions.done(record, step))

    def _act(self, step: Step, record: Record) -> None:
        copy = _copy(record, step)
        match step:
            case Step.MAKE_COPY | Step.MAKE_TEST_COPY if copy:
                self.say(self.copies.make(copy, test=step in _OF_TESTS))
            case Step.WATCH_TEST_COPY if copy:
                self._watch(copy)
            case Step.REMOVE_COPY | Step.REMOVE_TEST_COPY if copy:
                self.copies.remove(copy, test=step in _OF_TESTS)
            case _:
                self._plain(step)()

    def _watch(self, copy: Copy) -> None:
        """A copy that does not live is removed as after any step that failed."""
        try:
            seen = self.copies.watch(copy)
        except DrillFailed as error:
            self.replica.note_drill(copy.generation, fault=str(error))
            raise
        self.replica.note_drill(copy.generation, seen=seen)
        self._note(Event.DRILL, "step", f"generation {copy.generation} lives: {seen}")

    def _plain(self, step: Step) -> Callable[[], None]:
        match step:
            case Step.FENCE:
                return self.replica.fence
            case Step.UNFENCE:
                return self.replica.unfence
            case Step.CLOSE:
                return self.replica.close
        source = self._source()
        return {
            Step.SHUT_DOWN: source.shut_down,
            Step.LAST_CYCLE: source.last_cycle,
            Step.POWER_ON: source.power_on,
        }[step]

    def _source(self) -> Source:
        if self.source is None:
            raise FailoverRefused(
                "this shuts the source down or switches it on: give --source KEY=VALUE to reach it"
            )
        return self.source

    def _turn_back(self, event: Event, error: BaseException) -> None:
        """Take an event back that failed. What fails of that too is left to `recover`."""
        ledger = self.ledger
        try:
            ledger.note(event.value, "failed", with_notes(error))
            record = transitions.turn_back(ledger.record)
            if record.backwards and not ledger.record.backwards:
                ledger.keep(record)
                self._perform(event)
                return
        except Exception as second:
            log.warning("taking %s back failed", event.value, exc_info=second)
            error.add_note(f"undoing it failed too: {with_notes(second)}")
        error.add_note("it was interrupted; run `failover recover` to finish or undo it")

    def _note(self, event: Event, what: str, detail: str) -> None:
        self.ledger.note(event.value, what, detail)
        self.say(detail)

    def _whose(self, step: Step) -> str:
        copy = _copy(self.ledger.record, step)
        if step is Step.POWER_ON or copy is None:
            return f"not done: {step.value}"
        return f"not removed: {copy.name} (key {copy.key}) at {copy.place}"


def _copy(record: Record, step: Step) -> Copy | None:
    """The copy that a step is about."""
    return record.test if step in _OF_TESTS else record.copy
