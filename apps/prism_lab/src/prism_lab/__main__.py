"""The command line of the lab: start it, look into it, play the guest, order faults."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from prism_lab import _control, _process, _storage
from prism_lab._ranges import OFFERS
from prism_lab.errors import LabError, NotInLab, StartFailed
from prism_lab.lab import Lab
from prism_lab.replay import replaying
from prism_lab.settings import PERSONALITIES

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_START_SECONDS = 20.0
_STOP_SECONDS = 20.0
_CHUNK = 1 << 20


def size(text: str) -> int:
    """Read a number of bytes with an optional K, M, G or T (powers of 1024)."""
    factor = _UNITS.get(text[-1:].upper(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512, 64K or 4G")
    return int(digits) * factor


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0, or 1 with one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (LabError, OSError) as exc:
        sys.stderr.write(f"prism-lab: {exc}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, required=True, help="the lab's folder")
    parser = argparse.ArgumentParser(prog="prism-lab", description="A Nutanix cluster on loopback.")
    top = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(group: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:  # noqa: ANN401 - argparse's own types are private
        added: argparse.ArgumentParser = group.add_parser(name, parents=[common], help=text)
        added.set_defaults(run=run)
        return added

    _add_up(command(top, "up", _up, "start a lab"))
    command(top, "down", _down, "stop it")
    command(top, "state", _state, "what is on the cluster").add_argument(
        "--json", action="store_true", help="as one JSON object"
    )
    _add_vm_commands(
        top.add_parser("vm", help="VMs and their disks").add_subparsers(
            required=True, metavar="COMMAND"
        ),
        command,
    )
    points = top.add_parser("rp", help="recovery points").add_subparsers(
        required=True, metavar="COMMAND"
    )
    path = command(points, "path", _point_path, "the file of one disk of a recovery point")
    path.add_argument("recovery_point")
    path.add_argument("disk")
    _add_fault(command(top, "fault", _fault, "order a fault"))
    replaying = top.add_parser("replay", help="answer as a Prism that was recorded")
    replaying.add_argument("file", type=Path, help="a capture, as `qualify --capture` writes it")
    replaying.add_argument("--ca", type=Path, required=True, help="file for the CA's certificate")
    replaying.set_defaults(run=_replay)
    kill = command(top, "kill-target", _kill_target, "let a volume group's target die")
    kill.add_argument("volume_group")
    return parser


def _add_up(up: argparse.ArgumentParser) -> None:
    up.add_argument("--detach", action="store_true", help="return when it is ready")
    up.add_argument("--name", default="lab-cluster", help="name of the cluster")
    up.add_argument("--personality", choices=PERSONALITIES, default="7.6", help="its release")
    up.add_argument("--no-data-services", action="store_true", help="no data services IP")
    up.add_argument(
        "--ranged-reads",
        choices=OFFERS,
        default="no",
        help="bytes of snapshots by HTTP ranges, which no public release is known to offer: yes, "
        "or badly in a way that has a name",
    )
    up.add_argument(
        "--latency",
        default="none",
        metavar="PROFILE",
        help="how long calls and tasks take: none, prism (as on a cluster), or for example "
        "prism,call=0.2,snapshot=5 (seconds; also volume_group, attach, delete, other)",
    )


def _add_fault(fault: argparse.ArgumentParser) -> None:
    fault.add_argument(
        "kind",
        choices=[
            "status",
            "delay",
            "drop",
            "drop_answer",
            "reset",
            "reset_answer",
            "truncate",
            "cut_json",
            "html",
            "html_answer",
            "drip",
            "expire_jwt",
            "fail_task",
            "clear",
        ],
    )
    fault.add_argument("pattern", nargs="?", default="*", help="such as 'POST */recovery-points'")
    fault.add_argument("--times", type=int, default=1)
    fault.add_argument("--skip", type=int, default=0, help="let so many matches pass first")
    fault.add_argument("--status", type=int, default=503)
    fault.add_argument("--seconds", type=float, default=1.0, help="of a delay or a drip")
    fault.add_argument("--retry-after", type=float, help="seconds, in the answer of a status")
    fault.add_argument("--message", default="internal error", help="of a status or a failed task")


def _add_vm_commands(group: Any, command: Any) -> None:  # noqa: ANN401 - argparse's own types are private
    create = command(group, "create", _vm_create, "add a VM with empty disks")
    create.add_argument("name")
    create.add_argument("--disk", type=size, action="append", required=True, metavar="SIZE")
    create.add_argument("--count", type=int, default=0, help="so many: NAME-00001 and so on")
    command(group, "list", _vm_list, "list VMs and disks")
    path = command(group, "path", _vm_path, "the live file of a disk")
    write = command(group, "write", _vm_write, "write into a disk, as the guest would")
    discard = command(group, "discard", _vm_discard, "discard a range, as the guest would")
    grow = command(group, "grow", _vm_grow, "enlarge a disk")
    for parser in (path, write, discard, grow):
        parser.add_argument("name")
        parser.add_argument("index", type=int)
    for parser in (write, discard):
        parser.add_argument("offset", type=size)
    discard.add_argument("length", type=size)
    grow.add_argument("size", type=size)
    source = write.add_mutually_exclusive_group(required=True)
    source.add_argument("--file", type=Path)
    source.add_argument("--text")
    source.add_argument("--random", type=size, metavar="LENGTH")


# ---- start and stop ------------------------------------------------------------------------


def _up(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if _running(folder):
        raise StartFailed(f"a lab runs in {folder} already")
    if arguments.detach:
        _start_detached(folder, arguments)
    else:
        _serve(folder, arguments)


def _told_to_stop() -> threading.Event:
    """What SIGTERM and SIGINT set from now on."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _serve(folder: Path, arguments: argparse.Namespace) -> None:
    stopping = _told_to_stop()
    try:
        with Lab.start(
            folder,
            personality=arguments.personality,
            cluster_name=arguments.name,
            data_services=not arguments.no_data_services,
            latency=arguments.latency,
            ranged_reads=arguments.ranged_reads,
        ) as lab:
            known = _control.commands(lab, stopping.set)
            control = _control.ControlServer(lab.run_dir / "control", known)
            _write_description(folder, lab)
            _say(_block(_description(folder)))
            stopping.wait()
            control.stop()
    finally:
        (folder / "lab.json").unlink(missing_ok=True)


