"""Any parameters: settings or ParameterError, in one line that holds no secret."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
from nutanix_backend.errors import ParameterError
from nutanix_backend.settings import parameters

_FILE = Path(tempfile.mkdtemp(prefix="fuzz-parameters-")) / "file"
_FILES = {"config_file", "password_file"}


def check(data: bytes) -> None:
    """Read lines name=value; what follows an empty line is the file that a parameter may name."""
    head, _, content = data.partition(b"\n\n")
    _FILE.touch(mode=0o600)
    _FILE.write_bytes(content)
    items = [_item(line) for line in head.decode("utf-8", "surrogateescape").split("\n")]
    try:
        settings = parameters.parse(items)
        parameters.require_connection(settings)
    except ParameterError as error:
        if "\n" in str(error):
            raise AssertionError(f"{str(error)!r} is not one line") from error
        return
    if repr(attrs.evolve(settings, password="")) != repr(settings):
        raise AssertionError("the password is shown")


def _item(line: str) -> tuple[str, str]:
    """A parameter; one that names a file of this machine names ours instead."""
    name, _, value = line.partition("=")
    if name in _FILES and not (value.startswith("/") and "\0" in value):
        return name, str(_FILE)
    return name, value
