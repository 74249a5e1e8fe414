"""A disaster and the way back, on two embedded labs: replicas, drills and failovers, each proven.

It drives the command lines as an administrator would, and looks at the labs' bytes only to compare.
The VM has a small Linux that boots, and a disk on which a writer never stops. Run from the root of
the checkout, as a module.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import attrs
from prism_lab import Lab
from rich.table import Table

from apps.nutanix_backend.demo.main_job import MIB, command, console, identical, say

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "podheitor-nutanix-backend"
RECEIVER = "podheitor-receiver"
GUEST = Path(".ci/guest")
VM = "web01"
DATA = 128 * MIB
EVERY = 3
"""Seconds between two cycles where they are not made by hand."""


@attrs.frozen
class Prism:
    """A site: its lab, and what reaches it."""

    lab: Lab
    config: Path
    state: Path

    @classmethod
    def start(cls, stack: ExitStack, folder: Path, name: str) -> Prism:
        """Start a lab, and write the configuration file an administrator would."""
        lab = stack.enter_context(Lab.start(folder / name, cluster_name=name, task_seconds=0.05))
        config = folder / f"{name}.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"prism = {lab.pc_host}\nuser = {lab.user}\npassword = {lab.password}\n"
            f"ca = {lab.ca_file}\nstate_dir = {folder / name}-state\ntransport = userspace\n"
            "proxy_mode = in_cluster\n"
        )
        return cls(lab, config, folder / f"{name}-state")

    def vm(self, name: str) -> dict[str, Any] | None:
        """A VM by its name."""
        return next((vm for vm in self.lab.state()["vms"] if vm["name"] == name), None)

    def is_on(self, name: str) -> bool:
        """Whether a VM runs."""
        vm = self.vm(name)
        return vm is not None and vm["power"] == "ON"

    def disks(self, name: str) -> list[Path]:
        """The disks of a VM as they are now."""
        vm = self.vm(name)
        return [Path(disk["file"]) for disk in vm["disks"]] if vm else []


class Writer:
    """What the guest does all the time: it writes somewhere on its data disk while it runs."""

    def __init__(self, site: Prism, disk: Path) -> None:
        self._site = site
        self._disk = disk
        self._chance = random.Random(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.written = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Write until the end of this."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            if self._site.is_on(VM):
                self.write()

    def write(self) -> None:
        """A piece of up to 256 KiB, anywhere."""
        length = self._chance.randrange(512, 256 * 1024)
        with self._disk.open("r+b") as disk:
            disk.seek(self._chance.randrange(DATA - length))
            disk.write(self._chance.randbytes(length))
        self.written += length


class Receiver:
    """The receiver at the other site, in a process of its own, paired with the source."""

    def __init__(self, folder: Path, *sources: Prism) -> None:
        self.store = folder / "store"
        self._identity = folder / "receiver-identity"
        self._sources = sources
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """The receiver, which ends with this."""
        fingerprint = self._show_identity(self._identity)[0]
        serve = [
            RECEIVER, "serve", "--store", str(self.store),
            "--identity", str(self._identity), "--listen", self.address, "--reserve", "64M",
        ]  # fmt: skip
        with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as process:
            try:
                self._wait()
                for site in self._sources:
                    self._pair(site, fingerprint)
                yield
            finally:
                process.terminate()

    def _pair(self, site: Prism, fingerprint: str) -> None:
        """Both sides learn the other's certificate; the fingerprint was compared by somebody."""
        ours = site.state / "identity"
        words = ("--identity", ours, "--receiver", self.address, "--fingerprint", fingerprint)
        command(PROGRAM, "pair", *words)
        certificate = self._show_identity(ours)[1]
        allow = ("allow", "--identity", self._identity, "--vm", "*")
        command(RECEIVER, *allow, certificate)

    def _show_identity(self, folder: Path) -> tuple[str, str]:
        """The fingerprint and the certificate of a side, made if need be."""
        said = command(PROGRAM, "pair", "--identity", folder).stdout
        fingerprint, certificate = (line.rpartition(" ")[2] for line in said.splitlines()[:2])
        return fingerprint, certificate

    def _wait(self) -> None:
        host, _, port = self.address.partition(":")
        for _ in range(300):
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        sys.exit("demo: the receiver does not listen")


@attrs.define
class Step:
    """A row of the table: what was done, how long it took (seconds), and what was proven."""

    name: str
    seconds: float
    verdict: str
    good: bool = True


