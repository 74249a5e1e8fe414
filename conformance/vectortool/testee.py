"""A testee's process: requests in, answers out; its crash, hang or hunger is an outcome.

The only module that starts one.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import subprocess  # noqa: TID251 - testees are programs, and this module starts them
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Json: TypeAlias = Any

MIB = 1 << 20
START = 60.0  # seconds that a testee may take to say hello, on a busy machine
GROWTH = 256 * MIB  # address space that one case may cost, beside 64 times its request
CEILING = 4096 * MIB  # beyond it the system refuses: protects the machine, not the verdict


class Program:
    """One program under test, started anew after it was lost. A context manager."""

    def __init__(self, command: Sequence[str], *, patience: float = 60.0) -> None:
        """``patience``: seconds that one answer may take."""
        self._command = list(command)
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._number = 0
        self._peak = 0
        self.name = ""
        self.suites: list[str] = []

    def __enter__(self) -> Self:
        hello = self.ask({"op": "hello"})
        if "ok" not in hello:
            words = self.last_words()
            self.__exit__()
            raise RuntimeError(f"{self._command} is no testee: {hello} {words}")
        self.name, self.suites = hello["ok"]["name"], hello["ok"]["suites"]
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._errors.close()

    def ask(self, request: Json) -> Json:
        """The answer without its id, or {"lost": "crash" | "hang" | "allocation"}."""
        if request["op"] != "hello" and self._process is None:
            self.ask({"op": "hello"})
        process = self._process or self._start()
        self._number += request["op"] != "hello"
        number = 0 if request["op"] == "hello" else self._number
        line = json.dumps({"id": number, **request}).encode() + b"\n"
        try:
            patience = self._patience if number else max(self._patience, START)
            found = _answer(self._exchange(process, line, patience), number)
        except TimeoutError:
            return self._lose("hang")
        except (ValueError, OSError):
            return self._lose("crash")
        if self._ate(process, len(line)):
            return self._lose("allocation")
        return found

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read()[-400:].decode("utf-8", "replace")

    def stop(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        resource.prlimit(process.pid, resource.RLIMIT_AS, (CEILING, CEILING))
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        self._process, self._peak = process, 0
        return process

    def _lose(self, how: str) -> Json:
        if self._process is not None:
            self._process.kill()
        self.stop()
        return {"lost": how}

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes, patience: float) -> bytes:
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes")
        to, back = process.stdin.fileno(), process.stdout.fileno()
        left, answer = memoryview(line), bytearray()
        until = time.monotonic() + patience
        while not answer.endswith(b"\n"):
            writing = [to] if left else []
            readable, writable, _ = select.select(
                [back], writing, [], max(0.0, until - time.monotonic())
            )
            if not (readable or writable):
                raise TimeoutError
            if writable:
                left = left[os.write(to, left[: 1 << 16]) :]
            if readable:
                piece = os.read(back, 1 << 20)
                if not piece:
                    raise OSError("the testee closed its output")
                answer += piece
        return bytes(answer)

    def _ate(self, process: subprocess.Popen[bytes], request: int) -> bool:
        """Whether the peak of its address space grew by more than a case may cost."""
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return False  # not Linux: without this outcome
        match = re.search(r"^VmPeak:\s+([0-9]+) kB", status, re.MULTILINE)
        peak = int(match[1]) * 1024 if match else 0
        grown, self._peak = peak - (self._peak or peak), peak
        return grown > GROWTH + 64 * request


def _answer(line: bytes, number: int) -> Json:
    found = json.loads(line)
    if not isinstance(found, dict) or found.pop("id", None) != number or len(found) not in {1, 2}:
        raise ValueError("not the answer to this request")
    return found
