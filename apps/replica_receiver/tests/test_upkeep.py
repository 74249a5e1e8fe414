"""`rollback`, `drop`, `audit` and what is done when a key is stolen, on the command line."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import program
from replica_receiver.__main__ import command_line
from vm_replica import audit
from vm_replica.errors import StoreError
from vm_replica.protocol import allowed, tls
from vm_replica.receiver import Receiver
from vm_replica.store.access import make_store
from vm_replica.store.admission import Limits

from libs.vm_replica.tests.receiver_site import SIZE, VM, Site, cycle_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.security

ROOT = Path(__file__).parents[3]


@pytest.fixture
def receiver_site(tmp_path: Path) -> Iterator[Site]:
    """A receiver that serves a store, which `serve` has made."""
    store = make_store(tmp_path / "store", Limits(reserve=0))
    made = Site(tmp_path, store)
    tls.ensure_identity(made.identity, "receiver")
    with Receiver(store, made.identity, options=made.options) as made.running:
        yield made


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """Run the program and check its exit code; what it printed, or why it failed."""
    code = program.run(command_line(), list(words))
    printed = capsys.readouterr()
    assert code == status, printed
    return printed.out or printed.err


def history(site: Site) -> list[bytes]:
    """Three generations; the content of each."""
    contents, base = [os.urandom(SIZE) for _ in range(3)], ""
    with site.connect(site.source("source", "*")) as session:
        for number, content in enumerate(contents, 1):
            manifest, stream = cycle_of(content, base, number)
            assert send(session, manifest, stream) == number
            base = manifest.digest()
    return contents


def test_rollback_and_drop(receiver_site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site = receiver_site
    contents = history(site)
    where = ("--store", str(site.store.root))
    assert "add --yes" in run(capsys, "rollback", "vm", "--point", "1", *where, status=2)
    assert len(site.replica().points()) == 3
    assert "is at generation 1" in run(capsys, "rollback", VM, "--point", "1", "--yes", *where)
    assert [point.number for point in site.replica().points()] == [1]
    assert site.replica().files.image("d").read_bytes() == contents[0]
    assert "add --yes" in run(capsys, "drop", VM, *where, status=2)
    run(capsys, "drop", VM, "--yes", *where)
    assert site.store.replicas() == []
    assert "has no replica" in run(capsys, "drop", VM, "--yes", *where, status=1)
    events = [entry.event for entry in audit.read(site.store.root)]
    assert events == ["rollback", "drop"]


def test_the_audit_log_says_who_did_what_and_shows_what_was_changed(
    receiver_site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = receiver_site
    sent: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, text: sent.append(text))
    monkeypatch.setenv("SUDO_USER", "the-boss")
    source = site.source("source")
    line, found = tls.load_identity(source).one_line, tls.load_identity(source).fingerprint
    where = ("--identity", str(site.identity), "--store", str(site.store.root))
    run(capsys, "allow", line, "--vm", VM, *where)
    run(capsys, "allow", found, "--remove", *where)
    log = ("audit", "--store", str(site.store.root))
    entries = json.loads(run(capsys, *log, "--json"))
    assert [entry["event"] for entry in entries] == ["allow", "remove"]
    assert {entry["peer"] for entry in entries} == {found}
    assert "the-boss" not in str(entries), "anyone can set a variable"
    assert len(sent) == 2
    shown = run(capsys, *log, "--verify")
    assert audit.last_hash(site.store.root) in shown
    assert audit.last_hash(site.store.root) in sent[-1]
    path = site.store.root / audit.NAME
    whole = path.read_bytes()
    for damaged in (
        whole.replace(b'"allow"', b'"adopt"'),
        b"\n".join(whole.split(b"\n")[2:]),
        whole + b"\n" + whole.split(b"\n")[1],
        whole.replace(b'"event"', b'"evil"'),
    ):
        path.write_bytes(damaged)
        assert "line" in run(capsys, *log, "--verify", status=2)
    path.write_bytes(whole)
    audit.note(site.store.root, "drop", replica="c/\x1b[2Jx\n")
    assert audit.read(site.store.root)[-1].replica == "c/?[2Jx?"
    path.write_bytes(whole + b"\n{")
    with pytest.raises(StoreError, match="is damaged"):
        audit.read(site.store.root)


def test_a_large_audit_log_goes_on_in_a_new_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syslog.syslog", lambda *_: None)
    monkeypatch.setattr(audit, "LARGEST", 1000)
    for number in range(20):
        audit.note(tmp_path, "drop", replica=f"c/{number}")
    log = ("audit", "--verify", "--store", str(tmp_path))
    files = sorted(tmp_path.iterdir())
    assert len(files) > 3
    assert all(path.stat().st_size < 2000 for path in files)
    assert "20 lines" in run(capsys, *log)
    assert [entry.replica for entry in audit.read(tmp_path)] == [f"c/{n}" for n in range(20)]
    assert audit.last_hash(tmp_path) in run(capsys, *log)

    second = tmp_path / f"{audit.NAME}.2"
    whole = second.read_bytes()
    second.write_bytes(whole.replace(b'"drop"', b'"evil"', 1))
    assert "does not follow" in run(capsys, *log, status=2)
    second.unlink()
    assert "does not follow" in run(capsys, *log, status=2)
    second.write_bytes(whole)
    (tmp_path / f"{audit.NAME}.1").unlink()
    assert "none was changed" in run(capsys, *log)
    (tmp_path / audit.NAME).unlink()  # the power failed before the new file was there
    audit.note(tmp_path, "drop", replica="c/last")
    assert audit.read(tmp_path)[-1].replica == "c/last"


def commands_of(page: str) -> list[list[str]]:
    """The commands of podheitor-receiver in the blocks of a page, without what stands before."""
    found = []
    for line in "\n".join(re.findall(r"```console\n(.*?)```", page, re.DOTALL)).splitlines():
        before, program_name, words = line.partition(" podheitor-receiver podheitor-receiver ")
        if program_name:
            assert before.endswith("sudo -u")
            found.append(shlex.split(words))
    return found


def test_the_commands_of_the_page_about_security_are_commands() -> None:
    page = (ROOT / "docs/security.md").read_text("utf-8")
    found = commands_of(page)
    assert {words[0] for words in found} >= {"allow", "rollback", "drop", "audit", "verify", "pair"}
    parser = command_line()
    for words in found:
        parser.parse_args(words)


def test_what_pair_prints_can_be_typed_on_the_receiver(
    receiver_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the certificate of the source, and asks for a VM by its UUID."""
    site = receiver_site
    assert site.running
    receiver = tls.load_identity(site.identity).fingerprint
    address = "{}:{}".format(*site.running.address)
    pair = ("pair", "--identity", str(site.folder / "new"), "--receiver", address)
    printed = run(capsys, *pair, "--fingerprint", receiver)
    (line,) = [line for line in printed.splitlines() if "allow" in line]
    (words,) = commands_of(f"```console\n{line.replace('UUID', VM)}\n```")
    run(capsys, *words, "--identity", str(site.identity), "--store", str(site.store.root))
    (grant,) = allowed.load(site.identity)
    source = tls.load_identity(site.folder / "new").fingerprint
    assert (grant.source, grant.vm) == (source, VM)


