"""Our libraries as a testee: JSON lines on stdin and stdout, as PROTOCOL.md says.

Only public names of the libraries are used here, so that what is tested is what siblings use.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import phcbt01
import phcbt01.testing
import ptcomm
from digests import BadList, ImageDigests
from nutanix_backend import manifest, names
from nutanix_backend.errors import ManifestError, RestoreRefused
from nutanix_backend.references import state
from ptcomm import events
from vm_replica.errors import Code, CycleRefused, ProtocolBroken
from vm_replica.protocol import manifest as cycles
from vm_replica.protocol import messages
from vm_replica.protocol.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Json: TypeAlias = Any


class Fault(Exception):
    """What is wrong with the input: a code of errors.json and, for most, a position."""

    def __init__(self, code: str, offset: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.offset = offset


def to_text(value: str) -> Json:
    """Show a text: as it is when it is plain, as hex otherwise."""
    plain = value.isascii() and value.isprintable() and '"' not in value and "\\" not in value
    return value if plain else {"hex": value.encode("utf-8", "surrogateescape").hex()}


def from_text(value: Json) -> str:
    """Read a text."""
    if isinstance(value, str):
        return value
    return bytes.fromhex(value["hex"]).decode("utf-8", "surrogateescape")


def pieces(request: Json, data: bytes) -> list[bytes]:
    """Cut the input as the request wants it."""
    cuts = range(1, len(data)) if request["cuts"] == "bytes" else request["cuts"]
    inside = [cut for cut in cuts if 0 < cut < len(data)]
    return [data[start:end] for start, end in pairwise([0, *inside, len(data)])]


def input_pieces(request: Json) -> list[bytes]:
    """Cut the request's input."""
    return pieces(request, bytes.fromhex(request["input"]))


# --- packets ---


def decode_packets(request: Json) -> Json:
    """Every packet; what is left at the end is truncated."""
    decoder, found = ptcomm.PacketDecoder(), []
    for piece in input_pieces(request):
        decoder.receive_data(piece)
        found += [[p.status.value.decode(), p.payload.hex()] for p in decoder.packets()]
    if decoder.pending:
        raise Fault("truncated", decoder.received)
    return found


def encode_packets(request: Json) -> Json:
    """The packets one after the other."""
    wire = b""
    for status, payload in request["value"]:
        try:
            letter = ptcomm.Status(status.encode())
        except ValueError as error:
            raise Fault("refused") from error
        parts = ptcomm.encode_packet(letter, bytes.fromhex(payload))
        wire += b"".join(bytes(part) for part in parts)
    return wire.hex()


# --- sessions ---

JOB_KEYS = (
    ("Name", "name", str),
    ("JobID", "job_id", int),
    ("Type", "type", events.JobType),
    ("Level", "level", events.Level),
    ("Since", "since", int),
    ("Where", "where", str),
    ("RegexWhere", "regex_where", str),
    ("Replace", "replace", events.Replace),
    ("Namespace", "namespace", str),
    ("PrevJobName", "prev_job_name", str),
    ("WorkingDir", "working_dir", str),
    ("SysconfigPath", "sysconfig_path", str),
    ("ExePath", "exe_path", str),
)
OBJECT_KEYS = (
    ("CAT", "category", str),
    ("TYPE", "type", str),
    ("NAME", "name", str),
    ("SRC", "source", str),
    ("UUID", "uuid", str),
    ("SIZE", "size", int),
    ("COUNT", "count", int),
    ("STATUS", "status", events.ObjectStatus),
)


def pairs(record: Json, keys: Json) -> Json:
    """The fields of a record that are there, as [key, text]."""
    values = [(key, getattr(record, name)) for key, name, _ in keys]
    return [[k, to_text(str(getattr(v, "value", v)))] for k, v in values if v is not None]


