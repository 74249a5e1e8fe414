"""Commands: the lines of text of an event, and the event of such lines.

Pure functions without state. Every reader accepts only what the writer would write, so that an
accepted event is written back as the same bytes. The one exception is the job block, whose keys may
come in any order: newer versions of bacula-fd add some.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from ptcomm.events import (
    Answer,
    BackendHello,
    DataStart,
    End,
    Event,
    File,
    FileType,
    Finish,
    Job,
    JobType,
    Level,
    ObjectStatus,
    Parameters,
    Phase,
    PluginHello,
    PluginObject,
    QueryRow,
    Replace,
    Reply,
    RestoreObject,
    Role,
    Start,
    Stat,
    Times,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from enum import Enum

E = TypeVar("E", bound="Enum")

_TRIMMED = " \t\r\v\f"


class BadCommand(ValueError):
    """The lines are not a command; the text says why."""


# --- lines --------------------------------------------------------------------------------------


def to_line(payload: bytes, sender: Role) -> str:
    """The line that is the payload of a C packet. Raises BadCommand."""
    if not payload.endswith(b"\n"):
        raise BadCommand(f"a command of {len(payload)} bytes does not end with a newline")
    line = payload[:-1].decode("utf-8", "surrogateescape")
    _check(line, sender)
    return line


def to_payload(line: str, sender: Role) -> bytes:
    """The payload of the C packet that carries this line. Raises BadCommand."""
    _check(line, sender)
    try:
        return line.encode("utf-8", "surrogateescape") + b"\n"
    except UnicodeEncodeError as error:
        raise BadCommand(f"{_shown(line)} has no UTF-8 form") from error


def _shown(line: str) -> str:
    """A line for an error message: of key=value the key only, the value may be a password."""
    key, equals, _ = line.partition("=")
    return repr(key[:80] + equals)


def _check(line: str, sender: Role) -> None:
    if "\n" in line or "\0" in line:
        raise BadCommand(f"{_shown(line)} has a newline or NUL inside")
    if sender is Role.BACKEND and line != line.rstrip(_TRIMMED):
        raise BadCommand(f"{_shown(line)} ends with white space, which bacula-fd would cut off")


# --- values -------------------------------------------------------------------------------------

_INT64 = range(-(2**63), 2**63)
_SIZE = range(2**63)
_ID = range(-(2**31), 2**32)  # bacula-fd prints user ids as signed 32-bit numbers
_MODE = range(2**32)
_COUNT = range(2**31)
_INT32 = range(-(2**31), 2**31)


def _number(text: str, allowed: range, base: int = 10) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise BadCommand(f"{text!r} is not a number")
    try:
        value = int(text, base)
    except ValueError as error:
        raise BadCommand(f"{text!r} is not a number of base {base}") from error
    if value not in allowed:
        raise BadCommand(f"{text} is out of range")
    return value


def _member(kind: type[E], text: str) -> E:
    try:
        return kind(text)
    except ValueError as error:
        raise BadCommand(f"{text!r} is no {kind.__name__}") from error


def _after(prefix: str, line: str) -> str:
    if not line.startswith(prefix):
        raise BadCommand(f"expected {prefix!r}, got {_shown(line)}")
    return line[len(prefix) :]


def _fields(prefix: str, line: str, counts: range) -> list[str]:
    fields = _after(prefix, line).split(" ")
    if len(fields) not in counts:
        raise BadCommand(f"{_shown(line)} has {len(fields)} fields")
    return fields


def _pair(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals or not key:
        raise BadCommand(f"a line of {len(line)} characters is not key=value")
    return key, value


# --- hello --------------------------------------------------------------------------------------


def _write_hello(hello: PluginHello) -> Iterator[str]:
    yield f"Hello {hello.plugin} {hello.api}"


def _read_hello(lines: Sequence[str]) -> PluginHello:
    plugin, space, api = _after("Hello ", lines[0]).rpartition(" ")
    if not (space and plugin and api):
        raise BadCommand(f"{_shown(lines[0])} lacks the plugin's name or API")
    return PluginHello(plugin, api)


# --- job and parameters -------------------------------------------------------------------------

_JOB_KEYS = (
    ("Name", "name"),
    ("JobID", "job_id"),
    ("Type", "type"),
    ("Level", "level"),
    ("Since", "since"),
    ("Where", "where"),
    ("RegexWhere", "regex_where"),
    ("Replace", "replace"),
    ("Namespace", "namespace"),
    ("PrevJobName", "prev_job_name"),
    ("WorkingDir", "working_dir"),
    ("SysconfigPath", "sysconfig_path"),
    ("ExePath", "exe_path"),
)
_JOB_READERS: dict[str, Callable[[str], object]] = {
    "job_id": lambda text: _number(text, _COUNT),
    "type": lambda text: _member(JobType, text),
    "level": lambda text: _member(Level, text),
    "since": lambda text: _number(text, _INT64),
    "replace": lambda text: _member(Replace, text),
}


def _write_job(job: Job) -> Iterator[str]:
    yield "Job"
    for key, name in _JOB_KEYS:
        value = getattr(job, name)
        if value is not None:
            yield f"{key}={getattr(value, 'value', value)}"
    for key, value in job.extra:
        yield f"{key}={value}"


def _read_job(lines: Sequence[str]) -> Job:
    names = dict(_JOB_KEYS)
    known: dict[str, object] = {}
    extra = []
    for key, text in map(_pair, lines[1:]):
        name = names.get(key)
        if name is None:
            extra.append((key, text))
        elif name in known:
            raise BadCommand(f"{key} twice in the job block")
        else:
            known[name] = _JOB_READERS.get(name, str)(text)
    if missing := {"name", "job_id", "type"} - known.keys():
        raise BadCommand(f"the job block lacks {', '.join(sorted(missing))}")
    return Job(**known, extra=tuple(extra))  # type: ignore[arg-type] # the readers see to the types


def _write_parameters(parameters: Parameters) -> Iterator[str]:
    yield "Params"
    for key, value in parameters.items:
        yield f"{key}={value}"


def _read_parameters(lines: Sequence[str]) -> Parameters:
    return Parameters(tuple(map(_pair, lines[1:])))


# --- files and objects --------------------------------------------------------------------------


def _write_stat(stat: Stat) -> str:
    index = "" if stat.file_index is None else f" {stat.file_index}"
    owner = f"{stat.uid} {stat.gid}"
    return f"STAT:{stat.type.value} {stat.size} {owner} {stat.mode:06o} {stat.nlink}{index}"


def _read_stat(line: str) -> Stat:
    kind, size, uid, gid, mode, nlink, *index = _fields("STAT:", line, range(6, 8))
    return Stat(
        type=_member(FileType, kind),
        size=_number(size, _SIZE),
        uid=_number(uid, _ID),
        gid=_number(gid, _ID),
        mode=_number(mode, _MODE, base=8),
        nlink=_number(nlink, _COUNT),
        file_index=_number(index[0], _INT32) if index else None,
    )


def _write_file(file: File) -> Iterator[str]:
    yield f"FNAME:{file.name}"
    yield _write_stat(file.stat)
    yield f"TSTAMP:{file.times.atime} {file.times.mtime} {file.times.ctime}"
    if file.link is not None:
        yield f"LSTAT:{file.link}"


def _read_file(lines: Sequence[str]) -> File:
    if len(lines) not in {3, 4}:
        raise BadCommand("a file is FNAME, STAT, TSTAMP and, for a symbolic link, LSTAT")
    atime, mtime, ctime = _fields("TSTAMP:", lines[2], range(3, 4))
    return File(
        name=_name(_after("FNAME:", lines[0])),
        stat=_read_stat(lines[1]),
        times=Times(_number(atime, _INT64), _number(mtime, _INT64), _number(ctime, _INT64)),
        link=_after("LSTAT:", lines[3]) if len(lines) > 3 else None,
    )


def _name(text: str) -> str:
    if not text:
        raise BadCommand("an empty name")
    return text


def _write_restore_object(head: RestoreObject) -> Iterator[str]:
    yield f"RESTOREOBJ:{head.name}"
    yield f"RESTOREOBJ_LEN:{head.length}"


def _read_restore_object(lines: Sequence[str]) -> RestoreObject:
    if len(lines) != 2:
        raise BadCommand("a restore object is RESTOREOBJ and RESTOREOBJ_LEN")
    name = _name(_after("RESTOREOBJ:", lines[0]))
    return RestoreObject(name, _number(_after("RESTOREOBJ_LEN:", lines[1]), _COUNT))


_OBJECT_KEYS: dict[str, tuple[str, Callable[[str], object]]] = {
    "CAT": ("category", str),
    "TYPE": ("type", str),
    "NAME": ("name", str),
    "SRC": ("source", str),
    "UUID": ("uuid", str),
    "SIZE": ("size", lambda text: _number(text, _SIZE)),
    "COUNT": ("count", lambda text: _number(text, _COUNT)),
    "STATUS": ("status", lambda text: _member(ObjectStatus, text)),
}


def _write_plugin_object(row: PluginObject) -> Iterator[str]:
    yield f"PLUGINOBJ:{row.path}"
    for key, (name, _) in _OBJECT_KEYS.items():
        value = getattr(row, name)
        if value is not None:
            yield f"PLUGINOBJ_{key}:{getattr(value, 'value', value)}"


def _read_plugin_object(lines: Sequence[str]) -> PluginObject:
    values = {}
    for line in lines[1:]:
        key, _, text = _after("PLUGINOBJ_", line).partition(":")
        if key not in _OBJECT_KEYS:
            raise BadCommand(f"unknown line {_shown(line)}")
        name, read = _OBJECT_KEYS[key]
        values[name] = read(text)
    path = _name(_after("PLUGINOBJ:", lines[0]))
    return PluginObject(path, **values)  # type: ignore[arg-type] # the readers see to the types


# --- the tables ---------------------------------------------------------------------------------

_WORDS: dict[str, Event] = {
    "Hello Bacula": BackendHello(),
    "DATA": DataStart(),
    "FINISH": Finish(),
    "END": End(),
    **{phase.value: Start(phase) for phase in Phase},
    **{answer.value: Reply(answer) for answer in Answer},
}
_WORD_OF = {event: word for word, event in _WORDS.items()}

_BLOCKS: dict[str, type[Event]] = {
    "Job": Job,
    "Params": Parameters,
    "FNAME": File,
    "PLUGINOBJ": PluginObject,
    "RESTOREOBJ": RestoreObject,
}
_READERS: dict[type[Event], Callable[[Sequence[str]], Event]] = {
    PluginHello: _read_hello,
    Job: _read_job,
    Parameters: _read_parameters,
    File: _read_file,
    RestoreObject: _read_restore_object,
    PluginObject: _read_plugin_object,
    QueryRow: lambda lines: QueryRow(lines[0]),
}
_WRITERS: dict[type[Event], Callable[..., Iterator[str]]] = {
    PluginHello: _write_hello,
    Job: _write_job,
    Parameters: _write_parameters,
    File: _write_file,
    RestoreObject: _write_restore_object,
    PluginObject: _write_plugin_object,
    QueryRow: lambda row: iter([row.text]),
}
ENDED_BY_F = frozenset({Job, Parameters, File, PluginObject})
LENGTHS: dict[type[Event], int] = {PluginHello: 1, RestoreObject: 2}


def word(line: str) -> Event | None:
    """The event that this line is all of, or None."""
    return _WORDS.get(line)


def opener(line: str) -> type[Event]:
    """The kind of event that begins with this line. Raises BadCommand."""
    if line.startswith("Hello "):
        return PluginHello
    head = line.partition(":")[0]
    kind = _BLOCKS.get(head)
    if kind is None or (line == head) != (kind in {Job, Parameters}):
        raise BadCommand(f"unknown command {_shown(line)}")
    return kind


def read(kind: type[Event], lines: Sequence[str]) -> Event:
    """The event of that kind that the lines are.

    Raises BadCommand unless the event would be written as these lines.
    """
    event = _READERS[kind](lines)
    if kind is not Job and write(event) != list(lines):
        raise BadCommand(f"{_shown(lines[0])} is not written in the one known way")
    return event


def write(event: Event) -> list[str]:
    """The lines of an event that is made of commands."""
    writer = _WRITERS.get(type(event))
    return [_WORD_OF[event]] if writer is None else list(writer(event))
