"""The command lines `receiver` and `pair`."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import phcbt01
from command_line.text import size, with_notes
from rich.console import Console
from rich.table import Table
from vm_replica import status
from vm_replica.errors import IdentityError, ReplicaDamaged, ReplicationError, StoreError
from vm_replica.protocol import allowed, tls
from vm_replica.protocol.allowed import Grant
from vm_replica.protocol.channel import parse_address
from vm_replica.protocol.wire import PORT
from vm_replica.receiver import Options, Receiver
from vm_replica.status import Level
from vm_replica.store.replica import Limits, Retention, Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import TypeAlias

    from vm_replica.status import Status
    from vm_replica.store.catalog import Generation
    from vm_replica.store.replica import Replica

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse offers no public name for it

HOME = Path("/var/lib/podheitor-receiver")
STORE = HOME / "store"
RECEIVER_IDENTITY = HOME / "identity"
SOURCE_IDENTITY = Path("/var/lib/podheitor-nutanix/identity")
"""Folders of two users: a receiver runs without privileges, and knows no state of a source."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_parser(subparsers: Subparsers) -> None:
    """Add `receiver` and `pair` to a program's subparsers."""
    receiver = subparsers.add_parser("receiver", help="keep replicas of VMs on this host")
    actions = receiver.add_subparsers(dest="action", required=True)
    _add_serve(actions)
    _add_status(actions)
    _add_points(actions)
    _add_allow(actions)
    pairing = subparsers.add_parser(
        "pair", help="make a key for replication, and trust a receiver or a source"
    )
    _add_identity(pairing, SOURCE_IDENTITY)
    pairing.add_argument("--name", default="", help="in the certificate; default: of this host")
    pairing.add_argument("--receiver", metavar="HOST[:PORT]", help="pair with a receiver there")
    pairing.add_argument(
        "--certificate", metavar="FILE|LINE", help="of the other side, if it cannot be fetched"
    )
    pairing.add_argument("--fingerprint", default="", help="as the other side shows it: compare it")
    pairing.set_defaults(run=_run, do=_pair)


