"""Errors of ptcomm.

::

    PtcommError
    ├── LocalProtocolError    this side asked for something that must not be sent
    ├── RemoteProtocolError   the peer sent something that is not PTCOMM, or not now
    └── PeerGone              the peer no longer reads what we write

Any other exception that leaves this package is a bug of it.
"""

from __future__ import annotations


class PtcommError(Exception):
    """Base of every error that this package raises."""


class LocalProtocolError(PtcommError):
    """The caller misused the API; nothing was written.

    After it the sending side is frozen except for Message and Terminate: code that stumbled in the
    middle of a file must not be able to end that file as if it were whole.
    """


class RemoteProtocolError(PtcommError):
    """The peer broke the protocol; the receiving side raises this error from now on.

    ``code`` is one of these stable strings, ``offset`` a byte in the incoming stream:

    =============  ========================================================  =====================
    code           meaning                                                   offset of
    =============  ========================================================  =====================
    bad-status     the first byte of a packet is no PTCOMM status            the status
    bad-length     length is not six digits and a newline, or F/T has one    the first wrong byte
    bad-command    a C packet is not a known, well-formed line of text       the packet
    out-of-order   a packet that is legal elsewhere, but not here            the packet
    empty-data     a backend's D packet without payload: bacula-fd would     the packet
                   take it for the end of the file
    object-length  a restore object has more or fewer bytes than it said     the packet
    oversized      a block of commands (Params, Job, ...) grows too long     the packet
    truncated      end of input inside a packet or a block of commands       the end of the stream
    =============  ========================================================  =====================
    """

    def __init__(self, code: str, offset: int, what: str) -> None:
        super().__init__(f"the peer broke PTCOMM at byte {offset}: {what} ({code})")
        self.code = code
        self.offset = offset
        self.what = what


class PeerGone(PtcommError):
    """The peer closed its end of the pipe while we were writing (cancelled or died)."""
