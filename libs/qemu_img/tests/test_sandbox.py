"""What qemu-img is given: no rights, no network, no file but those named; and the same bytes."""

from __future__ import annotations

import filecmp
import os
import subprocess
from pathlib import Path

import attrs
import pytest
import qemu_img
from qemu_img import Bounds, Files, ToolFailed, sandbox

pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which is what is given up"),
]
MIB = 1 << 20
BOUNDS = Bounds(cpu=60, wall=60, memory=2048 * MIB, output=256 * MIB)
with_landlock = pytest.mark.skipif(
    not sandbox.landlock_version(), reason="needs a kernel with Landlock"
)


@attrs.frozen
class Inside:
    """A shell in the place of qemu-img, which says what it can do."""

    folder: Path
    read: Path
    written: Path

    def run(self, script: str) -> str:
        program = self.folder / "qemu-img"
        program.write_text(
            f"#!/bin/sh\nexec 2>&1\n{{\n{script}\n}} >$OUT\n".replace(
                "$OUT", Files((self.read,), (self.written,)).name(self.written)
            )
        )
        qemu_img.run([], "tell", Files((self.read,), (self.written,)), BOUNDS)
        return self.written.read_text()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inside:
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    for above in (tmp_path, *tmp_path.parents):  # only the sandbox is in the way
        mode = above.stat().st_mode
        if not mode & 0o001:
            above.chmod(mode | 0o011)
    program = folder / "qemu-img"
    program.touch(mode=0o755)
    read, written = tmp_path / "read", tmp_path / "written"
    read.write_text("the image")
    read.chmod(0o600)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("A_SECRET", "of-bacula-fd")
    return Inside(folder, read, written)


def test_it_is_nobody_without_rights_and_environment(shell: Inside) -> None:
    """PR_CAPBSET_READ is 23 and PR_GET_NO_NEW_PRIVS is 39 in linux/prctl.h."""
    said = shell.run(
        "env; exec /usr/bin/python3 -IS -c '"
        "import ctypes, os, resource, socket; prctl = ctypes.CDLL(None).prctl;"
        "print(os.getresuid(), os.getresgid(), os.getgroups());"
        "print(sum(prctl(23, number, 0, 0, 0) == 1 for number in range(38)),"
        " prctl(39, 0, 0, 0, 0));"
        "print(resource.getrlimit(resource.RLIMIT_CORE), socket.if_nameindex())'"
    )
    assert "A_SECRET" not in said
    *_, ids, rights, rest = said.splitlines()
    assert ids == "(65534, 65534, 65534) (65534, 65534, 65534) []"
    assert rights == "0 1"
    assert rest == "(0, 0) [(1, 'lo')]"


@with_landlock
def test_it_reads_and_writes_what_is_named_and_nothing_else(shell: Inside, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("everybody can read this")
    other.chmod(0o666)
    name = Files((shell.read,), (shell.written,)).name(shell.read)
    said = shell.run(
        f"cat {name}; echo; cat {other} || echo not read; echo x >{other} || echo not written;"
        f"echo x >>{name} || echo not changed; cat /etc/passwd || echo no users;"
        f"ls /tmp || echo no folder; cat /proc/1/status || echo no processes"
    )
    assert said.startswith("the image\n")
    for word in ("not read", "not written", "not changed", "no users", "no folder", "no processes"):
        assert word in said, said
    assert other.read_text() == "everybody can read this"
    assert shell.read.read_text() == "the image"


def test_it_has_no_network(shell: Inside) -> None:
    script = (
        "/usr/bin/python3 -IS -c 'import socket; s = socket.socket(); s.settimeout(5);"
        ' print(s.connect_ex(("127.0.0.1", 9)))\''
    )
    assert int(shell.run(script).split()[-1]) in {13, 101}  # EACCES, ENETUNREACH


def test_a_user_without_rights_has_no_network_either(tmp_path: Path) -> None:
    """The backend that has given up root's rights starts qemu-img as its own user."""
    tmp_path.chmod(0o755)
    for above in tmp_path.parents:
        above.chmod(above.stat().st_mode | 0o011)
    launcher = tmp_path / "sandbox.py"
    launcher.write_bytes(Path(sandbox.__file__).read_bytes())
    launcher.chmod(0o644)
    script = (
        "import errno, os, socket; s = socket.socket(); s.settimeout(5)\n"
        "print(s.connect_ex(('127.0.0.1', 9)) in {errno.EACCES, errno.ENETUNREACH})\n"
        "try: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\n"
        "except PermissionError: print('no rights')\n"
        "try: os.listdir('/tmp')\n"
        "except PermissionError: print('no folder')\n"
    )
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *("/usr/bin/python3", "-IS", launcher, '{"read": [], "write": [], "limits": {}}'),
            *("/usr/bin/python3", "-IS", "-c", script),
        ],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True", "no rights", "no folder"], done.stderr


def test_files_belong_to_us_again_afterwards(shell: Inside) -> None:
    shell.run("true")
    with pytest.raises(ToolFailed):
        qemu_img.run([], "fail", Files((shell.read,), (shell.folder / "none" / "x",)), BOUNDS)
    for path in (shell.read, shell.written):
        found = path.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (0, 0o600)


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("of root")
    link.symlink_to(victim)
    for files in (Files((link,)), Files((), (link,))):
        with pytest.raises(ToolFailed, match="Too many levels of symbolic links"):
            qemu_img.run(["info"], "look", files, BOUNDS)


@pytest.mark.parametrize("kind", ["vhdx", "vmdk", "qcow2"])
def test_the_bytes_are_the_same(tmp_path: Path, kind: str) -> None:
    raw, image, out = tmp_path / "a.raw", tmp_path / f"a.{kind}", tmp_path / "b.raw"
    raw.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, raw, image], check=True)
    files = Files((image,), (out,))
    source = f"driver={kind},file.driver=file,file.filename={files.name(image)}"
    qemu_img.run(
        ["convert", "--image-opts", source, "-O", "raw", files.name(out)], "read", files, BOUNDS
    )
    assert filecmp.cmp(raw, out, shallow=False)


def test_a_kernel_without_landlock_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)
    assert "this kernel has no Landlock" in qemu_img.weakness()


def test_a_run_ends_when_it_is_not_wanted_any_more(shell: Inside) -> None:
    (shell.folder / "qemu-img").write_text("#!/bin/sh\nwhile :; do :; done\n")

    def check() -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        qemu_img.convert_to_qcow2(shell.read, shell.written, check)
    assert not shell.written.exists()
