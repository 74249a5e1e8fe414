"""Streams one after the other without a pause: the next one is begun while one is sent.

A disk ends with reads for its digest list and with a file of this host. Meanwhile the first bytes
of the next disk are read, by another thread, and kept in memory; the rest is read when it is sent.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ptcomm.events import Buffer

T = TypeVar("T")

AHEAD = 8 << 20
"""Bytes of a stream that are kept in memory, before anybody asks for them."""


class ReadAhead:
    """The pieces of a stream; the first of them are read at once, in a thread of `pool`."""

    def __init__(self, pieces: Generator[Buffer], pool: ThreadPoolExecutor) -> None:
        """Begin to read `pieces`."""
        self._pieces = pieces
        self._is_closed = False
        self._first = pool.submit(self._read)

    def __iter__(self) -> Iterator[Buffer]:
        """The pieces, in their order; raises what reading raises."""
        yield from self._first.result()
        yield from self._pieces

    def close(self) -> None:
        """Wait until the thread reads no more, and end the stream."""
        self._is_closed = True
        if not self._first.cancel():
            wait((self._first,))
        self._pieces.close()

    def _read(self) -> list[bytes]:
        """Copies of the first pieces: each is valid only until the next is asked for."""
        copies: list[bytes] = []
        held = 0
        while held < AHEAD and not self._is_closed:
            piece = next(self._pieces, None)
            if piece is None:
                break
            copies.append(bytes(piece))
            held += len(copies[-1])
        return copies


def in_turn(
    streams: Iterable[tuple[T, Callable[[], Generator[Buffer]]]],
) -> Generator[tuple[T, ReadAhead]]:
    """Yield each stream with what it belongs to; the one behind it has begun by then.

    At the next turn, and at the end, the one before is closed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool, ExitStack() as stack:
        turns = (
            (owner, stack.enter_context(closing(ReadAhead(begin(), pool))))
            for owner, begin in streams
        )
        current = next(turns, None)
        while current is not None:
            following = next(turns, None)
            yield current
            current[1].close()
            current = following