def test_the_steps_after_the_key_of_the_receiver_was_stolen_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/security.md says: a new identity, which each source trusts; each is allowed again."""
    store = make_store(tmp_path / "store", Limits(reserve=0))
    site = Site(tmp_path, store)
    tls.ensure_identity(site.identity, "receiver")
    with Receiver(store, site.identity, options=site.options) as site.running:
        contents = history(site)
    site.identity.rename(tmp_path / "stolen-identity")
    shown = run(capsys, "pair", "--identity", str(site.identity)).splitlines()[0]
    source = site.folder / "source"
    with Receiver(store, site.identity, options=site.options) as site.running:
        address = "{}:{}".format(*site.running.address)
        pair = ("pair", "--identity", str(source), "--receiver", address)
        run(capsys, *pair, "--fingerprint", shown.split()[-1])
        certificate = tls.load_identity(source).one_line
        where = ("--identity", str(site.identity), "--store", str(store.root))
        run(capsys, "allow", certificate, "--vm", VM, *where)
        again, stream = cycle_of(contents[2], site.replica().points()[-1].digest, 9)
        with site.connect(source) as session:
            assert send(session, again, stream) == 4
        assert tls.load_identity(tmp_path / "stolen-identity").fingerprint not in tls.paired_with(
            source, address
        )


def test_the_steps_after_a_theft_work(
    receiver_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/security.md says: shut it out, find the last good point, go back, let it in anew."""
    site = receiver_site
    contents = history(site)
    thief = site.folder / "source"
    found = tls.load_identity(thief).fingerprint
    where = ("--store", str(site.store.root))
    mine = ("--identity", str(site.identity), *where)
    run(capsys, "allow", found, "--deny", *mine)
    run(capsys, "allow", found, "--remove", *mine)
    run(capsys, "verify", VM, *where)
    run(capsys, "rollback", VM, "--point", "2", "--yes", *where)
    fresh = site.source("fresh")
    line = tls.load_identity(fresh).one_line
    run(capsys, "allow", line, "--vm", VM, "--adopt", *mine)
    run(capsys, "audit", "--verify", *where)
    again, stream = cycle_of(contents[2], site.replica().points()[-1].digest, 9)
    with site.connect(fresh) as session:
        assert send(session, again, stream) == 3
    with pytest.raises(Exception, match=r"(?i)accept|closed|denied|broke"):
        site.connect(thief)
    assert [e.event for e in audit.read(site.store.root)][:3] == ["deny", "remove", "rollback"]
