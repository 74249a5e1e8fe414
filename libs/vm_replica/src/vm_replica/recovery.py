"""Replicas that a crash has left half applied are recovered in the background, each by itself."""

from __future__ import annotations

import logging
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from vm_replica.errors import Code, CycleRefused, ReplicationError, StoreError

if TYPE_CHECKING:
    from vm_replica.store.replica import Replica, Store

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a source is let wait for a recovery before it is told to come again."""
_AT_ONCE = 4


class _Stopped(ReplicationError):
    """The receiver stops; the recovery is gone on with at the next start."""


class Recovery:
    """The recoveries of a store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        """Recover replicas of this store when asked to."""
        self._store = store
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="recovery")
        self._pending: dict[str, Future[None]] = {}

    def begin(self) -> None:
        """Look for what is half applied, and recover it; return at once."""
        self._pool.submit(self._look)

    def stop(self) -> None:
        """Break off; what was being recovered is still half applied."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def require(self, replica: Replica) -> None:
        """Return when the replica is whole; raise CycleRefused(NOT_READY) if it takes longer."""
        state = replica.state()
        if state is None or state.is_whole:
            return
        wait([self._ask(replica)], timeout=GRACE)
        state = replica.state()
        if state is None or state.is_whole:
            return
        trouble = replica.trouble()
        why = f" (last error: {trouble.text})" if trouble else ""
        raise CycleRefused(
            Code.NOT_READY,
            f"the replica {replica.name} is being recovered: try again in a minute{why}",
        )

    def _look(self) -> None:
        try:
            shutil.rmtree(self._store.root / "dropped", ignore_errors=True)
            for replica in self._store.replicas():
                try:
                    state = replica.state()
                except StoreError as error:
                    log.error("not recovered: %s", error)  # noqa: TRY400 - a line, no traceback
                    continue
                if state and not state.is_whole:
                    self._ask(replica)
        except OSError as error:
            log.error("the store cannot be looked through: %s", error)  # noqa: TRY400 - as above

    def _ask(self, replica: Replica) -> Future[None]:
        with self._lock:
            found = self._pending.get(replica.name)
            if found is None or found.done():
                found = self._pool.submit(self._recover, replica)
                self._pending[replica.name] = found
            return found

    def _recover(self, replica: Replica) -> None:
        log.info("recovering %s", replica.name)
        try:
            replica.recover(self._tick)
        except _Stopped:
            log.info("the recovery of %s is put off until the next start", replica.name)
        except ReplicationError as error:
            log.error("%s is not recovered: %s", replica.name, error)  # noqa: TRY400 - as above
            replica.note_error(str(error))
        else:
            log.info("%s is recovered", replica.name)

    def _tick(self) -> None:
        if self._stop.is_set():
            raise _Stopped("the receiver stops")
