"""Ending a restore that has failed.

bacula-fd 15.0.3 stops reading its Storage Daemon as soon as the job has failed. It then needs two
minutes to leave a Storage Daemon that is still sending, and both add their errors to the job log.
So everything that arrives after the failure is skipped, and the job fails at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ptcomm import (
    Ack,
    Answer,
    Data,
    DataEnd,
    End,
    EndOfInput,
    File,
    Finish,
    Reply,
    RestoreObject,
    Start,
    Terminate,
)

if TYPE_CHECKING:
    from ptcomm.stdio import Endpoint

LONGEST_SKIP = 64 << 30
"""Bytes that are skipped at most: about what bacula-fd can read in those two minutes."""


class Refusal:
    """The error that fails a restore at its end."""

    def __init__(self, error: Exception) -> None:
        """Raise `error` in the end."""
        self.error = error
        self._skipped = 0

    def skip(self, length: int) -> None:
        """Count a file of `length` bytes that is skipped; raise the error when it gets too much."""
        self._skipped += length
        if self._skipped > LONGEST_SKIP:
            self.error.add_note(
                "the errors about connections that follow come from ending the job at once"
            )
            raise self.error


def refuse(endpoint: Endpoint, error: Exception) -> NoReturn:
    """Go on from the parameters of a restore to its end with skipping everything; raise `error`."""
    refusal = Refusal(error)
    endpoint.send(Ack())
    endpoint.expect(Start)
    endpoint.send(Ack())
    while True:
        match endpoint.expect(RestoreObject, File, Finish, End, Terminate, EndOfInput):
            case RestoreObject():
                while isinstance(endpoint.expect(Data, DataEnd, EndOfInput), Data):
                    pass
                endpoint.send(Reply(Answer.OK))
            case File() as file:
                refusal.skip(file.size)
                endpoint.send(Reply(Answer.SKIP))
            case _:
                raise error
