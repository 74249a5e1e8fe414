"""What keeps secrets inside of this process: no core file, no debugger, no message with one."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from typing import TYPE_CHECKING

from nutanix_backend.settings.table import BY_NAME, Kind

if TYPE_CHECKING:
    from nutanix_backend.settings.parameters import Settings

PR_SET_DUMPABLE = 4
"""From linux/prctl.h."""
HIDDEN = "(hidden)"
SHORTEST = 3
"""Characters of the shortest secret that is looked for: a shorter one is part of many words."""


def keep_memory_private() -> None:
    """Write no core file, and let no other process of our user read our memory.

    The children that we start are not affected by the second, but by the first.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")


class Secrets(logging.Filter):
    """The secrets of a job: texts and log records lose them, with and without blanks around."""

    def __init__(self, settings: Settings) -> None:
        """Know the secrets that were given to `settings`, and to their target."""
        super().__init__()
        all_given = [one.given for one in (settings, settings.target) if one]
        texts = {
            text
            for of_one in all_given
            for name, given in of_one.items()
            if BY_NAME[name].kind is Kind.SECRET
            for text in (given.text, given.text.strip(), repr(given.text)[1:-1])
            if len(text) >= SHORTEST
        }
        self._texts = sorted(texts, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self._texts:
            text = text.replace(secret, HIDDEN)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the secrets out of a log record, its traceback included."""
        if not self._texts:
            return True
        record.msg, record.args = self.hide(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.hide(record.exc_text)
        return True
