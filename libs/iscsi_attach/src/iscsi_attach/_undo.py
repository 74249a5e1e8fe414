"""Undo in reverse order, as one helper. Nothing else lives here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from types import TracebackType

log = logging.getLogger(__name__)


def push_undo(stack: ExitStack, what: str, undo: Callable[[], object]) -> None:
    """Run ``undo`` when the stack unwinds, before what was pushed earlier; first error first.

    ``undo`` may run at any time and again: when it fails it is tried once more; what is no error
    (a cancel from a signal handler) and comes in the middle of it is raised after a second try.
    """

    def step(
        _kind: type[BaseException] | None, active: BaseException | None, _tb: TracebackType | None
    ) -> bool:
        try:
            _try_undo(what, undo, active)
        except Exception:
            raise
        except BaseException as cancel:
            _try_undo(what, undo, cancel)
            raise
        return False

    stack.push(step)


def _try_undo(what: str, undo: Callable[[], object], active: BaseException | None) -> None:
    try:
        try:
            undo()
        except Exception as error:  # noqa: BLE001 - logged, and raised when it stays
            log.info("trying again to undo: %s (%s)", what, error)
            undo()
    except Exception as error:
        if active is None:
            error.add_note(f"while undoing: {what}")
            raise
        log.warning("undo failed: %s", what, exc_info=error)
        active.add_note(f"then undo failed: {what}: {error}")