def _add_serve(actions: Subparsers) -> None:
    parser = _add(actions, "serve", "take cycles until told to stop", _serve)
    _add_identity(parser, RECEIVER_IDENTITY)
    parser.add_argument(
        "--listen", default=f"0.0.0.0:{PORT}", metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument(
        "--keep-points", type=int, default=24, metavar="N", help="older points of each replica"
    )
    parser.add_argument(
        "--keep-age", type=_seconds, default=0, metavar="TIME", help="and none older: 36h, 7d"
    )
    parser.add_argument("--sessions", type=int, default=16, help="most at once")
    parser.add_argument(
        "--reserve", type=_size, default=1 << 30, metavar="SIZE", help="never filled; default: 1G"
    )
    parser.add_argument("--max-disks", type=int, default=64, help="of a VM")
    parser.add_argument("--max-size", type=_size, default=64 << 40, help="of a disk; default: 64T")


def _add_status(actions: Subparsers) -> None:
    parser = _add(
        actions, "status", "how the replicas stand; exit code 0, 1 warning, 2 critical", _status
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--rpo", type=_seconds, default=0, metavar="TIME", help="where the source promised none"
    )


def _add_points(actions: Subparsers) -> None:
    points = _add(actions, "points", "the restore points of a replica", _points)
    points.add_argument("replica", help="name or UUID of the VM, or CLUSTER/UUID")
    points.add_argument("--json", action="store_true", help="for programs")
    verify = _add(actions, "verify", "read restore points again and prove them", _verify)
    verify.add_argument("replica", nargs="?", help="default: all")
    verify.add_argument("--point", type=int, metavar="N", help="only this one; default: all")
    export = _add(actions, "export", "write the disks of a restore point as raw files", _export)
    export.add_argument("replica", help="name or UUID of the VM, or CLUSTER/UUID")
    export.add_argument("folder", type=Path, help="is made; must be empty if it is there")
    export.add_argument("--point", type=int, metavar="N", help="default: the newest")


def _add_allow(actions: Subparsers) -> None:
    parser = _add(actions, "allow", "let a source write replicas; without a source: list", _allow)
    _add_identity(parser, RECEIVER_IDENTITY)
    parser.add_argument(
        "source", nargs="?", help="certificate (FILE or LINE), a fingerprint, or cn:NAME with a CA"
    )
    parser.add_argument("--cluster", default="*", metavar="PATTERN", help="default: any")
    parser.add_argument("--vm", default="", metavar="PATTERN", help="UUID or pattern of the VMs")
    parser.add_argument("--remove", action="store_true", help="allow it nothing any more")
    parser.add_argument(
        "--adopt", action="store_true", help="existing replicas that fit belong to it from now on"
    )


def _add(actions: Subparsers, name: str, text: str, do: object) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    parser.add_argument("--store", type=Path, default=STORE, help="default: %(default)s")
    parser.set_defaults(run=_run, do=do)
    return parser


def _add_identity(parser: argparse.ArgumentParser, default: Path) -> None:
    parser.add_argument(
        "--identity", type=Path, default=default, metavar="DIR",
        help="our key and whom we trust; default: %(default)s",
    )  # fmt: skip


def _run(args: argparse.Namespace) -> int:
    try:
        status: int = args.do(args)
    except (ReplicationError, phcbt01.PhcbtError, OSError) as error:
        sys.stderr.write(f"{with_notes(error)}\n")
        return Level.CRITICAL.value
    return status


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- serve and pair -------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(threadName)s: %(message)s")
    tls.server_context(args.identity)  # so that a missing key is said now
    limits = Limits(args.max_disks, args.max_size, args.reserve)
    options = Options(
        sessions=args.sessions, retention=Retention(max(args.keep_points, 0), args.keep_age)
    )
    receiver = Receiver(
        Store(args.store, limits), args.identity, parse_address(args.listen), options
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: receiver.stop())
    receiver.serve()
    return 0


def _pair(args: argparse.Namespace) -> int:
    ours = tls.ensure_identity(args.identity, args.name or socket.gethostname())
    _say(f"our fingerprint: {ours.fingerprint}")
    _say(f"our certificate: {ours.one_line}")
    found = ""
    if args.certificate:
        found = tls.add_peer(args.identity, _certificate(args.certificate), args.fingerprint)
        _say(f"trusted from now on: {found}")
    if args.receiver:
        host, port = parse_address(args.receiver)
        if not args.certificate:
            certificate = tls.fetch_certificate(host, port, timeout=30)
            found = _trust(args, certificate)
        tls.remember_pair(args.identity, f"{host}:{port}", found)
        _say(f"paired with the receiver at {host}:{port}")
        _say("let it allow us: podheitor-nutanix-backend receiver allow CERTIFICATE --vm PATTERN")
    return 0


def _trust(args: argparse.Namespace, certificate: bytes) -> str:
    shown = tls.fingerprint(certificate)
    if not args.fingerprint:
        raise IdentityError(
            f"{args.receiver} shows the fingerprint {shown}: compare it with what `pair` shows on "
            f"the receiver, then say --fingerprint {shown}"
        )
    return tls.add_peer(args.identity, certificate, args.fingerprint)


def _certificate(text: str) -> bytes:
    if text.startswith(tls.ONE_LINE):
        return tls.read_certificate(text)
    try:
        return tls.read_certificate(Path(text).read_text("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"{text[:200]} is no certificate: {error}") from error


# --- who is allowed what --------------------------------------------------------------------------


def _allow(args: argparse.Namespace) -> int:
    grants = allowed.load(args.identity)
    if not args.source:
        for grant in grants:
            _say(f"{grant.source}  cluster {grant.cluster}  VM {grant.vm}")
        return 0
    source = _source(args)
    if args.remove:
        allowed.save(args.identity, tuple(g for g in grants if g.source != source))
        if not source.startswith(allowed.BY_NAME):
            tls.remove_peer(args.identity, source)
        _say(f"{source} is allowed nothing any more")
        return 0
    if not args.vm:
        raise IdentityError("say with --vm which VMs it may replicate: a UUID, or '*' for all")
    new = Grant(source, args.cluster, args.vm)
    allowed.save(args.identity, (*(g for g in grants if g != new), new))
    _say(f"{source} may write replicas of cluster {new.cluster}, VM {new.vm}")
    for replica in _adopted(args, source) if args.adopt else ():
        replica.adopt(source)
        _say(f"the replica {replica.name} belongs to it now")
    return 0


def _source(args: argparse.Namespace) -> str:
    """Who is meant; a certificate is trusted from now on."""
    text: str = args.source
    if text.startswith(allowed.BY_NAME):
        if not tls.uses_ca(args.identity):
            raise IdentityError(f"{text} is a name, and there is no ca.pem in {args.identity}")
        return text
    if re.fullmatch(r"(sha256:)?([0-9a-fA-F]:?){64}", text):
        found = tls.normalise(text)
        if found not in tls.peers(args.identity) and not args.remove:
            raise IdentityError("this fingerprint is not known yet: give the certificate itself")
        return found
    certificate = _certificate(text)
    return tls.fingerprint(certificate) if args.remove else tls.add_peer(args.identity, certificate)


def _adopted(args: argparse.Namespace, source: str) -> list[Replica]:
    return [
        replica
        for replica in Store(args.store).replicas()
        if allowed.is_allowed(args.identity, source, replica.files.cluster, replica.files.vm_id)
    ]


# --- what is there --------------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    found = list(status.statuses(Store(args.store), time.time(), args.rpo))
    if args.json:
        _say(json.dumps([status.plain() for status in found], indent=1))
    else:
        _show(
            ("VM", "cluster", "state", "generation", "points", "lag", "RPO", "size", "stored", ""),
            (_row(status) for status in found),
        )
    return max((status.level.value for status in found), default=0)


def _row(status: Status) -> tuple[str, ...]:
    receiving = ""
    if status.expected:
        receiving = f"receiving: {size(status.arrived)} of {size(status.expected)}"
    judged = f"{status.level.name}: {status.why}" if status.why else status.level.name
    return (
        _printable(status.vm_name) or status.vm_id,
        _printable(status.cluster),
        status.state,
        str(status.generation),
        str(status.points),
        _duration(status.lag) if status.generation else "-",
        _duration(status.rpo) if status.rpo else "-",
        size(status.size),
        size(status.stored),
        "\n".join(filter(None, (_printable(judged), receiving))),
    )


def _points(args: argparse.Namespace) -> int:
    points = _find(args).points()
    if args.json:
        plain = [
            {
                "generation": point.number,
                "taken": point.manifest.taken,
                "committed": point.committed,
                "consistency": point.manifest.consistency,
                "manifest": point.digest,
                "disks": [
                    {"id": d.disk_id, "index": d.index, "size": d.size, "content": d.content}
                    for d in point.disks
                ],
            }
            for point in points
        ]
        _say(json.dumps(plain, indent=1))
    else:
        _show(
            ("generation", "taken (UTC)", "committed (UTC)", "consistency", "disks", "size"),
            (_point_row(point) for point in points),
        )
    return 0


def _point_row(point: Generation) -> tuple[str, ...]:
    return (
        str(point.number),
        _time(point.manifest.taken),
        _time(point.committed),
        _printable(point.manifest.consistency),
        str(len(point.disks)),
        size(sum(disk.size for disk in point.disks)),
    )


def _verify(args: argparse.Namespace) -> int:
    replicas = [_find(args)] if args.replica else Store(args.store).replicas()
    level = Level.OK
    for replica in replicas:
        for point in replica.points():
            if args.point not in {None, point.number}:
                continue
            try:
                replica.verify(point.number)
            except (ReplicaDamaged, StoreError) as error:
                level = Level.CRITICAL
                _say(f"{replica.name} generation {point.number}: DAMAGED: {error}")
            else:
                _say(f"{replica.name} generation {point.number}: proven")
    return level.value


def _export(args: argparse.Namespace) -> int:
    replica = _find(args)
    points = replica.points()
    if not points:
        raise StoreError(f"the replica {replica.name} is empty")
    number = args.point if args.point is not None else points[-1].number
    generation = replica.files.generation(number)
    args.folder.mkdir(parents=True, exist_ok=True)
    if any(args.folder.iterdir()):
        raise StoreError(f"{args.folder} is not empty: nothing is overwritten")
    for disk in generation.disks:
        path = args.folder / f"disk-{disk.index}-{disk.disk_id}.raw"
        replica.rebuild(number, disk.disk_id, path)
        _say(f"{path}: {size(disk.size)}, proven")
    (args.folder / "vm-metadata.json").write_text(generation.manifest.metadata, "utf-8")
    return 0


def _find(args: argparse.Namespace) -> Replica:
    """The replica that is meant; StoreError if it is none, or several."""
    replicas = Store(args.store).replicas()
    found = [replica for replica in replicas if args.replica in _names(replica)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} replicas are" if found else "no replica is"
    known = ", ".join(replica.name for replica in found or replicas) or "none"
    raise StoreError(f"{what} called {args.replica}: there are {known}")


def _names(replica: Replica) -> set[str]:
    names = {replica.name, replica.files.vm_id}
    state = replica.state()
    return names | {state.current.manifest.vm_name} if state and state.current else names


# --- words ----------------------------------------------------------------------------------------


def _show(headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table()
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 200
    Console(markup=False, highlight=False, width=width).print(table)


def _printable(text: str) -> str:
    """A text that came over the network, without what would move a cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def _size(text: str) -> int:
    return _with_unit(text, _UNITS, text.upper())


def _seconds(text: str) -> int:
    return _with_unit(text, _TIMES, text.lower())


def _with_unit(text: str, units: dict[str, int], plain: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([A-Za-z]?)", plain, re.ASCII)
    if not match or match[2] not in units:
        raise ValueError(f"{text!r} is not a number with one of the units {list(units)}")
    return int(match[1]) * units[match[2]]