def fields(items: Json, keys: Json) -> dict[str, Json]:
    """What pairs() makes, back to the arguments of a record; other keys go to ``extra``."""
    known = {key: (name, kind) for key, name, kind in keys}
    found: dict[str, Json] = {}
    for key, value in [(from_text(k), from_text(v)) for k, v in items]:
        if key in known:
            name, kind = known[key]
            found[name] = kind(value)
        else:
            found["extra"] = (*found.get("extra", ()), (key, value))
    return found


def show_job(job: ptcomm.Job) -> Json:
    extra = [[to_text(key), to_text(value)] for key, value in job.extra]
    return {"items": pairs(job, JOB_KEYS) + extra}


def show_file(file: ptcomm.File) -> Json:
    stat = attrs.asdict(file.stat) | {"type": file.stat.type.value, "mode": f"{file.stat.mode:06o}"}
    times = attrs.asdict(file.times)
    link = {} if file.link is None else {"link": to_text(file.link)}
    numbers = {key: str(value) for key, value in (stat | times).items() if value is not None}
    return {"name": to_text(file.name)} | numbers | link


def make_file(event: Json) -> ptcomm.File:
    index = event.get("file_index")
    stat = ptcomm.Stat(
        ptcomm.FileType(event["type"]),
        int(event["size"]),
        int(event["uid"]),
        int(event["gid"]),
        int(event["mode"], 8),
        int(event["nlink"]),
        None if index is None else int(index),
    )
    times = ptcomm.Times(int(event["atime"]), int(event["mtime"]), int(event["ctime"]))
    link = event.get("link")
    return ptcomm.File(
        from_text(event["name"]), stat, times, None if link is None else from_text(link)
    )


SHOW: dict[type, Callable[[Json], Json]] = {
    ptcomm.PluginHello: lambda e: {"plugin": to_text(e.plugin), "api": to_text(e.api)},
    ptcomm.Job: show_job,
    ptcomm.Parameters: lambda e: {"items": [[to_text(k), to_text(v)] for k, v in e.items]},
    ptcomm.Start: lambda e: {"phase": e.phase.value},
    ptcomm.File: show_file,
    ptcomm.RestoreObject: lambda e: {"name": to_text(e.name), "length": str(e.length)},
    ptcomm.PluginObject: lambda e: {"path": to_text(e.path), "items": pairs(e, OBJECT_KEYS)},
    ptcomm.QueryRow: lambda e: {"text": to_text(e.text)},
    ptcomm.Reply: lambda e: {"answer": e.answer.value},
    ptcomm.Message: lambda e: {"severity": e.severity.value, "text": to_text(e.text)},
    ptcomm.Data: lambda e: {"data": bytes(e).hex()},
}
MAKE: dict[str, Callable[[Json], ptcomm.Event]] = {
    "PluginHello": lambda e: ptcomm.PluginHello(from_text(e["plugin"]), from_text(e["api"])),
    "Job": lambda e: ptcomm.Job(**fields(e["items"], JOB_KEYS)),
    "Parameters": lambda e: ptcomm.Parameters(
        tuple((from_text(key), from_text(value)) for key, value in e["items"])
    ),
    "Start": lambda e: ptcomm.Start(ptcomm.Phase(e["phase"])),
    "File": make_file,
    "RestoreObject": lambda e: ptcomm.RestoreObject(from_text(e["name"]), int(e["length"])),
    "PluginObject": lambda e: ptcomm.PluginObject(
        from_text(e["path"]), **fields(e["items"], OBJECT_KEYS)
    ),
    "QueryRow": lambda e: ptcomm.QueryRow(from_text(e["text"])),
    "Reply": lambda e: ptcomm.Reply(ptcomm.Answer(e["answer"])),
    "Message": lambda e: ptcomm.Message(ptcomm.Severity(e["severity"]), from_text(e["text"])),
    "Data": lambda e: ptcomm.Data(bytes.fromhex(e["data"])),
}


