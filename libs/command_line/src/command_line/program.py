"""Running a program's command line: one table says with which exit code each error ends it.

    0   done
    1   not done, or not all of it; nothing that is stored is in doubt
    2   the command line is wrong (argparse), or a store, replica or identity cannot be used
    130 interrupted from the keyboard

`status` of the receiver uses the same numbers as monitoring does: 0 fine, 1 warning, 2 critical.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from command_line import terminal
from command_line.text import with_notes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

DONE = 0
NOT_DONE = 1
UNUSABLE = 2
INTERRUPTED = 130

EXIT_CODES: Mapping[str, int] = {
    "builtins.KeyboardInterrupt": INTERRUPTED,
    "builtins.OSError": NOT_DONE,
    "chain_disk.errors.ChainError": UNUSABLE,
    "command_line.cancel.Cancelled": NOT_DONE,
    "digests.image.BadList": UNUSABLE,
    "disk_images.errors.ImageRefused": NOT_DONE,
    "durable.records.RecordError": UNUSABLE,
    "guest_files.errors.FilesError": NOT_DONE,
    "iscsi_attach.errors.IscsiAttachError": NOT_DONE,
    "nutanix_backend.errors.BackendError": NOT_DONE,
    "phcbt01.errors.PhcbtError": UNUSABLE,
    "prism_client.errors.PrismError": NOT_DONE,
    "ptcomm.errors.PtcommError": NOT_DONE,
    "ptcomm_runner.errors.RunnerError": NOT_DONE,
    "qemu_img._run.ToolFailed": NOT_DONE,
    "vm_config.errors.ConfigurationError": NOT_DONE,
    "vm_replica.errors.IdentityError": UNUSABLE,
    "vm_replica.errors.ReplicaDamaged": UNUSABLE,
    "vm_replica.errors.ReplicationError": NOT_DONE,
    "vm_replica.errors.StoreError": UNUSABLE,
    "vm_replica.errors.WrongUser": UNUSABLE,
    "vm_replica.failover.errors.LedgerError": UNUSABLE,
}
"""By the full name of an error class; a class that is not here has the code of its base class.

Names and not classes: this library needs none of the packages, and a program loads what it uses.
"""


def exit_code(kind: type[BaseException]) -> int | None:
    """The exit code for an error of this class; None if the error is a defect of the program."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    return next((EXIT_CODES[name] for name in names if name in EXIT_CODES), None)


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Run the command that the words name, and return its exit code.

    Its parser has the default `run`: a function from the arguments to the exit code. An error
    of the table becomes one line on standard error. Any other is raised.
    """
    terminal.accept_any_text()
    args = parser.parse_args(words)
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        return command(args)
    except BaseException as error:
        code = exit_code(type(error))
        if code is None:
            raise
        terminal.complain(with_notes(error) or "interrupted")
        return code


def main(parser: Callable[[], argparse.ArgumentParser]) -> int:
    """Run the command line that this process was started with."""
    return run(parser(), sys.argv[1:])