def _start_detached(folder: Path, arguments: argparse.Namespace) -> None:
    argv = [sys.executable, "-m", "prism_lab", "up", "--dir", str(folder), "--name", arguments.name]
    argv += ["--personality", arguments.personality, "--latency", arguments.latency]
    argv += ["--ranged-reads", arguments.ranged_reads]
    if arguments.no_data_services:
        argv.append("--no-data-services")
    (folder / "lab.json").unlink(missing_ok=True)
    pid = _process.spawn_detached(argv, folder / "lab.log")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if _running(folder):
            _say(_block(_description(folder)))
            return
        if os.waitpid(pid, os.WNOHANG)[0]:
            break
        time.sleep(0.02)
    words = (folder / "lab.log").read_text(errors="replace").strip().splitlines()
    raise StartFailed(words[-1] if words else f"the lab did not start: see {folder}/lab.log")


def _write_description(folder: Path, lab: Lab) -> None:
    """Write lab.json in one step: who sees it can use it. It holds the password."""
    description = {
        "pc": lab.pc_host,
        "pe": lab.pe_host,
        "dsip": lab.data_services_ip,
        "port": lab.port,
        "ca": str(lab.ca_file),
        "user": lab.user,
        "password": lab.password,
        "api_key": lab.api_key,
        "cluster": lab.cluster_name,
        "cluster_ext_id": lab.cluster_ext_id,
        "pid": os.getpid(),
        "control": str(lab.run_dir / "control"),
    }
    draft = folder / "lab.json.new"
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(description, indent=2) + "\n")
    draft.replace(folder / "lab.json")