def show(event: ptcomm.Event) -> Json:
    """An event as JSON."""
    kind = type(event)
    return {"event": kind.__name__} | (SHOW[kind](event) if kind in SHOW else {})


def make(event: Json) -> ptcomm.Event:
    """The event that the JSON shows."""
    name = event["event"]
    made: ptcomm.Event = MAKE[name](event) if name in MAKE else getattr(ptcomm, name)()
    return made


def converse(request: Json) -> Json:
    """Lead a session through the steps."""
    session = ptcomm.Session(ptcomm.Role(request["role"]))
    return [outcome(session, request, step) for step in request["steps"]]


def outcome(session: ptcomm.Session, request: Json, step: Json) -> Json:
    if "send" in step:
        try:
            parts = session.send(make(step["send"]))
        except ptcomm.LocalProtocolError:
            return {"refused": True}
        return {"bytes": b"".join(bytes(part) for part in parts).hex()}
    heard: list[Json] = []
    try:
        for piece in pieces(request, bytes.fromhex(step.get("receive", ""))):
            if piece or "end" in step:
                session.receive_data(piece)
            heard.extend(map(show, session.events()))
    except ptcomm.RemoteProtocolError as error:
        return {"events": heard, "error": error.code, "offset": error.offset}
    return {"events": heard}


# --- sessions of replication ---

REPLICATION_KEYS: dict[type, tuple[tuple[str, str, Callable[[str], Json]], ...]] = {
    messages.Hello: (("name", "name", str), ("version", "version", int)),
    messages.Open: (("cluster", "cluster", str), ("vm", "vm", str)),
    messages.Cycle: (("kind", "kind", messages.Kind), ("base", "base", str)),
    messages.Disk: (("disk", "disk_id", str), ("offset", "offset", int)),
    messages.Commit: (("digest", "digest", str),),
    messages.Ready: (("generation", "generation", int), ("digest", "digest", str)),
    messages.Stored: (("digest", "digest", str),),
    messages.Committed: (("generation", "generation", int),),
    messages.Refused: (("code", "code", Code), ("needs", "needs", str), ("text", "text", str)),
    messages.Working: (("text", "text", str),),
    messages.Failed: (("text", "text", str),),
}


def show_message(message: messages.Message) -> Json:
    """A message of replication as JSON."""
    shown: Json = {"event": type(message).__name__}
    for key, name, _ in REPLICATION_KEYS.get(type(message), ()):
        value = getattr(message, name)
        shown[key] = to_text(str(getattr(value, "value", value)))
    match message:
        case messages.Cycle():
            shown["manifest"] = message.manifest.hex()
        case messages.Data():
            shown["data"] = bytes(message.view).hex()
        case messages.Ready(_, _, messages.Resume(digest, disks)):
            held = [[to_text(disk), str(size)] for disk, size in disks]
            shown |= {"resume": digest, "disks": held}
    return shown


def make_message(event: Json) -> messages.Message:
    """The message that the JSON shows."""
    kind = getattr(messages, event["event"])
    values = {
        name: read(from_text(event[key])) for key, name, read in REPLICATION_KEYS.get(kind, ())
    }
    if kind is messages.Cycle:
        values["manifest"] = bytes.fromhex(event["manifest"])
    elif kind is messages.Data:
        values["view"] = bytes.fromhex(event["data"])
    elif "resume" in event:
        held = tuple((from_text(disk), int(size)) for disk, size in event["disks"])
        values["resume"] = messages.Resume(event["resume"], held)
    made: messages.Message = kind(**values)
    return made


def replicate(request: Json) -> Json:
    """Lead a session of replication through the steps."""
    end = Session(messages.Role(request["role"]))
    return [replication_outcome(end, request, step) for step in request["steps"]]


