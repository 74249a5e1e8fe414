"""Faults on order: what the lab shall do wrong, how often, and at which call.

A call is named by a pattern such as "POST */recovery-points" or "* */tasks/*": the method and the
path (without the query) of a request, matched as shell patterns, a missing method meaning any.
The first fault in the list that matches a request is taken, and counted down.
"""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable
from typing import Any, Literal

import attrs

Kind = Literal[
    "status", "delay", "drip", "drop", "drop_answer", "reset", "reset_answer", "truncate",
    "cut_json", "html", "html_answer", "edit", "expire_jwt", "fail_task",
]  # fmt: skip
Edit = Callable[[dict[str, Any]], None]


@attrs.define
class Fault:
    """One order; `times` and `skip` count down as requests match."""

    kind: Kind
    pattern: str
    times: int = 1
    skip: int = 0
    status: int = 0
    seconds: float = 0.0
    retry_after: float | None = None
    message: str = ""
    after_effect: bool = True
    edit: Edit | None = None

    def matches(self, method: str, path: str) -> bool:
        """Is this request meant?"""
        wanted_method, _, wanted_path = self.pattern.rpartition(" ")
        return fnmatch.fnmatchcase(method, wanted_method or "*") and fnmatch.fnmatchcase(
            path, wanted_path
        )


class Faults:
    """The ordered list of faults; safe to change while requests run."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def status(
        self,
        pattern: str,
        status: int,
        *,
        times: int = 1,
        skip: int = 0,
        retry_after: float | None = None,
        message: str = "",
    ) -> Fault:
        """Answer with an HTTP status and have no effect.

        A message comes in the error envelope of the API that was called; without one, the answer
        is empty.
        """
        return self.add(
            Fault(
                "status",
                pattern,
                times,
                skip,
                status=status,
                retry_after=retry_after,
                message=message,
            )
        )

    def delay(self, pattern: str, seconds: float, *, times: int = 1, skip: int = 0) -> Fault:
        """Answer late."""
        return self.add(Fault("delay", pattern, times, skip, seconds=seconds))

    def drip(self, pattern: str, seconds: float, *, times: int = 1, skip: int = 0) -> Fault:
        """Send the answer's body byte by byte, so slowly that it takes `seconds` altogether."""
        return self.add(Fault("drip", pattern, times, skip, seconds=seconds))

    def reset(
        self, pattern: str, *, times: int = 1, skip: int = 0, after_effect: bool = False
    ) -> Fault:
        """Reset the connection (RST): before anything happened, or with only the answer lost."""
        return self.add(Fault("reset_answer" if after_effect else "reset", pattern, times, skip))

    def drop(
        self, pattern: str, *, times: int = 1, skip: int = 0, after_effect: bool = False
    ) -> Fault:
        """Close the connection: before anything happened, or with only the answer lost."""
        return self.add(Fault("drop_answer" if after_effect else "drop", pattern, times, skip))

    def truncate(self, pattern: str, *, times: int = 1, skip: int = 0) -> Fault:
        """Promise the whole answer and close the connection halfway through it."""
        return self.add(Fault("truncate", pattern, times, skip))

    def cut_json(self, pattern: str, *, times: int = 1, skip: int = 0) -> Fault:
        """Send a complete HTTP answer whose JSON stops in the middle; the call had its effect."""
        return self.add(Fault("cut_json", pattern, times, skip))

    def html(
        self, pattern: str, *, times: int = 1, skip: int = 0, after_effect: bool = False
    ) -> Fault:
        """Answer 200 with a login page, in place of the call or of its answer."""
        return self.add(Fault("html_answer" if after_effect else "html", pattern, times, skip))

    def edit(self, pattern: str, edit: Edit, *, times: int = 1, skip: int = 0) -> Fault:
        """Let `edit` change the JSON answer in place, to lie with it."""
        return self.add(Fault("edit", pattern, times, skip, edit=edit))

    def expire_jwt(
        self, pattern: str = "*/compute-changed-regions", *, times: int = 1, skip: int = 0
    ) -> Fault:
        """Let every token issued so far be expired from the matching request on."""
        return self.add(Fault("expire_jwt", pattern, times, skip))

    def fail_task(
        self,
        pattern: str,
        *,
        times: int = 1,
        skip: int = 0,
        message: str = "internal error",
        after_effect: bool = True,
    ) -> Fault:
        """Let the task of the matching request end FAILED, by default after it had its effect."""
        fault = Fault("fail_task", pattern, times, skip, message=message, after_effect=after_effect)
        return self.add(fault)

    def add(self, fault: Fault) -> Fault:
        """Put a fault at the end of the list."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._faults.clear()

    def pending(self) -> list[Fault]:
        """List the faults still to come."""
        with self._lock:
            return list(self._faults)

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault for this request, if any, and count it down."""
        with self._lock:
            for fault in self._faults:
                if not fault.matches(method, path):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
                return fault
        return None
