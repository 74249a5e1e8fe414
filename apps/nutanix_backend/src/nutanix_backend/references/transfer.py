"""Moving the chains of a client to another host: its state as one archive.

What moves are the records of backups and replications with their digest lists, the rosters of jobs,
and how trials ended. Journals, logs and the key of this host stay.
"""

from __future__ import annotations

import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import durable
from durable import records
from vm_replica.evidence import SCHEMA, Evidence

from nutanix_backend.errors import StateError
from nutanix_backend.references import evidence, roster, state

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 2 << 30
"""Bytes of a file; the digest list of a disk of 64 TiB has about 1 GiB."""
_VM = re.compile(rf"({state.BACKUP}|{state.REPLICATION})/[^/]+/[^/]+\.json")
_LIST = re.compile(
    rf"({state.BACKUP}|{state.REPLICATION})/[^/]+/[^/]+\.lists/[^/]+\.(digests|proven)"
)
_ROSTER = re.compile(rf"{roster.FOLDER}/[^/]+\.json")
_TRIALS = re.compile(rf"{evidence.FOLDER}/[^/]+/[^/]+\.json")


def export(state_dir: Path, file: Path) -> int:
    """Write the chains of all VMs into a new archive; return of how many VMs.

    Raises StateError while a job processes one of them, and OSError.
    """
    try:
        with tarfile.open(file, "x:gz") as archive:
            return _add_all(archive, state_dir)
    except FileExistsError:
        raise
    except BaseException:
        with suppress(OSError):
            file.unlink()
        raise


def _add_all(archive: tarfile.TarFile, state_dir: Path) -> int:
    count = 0
    for kind in (state.BACKUP, state.REPLICATION):
        for path in sorted((state_dir / kind).glob("*/*.json")):
            with state.StateFile(path, path.stem).locked():
                for part in (*sorted(path.with_suffix(".lists").glob("*")), path):
                    archive.add(part, str(part.relative_to(state_dir)), recursive=False)
            count += 1
    others = ((roster.FOLDER, "*.json"), (evidence.FOLDER, "*/*.json"))
    for path in (path for kind, which in others for path in sorted((state_dir / kind).glob(which))):
        archive.add(path, str(path.relative_to(state_dir)), recursive=False)
    return count


def import_from(file: Path, state_dir: Path) -> int:
    """Take the chains of an archive; return of how many VMs.

    Nothing is changed unless all of it can be used: raises StateError when it is not such an
    archive or this host has a chain of one of its VMs already, and OSError.
    """
    try:
        with tarfile.open(file) as archive:
            for name, content in _files(archive):
                _check(state_dir / name, name, content)
        with tarfile.open(file) as archive:
            return sum(
                _put(state_dir / member.name, content, member.mtime)
                for member, content in _members(archive)
            )
    except tarfile.TarError as error:
        raise StateError(f"{file} is not an archive of `state export`: {error}") from error


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member, content in _members(archive):
        yield member.name, content


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the files of an archive with their content; raise StateError for any other."""
    for member in archive:
        name = PurePosixPath(member.name)
        known = any(kind.fullmatch(member.name) for kind in (_VM, _LIST, _ROSTER, _TRIALS))
        stream = archive.extractfile(member) if member.isreg() else None
        if not known or ".." in name.parts or stream is None or member.size > LARGEST:
            raise StateError(f"the archive holds {member.name!r}, which is no part of a state")
        yield member, stream.read()


def _check(path: Path, name: str, content: bytes) -> None:
    """Raise StateError unless this file can be used and is not here yet, or is the same here."""
    try:
        if _VM.fullmatch(name):
            found = records.load(content, state.VmState, schema=state.SCHEMA)
            if found.vm_id != path.stem:
                raise StateError(f"{name} is the state of another VM, {found.vm_id}")
        elif _ROSTER.fullmatch(name):
            records.load(content, roster.Roster, schema=roster.SCHEMA)
        elif _TRIALS.fullmatch(name):
            records.load(content, Evidence, schema=SCHEMA)
    except records.RecordError as error:
        raise StateError(f"{name} cannot be used by this version: {error}") from error
    is_of_chain = bool(_VM.fullmatch(name) or _LIST.fullmatch(name))
    if is_of_chain and path.exists() and path.read_bytes() != content:
        raise StateError(
            f"this host has a chain of VM {path.stem} already: {path} is another one; nothing is "
            "imported"
        )


def _put(path: Path, content: bytes, changed: float) -> bool:
    """Write a file with the time of the old one; whether it is the state of a VM."""
    durable.make_folder(path.parent)
    durable.replace(path, content)
    os.utime(path, (changed, changed))
    return path.suffix == ".json" and path.parent.parent.name in {state.BACKUP, state.REPLICATION}