def replication_outcome(session: Session, request: Json, step: Json) -> Json:
    if "send" in step:
        try:
            parts = session.send(make_message(step["send"]))
        except ptcomm.LocalProtocolError:
            return {"refused": True}
        return {"bytes": b"".join(bytes(part) for part in parts).hex()}
    heard: list[Json] = []
    try:
        for piece in pieces(request, bytes.fromhex(step.get("receive", ""))):
            if piece or "end" in step:
                session.receive_data(piece)
            heard.extend(map(show_message, session.messages()))
    except ProtocolBroken as error:
        return {"events": heard, "error": error.code, "offset": error.offset}
    return {"events": heard}


# --- PHCBT01 ---


def decoded(request: Json) -> Iterator[phcbt01.Event]:
    """The events of a whole stream."""
    decoder = phcbt01.Decoder()
    for piece in input_pieces(request):
        decoder.receive_data(piece)
        yield from decoder.events()
    decoder.close()


def show_header(header: phcbt01.Header) -> dict[str, Json]:
    return {
        "original_size": hex(header.original_size),
        "region_count": hex(header.region_count),
    }


def decode_header(request: Json) -> Json:
    """The header, as soon as it is known."""
    for event in decoded(request):
        if isinstance(event, phcbt01.Header):
            return show_header(event)
    raise AssertionError("a decoder that closed without a header")


def decode_stream(request: Json) -> Json:
    """Header and regions."""
    value: Json = {}
    for event in decoded(request):
        if isinstance(event, phcbt01.Header):
            value = show_header(event) | {"regions": []}
        elif isinstance(event, phcbt01.Region):
            value["regions"].append([hex(event.offset), bytearray()])
        elif isinstance(event, phcbt01.Data):
            value["regions"][-1][1] += event.view
    value["regions"] = [[offset, data.hex()] for offset, data in value["regions"]]
    return value


def encode_stream(request: Json) -> Json:
    """The stream with these regions."""
    value = request["value"]
    encoder = phcbt01.Encoder(int(value["original_size"], 16), int(value["region_count"], 16))
    wire = bytearray(encoder.start())
    for offset, payload in value["regions"]:
        data = bytes.fromhex(payload)
        wire += encoder.region(phcbt01.Region(int(offset, 16), len(data))) + encoder.data(data)
    encoder.finish()
    return wire.hex()


def apply_stream(request: Json) -> Json:
    """The image after the stream."""
    target = phcbt01.testing.MemoryTarget(bytes.fromhex(request["base"]))
    applier = phcbt01.Applier(target)
    try:
        for piece in input_pieces(request):
            applier.receive_data(piece)
        applier.close()
    except phcbt01.ShrunkDisk as error:
        raise Fault("shrunk-disk", 8) from error
    return target.content.hex()


# --- digest lists ---


def decode_list(request: Json) -> Json:
    """The blocks that hold data, and the root of all."""
    try:
        image = ImageDigests.decode(bytes.fromhex(request["input"]))
    except BadList as error:
        raise Fault("bad-list") from error
    blocks = [[hex(number), digest.hex()] for number, digest in image.data_blocks()]
    return {"size": hex(image.size), "blocks": blocks, "root": image.root()}


def list_image(request: Json) -> Json:
    """The list of an image that comes in pieces."""
    data = bytes.fromhex(request["input"])
    image, offset = ImageDigests(len(data)), 0
    for piece in pieces(request, data):
        image.update(offset, piece)
        offset += len(piece)
    return {"list": image.encode().hex(), "root": image.root()}


# --- what a backup holds, and the state ---


def decode_name(request: Json) -> Json:
    """A name taken apart."""
    try:
        name = bytes.fromhex(request["input"]).decode("utf-8", "surrogateescape")
        file = names.recognise(name)
    except RestoreRefused as error:
        raise Fault("bad-name") from error
    parts = {"where": file.where, "namespace": file.folder.namespace}
    parts |= {"cluster": file.folder.cluster, "vm": file.folder.vm}
    if file.kind is names.FileKind.METADATA:
        parts["metadata"] = file.name.rpartition("/")[2]
    else:
        parts |= {"index": str(file.index), "disk": file.disk_id}
        parts |= {"stamp": file.stamp} if file.stamp else {}
        parts |= {"kind": "digests"} if file.kind is names.FileKind.DIGESTS else {}
    return {key: to_text(value) for key, value in parts.items()}


