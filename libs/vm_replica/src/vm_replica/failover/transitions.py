"""The failover states of a replica, and the events that are possible in each state.

This module does no IO. It says which events are possible, which steps an event has, and how an
interrupted event is undone or completed. The conductor executes the steps, and records each step
before it begins.

A test copy can exist while replication goes on, and also during a failover.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs

from vm_replica.failover.errors import FailoverRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1


class State(Enum):
    """What a replica is to its source."""

    REPLICATING = "replicating"
    TESTING = "testing"
    FAILING_OVER = "failing-over"
    FAILED_OVER = "failed-over"
    PERMANENT = "permanent"


class Event(Enum):
    """What an administrator asks for."""

    TEST = "test"
    END_TEST = "end-test"
    DRILL = "drill"
    PLANNED = "planned"
    UNPLANNED = "unplanned"
    UNDO = "undo"
    PERMANENT = "permanent"
    REVERSE = "reverse"
    RECOVER = "recover"


class Step(Enum):
    """An action outside of this module. Every step can be repeated after an interruption."""

    SHUT_DOWN = "shut down the source"
    LAST_CYCLE = "wait for the last cycle"
    FENCE = "refuse the source"
    MAKE_COPY = "make the copy"
    MAKE_TEST_COPY = "make the test copy"
    WATCH_TEST_COPY = "watch whether the test copy lives"
    REMOVE_COPY = "remove the copy"
    REMOVE_TEST_COPY = "remove the test copy"
    UNFENCE = "accept the source again"
    POWER_ON = "switch the source on"
    CLOSE = "close the relation"


@attrs.frozen
class Rule:
    """What an event does: the state during it, its steps, and the state after it.

    `back` are the steps that undo an interrupted event. An event without them is completed.
    """

    meanwhile: State
    steps: tuple[Step, ...]
    after: State
    back: tuple[Step, ...] = ()


_TEST = Rule(
    State.TESTING,
    (Step.MAKE_TEST_COPY,),
    State.TESTING,
    back=(Step.REMOVE_TEST_COPY,),
)
_DRILL = Rule(
    State.TESTING,
    (Step.MAKE_TEST_COPY, Step.WATCH_TEST_COPY, Step.REMOVE_TEST_COPY),
    State.REPLICATING,
    back=(Step.REMOVE_TEST_COPY,),
)
_UNPLANNED = Rule(
    State.FAILING_OVER,
    (Step.FENCE, Step.MAKE_COPY),
    State.FAILED_OVER,
    back=(Step.REMOVE_COPY, Step.UNFENCE),
)
_PLANNED = Rule(
    State.FAILING_OVER,
    (Step.SHUT_DOWN, Step.LAST_CYCLE, Step.FENCE, Step.MAKE_COPY),
    State.FAILED_OVER,
    back=(Step.REMOVE_COPY, Step.UNFENCE, Step.POWER_ON),
)
_UNDO = Rule(
    State.FAILED_OVER,
    (Step.REMOVE_COPY, Step.UNFENCE, Step.POWER_ON),
    State.REPLICATING,
)

RULES: Mapping[tuple[State, Event], Rule] = {
    (State.REPLICATING, Event.TEST): _TEST,
    (State.REPLICATING, Event.DRILL): _DRILL,
    (State.REPLICATING, Event.PLANNED): _PLANNED,
    (State.REPLICATING, Event.UNPLANNED): _UNPLANNED,
    (State.TESTING, Event.UNPLANNED): _UNPLANNED,
    (State.FAILED_OVER, Event.UNDO): _UNDO,
    (State.FAILED_OVER, Event.PERMANENT): Rule(State.PERMANENT, (Step.CLOSE,), State.PERMANENT),
    (State.PERMANENT, Event.REVERSE): Rule(State.PERMANENT, (), State.PERMANENT),
} | {
    (state, Event.END_TEST): Rule(state, (Step.REMOVE_TEST_COPY,), state)
    for state in (State.TESTING, State.FAILED_OVER, State.PERMANENT)
}
"""Every possible event. RECOVER is possible only after an event was interrupted."""


@attrs.frozen
class Copy:
    """A copy of a restore point that exists or is about to be made.

    `kind` is the activator that makes it and `place` is where. `key` proves that we made it.
    """

    key: str
    name: str
    kind: str
    place: str
    generation: int


@attrs.frozen
class Record:
    """The state of a replica, as it is stored.

    `doing` is the event under way, or empty. `backwards`: the event is being undone. `fenced`: the
    receiver refuses the source. `source_off`: we shut the source down. `reversed`: replication in
    the other direction was set up.
    """

    schema: int
    state: State = State.REPLICATING
    doing: str = ""
    backwards: bool = False
    fenced: bool = False
    source_off: bool = False
    test: Copy | None = None
    copy: Copy | None = None
    reversed: bool = False


def possible(record: Record) -> list[Event]:
    """List the events that are possible now."""
    if record.doing:
        return [Event.RECOVER]
    return [
        event for state, event in RULES if state is record.state and _makes_sense(record, event)
    ]


def _makes_sense(record: Record, event: Event) -> bool:
    match event:
        case Event.END_TEST:
            return record.test is not None
        case Event.REVERSE:
            return not record.reversed
        case _:
            return True


def begin(record: Record, event: Event) -> Record:
    """Start an event; raise FailoverRefused, which lists the events that are possible."""
    legal = possible(record)
    if event not in legal:
        broken = f", and its {record.doing} was interrupted" if record.doing else ""
        instead = " or ".join(item.value for item in legal) or "nothing"
        raise FailoverRefused(
            f"{event.value} is not possible: the replica is {record.state.value}{broken}; "
            f"possible: {instead}"
        )
    if event is Event.RECOVER:
        return attrs.evolve(record, backwards=bool(_rule(record).back))
    rule = RULES[record.state, event]
    return attrs.evolve(record, state=rule.meanwhile, doing=event.value)


def _rule(record: Record) -> Rule:
    """Return the rule of the event under way."""
    event = Event(record.doing)
    return next(
        rule
        for (_, known), rule in RULES.items()
        if known is event and rule.meanwhile is record.state
    )


def steps(record: Record) -> tuple[Step, ...]:
    """List the steps that are left of the event under way, or of undoing it."""
    rule = _rule(record)
    return tuple(
        step for step in (rule.back if record.backwards else rule.steps) if _is_left(record, step)
    )


def _is_left(record: Record, step: Step) -> bool:
    match step:
        case Step.REMOVE_COPY:
            return record.copy is not None
        case Step.REMOVE_TEST_COPY:  # a drill makes it first
            is_drill = record.doing == Event.DRILL.value and not record.backwards
            return is_drill or record.test is not None
        case Step.UNFENCE:
            return record.fenced
        case Step.POWER_ON:
            return record.source_off
        case _:
            return True


def intend(record: Record, step: Step, copy: Copy | None = None) -> Record:
    """Return the record to store before a step begins; `copy` is what the step will make."""
    match step:
        case Step.SHUT_DOWN:
            return attrs.evolve(record, source_off=True)
        case Step.FENCE:
            return attrs.evolve(record, fenced=True)
        case Step.MAKE_COPY:
            return attrs.evolve(record, copy=copy)
        case Step.MAKE_TEST_COPY:
            return attrs.evolve(record, test=copy)
        case _:
            return record


def done(record: Record, step: Step) -> Record:
    """Return the record to store after a step."""
    match step:
        case Step.REMOVE_COPY:
            return attrs.evolve(record, copy=None)
        case Step.REMOVE_TEST_COPY:
            return attrs.evolve(record, test=None)
        case Step.UNFENCE:
            return attrs.evolve(record, fenced=False)
        case Step.POWER_ON:
            return attrs.evolve(record, source_off=False)
        case _:
            return record


def turn_back(record: Record) -> Record:
    """Return the record of an event that failed: undo it, or leave it to RECOVER."""
    return attrs.evolve(record, backwards=bool(_rule(record).back))


def finish(record: Record) -> Record:
    """Return the record after all steps of the event, or of undoing it."""
    rule = _rule(record)
    state = State.REPLICATING if record.backwards else rule.after
    if state in {State.REPLICATING, State.TESTING}:
        state = State.TESTING if record.test else State.REPLICATING
    opened = record.reversed or record.doing == Event.REVERSE.value
    return attrs.evolve(record, state=state, doing="", backwards=False, reversed=opened)
