"""What is known of a VM or a replica beside its data: when it was last proven, and last drilled.

A record in JSON, in the file that the caller names. It only serves reports: one that is lost or
damaged says that nothing is known.
"""

from __future__ import annotations

import logging
import time
from enum import Enum
from typing import TYPE_CHECKING

import attrs
import durable
from durable import records

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

SCHEMA = 1
FILE = "evidence.json"
"""Its name in the folder of a replica."""


class TrialKind(Enum):
    """How a point was tried."""

    PROOF = "proof"
    """It was put together and compared with its digests."""
    DRILL = "drill"
    """A VM was made of it and started."""


@attrs.frozen
class Trial:
    """One trial of a point: `when` in seconds of the epoch, `point` names it, `text` says more."""

    kind: TrialKind
    when: int
    point: str
    good: bool
    text: str


@attrs.frozen
class Evidence:
    """The trials of a VM, the newest first: of each kind the last one, and the last good one."""

    schema: int = SCHEMA
    cluster: str = ""
    vm_id: str = ""
    vm_name: str = ""
    trials: tuple[Trial, ...] = ()

    def last(self, kind: TrialKind, *, good: bool = False) -> Trial | None:
        """The last trial of a kind, or the last good one; None when there was none."""
        return next((t for t in self.trials if t.kind is kind and (t.good or not good)), None)

    def with_trial(self, trial: Trial) -> Evidence:
        """The evidence after a trial."""
        every = attrs.evolve(self, trials=(trial, *self.trials))
        wanted = [every.last(kind, good=good) for kind in TrialKind for good in (True, False)]
        return attrs.evolve(self, trials=tuple(t for t in every.trials if t in wanted))


def read(path: Path) -> Evidence:
    """The evidence in a file; empty where there is none that can be read."""
    try:
        return records.load(path.read_bytes(), Evidence, schema=SCHEMA)
    except FileNotFoundError:
        return Evidence()
    except (OSError, records.RecordError) as error:
        log.warning("%s cannot be used: %s", path, error)
        return Evidence()


def trial(kind: TrialKind, point: str, fault: str = "", seen: str = "") -> Trial:
    """A trial that ends now: `fault` says why it is not good, `seen` what was seen else."""
    return Trial(kind, int(time.time()), point, not fault, fault or seen)


def add(path: Path, whose: Evidence, added: Trial) -> str:
    """Add a trial to the evidence of a VM; return why that is not possible, or an empty text.

    Of two that write at the same time, one may lose its trial.
    """
    found = attrs.evolve(
        read(path), cluster=whose.cluster, vm_id=whose.vm_id, vm_name=whose.vm_name
    )
    try:
        durable.make_folder(path.parent)
        durable.replace(path, records.dump(found.with_trial(added)))
    except OSError as error:
        return f"the result is not recorded for reports: {path}: {error.strerror}"
    return ""