@attrs.frozen
class Transcripts:
    """What the guide shows: commands and what they said, under the names of a real site."""

    names: dict[str, str]
    folder: Path | None

    def keep(self, name: str, words: tuple[object, ...], said: str, program: str = PROGRAM) -> None:
        """Record a command, if that is wanted."""
        if self.folder is None:
            return
        typed = f"$ {program} {' '.join(map(str, words))}\n" if words else ""
        text = f"{typed}{said.strip()}\n"
        for ours, real in self.names.items():
            text = text.replace(ours, real)
        text = text.replace(" --store /var/lib/podheitor-receiver/store", "")
        if words[:1] == ("failover",) and "config_file=" in typed:  # as suites/systemd types it
            text = text.replace(f"$ {program} failover", "$ sudo podheitor-failover", 1)
            text = text.replace("/etc/podheitor-nutanix/", "/etc/podheitor-failover/")
        (self.folder / f"dr-{name}.txt").write_text(text)


class Demo:
    """The story: every method is a chapter."""

    def __init__(
        self, folder: Path, here: Prism, there: Prism, receiver: Receiver, record: Path | None
    ) -> None:
        self._folder = folder
        names = {
            str(receiver.store): "/var/lib/podheitor-receiver/store",
            str(folder / "copies"): "/var/dr",
            str(here.config): "/etc/podheitor-nutanix/site-a.conf",
            str(there.config): "/etc/podheitor-nutanix/site-b.conf",
            here.lab.pc_host: "prism-a.example.com",
            there.lab.pc_host: "prism-b.example.com",
            receiver.address: "receiver.example.com:9848",
            "*=lab-net": "'*=lab-net'",
        }
        self._transcripts = Transcripts(names, record)
        self._here = here
        self._there = there
        self._receiver = receiver
        self._steps: list[Step] = []
        self._truth: dict[int, list[Path]] = {}
        """The bytes of the recovery point of each generation."""

    def run(self) -> None:
        """Seed, cycles, drill, disaster, the way back, and the planned move."""
        writer = self._create_vm()
        with writer.at_work():
            self._cycle(1)
            for number in (2, 3, 4):
                self._cycle(number)
            self._drill()
            self._worst_day()
            self._planned()
        self._for_good()
        self._show()
        self._look_around(writer)

    # --- replication

    def _create_vm(self) -> Writer:
        say(f"{VM} on site-a: a small Linux that boots, and a disk on which a writer never stops")
        image = self._folder / "guest.raw"
        command(GUEST / "build", image, "seed")
        self._here.lab.create_vm(VM, [image.stat().st_size, DATA])
        system, data = self._here.disks(VM)
        command("dd", f"if={image}", f"of={system}", "conv=notrunc,sparse", "bs=1M")
        writer = Writer(self._here, data)
        for _ in range(300):
            writer.write()
        return writer

    def _mark(self, marker: str) -> None:
        """Change a file of the guest: what it says when it boots tells where its disk is from."""
        system = self._here.disks(VM)[0]
        config = self._folder / "syslinux.cfg"
        command("mcopy", "-o", "-i", f"{system}@@1M", "::syslinux.cfg", config)
        config.write_text(re.sub(r"marker=\S+", f"marker={marker}", config.read_text()))
        command("mcopy", "-o", "-i", f"{system}@@1M", config, "::")

    def _cycle(self, number: int) -> None:
        """One cycle; the replica is the recovery point."""
        self._mark(f"generation-{number}")
        what = "seed" if number == 1 else "cycle"
        say(f"{what}: generation {number}, while the guest writes")
        began = time.monotonic()
        said = self._replicate()
        seconds = time.monotonic() - began
        self._keep_truth(number)
        kind = "(seed)" if number == 1 else "(changes)"
        exported = self._export(number)
        good = kind in said and self._same(self._truth[number], exported)
        verdict = f"replica = recovery point, {_sent(said)}"
        self._judge(f"{what}, generation {number}", seconds, good, verdict)

    def _replicate(self, *, check: bool = True) -> str:
        words = ("--to", self._receiver.address, f"config_file={self._here.config}", VM)
        done = command(PROGRAM, "replicate", *words, check=check)
        self._transcripts.keep(
            "replicate" if check else "fenced", ("replicate", *words), done.stdout + done.stderr
        )
        return done.stdout + done.stderr

    def _keep_truth(self, number: int) -> None:
        """Copy the bytes of the recovery point of a generation: the next cycle deletes it."""
        (point,) = self._here.lab.state()["recovery_points"]
        self._truth[number] = []
        vm = self._here.vm(VM)
        for index, disk in enumerate(vm["disks"] if vm else ()):
            copy = self._folder / f"truth-{number}-{index}.raw"
            source = self._here.lab.recovery_point_file(point["ext_id"], disk["ext_id"])
            command("cp", "--sparse=always", source, copy)
            self._truth[number].append(copy)

    def _export(self, number: int) -> list[Path]:
        """The disks of a generation, as the receiver hands them out."""
        folder = self._folder / f"exported-{number}"
        words = ("--store", self._receiver.store, VM, folder, "--point", number)
        command(RECEIVER, "export", *words)
        return sorted(folder.glob("*.raw"))

    # --- the drill

    def _drill(self) -> None:
        say("drill: an isolated copy on this host, booted by qemu from its libvirt domain")
        copies = self._folder / "copies"
        copies.mkdir()
        began = time.monotonic()
        self._failover("test", VM, "--folder", copies)
        seconds = time.monotonic() - began
        words = ("status", "--store", self._receiver.store)
        self._transcripts.keep("status", words, command(RECEIVER, *words).stdout, RECEIVER)
        folder = copies / f"{VM}-test"
        images = sorted(folder.glob("*.qcow2"))
        same = all(
            _is_image_of(image, truth) for image, truth in zip(images, self._truth[4], strict=True)
        )
        self._judge("test failover to this host", seconds, same, "qcow2 = generation 4")
        self._boot(folder / "domain.xml", "generation-4")
        self._cycle(5)
        began = time.monotonic()
        self._failover("end-test", VM)
        gone = not list(copies.iterdir())
        self._judge("end of the test", time.monotonic() - began, gone, "nothing is left of it")

    def _boot(self, domain: Path, marker: str) -> None:
        """Boot the copy, without writing to it, and show its serial line."""
        began = time.monotonic()
        done = command(*_qemu(domain), check=False)
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        booted = f"PODHEITOR GUEST BOOTED {marker}"
        self._transcripts.keep("boot", (), "\n".join(lines))
        for line in lines[-3:]:
            console.print(f"   serial: {line}", highlight=False, markup=False)
        good = booted in lines
        self._judge("the copy boots", time.monotonic() - began, good, f"serial line: {booted}")

    # --- the worst day, and the way back

    def _worst_day(self) -> None:
        say("the worst day: unplanned failover to site-b")
        began = time.monotonic()
        self._failover("unplanned", VM, *self._to_site_b())
        seconds = time.monotonic() - began
        name = f"{VM}-failover"
        good = self._there.is_on(name) and self._same(self._truth[5], self._there.disks(name))
        self._judge("unplanned failover to site-b", seconds, good, "runs, and is generation 5")
        words = self._replicate(check=False)
        refused = next((line for line in words.splitlines() if "takes no cycles" in line), "")
        console.print(f"   {refused}", highlight=False)
        self._judge("the source is fenced", 0.0, bool(refused), "its cycle is refused")
        say("a false alarm: undone")
        began = time.monotonic()
        self._failover("undo", VM, "--target", f"config_file={self._there.config}")
        gone = self._there.vm(name) is None
        self._judge("undo", time.monotonic() - began, gone, "the copy is gone from site-b")
        self._cycle(6)

    # --- the planned move

    def _planned(self) -> None:
        say(f"planned failover, while `replicate --every {EVERY}` goes on at the source")
        words = ("--to", self._receiver.address, "--every", str(EVERY))
        source = [PROGRAM, "replicate", *words, f"config_file={self._here.config}", VM]
        with subprocess.Popen(
            source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as goes_on:
            try:
                began = time.monotonic()
                from_a = ("--source", f"config_file={self._here.config}")
                self._failover("planned", VM, *self._to_site_b(), *from_a)
                seconds = time.monotonic() - began
            finally:
                goes_on.terminate()
        name = f"{VM}-failover"
        off = not self._here.is_on(VM)
        same = self._same(self._here.disks(VM), self._there.disks(name))
        good = off and same and self._there.is_on(name)
        self._judge("planned failover to site-b", seconds, good, "not a byte is lost")

    def _for_good(self) -> None:
        say("site-b is production now; the other direction begins")
        began = time.monotonic()
        self._failover("permanent", VM)
        closed = json.loads(self._failover("status", "--json"))[0]["state"] == "permanent"
        self._judge("permanent", time.monotonic() - began, closed, "the relation is closed")
        self._failover("reverse", VM)
        began = time.monotonic()
        name = f"{VM}-failover"
        words = ("--to", self._receiver.address, f"config_file={self._there.config}", name)
        said = command(PROGRAM, "replicate", *words).stdout
        good = "generation 1 (seed)" in said
        self._judge("reverse replication", time.monotonic() - began, good, _sent(said))

    # --- tools

    def _to_site_b(self) -> tuple[object, ...]:
        return ("--target", f"config_file={self._there.config}", "--network", "*=lab-net")

    def _failover(self, action: str, *words: object) -> str:
        words = ("--store", self._receiver.store, *words)
        done = command(RECEIVER, "failover", action, *words)
        if "--json" not in words:
            self._transcripts.keep(action, ("failover", action, *words), done.stdout, RECEIVER)
            for line in done.stdout.splitlines():
                console.print(f"   {line}", highlight=False, markup=False)
        return done.stdout

    def _same(self, truth: list[Path], found: list[Path]) -> bool:
        """Whether disks are equal bit for bit, in this order."""
        return len(truth) == len(found) and all(map(identical, truth, found))

    def _judge(self, name: str, seconds: float, good: bool, verdict: str) -> None:  # noqa: FBT001 - what is judged
        self._steps.append(Step(name, seconds, verdict if good else "FAILED", good))
        took = f"{seconds:.1f} s: " if seconds else ""
        console.print(f"   {took}{self._steps[-1].verdict}", highlight=False)

    def _show(self) -> None:
        table = Table(title="What was proven")
        table.add_column("step")
        table.add_column("seconds", justify="right")
        table.add_column("verdict")
        for step in self._steps:
            table.add_row(step.name, f"{step.seconds:.1f}" if step.seconds else "", step.verdict)
        console.print(table)
        command(RECEIVER, "verify", "--store", self._receiver.store)
        say("verify: every generation that is kept is what was committed")
        words = ("failover", "history", "--store", self._receiver.store, VM)
        said = command(RECEIVER, *words).stdout
        self._transcripts.keep("history", words, said, RECEIVER)
        history = said.splitlines()
        say(f"the audit log has {len(history)} lines; its last ones:")
        for line in history[-4:]:
            console.print(f"   {line}", highlight=False, markup=False)

    def _look_around(self, writer: Writer) -> None:
        """Nothing is left on either site but what is meant to be; no verdict was bad."""
        leaks = [
            f"{kind} of {site.lab.cluster_name}"
            for site in (self._here, self._there)
            for kind, found in site.lab.state().items()
            if found and kind in {"images", "volume_groups", "sessions"}
        ]
        points = {
            site.lab.cluster_name: len(site.lab.state()["recovery_points"])
            for site in (self._here, self._there)
        }
        bad = [step.name for step in self._steps if not step.good]
        if bad or leaks or any(number != 1 for number in points.values()):
            sys.exit(f"demo: FAILED: {bad or leaks or points}")
        written = writer.written / MIB
        say(f"proven, while the guest wrote {written:.0f} MiB; left: a reference on each site")


def _sent(said: str) -> str:
    """What a cycle says that it sent."""
    found = re.search(r"[0-9.]+ [KMG]?i?B sent", said)
    return found[0] if found else "nothing was sent"


def _is_image_of(image: Path, truth: Path) -> bool:
    """Whether a qcow2 holds these bytes."""
    words = ("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, truth)
    return command(*words, check=False).returncode == 0


def _qemu(domain: Path) -> list[object]:
    """The command line of qemu for a domain, as libvirt would make it, headless and read-only."""
    root = ET.parse(domain).getroot()
    machine = root.find("os/type")
    words: list[object] = [
        "timeout", "90", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults",
        "-display", "none", "-serial", "stdio", "-no-reboot", "-snapshot",
        "-machine", machine.get("machine") if machine is not None else "pc",
        "-m", str(int(root.findtext("memory") or 0) // MIB), "-smp", root.findtext("vcpu"),
        "-device", "virtio-scsi-pci,id=scsi",
    ]  # fmt: skip
    for number, disk in enumerate(root.findall("devices/disk")):
        source, driver, boot = disk.find("source"), disk.find("driver"), disk.find("boot")
        if source is not None and driver is not None and boot is not None:
            file = str(source.get("file")).replace(",", ",,")
            words += ["-drive", f"if=none,id=d{number},format={driver.get('type')},file={file}"]
            words += ["-device", f"scsi-hd,drive=d{number},bootindex={boot.get('order')}"]
    if root.find("devices/interface") is not None:
        sys.exit("demo: the copy of a drill has a network card")
    return words


def main() -> None:
    """Run the demo in a temporary folder; `--record FOLDER` keeps what the guide shows."""
    began = time.monotonic()
    record = Path(sys.argv[2]) if sys.argv[1:2] == ["--record"] else None
    with tempfile.TemporaryDirectory(prefix="podheitor-demo-") as name, ExitStack() as stack:
        folder = Path(name)
        say("starting two sites: each a Prism Central, a cluster and an iSCSI target on loopback")
        here, there = (Prism.start(stack, folder, site) for site in ("site-a", "site-b"))
        receiver = Receiver(folder, here, there)
        stack.enter_context(receiver.running())
        Demo(folder, here, there, receiver, record).run()
    say(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
