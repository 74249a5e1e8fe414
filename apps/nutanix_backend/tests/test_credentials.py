"""Credentials go only where the place that named them sends them, and no message shows one."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trustme
from nutanix_backend.errors import ParameterError
from nutanix_backend.job import JobContext
from nutanix_backend.settings import places
from nutanix_backend.settings.parameters import (
    parse,
    refuse_secrets,
    require_connection,
    with_target,
)
from nutanix_backend.settings.places import PLUGIN_LINE, RESTORE, TYPED_LINE
from nutanix_backend.settings.secrecy import Secrets

from apps.nutanix_backend.tests.conftest import BACKEND, PATIENCE, Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nutanix_backend.settings.places import SettingPlace

pytestmark = pytest.mark.security

SECRET = "Pr1sm-Passw0rd"
DAEMON_PLACES = (PLUGIN_LINE, TYPED_LINE, RESTORE)


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Make a file that only its owner can read."""

    def make(name: str, text: str) -> Path:
        file = tmp_path / name
        file.touch(mode=0o600)
        file.write_text(text)
        return file

    return make


@pytest.fixture
def config(secret_file: Callable[[str, str], Path]) -> Path:
    """A configuration file as the guide has it."""
    ca = secret_file("ca.pem", "")
    password = secret_file("password", f"{SECRET}\n")
    return secret_file(
        "prism.conf", f"prism=pc.example\nuser=backup\npassword_file={password}\nca={ca}\n"
    )


def connection(place: SettingPlace, **given: object) -> Any:
    settings = parse([(name, str(text)) for name, text in given.items()], place)
    require_connection(settings)
    return settings


# --- where credentials may go ---------------------------------------------------------------------


@pytest.mark.parametrize("place", DAEMON_PLACES)
def test_credentials_of_a_file_go_where_the_file_says(place: SettingPlace, config: Path) -> None:
    settings = connection(place, config_file=config, timeout=5)
    assert (settings.prism, settings.password) == ("pc.example", SECRET)
    assert connection(place, config_file=config, prism="pc.example").prism == "pc.example"


@pytest.mark.parametrize("place", DAEMON_PLACES)
@pytest.mark.parametrize("name", ["prism", "ca", "fingerprint"])
def test_credentials_of_a_file_go_nowhere_else(
    place: SettingPlace, name: str, config: Path
) -> None:
    text = config if name == "ca" else "evil.example"
    with pytest.raises(ParameterError, match=f"^{name} comes from {place}, but the credentials"):
        connection(place, config_file=config, **{name: text})


@pytest.mark.parametrize("place", DAEMON_PLACES)
def test_trust_is_weakened_only_by_a_file_of_the_host(
    place: SettingPlace, config: Path, secret_file: Callable[[str, str], Path]
) -> None:
    for given in ({"prism_insecure": "yes"}, {"ca": ""}):
        (name,) = given
        with pytest.raises(ParameterError, match=f"^{name}=.* counts only in a file of this host"):
            connection(place, config_file=config, **given)
    lax = secret_file("lab.conf", config.read_text() + "prism_insecure=yes\n")
    assert connection(place, config_file=lax).prism_insecure


def test_a_plugin_line_of_a_backup_is_one_place(secret_file: Callable[[str, str], Path]) -> None:
    """The Director's administrator wrote it: bconsole changes nothing of it."""
    file = secret_file("password", f"{SECRET}\n")
    assert connection(PLUGIN_LINE, prism="pc", user="u", password="p").password == "p"
    assert connection(PLUGIN_LINE, prism="pc", user="u", password_file=file).password == SECRET


@pytest.mark.parametrize("place", [TYPED_LINE, RESTORE])
def test_a_password_file_is_not_sent_where_a_console_says(
    place: SettingPlace, secret_file: Callable[[str, str], Path]
) -> None:
    file = secret_file("password", f"{SECRET}\n")
    with pytest.raises(ParameterError, match="could send them to another host"):
        connection(place, prism="evil", user="u", password_file=file)


