"""The one table from error class to exit code: each error class of each member is in it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from command_line.program import EXIT_CODES, exit_code
from members import read_members

LAB = "prism_lab"  # no program of the product runs it
INSIDE = {
    # raised and caught within the library
    "iscsi_attach._connection.ConnectionLostError",
    "iscsi_attach._connection.StoppedError",
    "iscsi_attach._scsi.BadReplyError",
    "ptcomm._commands.BadCommand",
    "ptcomm._state.IllegalEvent",
    "prism_client._answer.HeadTooLarge",
    "vm_replica.protocol.lines.BadLine",
}


def error_classes(member: str) -> list[type[BaseException]]:
    """Every public error class that the modules of a member define."""
    package = importlib.import_module(member)
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{member}.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return [
        found
        for module in (package, *modules)
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, BaseException)
        and found.__module__ == module.__name__
        and not found.__name__.startswith("_")
        and f"{found.__module__}.{found.__qualname__}" not in INSIDE
    ]


@pytest.mark.parametrize("member", sorted(set(read_members()) - {LAB}))
def test_every_error_class_has_an_exit_code(member: str) -> None:
    missing = [kind for kind in error_classes(member) if exit_code(kind) is None]
    assert missing == [], "add them to command_line.program.EXIT_CODES"


def test_every_name_of_the_table_is_a_class() -> None:
    for name in EXIT_CODES:
        module, _, kind = name.rpartition(".")
        found = getattr(importlib.import_module(module), kind)
        assert issubclass(found, BaseException)
        assert f"{found.__module__}.{found.__qualname__}" == name
