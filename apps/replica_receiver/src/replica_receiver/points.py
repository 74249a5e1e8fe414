"""The commands `points`, `verify` and `export`: the restore points of replicas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from command_line import arguments, terminal
from command_line.text import size, utc
from vm_replica.errors import ReplicaDamaged, StoreError
from vm_replica.failover.shared import Holder, holders
from vm_replica.status import Level
from vm_replica.store.access import find, open_store

from replica_receiver.places import add_store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from command_line.arguments import Subparsers
    from vm_replica.protocol.manifest import ReplicaGroup
    from vm_replica.store.catalog import Generation
    from vm_replica.store.replica import Replica, Store

HEADINGS = ("generation", "taken (UTC)", "committed (UTC)", "consistency", "disks", "size")
CONFIGURATIONS = {
    "@nutanix": "vm-metadata.json",
    "@proxmox": "configuration.conf",
    "@vsphere": "configuration.vmx",
    "@hyperv": "configuration.xml",
}
"""Names for the configuration file of the VM, by the kind of its hypervisor."""
REPLICA = "name or UUID of the VM, or CLUSTER/UUID"


def add_parser(commands: Subparsers) -> None:
    """Add the commands to the subparsers of the program."""
    points = commands.add_parser("points", help="list the restore points of a replica")
    points.add_argument("replica", type=arguments.typed, help=REPLICA)
    arguments.add_json(points)
    points.set_defaults(run=list_points)
    verify = commands.add_parser("verify", help="read restore points again and prove them")
    verify.add_argument("replica", nargs="?", type=arguments.typed, help=f"{REPLICA}; default: all")
    _add_point(verify, "default: all")
    verify.set_defaults(run=verify_points)
    export = commands.add_parser("export", help="write the disks of a restore point as raw files")
    export.add_argument("replica", type=arguments.typed, help=REPLICA)
    export.add_argument("folder", type=Path, help="folder for the files, made if need be; empty")
    _add_point(export, "default: the newest")
    export.set_defaults(run=export_point)
    for parser in (points, verify, export):
        add_store(parser)


def _add_point(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--point", type=arguments.number(least=1), metavar="N", help=f"generation; {default}"
    )


def list_points(args: argparse.Namespace) -> int:
    """Show the restore points of a replica. Raises ReplicationError."""
    points = find(open_store(args.store), args.replica).points()
    if args.json:
        terminal.show_json(_plain(point) for point in points)
    else:
        terminal.show_table(HEADINGS, (_row(point) for point in points))
    return 0


def _plain(point: Generation) -> dict[str, object]:
    return {
        "generation": point.number,
        "taken": point.manifest.taken,
        "committed": point.committed,
        "consistency": point.manifest.consistency,
        "manifest": point.digest,
        "disks": [
            {"id": disk.disk_id, "index": disk.index, "size": disk.size, "content": disk.content}
            for disk in point.disks
        ],
        "volume_groups": [
            {
                "id": group.group_id,
                "name": group.name,
                "disks": list(group.disks),
                "replica": group.replica,
            }
            for group in point.manifest.groups
        ],
    }


def _row(point: Generation) -> tuple[str, ...]:
    return (
        str(point.number),
        utc(point.manifest.taken),
        utc(point.committed),
        point.manifest.consistency,
        str(len(point.disks)),
        size(sum(disk.size for disk in point.disks)),
    )


def verify_points(args: argparse.Namespace) -> int:
    """Prove restore points; 2 if one is damaged or not whole. Raises ReplicationError."""
    store = open_store(args.store)
    if not args.replica:
        return max((_verify(replica, args.point) for replica in store.replicas()), default=0)
    replica = find(store, args.replica)
    if args.point:
        replica.files.generation(args.point)  # StoreError when there is none
    return max(_verify(replica, args.point), _verify_groups(store, replica, args.point))


def _verify(replica: Replica, number: int | None) -> int:
    """Prove the points of a replica, or one of them; the level of the worst."""
    try:
        wanted = [point.number for point in replica.points() if number in {None, point.number}]
    except StoreError as error:
        return _damaged(replica.name, error)
    return max((_verify_point(replica, found) for found in wanted), default=0)


def _verify_point(replica: Replica, number: int) -> int:
    what = f"{replica.name} generation {number}"
    try:
        replica.verify(number)
    except (ReplicaDamaged, StoreError) as error:
        return _damaged(what, error)
    terminal.say(terminal.plain(f"{what}: proven"))
    return Level.OK.value


def _verify_groups(store: Store, replica: Replica, number: int | None) -> int:
    """Prove the points of other replicas that hold volume groups of this one's points."""
    worst, held = Level.OK.value, dict[tuple[str, int], Holder]()
    try:
        for point, group, found in _groups(store, replica, number):
            if found is None:
                what = f"{replica.name} generation {point.number}"
                terminal.say(terminal.plain(f"{what}: no replica has {_named(group)}"))
                worst = Level.CRITICAL.value
            elif found.replica.name != replica.name:
                held[found.replica.name, found.generation.number] = found
    except StoreError as error:
        return _damaged(replica.name, error)
    for found in held.values():
        terminal.say(
            terminal.plain(f"{_named(found.group)} is in the replica {found.replica.name}")
        )
        worst = max(worst, _verify_point(found.replica, found.generation.number))
    return worst


def _groups(
    store: Store, replica: Replica, number: int | None
) -> Iterator[tuple[Generation, ReplicaGroup, Holder | None]]:
    """The volume groups of the points of a replica, or of one, and who has their disks."""
    points = replica.points()
    for point in points:
        if number in {None, point.number}:
            found = holders(store, replica, point, newest=point is points[-1])
            yield from ((point, group, held) for group, held in found.items())


def _named(group: ReplicaGroup) -> str:
    return f"volume group {group.name or group.group_id}"


def _damaged(what: str, error: Exception) -> int:
    terminal.say(terminal.plain(f"{what}: DAMAGED: {error}"))
    return Level.CRITICAL.value


def export_point(args: argparse.Namespace) -> int:
    """Write the disks and the configuration. Raises ReplicationError, PhcbtError, OSError."""
    replica = find(open_store(args.store), args.replica)
    points = replica.points()
    if not points:
        raise StoreError(f"the replica {replica.name} is empty: no seed has been committed yet")
    number = args.point or points[-1].number
    generation = replica.files.generation(number)
    args.folder.mkdir(parents=True, exist_ok=True)
    if any(args.folder.iterdir()):
        raise StoreError(f"{args.folder} is not empty: give another folder, nothing is overwritten")
    for disk in generation.disks:
        path = args.folder / f"disk-{disk.index}-{disk.disk_id}.raw"
        replica.rebuild(number, disk.disk_id, path)
        of_group = "".join(
            f", of volume group {group.name}"
            for group in generation.manifest.groups
            if disk.disk_id in group.disks
        )
        terminal.say(terminal.plain(f"{path}: {size(disk.size)}, proven{of_group}"))
    for group in generation.manifest.groups_with_disks:
        if group.replica:
            text = f"volume group {group.group_id} is in the replica of VM {group.replica}"
            terminal.say(terminal.plain(text))
    configuration = generation.manifest.configuration
    path = args.folder / CONFIGURATIONS.get(configuration.kind, "configuration.txt")
    path.write_text(configuration.text, "utf-8")
    return 0
