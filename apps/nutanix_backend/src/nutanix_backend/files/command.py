"""The command line `files`: single files of a backup or a replica, without restoring its disks."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import arguments, program, terminal
from command_line.text import size, utc
from guest_files import (
    FilesError,
    FolderTarget,
    GuestFiles,
    NotThere,
    NotWhole,
    TarTarget,
    as_pattern,
    literal,
    selection,
)

from nutanix_backend.errors import ParameterError
from nutanix_backend.files import choice, export
from nutanix_backend.restore.single_files import read_key

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from command_line.arguments import Subparsers
    from guest_files import Entry, FoundFile

_LETTERS = {
    "file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK, "character": stat.S_IFCHR, "block": stat.S_IFBLK, "other": 0,
}  # fmt: skip


def add_parser(commands: Subparsers) -> None:
    """Add `files` to a program's subparsers."""
    parser = commands.add_parser("files", help="single files of a backup, without restoring it")
    words = parser.add_subparsers(required=True)
    listing = _add(words, "ls", "list volumes, or a folder", ls)
    listing.add_argument("path", nargs="?", type=arguments.typed, help="default: the volumes")
    show = _add(words, "stat", "tell all that is known of files", show_stat)
    show.add_argument("path", nargs="+", type=arguments.typed)
    get = _add(words, "get", "copy files and folders into a folder of this host", get_files)
    get.add_argument("path", nargs="+", type=arguments.typed, help="or a pattern: /etc/nginx/**")
    get.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="made if need be")
    get.add_argument("--overwrite", action="store_true", help="replace files that are there")
    tar = _add(words, "tar", "write files and folders as a tar archive, with owners", tar_files)
    tar.add_argument("path", nargs="+", type=arguments.typed, help="or a pattern: /etc/nginx/**")
    tar.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    find = _add(words, "find", "print the paths that patterns mean", find_files)
    export.add_parser(words)
    find.add_argument("pattern", nargs="+", type=arguments.typed, help="such as '/home/**/*.odt'")


