"""The end of the job log: for each VM what was saved of it and how long that took, and totals."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
from command_line.text import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nutanix_backend.manifest import Manifest

LEVELS = {"F": "full", "I": "incremental", "D": "differential"}


@attrs.define
class Stopwatch:
    """Seconds that a VM took before, in and behind the stream; waiting for its turn is in none."""

    prepare: float = 0.0
    stream: float = 0.0
    clean_up: float = 0.0
    _began: float = attrs.field(factory=time.monotonic)

    def lap(self) -> float:
        """Return the seconds since the last call."""
        began, self._began = self._began, time.monotonic()
        return self._began - began

    @property
    def total(self) -> float:
        """All three together."""
        return self.prepare + self.stream + self.clean_up

    def longest(self) -> tuple[float, str]:
        """Return the longest of the three, and what it was for."""
        return max(
            (self.prepare, "to prepare"),
            (self.stream, "to send"),
            (self.clean_up, "to clean up"),
        )

    def __str__(self) -> str:
        return (
            f"{self.total:.1f} s ({self.prepare:.1f} s to prepare, {self.stream:.1f} s to send, "
            f"{self.clean_up:.1f} s to clean up)"
        )


@attrs.frozen
class SavedVm:
    """A VM that is backed up: how many disks, as changes only how many, and bytes read and sent.

    `excluded` disks were left out.
    `why_full` is why it was saved in full where another level was asked for. `compared` are bytes
    without changes that were compared, `read_for_lists` those that only the digest lists needed.
    """

    name: str
    level: str
    why_full: str
    consistency: str
    disks: int
    changed: int
    read: int
    sent: int
    compared: int
    read_for_lists: int
    seconds: Stopwatch
    excluded: int = 0

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        why_full: str,
        seconds: Stopwatch,
        compared: int,
        read_for_lists: int,
    ) -> SavedVm:
        """Return what a manifest says in short, and what was read besides."""
        return cls(
            name=manifest.vm_name,
            level=LEVELS[manifest.level],
            why_full=why_full,
            consistency=manifest.consistency_got,
            disks=len(manifest.disks),
            changed=sum(1 for disk in manifest.disks if disk.base),
            read=sum(disk.data_bytes for disk in manifest.disks),
            sent=sum(disk.stream_bytes for disk in manifest.disks),
            compared=compared,
            read_for_lists=read_for_lists,
            seconds=seconds,
            excluded=len(manifest.excluded),
        )

    def lines(self) -> Iterator[str]:
        """Yield what the job log says of it."""
        level = f"full instead of {self.level}: {self.why_full}" if self.why_full else self.level
        left_out = f", {self.excluded} left out" if self.excluded else ""
        yield (
            f"VM {self.name}: {self.disks} disks ({self.changed} as changes only){left_out}, "
            f"{size(self.read)} read, {size(self.sent)} sent, {self.seconds}, "
            f"{self.consistency}-consistent, {level}"
        )
        if self.changed:
            yield (
                f"VM {self.name}: {size(self.compared)} without changes read and compared, "
                f"{size(self.read_for_lists)} with changes in part read for the digest lists"
            )


def lines(saved: Sequence[SavedVm], failed: Sequence[str], seconds: float) -> Iterator[str]:
    """Yield a line for each VM, and one for all of several; `failed` are names of VMs.

    `seconds` is how long the whole took.
    """
    for vm in saved:
        yield from vm.lines()
    for name in failed:
        yield f"VM {name}: not backed up, see its error above"
    if len(saved) + len(failed) > 1:
        yield _totals(saved, failed, seconds)


def _totals(saved: Sequence[SavedVm], failed: Sequence[str], seconds: float) -> str:
    streamed = sum(vm.seconds.stream for vm in saved)
    text = (
        f"{len(saved)} VMs are backed up, {len(failed)} are not: "
        f"{size(sum(vm.read for vm in saved))} read, {size(sum(vm.sent for vm in saved))} sent, "
        f"{seconds:.1f} s, for {streamed:.1f} s of which data was sent"
    )
    if saved:
        slowest = max(saved, key=lambda vm: vm.seconds.longest())
        longest, what = slowest.seconds.longest()
        text += f"; what took longest: {longest:.1f} s {what} VM {slowest.name}"
    return text