def encode_name(request: Json) -> Json:
    """The name of the parts; one that would not be recognised is refused."""
    part = {key: from_text(value) for key, value in request["value"].items()}
    if "metadata" in part:
        last = part["metadata"]
    else:
        kind = f".{part['stamp']}.{part.get('kind', 'phcbt01')}" if "stamp" in part else ".raw"
        last = f"disks/disk-{part['index']}-{part['disk']}{kind}"
    folder = names.VmFolder(part["cluster"], part["vm"], namespace=part["namespace"])
    name = f"{part['where']}{folder.path}/{last}"
    try:
        names.recognise(name)
    except RestoreRefused as error:
        raise Fault("refused") from error
    return name.encode("utf-8", "surrogateescape").hex()


def decode_manifest(request: Json) -> Json:
    """The canonical form and its digest."""
    try:
        found = manifest.decode(bytes.fromhex(request["input"]))
    except ManifestError as error:
        raise Fault("bad-manifest") from error
    return {"canonical": found.encode().hex(), "digest": found.digest()}


def decode_cycle(request: Json) -> Json:
    """The manifest of a cycle that is offered: the canonical form and its digest."""
    try:
        found = cycles.decode(bytes.fromhex(request["input"]))
        cycles.refuse_unusable(found)
    except CycleRefused as error:
        raise Fault(error.code.value) from error
    return {"canonical": found.encode().hex(), "digest": found.digest()}


def decode_state(request: Json) -> Json:
    """The canonical form: what the file holds when the loaded state is saved again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        path.write_bytes(bytes.fromhex(request["input"]))
        file = state.StateFile(path, from_text(request["vm"]))
        found, reason = file.load()
        if reason:
            raise Fault("bad-state")
        file.save(found)
        return {"canonical": path.read_bytes().hex()}


OPERATIONS: dict[tuple[str, str], Callable[[Json], Json]] = {
    ("ptcomm-packets", "decode"): decode_packets,
    ("ptcomm-packets", "encode"): encode_packets,
    ("ptcomm-sessions", "session"): converse,
    ("replication-sessions", "session"): replicate,
    ("phcbt01-headers", "decode"): decode_header,
    ("phcbt01-streams", "decode"): decode_stream,
    ("phcbt01-streams", "encode"): encode_stream,
    ("phcbt01-apply", "apply"): apply_stream,
    ("digest-lists", "decode"): decode_list,
    ("digest-lists", "digest"): list_image,
    ("names", "decode"): decode_name,
    ("names", "encode"): encode_name,
    ("manifests", "decode"): decode_manifest,
    ("replication-manifests", "decode"): decode_cycle,
    ("states", "decode"): decode_state,
}


def answer(request: Json) -> Json:
    """The answer to one request. An exception that is not an error of the format is a crash."""
    if request["op"] == "hello":
        return {"ok": {"name": "python", "suites": sorted({suite for suite, _ in OPERATIONS})}}
    operation = OPERATIONS.get((request["suite"], request["op"]))
    if operation is None:
        return {"skipped": "not an operation of ours"}
    try:
        return {"ok": operation(request)}
    except (Fault, ptcomm.RemoteProtocolError, phcbt01.FormatError) as error:
        offset = {} if error.offset is None else {"offset": error.offset}
        return {"error": str(error.code), **offset}
    except (ptcomm.LocalProtocolError, phcbt01.EncodeError):
        return {"error": "refused"}


def main() -> int:
    """Answer until the end of the input."""
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps({"id": request["id"], **answer(request)}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
