"""Any bytes as a name: parts that stay in it, or RestoreRefused."""

from __future__ import annotations

from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore import sources


def check(data: bytes) -> None:
    """Take the bytes apart as a name of any sibling."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        file = sources.recognise(text)
    except RestoreRefused:
        return
    if {".", "..", ""} & {file.vm, file.file} or "/" in file.vm + file.file + file.key:
        raise AssertionError(f"{file!r} leaves its folder")
    if not text.startswith(file.where) or not text.endswith(file.name.rpartition("/")[2]):
        raise AssertionError(f"{file!r} is not in {text!r}")
    if not file.name.startswith(file.folder + "/") or "\n" in text or "\0" in text:
        raise AssertionError(f"{file!r} is not in its folder")
