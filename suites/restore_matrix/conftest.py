"""The sources and targets of the restore matrix: real guests, and real backends that restore them.

Our own backups are made by the product on a lab. Those of siblings are laid out here as they store
them, and given to a backend as bacula-fd would.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import phcbt01
import pytest
from prism_lab import Lab
from ptcomm import Job, JobType, Level, Phase, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import Daemon, Guest, Product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MIB = 1 << 20
SYSTEM, DATA = 16 * MIB, 8 * MIB
PARTITION = MIB
"""Where the partition of the system disk begins."""
IMAGES = {
    "vmdk monolithicSparse": ("vmdk", "subformat=monolithicSparse"),
    "vmdk monolithicFlat": ("vmdk", "subformat=monolithicFlat"),
    "vmdk streamOptimized": ("vmdk", "subformat=streamOptimized"),
    "vmdk twoGbMaxExtentSparse": ("vmdk", "subformat=twoGbMaxExtentSparse"),
    "vhdx fixed": ("vhdx", "subformat=fixed"),
    "vhdx dynamic": ("vhdx", "subformat=dynamic,block_size=1M"),
}
PROXMOX = """\
boot: order=scsi0
cores: 2
memory: 2048
name: web-on-proxmox
net0: virtio=BC:24:11:0A:0B:0C,bridge=vmbr0,tag=20
scsi0: local-lvm:vm-100-disk-0,size=16M
scsi1: local-lvm:vm-100-disk-1,size=8M
scsihw: virtio-scsi-pci
"""
VSPHERE = """\
.encoding = "UTF-8"
displayName = "web-on-vsphere"
numvcpus = "2"
memSize = "2048"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "system.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "data.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.generatedAddress = "00:50:56:00:00:0a"
"""
SAMPLES = Path(__file__).parents[2] / "libs" / "vm_config" / "tests" / "samples"
HYPERV = SAMPLES / "hyperv" / "generation-1.xml"


# --- guests


def run(*command: object, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True, **options
    )
    return done.stdout


def system_disk(path: Path, files: Path) -> None:
    """A GPT with one partition that holds an ext4."""
    path.write_bytes(bytes(SYSTEM))
    run("sfdisk", "--quiet", path, input="label: gpt\nstart=2048, size=28672, type=linux\n")
    offset = f"offset={PARTITION}"
    run("mke2fs", "-q", "-t", "ext4", "-d", files, "-E", offset, path, "14336k")


def data_disk(path: Path, files: Path) -> None:
    """An ext4 without partitions."""
    path.write_bytes(bytes(DATA))
    run("mke2fs", "-q", "-t", "ext4", "-d", files, path)


def add_file(image: str, name: str, content: Path) -> None:
    """What a guest does between two backups."""
    run("debugfs", "-w", "-R", f"write {content} {name}", image)


def assert_file_systems(system: Path, data: Path) -> None:
    """Both file systems are clean, and the partition table is whole."""
    run("e2fsck", "-fn", f"{system}?offset={PARTITION}")
    run("e2fsck", "-fn", data)
    assert "EFI PART" in run("sfdisk", "--dump", system) or "gpt" in run("sfdisk", "--dump", system)


@attrs.frozen
class Disks:
    """The two disks of the guest at one time."""

    system: Path
    data: Path

    def later(self, folder: Path, content: Path, name: str) -> Disks:
        """The same after the guest wrote a file to each."""
        folder.mkdir()
        copies = Disks(folder / "system.raw", folder / "data.raw")
        for old, new in zip(self, copies, strict=True):
            shutil.copyfile(old, new)
        copies.write(content, name)
        return copies

    def write(self, content: Path, name: str) -> None:
        """The guest writes a file to each."""
        add_file(f"{self.system}?offset={PARTITION}", name, content)
        add_file(str(self.data), name, content)

    def __iter__(self) -> Iterator[Path]:
        return iter((self.system, self.data))


# --- sources


@attrs.frozen
class Outcome:
    """How a restore ended: the fatal line, or nothing; and the rest of the job log."""

    refused: str
    log: str


@attrs.frozen
class Source:
    """A backup: what it holds, and how to restore it below `where` with some parameters."""

    label: str
    disks: Sequence[Path]
    restore: Callable[[str, dict[str, object]], Outcome]
    reason: str = ""
    """With which words a restore to a VM is refused; empty when it is not."""


def of_a_job(product: Product, name: str, job_id: int) -> Callable[..., Outcome]:
    """Restore a backup of our own."""

    def restore(where: str, parameters: dict[str, object]) -> Outcome:
        result = jobs.restore(
            product.store, name, product.settings(**parameters), where=where, job_id=job_id
        )
        log = "\n".join(message.text for message in result.log)
        fatal = [m.text for m in result.log if m.severity is Severity.FATAL]
        assert bool(fatal) == (result.status is not Status.GOOD), log
        return Outcome(fatal[0] if fatal else "", log)

    return restore


def of_a_sibling(
    product: Product, folder: Path, files: Sequence[tuple[str, Path]]
) -> Callable[..., Outcome]:
    """Restore a backup of a sibling, whose files come in this order."""

    def restore(where: str, parameters: dict[str, object]) -> Outcome:
        with Daemon(folder) as daemon:
            try:
                job = Job(
                    "matrix.1", 7, JobType.RESTORE, where=where, working_dir=str(folder / "working")
                )
                daemon.start(Phase.RESTORE, job, product.parameters(**parameters))
                for name, path in files:
                    daemon.give_file(f"{where.rstrip('/')}/{name}", path.read_bytes())
                daemon.finish()
            except AssertionError:
                if not daemon._fatal_lines():
                    raise
            fatal = daemon._fatal_lines()
            log = "\n".join(message.text for message in daemon.messages)
        return Outcome(fatal[0] if fatal else "", log)

    return restore


class Bench:
    """Two clusters, one client with the product, and every source."""

    def __init__(self, root: Path, lab: Lab, other: Lab) -> None:
        self.root = root
        self.lab = lab
        self.other = other
        self.product = Product(lab, root / "host", references=9)
        self.config = root / "other.conf"
        self.config.write_text(
            f"prism={other.pc_host}\nuser={other.user}\npassword={other.password}\n"
            f"ca={other.ca_file}\ntransport=userspace\nproxy_mode=in_cluster\n"
        )
        self.config.chmod(0o600)
        files = root / "files"
        files.mkdir()
        self.content = files / "content"
        self.content.write_bytes(bytes(range(256)) * 4000)
        self.first = Disks(root / "system.raw", root / "data.raw")
        system_disk(self.first.system, files)
        data_disk(self.first.data, files)
        self.second = self.first.later(root / "second", self.content, "second")
        self.sources: dict[str, Source] = {}
        self._ours()
        self._proxmox()
        self._images()
        self._refused()

    def _add(self, source: Source) -> None:
        self.sources[source.label] = source

    def _guest(self) -> Guest:
        guest = self.product.guest(SYSTEM, DATA)
        for index, disk in enumerate(self.first):
            shutil.copyfile(disk, guest.disk(index))
        return guest

    def _ours(self) -> None:
        product, guest = self.product, self._guest()
        results = [product.good_backup(Level.FULL, guest, name="chain")]
        for name in ("second", "third"):
            Disks(guest.disk(0), guest.disk(1)).write(self.content, name)
            results.append(product.good_backup(Level.INCREMENTAL, guest, name="chain"))
        for label, result in (("AHV full", results[0]), ("AHV full + 2 incrementals", results[2])):
            points = product.points(result, guest)
            self._add(Source(label, points, of_a_job(product, "chain", result.job_id)))
        guest = self._guest()
        product.good_backup(Level.FULL, guest, name="pair")
        Disks(guest.disk(0), guest.disk(1)).write(self.content, "second")
        result = product.good_backup(Level.DIFFERENTIAL, guest, name="pair")
        points = product.points(result, guest)
        label = "AHV full + differential"
        self._add(Source(label, points, of_a_job(product, "pair", result.job_id)))

    def _sibling(
        self, label: str, files: Sequence[tuple[str, Path]], disks: Disks, reason: str = ""
    ) -> None:
        folder = self.root / "siblings" / f"{len(self.sources)}"
        restore = of_a_sibling(self.product, folder, files)
        self._add(Source(label, list(disks), restore, reason))

    def _proxmox(self) -> None:
        conf = self.root / "100.conf"
        conf.write_text(PROXMOX)
        full = [
            ("@proxmox/100/100.conf", conf),
            ("@proxmox/100/disks/scsi0.raw", self.first.system),
            ("@proxmox/100/disks/scsi1.raw", self.first.data),
        ]
        self._sibling("Proxmox raw", full, self.first)
        deltas = []
        for name, old, new in zip(("scsi0", "scsi1"), self.first, self.second, strict=True):
            delta = self.root / f"{name}.phcbt01"
            with old.open("rb") as before, new.open("rb") as after, delta.open("wb") as out:
                phcbt01.diff(before, after, out)
            deltas.append((f"@proxmox/100/disks/{name}.20261123T100000Z.phcbt01", delta))
        self._sibling("Proxmox raw + delta", [*full[1:], full[0], *deltas], self.second)

    def _images(self) -> None:
        for label, (form, options) in IMAGES.items():
            folder = self.root / label.replace(" ", "-")
            folder.mkdir()
            names = {"system": self.first.system, "data": self.first.data}
            for name, raw in names.items():
                target = folder / f"{name}.{form}"
                run("qemu-img", "convert", "-f", "raw", "-O", form, "-o", options, raw, target)
            images = sorted(folder.iterdir())
            prefix = "@vsphere/web" if form == "vmdk" else "@hyperv/web"
            files = [(f"{prefix}/disks/{image.name}", image) for image in images]
            config = vmx(folder) if form == "vmdk" else xml(folder)
            self._sibling(label, [(f"{prefix}/{config.name}", config), *files], self.first)

    def _refused(self) -> None:
        folder = self.root / "refused"
        folder.mkdir()
        binary = folder / "web.vmcx"
        binary.write_bytes(b"\1\0\0\0" + bytes(4096))
        disk = ("@hyperv/web/disks/system.vhdx", self.root / "vhdx-fixed" / "system.vhdx")
        files = [("@hyperv/web/web.vmcx", binary), disk]
        reason = "vmcx"
        self._sibling("Hyper-V .vmcx", files, Disks(self.first.system, self.first.data), reason)
        child = folder / "system.vmdk"
        text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=12345678\n"
        child.write_text(f'{text}createType="monolithicFlat"\nRW 32768 FLAT "s-flat.vmdk" 0\n')
        files = [("@vsphere/web/web.vmx", vmx(folder)), ("@vsphere/web/disks/system.vmdk", child)]
        self._sibling("vmdk of a snapshot", files, self.first, "stands on another image")


def vmx(folder: Path) -> Path:
    path = folder / "web.vmx"
    path.write_text(VSPHERE)
    return path


def xml(folder: Path) -> Path:
    """A machine of Hyper-V with our two disks."""
    text = HYPERV.read_bytes().decode("utf-16")
    text = text.replace(r"C:\ClusterStorage\Volume1\web01\web01.vhdx", r"C:\vm\system.vhdx")
    empty = '<pathname type="string"></pathname>'
    first = text.index(empty)
    drive = text[first : text.index("</drive1>", first)]
    text = text.replace(
        drive, drive.replace(empty, r'<pathname type="string">C:\vm\data.vhdx</pathname>')
        .replace(">NONE<", ">VHD<"), 1,
    )  # fmt: skip
    path = folder / "web.xml"
    path.write_bytes(text.encode("utf-16"))
    return path


# --- fixtures


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Everything that the cells share."""
    root = tmp_path_factory.mktemp("matrix")
    with (
        Lab.start(root / "lab", task_seconds=0.0) as lab,
        Lab.start(root / "other", cluster_name="other", task_seconds=0.0) as other,
    ):
        yield Bench(root, lab, other)


@pytest.fixture(scope="session")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two block devices of the sizes of the disks."""
    root = tmp_path_factory.mktemp("devices")
    found = []
    try:
        for size in (SYSTEM, DATA):
            file = root / f"{size}.img"
            with file.open("xb") as image:
                image.truncate(size)
            found.append(Path(run("losetup", "--find", "--show", file).strip()))
        yield found[0], found[1]
    finally:
        for device in found:
            run("losetup", "--detach", device)


_table: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="session")
def table() -> dict[tuple[str, str], str]:
    """What came of each cell."""
    return _table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table: a source a line."""
    columns = list(dict.fromkeys(column for _, column in _table))
    rows = list(dict.fromkeys(row for row, _ in _table))
    width = max((len(row) for row in rows), default=0)
    cells = [[row, *(_table.get((row, column), "-") for column in columns)] for row in rows]
    for line in [["", *columns], *cells]:
        first, *others = line
        terminalreporter.write_line(first.ljust(width) + "".join(f"  {c:<15}" for c in others))
