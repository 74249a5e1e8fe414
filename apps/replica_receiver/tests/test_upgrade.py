"""A store of a released version is read by this one, and takes the next cycle.

`frozen/VERSION.tar.xz` was made by that version: a store with one replica of four cycles, and the
SHA-256 of its disk after each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import program
from replica_receiver.__main__ import command_line
from vm_replica.protocol import tls
from vm_replica.receiver import Receiver
from vm_replica.store.access import make_store
from vm_replica.store.admission import Limits

from libs.vm_replica.tests.receiver_site import SIZE, VM, Site, cycle_of, opened, send

if TYPE_CHECKING:
    from collections.abc import Iterator

WITH_FILTER: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 of Debian 12 has no filter, later ones warn without it."""
RELEASES = sorted((Path(__file__).parent / "frozen").glob("*.tar.xz"))


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A receiver with the store of that version."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, **WITH_FILTER)
    store = make_store(tmp_path / "replicas", Limits(reserve=0))
    made = Site(tmp_path, store)
    tls.ensure_identity(made.identity, "receiver")
    with Receiver(store, made.identity, options=made.options) as made.running:
        yield made


def run(*words: object) -> int:
    """Run the program; its exit code."""
    return program.run(command_line(), [str(word) for word in words])


def test_every_point_is_proven_and_exported(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--store", site.store.root)
    assert run("verify", *where) == program.DONE
    digests = json.loads((site.folder / "replica.json").read_text())
    assert capsys.readouterr().out.count("proven") == len(digests) == 4
    for number, expected in enumerate(digests, 1):
        out = site.folder / f"out-{number}"
        assert run("export", VM, out, "--point", number, *where) == program.DONE
        image = (out / "disk-0-d.raw").read_bytes()
        assert hashlib.sha256(image).hexdigest() == expected


def test_the_next_cycle_stands_on_the_old_ones(site: Site) -> None:
    source = site.source("source", VM)
    own = tls.load_identity(source).fingerprint
    where = ("--store", site.store.root, "--identity", site.identity)
    assert run("allow", own, "--vm", VM, "--adopt", *where) == program.DONE
    content = os.urandom(SIZE)
    with site.connect(source) as session:
        base = opened(session).digest
        manifest, stream = cycle_of(content, base, taken=2000)
        assert send(session, manifest, stream) == 5
    assert site.replica().files.image("d").read_bytes() == content
