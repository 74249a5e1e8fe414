"""Runs the program in processes that start at once, and that die when they are told to.

    prepared.py          has imported everything; reads an order a line, forks, and says how it ends

An order is JSON: "argv" of the program, or the "store", "identity" and "port" of a receiver; the
file "log" for what it prints. "calls" kills it just before (or, negative, after) that many calls
that change a file system, and "segment" is how many bytes of a stream the receiver makes durable at
a time. The answers are lines with a pid, then with a status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

CHANGES = (
    "open", "write", "pwrite", "fsync", "ftruncate",
    "rename", "replace", "unlink", "mkdir", "rmdir",
)  # fmt: skip


def main() -> None:
    """Fork a process for each order."""
    for module in (
        "nutanix_backend.__main__",
        "nutanix_backend.doctor.command",
        "nutanix_backend.cli.upkeep",
        "nutanix_backend.replicate.command",
        "nutanix_backend.replicate.job",
        "ptcomm_runner.command",
        "vm_replica.receiver",
    ):
        importlib.import_module(module)
    gc.freeze()
    say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(run(order))
        say({"pid": child})
        say({"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def say(answer: dict[str, object]) -> None:
    """A line to whoever gives the orders."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def run(order: dict[str, Any]) -> int:
    """Be the program."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, descriptor in enumerate((null, log, log)):
        os.dup2(descriptor, target)
    os.close(log)
    os.close(null)
    prepare(order)
    try:
        return program(order["argv"]) if "argv" in order else receive(order)
    except BaseException:  # noqa: BLE001 - it goes to the log, and the process ends
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def program(argv: list[str]) -> int:
    """The command line."""
    from nutanix_backend.__main__ import main as command  # noqa: PLC0415 - see main

    sys.argv = ["podheitor-nutanix-backend", *argv]
    return command()


def receive(order: dict[str, Any]) -> int:
    """Be a receiver; it keeps every point of the last day."""
    from vm_replica.receiver import Receiver  # noqa: PLC0415 - see main
    from vm_replica.store.admission import Limits  # noqa: PLC0415
    from vm_replica.store.replica import Store  # noqa: PLC0415

    store = Store(Path(order["store"]), Limits(reserve=0))
    Receiver(store, Path(order["identity"]), ("127.0.0.1", order["port"])).serve()
    return 0


def prepare(order: dict[str, Any]) -> None:
    """Shorten the pauses of the client, and let death count the calls."""
    from prism_client import _clock  # noqa: PLC0415
    from vm_replica.store import spool  # noqa: PLC0415

    clock: Any = _clock.SystemClock
    clock.sleep = lambda _, seconds: time.sleep(min(seconds, 0.01))
    if "segment" in order:
        vars(spool)["SEGMENT"] = order["segment"]
    if "calls" in order:
        Doom(order["calls"])


class Doom:
    """Kills the process at the n-th call that changes a file system: n before, -n after it."""

    def __init__(self, number: int) -> None:
        self._left = abs(number)
        self._after = number < 0
        for name in CHANGES:
            setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, call: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            if name == "open" and not (len(args) > 1 and args[1] & (os.O_CREAT | os.O_TRUNC)):
                return call(*args, **options)
            self._left -= 1
            if self._left == 0 and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **options)
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


if __name__ == "__main__":
    main()