@pytest.mark.parametrize("secret", [{"user": "u", "password": "p"}, {"api_key": "k"}])
def test_a_secret_of_the_plugin_line_is_not_sent_where_a_restore_option_may_say(
    secret: dict[str, str],
) -> None:
    with pytest.raises(ParameterError, match="a restore option could send them"):
        connection(RESTORE, prism="evil", **secret)
    assert connection(TYPED_LINE, prism="own", **secret).prism == "own"


def test_a_file_with_address_and_credentials_helps_a_restore(config: Path) -> None:
    settings = parse(
        [("prism", "old"), ("user", "u"), ("password", "p"), ("target_config_file", str(config))],
        RESTORE,
    )
    target = with_target(settings).target
    assert target is not None
    require_connection(target)
    assert (target.prism, target.password) == ("pc.example", SECRET)
    assert Secrets(with_target(settings)).hide(f"({SECRET})") == "((hidden))"


class Stranger:
    """A server with a certificate of its own, which keeps what it is sent."""

    def __init__(self) -> None:
        leaf = trustme.CA().issue_cert("127.0.0.1")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(self.context)
        pem = leaf.cert_chain_pems[0].bytes().decode()
        self.fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        self.heads: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return  # close() was called
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        try:
            with self.context.wrap_socket(connection, server_side=True) as tls:
                self.heads.append(tls.recv(65_536))
                tls.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            self.heads.append(b"no TLS")

    def close(self) -> None:
        """Stop."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    running = Stranger()
    yield running
    running.close()


def test_restore_options_send_no_stored_password_to_a_stranger(
    stranger: Stranger, config: Path, tmp_path: Path
) -> None:
    """As bacula-fd sends them: the program itself, and a server that would take the password."""
    there = {"prism": stranger.address, "state_dir": tmp_path / "state"}
    file = config.parent / "password"
    tries: list[dict[str, Any]] = [
        {"config_file": config, "ca": "", "prism_insecure": "yes"},
        {"config_file": config, "fingerprint": stranger.fingerprint},
        {"user": "x", "password_file": file, "fingerprint": stranger.fingerprint},
        {"user": "x", "password": SECRET, "fingerprint": stranger.fingerprint},
    ]
    for number, options in enumerate(tries):
        with Daemon(tmp_path / f"daemon-{number}") as daemon:
            daemon.start_restore("", **there, **options)
            daemon.offer_file("/@vsphere/web/web.vmx", 10)
            line = daemon.fatal()
        assert "credentials" in line or "counts only in a file of this host" in line
        assert SECRET not in line
    assert not stranger.heads


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", DAEMON_PLACES)
@pytest.mark.parametrize("name", [*places.FILES, "state_dir"])
def test_a_console_names_no_path_of_this_host(
    place: SettingPlace, name: str, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to("/etc/shadow")
    for path in ("/etc/shadow", "/etc/podheitor-nutanix/../shadow", link):
        with pytest.raises(ParameterError, match="is outside of the folders"):
            parse([(name, str(path))], place)


def test_the_state_folder_of_the_package_may_be_named() -> None:
    folder = "/var/lib/podheitor-nutanix/two"
    assert str(parse([("state_dir", folder)], PLUGIN_LINE).state_dir) == folder


def test_the_list_of_folders_must_be_the_administrators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    file = tmp_path / "allowed"
    monkeypatch.setenv(places.VARIABLE, str(file))
    with pytest.raises(ParameterError, match="is outside of the folders"):
        parse([("config_file", str(config))], RESTORE)
    file.write_text(f"# ours\n{tmp_path}\n")
    assert parse([("config_file", str(config))], RESTORE).prism == "pc.example"
    file.chmod(0o666)
    with pytest.raises(ParameterError, match="can be changed by others than root"):
        parse([("config_file", str(config))], RESTORE)
    file.chmod(0o644)
    file.write_text("srv\n")
    with pytest.raises(ParameterError, match="srv is not an absolute path"):
        parse([("config_file", str(config))], RESTORE)


# --- files with secrets ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_can_read_is_refused(
    secret_file: Callable[[str, str], Path], mode: int
) -> None:
    file = secret_file("file", "password=hush\n")
    file.chmod(mode)
    for name in ("config_file", "password_file"):
        with pytest.raises(ParameterError, match=f"^{name} {file} holds a secret and is open"):
            parse([(name, str(file))])
    file.write_text("prism=pc\n")
    assert parse([("config_file", str(file))]).prism == "pc"
    file.chmod(0o620)
    with pytest.raises(ParameterError, match="can be changed by others than its owner"):
        parse([("config_file", str(file))])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
def test_a_file_of_another_user_is_refused(secret_file: Callable[[str, str], Path]) -> None:
    file = secret_file("file", "password=hush\n")
    os.chown(file, 65_534, 65_534)
    with pytest.raises(ParameterError, match="belongs to user 65534, who could change it"):
        parse([("config_file", str(file))])


def test_nothing_of_a_wrong_file_is_shown(secret_file: Callable[[str, str], Path]) -> None:
    file = secret_file("wrong", "")
    for text in ("hunter2", "b3BlbnNzaC1rZXk=", "DB_PASSWORD=hunter2", "\tTOKEN = abc"):
        file.write_text(text)
        with pytest.raises(ParameterError, match="line 1: ") as caught:
            parse([("config_file", str(file))])
        word = text.partition("=")[0].strip()
        assert word not in str(caught.value)
    file.write_bytes(b"p\xe4ssw\xf6rt")
    with pytest.raises(ParameterError, match="save it as UTF-8") as wrong:
        parse([("password_file", str(file))])
    assert "xe4" not in str(wrong.value)
    assert wrong.value.__cause__ is None


# --- command lines, messages, memory --------------------------------------------------------------


@pytest.mark.parametrize("name", ["password", "api_key"])
def test_a_secret_on_a_command_line_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match=f"^{name}= on a command line can be read"):
        refuse_secrets(["doctor", "prism=pc", f" {name}=hush"])
    refuse_secrets(["job", "--name", name, f"{name}_file=/x", "config_file=/x"])
    for command in (["doctor"], ["sweep"], ["job", "query", "--name", "n"], ["replicate"]):
        words = [*BACKEND, *command, f"{name}=hush-hush"]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2
        assert "can be read by every user of this host" in done.stderr
        assert "hush-hush" not in done.stdout + done.stderr


@pytest.mark.parametrize("key", [" k3y-A", "k3y-A ", "k3y\u20acA", "k3y\nA"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str) -> None:
    with pytest.raises(ParameterError, match="parameter api_key holds a blank") as caught:
        parse([("api_key", key)])
    assert key.strip() not in str(caught.value)


def test_secrets_are_taken_out_of_messages_and_logs() -> None:
    settings = parse([("password", "  hush-hush ")])
    hidden = Secrets(settings)
    assert hidden.hide("said '  hush-hush ', and hush-hush") == "said '(hidden)', and (hidden)"
    with pytest.raises(ValueError, match="hush-hush") as caught:
        int("it was hush-hush")
    error = (caught.type, caught.value, caught.tb)
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "with %s", ("hush-hush",), error)
    assert hidden.filter(record)
    assert "hush" not in logging.Formatter().format(record)


def test_a_job_says_no_secret() -> None:
    said: list[str] = []
    wire: Any = SimpleNamespace(send=lambda message: said.append(message.text))
    info: Any = None
    job = JobContext(wire, info, parse([("password", "hush-hush")]))
    for say in (job.say, job.warn, job.report, attrs.evolve(job).say):
        say("Prism echoed hush-hush")
    assert said == ["Prism echoed (hidden)"] * 4


def test_other_processes_cannot_read_our_memory() -> None:
    """PR_GET_DUMPABLE is 3 in linux/prctl.h."""
    program = (
        "import ctypes, resource; from nutanix_backend.settings import secrecy;"
        "secrecy.keep_memory_private();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "0", "0"]


def test_a_job_has_private_memory(tmp_path: Path) -> None:
    with Daemon(tmp_path / "daemon") as daemon:
        daemon.start_restore("", state_dir=tmp_path / "state")
        assert resource.prlimit(daemon.process.pid, resource.RLIMIT_CORE) == (0, 0)