def _description(folder: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((folder / "lab.json").read_text())
    except FileNotFoundError as exc:
        raise NotInLab(f"no lab runs in {folder}: there is no lab.json") from exc
    return description


def _block(about: dict[str, Any]) -> str:
    return (
        f"Prism Central   https://{about['pc']}:{about['port']}\n"
        f"Prism Element   https://{about['pe']}:{about['port']}   cluster {about['cluster']}\n"
        f"data services   {about['dsip']}:3260\n"
        f"CA file         {about['ca']}\n"
        f"user, password  {about['user']}, {about['password']}\n"
        f"API key         {about['api_key']}\n"
        f"process         {about['pid']}"
    )


def _running(folder: Path) -> bool:
    with contextlib.suppress(NotInLab):
        return _alive(_description(folder)["pid"])
    return False


def _alive(pid: int) -> bool:
    """Is there such a process? One that only waits to be reaped has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _down(arguments: argparse.Namespace) -> None:
    about = _description(arguments.dir)
    if _alive(about["pid"]):
        _control.call(Path(about["control"]), "stop")
        deadline = time.monotonic() + _STOP_SECONDS
        while _alive(about["pid"]):
            if time.monotonic() > deadline:
                raise LabError(f"process {about['pid']} does not end")
            time.sleep(0.02)
    else:  # it was killed: what it could not take away itself
        shutil.rmtree(Path(about["control"]).parent, ignore_errors=True)
        (arguments.dir / "lab.json").unlink(missing_ok=True)
    _say(f"the lab in {arguments.dir} is down")


# ---- commands for a running lab ------------------------------------------------------------


def _ask(arguments: argparse.Namespace, command: str, **details: Any) -> Any:  # noqa: ANN401 - JSON both ways
    return _control.call(Path(_description(arguments.dir)["control"]), command, **details)


def _state(arguments: argparse.Namespace) -> None:
    state = _ask(arguments, "state")
    if arguments.json:
        _say(json.dumps(state, indent=2))
        return
    for kind, entries in state.items():
        _say(f"{kind}: {len(entries)}")
        for entry in entries:
            _say("  " + "  ".join(f"{value}" for value in entry.values()))


def _vm_create(arguments: argparse.Namespace) -> None:
    if arguments.count:
        many = {"prefix": arguments.name, "count": arguments.count, "disk_sizes": arguments.disk}
        _say("\n".join(_ask(arguments, "create_vms", **many)))
    else:
        _say(_ask(arguments, "create_vm", name=arguments.name, disk_sizes=arguments.disk))


def _vm_list(arguments: argparse.Namespace) -> None:
    for vm in _ask(arguments, "state")["vms"]:
        sizes = " ".join(str(disk["size"]) for disk in vm["disks"])
        _say(f"{vm['ext_id']}  {vm['name']}  {vm['power']}  {sizes}")


def _disk(arguments: argparse.Namespace) -> Path:
    return Path(_ask(arguments, "disk_file", vm=arguments.name, index=arguments.index))


def _vm_path(arguments: argparse.Namespace) -> None:
    _say(str(_disk(arguments)))


def _vm_write(arguments: argparse.Namespace) -> None:
    with _disk(arguments).open("r+b") as disk, contextlib.ExitStack() as stack:
        end = disk.seek(0, os.SEEK_END)
        disk.seek(arguments.offset)
        if arguments.file:
            source = stack.enter_context(arguments.file.open("rb"))
            pieces = iter(lambda: source.read(_CHUNK), b"")
        elif arguments.text is not None:
            pieces = iter([arguments.text.encode()])
        else:
            pieces = _random(arguments.random)
        for piece in pieces:
            if disk.tell() + len(piece) > end:
                raise LabError(f"the disk ends at {end}: a guest cannot write beyond it")
            disk.write(piece)


def _random(length: int) -> Any:  # noqa: ANN401 - an iterator of bytes, like its neighbours
    for at in range(0, length, _CHUNK):
        yield os.urandom(min(_CHUNK, length - at))


def _vm_discard(arguments: argparse.Namespace) -> None:
    _storage.discard(_disk(arguments), arguments.offset, arguments.length)


def _vm_grow(arguments: argparse.Namespace) -> None:
    _ask(arguments, "grow_disk", vm=arguments.name, index=arguments.index, size=arguments.size)


def _point_path(arguments: argparse.Namespace) -> None:
    details = {"recovery_point": arguments.recovery_point, "disk": arguments.disk}
    _say(_ask(arguments, "recovery_point_file", **details))


def _fault(arguments: argparse.Namespace) -> None:
    if arguments.kind == "clear":
        _ask(arguments, "clear_faults")
        return
    fields = (
        "kind", "pattern", "times", "skip", "status", "seconds", "retry_after", "message",
    )  # fmt: skip
    _ask(arguments, "add_fault", **{field: getattr(arguments, field) for field in fields})


def _replay(arguments: argparse.Namespace) -> None:
    stopping = _told_to_stop()
    with replaying(arguments.file, arguments.ca) as replay:
        _say(f"Prism Central answers at {replay.pc_host}; end it with Ctrl-C")
        stopping.wait()


def _kill_target(arguments: argparse.Namespace) -> None:
    _ask(arguments, "kill_target", volume_group=arguments.volume_group)


if __name__ == "__main__":
    sys.exit(main())
