"""docs/restore.md: every block of options is run, on the clusters and devices that it speaks of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prism_lab import Lab
from prism_lab._model import Named
from ptcomm import Answer, Job, JobType, Level, Phase
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps.nutanix_backend.tests.conftest import Daemon, Product

MIB = 1 << 20
PAGE = Path(__file__).parents[3] / "docs" / "restore.md"
SAMPLES = Path(__file__).parents[3] / "libs/vm_config/tests/samples"
NETWORKS = ("production", "dr-net", "quarantine")


@attrs.frozen
class Block:
    """The options below a heading, and whose backup they are for."""

    heading: str
    source: str
    options: dict[str, str]


def blocks() -> list[Block]:
    found = []
    block = re.compile(r"^```options (\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for section in PAGE.read_text().split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for source, text in block.findall(section):
            lines = (line.partition("=") for line in text.splitlines())
            options = {name: value for name, _, value in lines}
            found.append(Block(heading, source, options))
    return found


BLOCKS = blocks()


@attrs.frozen
class Place:
    """Two clusters and a client, as the page speaks of them."""

    product: Product
    labs: dict[str, Lab]
    root: Path
    device: Path

    def options(self, block: Block) -> tuple[str, dict[str, Any]]:
        """Where, and the parameters, with the files and devices that are there."""
        given: dict[str, Any] = {}
        for name, text in block.options.items():
            here = text.replace("/srv/restore", str(self.root / "srv"))
            here = here.replace("/etc/podheitor-nutanix", str(self.root / "etc"))
            given[name] = here.replace("/dev/sdx", str(self.device))
        if "config_file" in given:
            given |= dict.fromkeys(("prism", "user", "password", "ca"))
        return given.pop("where"), given


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lab]]:
    """The cluster of the backup, and the other one."""
    root = tmp_path_factory.mktemp("guide")
    with (
        Lab.start(root / "here", cluster_name="berlin", task_seconds=0.0) as here,
        Lab.start(root / "there", cluster_name="madrid", task_seconds=0.0) as there,
    ):
        for lab in (here, there):
            lab._world.subnets.clear()
            lab._world.subnets.update({n.ext_id: n for n in map(Named, NETWORKS)})
        yield {"here": here, "there": there}


@pytest.fixture
def place(
    labs: dict[str, Lab],
    make_product: Callable[[Lab, Path], Product],
    loop_device: Callable[[int], Path],
    tmp_path: Path,
) -> Place:
    there = labs["there"]
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "empty.conf").touch()
    (etc / "dr.conf").write_text(
        f"prism={there.pc_host}\nuser={there.user}\npassword={there.password}\n"
        f"ca={there.ca_file}\ntransport=userspace\n"
    )
    (etc / "dr.conf").chmod(0o600)
    product = make_product(labs["here"], tmp_path / "host")
    return Place(product, labs, tmp_path, loop_device(2 * MIB))


def made(place: Place, name: str) -> list[Any]:
    return [vm for lab in place.labs.values() for vm in lab._world.vms.values() if vm.name == name]


def numbered(index: int) -> str:
    block = BLOCKS[index]
    return f"{block.heading} {index}"


OURS = [number for number, block in enumerate(BLOCKS) if block.source == "nutanix"]
SIBLINGS = [number for number, block in enumerate(BLOCKS) if block.source != "nutanix"]


@pytest.mark.parametrize("number", OURS, ids=numbered)
def test_options_for_our_own_backups(place: Place, number: int) -> None:
    product, block = place.product, BLOCKS[number]
    where, options = place.options(block)
    guest = product.guest(2 * MIB, MIB, name=f"web01-{number}")
    product.good_backup(Level.FULL, guest)
    guest.write(0, 0, 65536)
    result = product.good_backup(Level.INCREMENTAL, guest)
    if "restore_drill" in options:
        options["drill_wait"] = "1"  # nothing runs here: suites/drill has VMs that run
    if options.get("restore_identity") == "old":
        del product.lab._world.vms[guest.ext_id]
    if options.get("restore_to") == "inplace":
        product.lab._world.vms[guest.ext_id].power_state = "OFF"
        guest.write(0, 0, 100)
    restored = jobs.restore(product.store, "job", product.settings(**options), where=where)
    assert restored.status is Status.GOOD, [message.text for message in restored.log]
    points = [point.read_bytes() for point in product.points(result, guest)]
    if options.get("restore_to") == "verify":
        proven = [message.text for message in restored.log if message.text.endswith(" is proven")]
        assert len(proven) == len(points)
        return
    if "restore_drill" in options:
        assert any(" lives: it stayed on" in message.text for message in restored.log)
        return
    in_place = guest.name if options.get("restore_to") == "inplace" else ""
    if name := in_place or options.get("restore_vm_name"):
        (vm,) = made(place, name)
        assert [disk.file.read_bytes() for disk in vm.disks] == points
        return
    if "disk_path" in options:
        assert place.device.read_bytes() == points[0]
        assert (place.root / "srv" / "data.img").read_bytes() == points[1]
        return
    images = sorted(Path(where).rglob("disk-*.raw"), key=lambda image: image.name)
    wanted = points[1:] if options.get("disk") == "1" else points
    assert [image.read_bytes() for image in images] == wanted


FILES = {
    "vsphere": ("@vsphere/web/web.vmx", "missing-keys.vmx", "@vsphere/web/disks/bare.vmdk"),
    "proxmox": ("@proxmox/100/100.conf", "one-disk.conf", "@proxmox/100/disks/scsi0.raw"),
    "ovf": ("@vsphere/box/box.ovf", "virtualbox.ovf", "@vsphere/box/disks/box-disk001.vmdk"),
    "hyperv": ("@hyperv/web/web.xml", "generation-1.xml", "@hyperv/web/disks/web01.vhdx"),
}


@pytest.mark.parametrize("number", SIBLINGS, ids=numbered)
def test_options_for_backups_of_siblings(
    place: Place, daemon: Callable[..., Daemon], number: int
) -> None:
    block = BLOCKS[number]
    where, options = place.options(block)
    name, sample, image = FILES[block.source]
    raw = place.root / "raw"
    raw.write_bytes(bytes(MIB) + b"guest" * 1000 + bytes(MIB - 5000))
    stored = place.root / f"stored{Path(image).suffix}"
    form = stored.suffix[1:]
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, raw, stored], check=True)
    wire = daemon()
    job = Job("guide.1", 9, JobType.RESTORE, where=where, working_dir=str(place.root / "working"))
    wire.start(Phase.RESTORE, job, place.product.parameters(**options))
    prefix = where.rstrip("/") + "/"
    wire.give_file(prefix + name, (SAMPLES / block.source / sample).read_bytes())
    assert wire.give_file(prefix + image, stored.read_bytes()) is Answer.OK
    wire.finish()
    if restored := options.get("restore_vm_name"):
        (vm,) = made(place, restored)
        found = vm.disks[0].file
    else:
        (found,) = Path(where).rglob("disk-*.raw")
    assert found.read_bytes() == raw.read_bytes()


def test_every_question_is_answered_by_a_block() -> None:
    assert len(BLOCKS) > 10
    headings = [line[3:] for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    assert headings == list(dict.fromkeys(block.heading for block in BLOCKS))
