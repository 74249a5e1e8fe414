"""A sibling's backend in small: it backs up the files of a VM, and later what has changed in them.

Started by bacula-fd through a plugin of the sibling's name, on ptcomm and phcbt01 alone. Its Plugin
line says `vmid=NAME folder=/PATH`, where PATH holds

    config/*   configuration files, sent with every job
    full/*     the disks in the sibling's own format, sent by a Full
    now/*.raw  what the guest sees; a later job sends the delta to what it saw at the last
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import phcbt01
import ptcomm as pt

PIECE = 983_040


def send(wire: pt.Endpoint, name: str, content: BinaryIO) -> None:
    """Send one file."""
    now = int(time.time())
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    stat = pt.Stat(pt.FileType.REGULAR, size)
    wire.send(pt.File(name, stat, pt.Times(now, now, now)), pt.DataStart())
    while piece := content.read(PIECE):
        wire.send(pt.Data(piece))
    wire.send(pt.DataEnd())


def backup(wire: pt.Endpoint, job: pt.Job, folder: Path, prefix: str) -> None:
    """Send what a job of this level has to send."""
    paths = {f"{prefix}/{path.name}": path for path in (folder / "config").iterdir()}
    if job.level is pt.Level.FULL:
        disks = sorted((folder / "full").iterdir())
        paths |= {f"{prefix}/disks/{path.name}": path for path in disks}
    for name, path in paths.items():
        with path.open("rb") as content:
            send(wire, name, content)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for disk in sorted((folder / "now").glob("*.raw")):
        last = folder / f"last-{disk.name}"
        if job.level is not pt.Level.FULL:
            with tempfile.TemporaryFile() as delta:
                phcbt01.diff(last, disk, delta)
                send(wire, f"{prefix}/disks/{disk.stem}.{stamp}.phcbt01", delta)
        shutil.copyfile(disk, last)
    wire.send(pt.NoMoreFiles())


def main() -> int:
    """Serve the daemon that started us."""
    with pt.claim_stdio(os.open(os.devnull, os.O_WRONLY)) as wire:
        wire.expect(pt.PluginHello)
        wire.send(pt.BackendHello())
        job = wire.expect(pt.Job)
        wire.send(pt.Ack())
        options = dict(wire.expect(pt.Parameters).items)
        wire.send(pt.Ack())
        wire.expect(pt.Start)
        wire.send(pt.Ack())
        prefix = f"{job.namespace}/{options['vmid']}"
        backup(wire, job, Path(options["folder"]), f"{options.get('before', '')}{prefix}")
        wire.expect(pt.End)
        wire.send(pt.Ack())
        wire.expect(pt.Terminate)
        wire.expect(pt.EndOfInput)
    return 0


if __name__ == "__main__":
    sys.exit(main())
