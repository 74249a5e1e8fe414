"""The commands of podheitor-receiver, beside a receiver that serves."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Protocol

import attrs
import pytest
from command_line import program
from replica_receiver.__main__ import command_line
from vm_replica.errors import CycleRefused, PeerRefused
from vm_replica.protocol import tls
from vm_replica.receiver import Receiver
from vm_replica.store.access import make_store
from vm_replica.store.admission import Limits

from libs.vm_replica.tests.receiver_site import SIZE, VM, Site, cycle_of, offer, opened, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534


class Run(Protocol):
    """Runs the program and checks its exit code; what it printed, or why it failed."""

    def __call__(self, *words: str | Path, status: int = 0) -> str: ...


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str | Path, status: int = 0) -> str:
        code = program.run(command_line(), [str(word) for word in words])
        printed = capsys.readouterr()
        assert code == status, printed
        return printed.out or printed.err

    return run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A receiver that serves a store, which `serve` has made."""
    store = make_store(tmp_path / "store", Limits(reserve=0))
    made = Site(tmp_path, store)
    tls.ensure_identity(made.identity, "receiver")
    with Receiver(store, made.identity, options=made.options) as made.running:
        yield made


# --- pair and allow -------------------------------------------------------------------------------


def test_keys_are_for_our_eyes_only_and_never_shown(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site.folder / "new"
    shown = run("pair", "--identity", str(folder), "--name", "me")
    assert tls.load_identity(folder).fingerprint in shown
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    key = (folder / "key.pem").read_text().splitlines()[1]
    assert key not in shown
    again = run("pair", "--identity", str(folder))
    assert again == shown, "a second time changes nothing"


def test_pairing_on_the_command_line(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = str(site.folder / "new"), f"127.0.0.1:{site.port}"
    wanted = tls.load_identity(site.identity).fingerprint
    pair = ("pair", "--identity", folder, "--receiver", address)
    assert wanted in run("pair", "--identity", str(site.identity))
    run(*pair, status=2)
    run(*pair, "--fingerprint", "00" * 32, status=2)
    assert tls.peers(site.folder / "new") == []
    colons = ":".join(wanted[at : at + 2] for at in range(0, 64, 2)).upper()
    assert "paired with" in run(*pair, "--fingerprint", colons)
    line = tls.load_identity(site.folder / "new").one_line
    allow = ("allow", "--identity", str(site.identity), "--store", str(site.store.root))
    run(*allow, line, status=2)
    run(*allow, line, "--vm", VM)
    assert VM in run(*allow)
    with site.connect(site.folder / "new") as session:
        opened(session)
    run(*allow, line, "--remove")
    assert run(*allow) == ""
    with pytest.raises(PeerRefused):
        site.connect(site.folder / "new")


# --- status ---------------------------------------------------------------------------------------


def test_status_says_how_replicas_stand(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--store", str(site.store.root))
    assert json.loads(run("status", "--json", *where)) == []
    now = int(time.time())
    manifest, stream = cycle_of(os.urandom(SIZE), taken=now - 30)
    source = site.source("source", VM)
    with site.connect(source) as session:
        send(session, manifest, stream)
        (shown,) = json.loads(run("status", "--json", *where))
        assert shown["level"] == "OK"
        assert 30 <= shown["lag"] < 60
        assert (shown["rpo"], shown["generation"], shown["size"]) == (60, 1, SIZE)
        assert shown["state"] == "replicating"
        late, stream = cycle_of(os.urandom(SIZE), manifest.digest(), now - 29)
        opened(session)
        with pytest.raises(CycleRefused):
            offer(session, attrs.evolve(late, base="sha256:" + "0" * 64))
        (shown,) = json.loads(run("status", "--json", *where, status=1))
        assert shown["level"] == "WARNING"
        assert "stands on another one" in shown["error"]
        send(session, late, stream)
    assert "OK" in run("status", *where)
    monkeypatch.setattr(time, "time", lambda: now + 1000.0)
    assert "lags" in run("status", *where, status=2)
    site.replica().fence()
    assert "OK" in run("status", *where)
    site.replica().files.state_path.write_text("{}")
    assert "unreadable" in run("status", *where, status=2)


def test_points_verify_and_export_on_the_command_line(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--store", str(site.store.root))
    old, new = os.urandom(SIZE), os.urandom(SIZE)
    first, stream = cycle_of(old)
    second, newer = cycle_of(new, first.digest(), 2)
    with site.connect(site.source("source", VM)) as session:
        send(session, first, stream)
        send(session, second, newer)
    shown = json.loads(run("points", "vm", "--json", *where))
    assert [point["generation"] for point in shown] == [1, 2]
    assert run("verify", *where).count("proven") == 2
    out = site.folder / "out"
    for number, content in ((1, old), (2, new)):
        folder = str(out / str(number))
        words = ("export", VM, folder, "--point", str(number), *where)
        run(*words)
        assert (out / str(number) / "disk-0-d.raw").read_bytes() == content
        run(*words, status=2)
    run("export", "nobody", str(out / "3"), *where, status=1)
    image = site.replica().files.image("d")
    image.write_bytes(b"damaged" + image.read_bytes()[7:])
    shown = run("verify", *where, status=2)
    assert shown.count("DAMAGED") == 1
    assert "generation 1: proven" in shown, "what is kept of the first is all of it"


# --- what is refused, and says why ---------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "points", "verify", "export", "allow", "failover"])
def test_a_store_that_is_not_there_is_critical(run: Run, tmp_path: Path, command: str) -> None:
    """An empty table would tell monitoring that all is well."""
    words = {
        "points": ("vm",), "export": ("vm", tmp_path / "out"), "failover": ("status",),
        "allow": ("--identity", tmp_path / "identity", "00" * 32, "--vm", "*", "--adopt"),
    }  # fmt: skip
    said = run(command, *words.get(command, ()), "--store", tmp_path / "wrong", status=2)
    assert "is not the store of a receiver" in said
    assert list(tmp_path.iterdir()) == []


def belongs_to_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a folder belong to another user than the one who types."""
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


def listed(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each file with its owner and the time of its last change."""
    return {path: (path.stat().st_uid, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "words",
    [
        ("verify",),
        ("status",),
        ("points", "vm"),
        ("export", "vm", "{out}"),
        ("serve", "--listen", "127.0.0.1:0"),
        ("allow", "{line}", "--vm", "*"),
        ("allow", "{line}", "--vm", "*", "--adopt"),
        ("allow", "{line}", "--remove"),
        ("pair",),
        ("failover", "test", "vm", "--folder", "{out}"),
        ("failover", "status"),
    ],
)
def test_root_creates_no_files_in_a_store_of_the_receiver(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Such a file locks the receiver out: it calls a healthy replica damaged, or admits nobody."""
    manifest, stream = cycle_of(os.urandom(SIZE))
    source = site.source("source", VM)
    with site.connect(source) as session:
        send(session, manifest, stream)
    for folder in (site.store.root, site.identity):
        belongs_to_another(folder, monkeypatch)
    before = listed(site.folder)
    line = tls.load_identity(source).one_line
    given = [word.format(out=site.folder / "out", line=line) for word in words]
    if words[0] not in {"allow", "pair"} or "--adopt" in words:
        given += ["--store", str(site.store.root)]
    if words[0] in {"serve", "allow", "pair"}:
        given += ["--identity", str(site.identity)]
    said = run(*given, status=2)
    assert "run this command with sudo -u" in said
    assert listed(site.folder) == before


def test_root_makes_no_identity_in_the_home_of_the_receiver(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    belongs_to_another(tmp_path, monkeypatch)
    said = run("pair", "--identity", tmp_path / "identity", status=2)
    assert f"{tmp_path} belongs to user" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("serve", "--reserve", "1x"), "argument --reserve: '1x' is not a size"),
        (("serve", "--keep-age", "inf"), "argument --keep-age: 'inf' is not a time"),
        (("serve", "--keep-points", "-1"), "argument --keep-points: '-1' is not from 0"),
        (("status", "--rpo", "1w"), "argument --rpo: '1w' is not a time"),
        (("failover", "planned", "vm", "--grace", "nan"), "argument --grace: 'nan' is not a time"),
        (("failover", "undo", "vm", "--patience", "x"), "argument --patience: 'x' is not a time"),
        (("failover", "test", "vm", "--target", "nonsense"), "'nonsense' is not KEY=VALUE"),
    ],
)
def test_a_value_that_cannot_be_used_has_a_sentence(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line().parse_args(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_damaged_record_of_one_replica_hides_no_other(site: Site, run: Run) -> None:
    """Its neighbour is found, verified and shown; it is reported itself."""
    manifest, stream = cycle_of(os.urandom(SIZE))
    with site.connect(site.source("source", VM)) as session:
        send(session, manifest, stream)
    damaged = site.store.root / "replicas" / "c" / "damaged"
    damaged.mkdir()
    (damaged / "replica.json").write_text("{}")
    where = ("--store", site.store.root)
    assert "proven" in run("verify", "vm", *where)
    assert "c/damaged: DAMAGED" in run("verify", *where, status=2)
    assert "vm" in run("failover", "status", *where, status=1)
    assert "c/damaged" in run("points", "nobody", *where, status=1)
