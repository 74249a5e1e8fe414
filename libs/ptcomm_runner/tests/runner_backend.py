"""A scripted backend for the tests of the runner, started as a process of its own.

Plugin parameters say how it behaves: `behave=<word>` names one deviation from good behaviour, and
`report=<path>` a file that receives one line for everything it was told. It stands on ptcomm, and
writes raw bytes where ptcomm would refuse.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import ptcomm as pt

VM = "@nutanix/lab/vm-1"
TIMES = pt.Times(1_700_000_001, 1_700_000_002, 1_700_000_003)
IMAGE = b"boot" * 25_000 + bytes(2_000_000) + b"tail" * 1_000


def delta(job_id: int) -> bytes:
    """The data of the delta that job `job_id` saves."""
    return f"delta of job {job_id}".encode() * 1000


class Backend:
    """One conversation."""

    def __init__(self) -> None:
        self.wire = pt.Endpoint(pt.Role.BACKEND, 0, 1)
        self.options: dict[str, str] = {}
        self.lines: list[str] = []

    def run(self) -> int:
        self.wire.expect(pt.PluginHello)
        self.wire.send(pt.BackendHello())
        self.job = self.wire.expect(pt.Job)
        self.wire.send(pt.Ack())
        parameters = self.wire.expect(pt.Parameters)
        self.options = dict(parameters.items)
        self.behave = self.options.get("behave", "")
        self.note(repr(self.job))
        self.note("parameters " + " ".join(f"{key}={value}" for key, value in parameters.items))
        self.note(f"BACULA_JOBID={os.environ.get('BACULA_JOBID')}")
        signal.signal(signal.SIGUSR1, self.canceled)
        self.at("after-parameters")
        self.wire.send(pt.Ack())
        phase = self.wire.expect(pt.Start).phase
        self.wire.send(pt.Ack())
        self.at("after-start")
        {
            pt.Phase.BACKUP: self.backup,
            pt.Phase.ESTIMATE: self.listing,
            pt.Phase.LISTING: self.listing,
            pt.Phase.QUERY: self.query,
            pt.Phase.RESTORE: self.restore,
        }[phase]()
        return self.end()

    def note(self, line: str) -> None:
        if "report" in self.options:
            with Path(self.options["report"]).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def canceled(self, *_: object) -> None:
        self.note("SIGUSR1")
        if self.behave.startswith("tidy"):
            os.close(1)
            time.sleep(0.8)
            self.note("tidied up")
        if self.behave != "deaf":
            os._exit(0)

    def at(self, place: str) -> None:
        """Misbehave here if the test asked for it: `behave=<what>-<place>`."""
        what, _, where = self.behave.partition("@")
        if where != place:
            return
        match what:
            case "q":
                self.wire.send(pt.Message(pt.Severity.NONFATAL, "one VM of several failed"))
            case "w":
                self.wire.send(pt.Message(pt.Severity.WARNING, "certificate not verified"))
            case "a":
                self.wire.send(pt.Message(pt.Severity.FATAL, "no such VM: check vm="))
                self.to_the_end()
                sys.exit(int(self.options.get("exit", "0")))
            case "e":
                os.write(1, b"E000014\nsomething else")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                sys.exit(0)
            case "junk":
                os.write(1, b"Traceback (most recent call last):\n")
            case "wrong":
                os.write(1, b"C000003\nOK\n")
            case "orphan":
                self.note(f"orphan {subprocess.Popen(['sleep', '600']).pid}")
                os._exit(0)
            case "stderr":
                os.write(2, b"Traceback\n\n  oops \xff\n")
            case "hang" | "tidy":
                self.note("hanging")
                time.sleep(600)
            case "deaf":
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)

    # -- backup --

    def backup(self) -> None:
        self.wire.send(pt.Message(pt.Severity.INFO, "hello from the backend"))
        self.at("between")
        self.file(f"{VM}/vm-metadata.json", b'{"name": "web"}')
        self.file(f"{VM}/empty", b"")
        full = self.job.level is pt.Level.FULL
        self.file(
            self.options.get("name")
            or (f"{VM}/disks/disk-0-a.{'raw' if full else f'{self.job.job_id}.phcbt01'}"),
            IMAGE + bytes(int(self.options.get("more", "0"))) if full else delta(self.job.job_id),
        )
        directory = pt.Stat(pt.FileType.DIRECTORY, 0, mode=0o40750)
        self.wire.send(pt.File(f"{VM}/dir/", directory, TIMES), pt.DataEnd())
        manifest = f"manifest of {self.job.name}".encode()
        self.wire.send(
            pt.RestoreObject(f"manifest/{VM}", len(manifest)), pt.Data(manifest), pt.DataEnd()
        )
        self.wire.send(pt.PluginObject(f"/{VM}", name="web", size=len(IMAGE)))
        self.wire.send(pt.NoMoreFiles())

    def file(self, name: str, data: bytes) -> None:
        claimed = len(data) + int(self.options.get("lie", "0"))
        kind = pt.FileType.REGULAR if data else pt.FileType.EMPTY
        self.wire.send(pt.File(name, pt.Stat(kind, claimed, mode=0o100640), TIMES))
        if data:
            self.wire.send(pt.DataStart())
        for start in range(0, len(data), 300_001):
            self.wire.send(pt.Data(data[start : start + 300_001]))
            self.at("inside")
        self.wire.send(pt.DataEnd())

    # -- estimate, listing, query --

    def listing(self) -> None:
        for name, size in (("vm-metadata.json", 15), ("disks/disk-0-a.raw", len(IMAGE))):
            self.wire.send(pt.File(f"{VM}/{name}", pt.Stat(pt.FileType.REGULAR, size), TIMES))
        self.at("between")
        self.wire.send(pt.NoMoreFiles())

    def query(self) -> None:
        self.wire.send(pt.QueryRow("vm=web"), pt.Data(b"raw \xff row"))
        self.at("between")
        self.wire.send(pt.NoMoreFiles())

    # -- restore --

    def restore(self) -> None:
        while True:
            match self.wire.receive():
                case pt.RestoreObject() as head:
                    self.note(f"object {head.name} {self.data()}")
                    self.wire.send(pt.Reply(pt.Answer.OK))
                case pt.File() as file:
                    self.take(file)
                case pt.Finish():
                    self.note("Finish")
                    self.wire.send(pt.Ack())
                    return
                case pt.EndOfInput():
                    sys.exit(0)

    def take(self, file: pt.File) -> None:
        answer = pt.Answer.OK
        for wanted in (pt.Answer.SKIP, pt.Answer.CORE):
            if fnmatchcase(file.name, self.options.get(wanted.value.lower(), "")):
                answer = wanted
        self.note(f"file {file!r} {answer.value}")
        if self.behave == "e@reply":
            self.fail_and_finish()
        self.at("reply")
        self.wire.send(pt.Reply(answer))
        if answer is pt.Answer.OK and file.size:
            self.wire.expect(pt.DataStart)
            if self.behave == "e@inside" and file.name.endswith(".raw"):
                self.fail_and_finish()
            self.note(f"data {self.data()}")
            self.wire.send(pt.Reply(pt.Answer.OK))

    def fail_and_finish(self) -> None:
        """Go on after an E, which ptcomm does not let us send: raw packets from here on."""
        os.write(1, b"E000010\nno storage")
        tail = b""
        while data := os.read(0, 1_000_000):
            if tail.endswith(b"FINISH\n"):
                self.note(f"after FINISH {data!r}")
            tail = tail[-100:] + data
            if tail.endswith(b"FINISH\n"):
                self.note("FINISH")
                os.write(1, b"F000000\n")
        self.note("EndOfInput")
        sys.exit(0)

    def data(self) -> str:
        digest, sizes, said = hashlib.sha256(), [], False
        while isinstance(event := self.wire.expect(pt.Data, pt.DataEnd), pt.Data):
            digest.update(bytes(event))
            sizes.append(len(event))
            if not said and len(sizes) == 2:
                self.at("inside")
                said = True
            for _ in range(int(self.options.get("chatter", "0"))):
                self.wire.send(pt.Message(pt.Severity.INFO, "x" * 1000))
        return f"{sum(sizes)} {max(sizes, default=0)} {digest.hexdigest()}"

    # -- the end --

    def end(self) -> int:
        if not isinstance(self.wire.receive(), pt.End):
            self.note("no End")
        else:
            self.wire.send(pt.Ack())
        self.to_the_end()
        self.at("end")
        return int(self.options.get("exit", "0"))

    def to_the_end(self) -> None:
        while not isinstance(event := self.wire.receive(), pt.EndOfInput):
            self.note(type(event).__name__)
            if isinstance(event, pt.Finish):  # asked after a fatal error too
                self.wire.send(pt.Ack())
        self.note("EndOfInput")


if __name__ == "__main__":
    sys.exit(Backend().run())
