"""The replication source of docs/sibling.md, against a receiver."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vm_replica.failover import stored
from vm_replica.store import access

if TYPE_CHECKING:
    from libs.vm_replica.tests.receiver_site import Site

PAGE = Path(__file__).parents[3] / "docs" / "sibling.md"
SIZE = 3_000_000


def test_a_raw_file_is_replicated_by_a_source_of_forty_lines(site: Site, tmp_path: Path) -> None:
    """A seed, a delta, and a seed again when the source has lost its state; each is proven."""
    _, code = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 45
    program, image, state = (tmp_path / name for name in ("source.py", "web.raw", "state"))
    program.write_text(code)
    state.mkdir()
    identity = site.source("sibling", "web")
    content = bytearray(SIZE)

    def replicate() -> str:
        words = [f"127.0.0.1:{site.port}", str(identity), str(image), str(state)]
        done = subprocess.run(
            [sys.executable, "-W", "error", str(program), *words],
            check=False, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    sent = []
    for number in (1, 2, 3):
        content[900_000 * (number - 1) : 900_000 * (number - 1) + 5] = b"hello"
        image.write_bytes(content)
        if number == 3:
            for path in state.iterdir():
                path.unlink()
        assert replicate() == f"generation {number}"
        replica = access.find(access.open_store(site.store.root), "web")
        replica.verify(number)
        newest = replica.points()[-1].manifest
        sent.append((newest.is_seed, newest.disks[0].regions))
        assert replica.files.image("scsi0").read_bytes() == content
    assert sent == [(True, 1), (False, 1), (True, 3)]
    machine = stored.find(site.store, "web").point(2).machine
    assert (machine.name, [disk.key for disk in machine.disks]) == ("web", ["scsi0"])
