"""How `prism-lab` talks to a running lab: one JSON object a line, over a UNIX socket."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any

import attrs

from prism_lab.errors import ControlFailed, LabError, NotInLab
from prism_lab.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from prism_lab.lab import Lab

_ANSWER_SECONDS = 60.0


def commands(lab: Lab, stop: Callable[[], None]) -> Mapping[str, Callable[..., Any]]:
    """Return what a control connection may ask for, by name."""

    def disk_file(vm: str, index: int) -> str:
        return str(lab.disk_file(vm, index))

    def recovery_point_file(recovery_point: str, disk: str) -> str:
        return str(lab.recovery_point_file(recovery_point, disk))

    def add_fault(**fields: Any) -> None:  # noqa: ANN401 - the fields of a Fault
        lab.faults.add(Fault(**fields))

    def faults() -> list[dict[str, Any]]:
        return [attrs.asdict(fault) for fault in lab.faults.pending()]

    return {
        "create_vm": lab.create_vm,
        "create_vms": lab.create_vms,
        "grow_disk": lab.grow_disk,
        "disk_file": disk_file,
        "recovery_point_file": recovery_point_file,
        "state": lab.state,
        "add_fault": add_fault,
        "faults": faults,
        "clear_faults": lab.faults.clear,
        "kill_target": lab.kill_target,
        "stop": stop,
    }


class ControlServer:
    """Serves the commands of one lab until it is stopped."""

    def __init__(self, path: Path, known: Mapping[str, Callable[..., Any]]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(json.dumps(_answer(known, self.rfile.readline())).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="control", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(known: Mapping[str, Callable[..., Any]], line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        return {"result": known[request.pop("command")](**request)}
    except (LabError, ValueError, KeyError, TypeError, OSError) as exc:
        return {"error": str(exc) or repr(exc)}


def call(path: Path, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON both ways
    """Ask a running lab; NotInLab when none listens there, ControlFailed when it refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path))
        except OSError as exc:
            raise NotInLab(f"no lab listens on {path}: {exc.strerror}") from exc
        connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            answer = json.loads(answers.readline() or b'{"error": "the lab ended"}')
    if "error" in answer:
        raise ControlFailed(answer["error"])
    return answer["result"]
