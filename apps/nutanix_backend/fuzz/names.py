"""Any bytes: parts of a name or RestoreRefused; parts make the name again, and stay in it."""

from __future__ import annotations

from nutanix_backend import names
from nutanix_backend.errors import RestoreRefused


def check(data: bytes) -> None:
    """Take the bytes apart as a name."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        file = names.recognise(text)
    except RestoreRefused:
        return
    if file.where + file.name != text or not file.name.startswith(file.folder.path + "/"):
        raise AssertionError(f"{text!r} is not {file!r}")
    parts = text.split("/")
    if ".." in parts or "." in parts or "\0" in text or "\n" in text:
        raise AssertionError(f"{text!r} leaves its folder")
    if file.kind is not names.FileKind.METADATA and _disk(file) != file.name:
        raise AssertionError(f"{file!r} does not make {file.name!r}")


def _disk(file: names.VirtualFile) -> str:
    if file.kind is names.FileKind.RAW:
        return file.folder.raw(file.index, file.disk_id)
    name = f"disk-{file.index}-{file.disk_id}.{file.stamp}.{file.kind.value}"
    return f"{file.folder.path}/disks/{name}"