def _add(
    words: Subparsers, name: str, what: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = words.add_parser(name, help=what)
    choice.add_choice(parser)
    parser.add_argument("--volume", help="only this one, as `files ls` calls it")
    parser.add_argument(
        "--key-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="passphrase or key of LUKS, password or recovery password of BitLocker; repeatable",
    )
    parser.set_defaults(run=run)
    return parser


@contextmanager
def _files(args: argparse.Namespace) -> Iterator[GuestFiles]:
    keys = [read_key(path) for path in args.key_file]
    with (
        choice.opened(args) as vm,
        GuestFiles(
            list(vm.disks.values()), keys, warn=terminal.complain, numbers=list(vm.disks)
        ) as files,
    ):
        yield files


def ls(args: argparse.Namespace) -> int:
    """List the volumes, or what a path means. Raises FilesError and what `choice` raises."""
    with _files(args) as files:
        if args.path is None and args.volume is None:
            rows = [(v.name, v.kind, size(v.size), v.label, v.reason) for v in files.volumes()]
            terminal.show_table(("volume", "content", "size", "label", "why not"), rows)
            return program.DONE
        path = args.path or "/"
        pattern = as_pattern(path)
        found = list(files.entries([pattern, f"{pattern.rstrip('/')}/*"], args.volume))
        _refuse_nothing(found, path)
        for entry in found:
            terminal.say(_line(entry))
    return program.DONE


def _line(entry: Entry) -> str:
    """An entry as `ls -l` shows it, with its volume."""
    mode = stat.filemode(_LETTERS[entry.kind] | entry.mode)
    when = utc(entry.modified // 10**9) if entry.modified is not None else "-"
    target = f" -> {entry.target}" if entry.target else ""
    return terminal.plain(
        f"{mode} {entry.owner:>5} {entry.group:>5} {entry.size:>12} {when:19} "
        f"{_place(entry)}{target}{f' ({entry.reason})' if entry.reason else ''}"
    )


def _place(entry: Entry) -> str:
    return f"{entry.volume}:{_text(entry.name)}"


def _text(name: str) -> str:
    """A name as text; bytes that are none become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def show_stat(args: argparse.Namespace) -> int:
    """Show each path. Raises FilesError and what `choice` raises."""
    with _files(args) as files:
        for path in args.path:
            found = list(files.entries([literal(path)], args.volume))
            _refuse_nothing(found, path)
            for entry in found:
                for name, value in _facts(entry):
                    terminal.say(terminal.plain(f"{name:>9}: {value}"))
    return program.DONE


def _facts(entry: Entry) -> list[tuple[str, str]]:
    times = {
        "modified": entry.modified,
        "accessed": entry.accessed,
        "changed": entry.changed,
        "created": entry.created,
    }
    shown = [
        (name, f"{utc(at // 10**9)}.{at % 10**9:09} UTC")
        for name, at in times.items()
        if at is not None
    ]
    return [
        ("file", _place(entry)),
        ("kind", f"{entry.kind} {entry.target}".rstrip()),
        ("size", f"{entry.size} bytes, {entry.data_bytes} of them not holes"),
        ("mode", f"{entry.mode:04o}, owner {entry.owner}, group {entry.group}"),
        ("inode", f"{entry.inode}, {entry.links} names"),
        *shown,
        *([("unread", entry.reason)] if entry.reason else []),
    ]


def find_files(args: argparse.Namespace) -> int:
    """Print what patterns mean; 1 if nothing. Raises FilesError and what `choice` raises."""
    count = 0
    with _files(args) as files:
        for entry in files.entries(args.pattern, args.volume):
            terminal.say(terminal.plain(_place(entry)))
            count += 1
    return program.DONE if count else program.NOT_DONE


def place(entry: Entry, *, with_volume: bool) -> tuple[str, ...]:
    """Where an entry goes: below the name of its volume, unless only one was asked for."""
    return (*entry.volume.split("/"), *entry.path) if with_volume else entry.path


def get_files(args: argparse.Namespace) -> int:
    """Copy files; 1 if one cannot be read. Raises FilesError, OSError, and what `choice` raises."""
    failed = 0
    with _files(args) as files:
        target = FolderTarget(args.to, terminal.complain, overwrite=args.overwrite)
        with target:
            for found in files.files(selection(args.path), args.volume):
                failed += not _put(target, found, args)
        if not target.files and not failed:
            _refuse_nothing([], " ".join(args.path))
    terminal.say(f"{target.files} files, {size(target.bytes)}, are in {args.to}")
    return program.NOT_DONE if failed else program.DONE


def _put(target: FolderTarget, found: FoundFile, args: argparse.Namespace) -> bool:
    """Write one file; False when it cannot be read, which is told."""
    path = place(found.entry, with_volume=not args.volume)
    if not path:
        return True
    try:
        return target.put(found, path) or found.entry.kind not in {"file", "link"}
    except NotWhole as error:
        terminal.complain(str(error))
        return False
    except FileExistsError as error:
        where = args.to.joinpath(*path)
        raise FilesError(f"{where} exists: give another folder, or --overwrite") from error


def tar_files(args: argparse.Namespace) -> int:
    """Write an archive. Raises FilesError, OSError, and what `choice` raises."""
    if args.output is None and sys.stdout.isatty():
        raise ParameterError("a tar archive is not for a terminal: give --output, or use a pipe")
    with _files(args) as files, _output(args.output) as stream:
        target = TarTarget(stream, terminal.complain)
        for found in files.files(selection(args.path), args.volume):
            target.put(found, place(found.entry, with_volume=not args.volume))
        if not target.files:
            _refuse_nothing([], " ".join(args.path))
        target.finish()
    return program.DONE


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """The file of the archive, which goes if it is not complete; or standard output."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with path.open("xb") as file:
        try:
            os.fchmod(file.fileno(), 0o600)
            yield file
        except BaseException:
            path.unlink()
            raise


def _refuse_nothing(found: Sequence[Entry], path: str) -> None:
    if not found:
        raise NotThere(f"no volume has {path!r}: `files ls` shows what is there")
