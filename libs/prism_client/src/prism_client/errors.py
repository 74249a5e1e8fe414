"""Everything this library raises.

PrismError
├── TransportError            no answer came
│   ├── Unreachable           refused, reset, name not found, broken in mid-answer
│   ├── Timeout               no byte for longer than the time-out
│   └── UntrustedCertificate  the TLS certificate is not one that Trust accepts
├── ApiError                  Prism answered no (status, code, request id, its own words)
│   ├── AuthFailed            401
│   ├── Forbidden             403
│   ├── NotFound              404
│   ├── Conflict              409, 412, 428: changed by somebody else in the meantime
│   ├── RateLimited           429, still after the retries
│   ├── BadRequest            any other 4xx
│   └── ServerError           5xx, still after the retries
├── BadAnswer                 not what Prism answers: HTML, broken JSON, a missing field
├── TaskFailed                the task ended FAILED or CANCELED; carries the task
├── TaskTimeout               the task had not ended at the deadline; carries its id
├── ChangeTrackingUnavailable this cluster, disk or reference has no change list: read everything
├── IncompleteChangeList      gap, overlap, no progress or out of bounds: the list proves nothing
└── Unsupported               this Prism does not offer what is needed

Each message is one printable line for the administrator: what, where, what to do. The cause is
chained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prism_client._text import one_line

if TYPE_CHECKING:
    from prism_client.model import Task


_LONGEST = 2000  # characters of a message; what a server says in it may be endless


class PrismError(Exception):
    """Anything that went wrong between this library and Prism.

    A server's words may be part of the message: control characters in them become blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, _LONGEST))


class TransportError(PrismError):
    """No answer came; whether a write took effect is not known."""


class Unreachable(TransportError):
    """The connection could not be made, or broke."""


class Timeout(TransportError):
    """The server was silent for longer than the time-out."""


class UntrustedCertificate(TransportError):
    """The server's certificate is not trusted; nothing was sent to it."""


class ApiError(PrismError):
    """Prism refused a call.

    status: HTTP status; code: Prism's own, such as "DP-10400", or ""; request_id: NTNX-Request-Id.
    """

    def __init__(self, message: str, *, status: int, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id


class AuthFailed(ApiError):
    """Wrong user, password or key, or an expired token."""


class Forbidden(ApiError):
    """The account lacks the permission."""


class NotFound(ApiError):
    """No such entity, or no such path on this server."""


class Conflict(ApiError):
    """The entity changed between reading and writing it."""


class RateLimited(ApiError):
    """Too many requests, for longer than the retry budget."""


class BadRequest(ApiError):
    """Prism does not accept the request as it is."""


class ServerError(ApiError):
    """Prism failed inside, or is too busy for longer than the retry budget."""


class BadAnswer(PrismError):
    """The answer is not what Prism answers: HTML, broken JSON, a missing or wrong field.

    field: path of the field inside the record, such as "disks[0].backingInfo"; "" for none.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class TaskFailed(PrismError):
    """A task ended FAILED or CANCELED. It may have taken effect: look for the entity by name."""

    def __init__(self, message: str, *, task: Task) -> None:
        super().__init__(message)
        self.task = task

    @property
    def operation(self) -> str:
        """Prism's name of what failed."""
        return self.task.operation

    @property
    def server_words(self) -> str:
        """The reason as Prism gives it."""
        return self.task.error_message


class TaskTimeout(PrismError):
    """A task had not ended at the deadline; it may still take effect."""

    def __init__(self, message: str, *, task_ext_id: str) -> None:
        super().__init__(message)
        self.task_ext_id = task_ext_id


class ChangeTrackingUnavailable(PrismError):
    """There is no list of changes to be had; the disk must be read in full."""


class IncompleteChangeList(PrismError):
    """The list of changed regions contradicts itself; nothing may be built on it."""


class Unsupported(PrismError):
    """This Prism does not offer an API that is needed."""
