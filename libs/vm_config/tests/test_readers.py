"""Configurations in the wild: samples of every kind, the result compared field by field.

Each file in samples/ was written by hand after the public description of its format; the JSON
beside it says what a reader must find, with everything left out that has its default value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vm_config import readers
from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, match_disks

SAMPLES = Path(__file__).parent / "samples"
FILES = sorted(path for path in SAMPLES.glob("*/*") if path.suffix != ".json")
VM = b"name: x\ncores: 1\nscsi0: a:b,size=1G\n"
XML = (
    "<configuration><settings><memory><bank><size>512</size></bank></memory></settings>"
    "{}</configuration>"
)


def plain(machine: Machine) -> dict[str, Any]:
    """A machine as JSON, without what has its default value."""
    fields = attrs.asdict(machine, filter=lambda field, value: value != field.default)
    found: dict[str, Any] = json.loads(json.dumps(fields))
    return found


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_sample_gives_the_machine_that_it_describes(path: Path) -> None:
    expected = json.loads(path.with_name(path.name + ".json").read_text())
    found = plain(readers.read(f"@{path.parent.name}", path.read_bytes()))
    for field in expected.keys() | found.keys():
        assert found.get(field) == expected.get(field), field


def test_there_are_eight_samples_of_each_kind_and_more() -> None:
    for kind in ("proxmox", "vsphere", "hyperv"):
        assert len([path for path in FILES if path.parent.name == kind]) >= 8


REFUSED = {
    "a container": (
        "@proxmox",
        b"arch: amd64\nrootfs: local:1,size=8G\n",
        "container",
    ),
    "no machine": ("@proxmox", b"hello: world\n", "no Proxmox configuration"),
    "no cores": ("@proxmox", VM + b"cores: 0\n", "cores"),
    "memory in words": ("@proxmox", VM + b"memory: much\n", "memory"),
    "more memory than there is": ("@proxmox", VM + b"memory: 999999999999\n", "memory"),
    "nothing": ("@proxmox", b"", "no Proxmox configuration"),
    "an encrypted machine": ("@vsphere", b'displayName="x"\nencryption.keySafe="v"\n', "encrypted"),
    "no settings of VMware": ("@vsphere", b"a=b\n", "none of its settings"),
    "no processors": ("@vsphere", b'displayName="x"\nnumvcpus="0"\n', "processors"),
    "a file that is too long": ("@vsphere", b"#" * (5 << 20), "none is as large"),
    "a binary .vmcx": ("@hyperv", b"\x14\x20\x28\x01" + bytes(4092), "where=/a/folder"),
    "another binary": ("@hyperv", b"\x7fELF" + bytes(60), "binary .vmcx"),
    "other XML": ("@hyperv", b"<domain/>", "not a Hyper-V configuration"),
    "XML cut off": ("@hyperv", b"<configuration><settings>", "is not XML"),
    "no memory": ("@hyperv", b"<configuration/>", "memory"),
    "a document type": ("@hyperv", b"<!DOCTYPE configuration><configuration/>", "declares"),
    "an entity that grows": (
        "@hyperv",
        b'<!DOCTYPE c [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><configuration>&b;</configuration>',
        "declares",
    ),
    "a file as an entity": (
        "@hyperv",
        b'<!DOCTYPE c [<!ENTITY a SYSTEM "file:///etc/passwd">]><configuration>&a;</configuration>',
        "declares",
    ),
    "XML nested deep": ("@hyperv", b"<configuration>" + b"<a>" * 5000, "too deeply nested"),
    "damaged metadata": ("@nutanix", b"{}", "damaged"),
    "an unknown sibling": ("@kvm", b"", "not known"),
}


@pytest.mark.parametrize(("kind", "content", "why"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_vm_is_refused_with_the_reason(kind: str, content: bytes, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refused:
        readers.read(kind, content)
    assert "\n" not in str(refused.value)


def test_xml_may_have_what_is_not_a_declaration() -> None:
    content = "<?xml version='1.0'?><!-- c --><?pi x?>" + XML.format("<notes>a &lt; b</notes>")
    assert readers.read("@hyperv", content.encode()).description == "a < b"


@given(kind=st.sampled_from(["@proxmox", "@vsphere", "@hyperv", "@nutanix"]), content=st.binary())
def test_any_bytes_are_a_machine_or_refused(kind: str, content: bytes) -> None:
    try:
        readers.read(kind, content)
    except ConfigurationError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either way is right


@given(data=st.data(), path=st.sampled_from(FILES))
def test_a_sample_with_damage_is_a_machine_or_refused(data: st.DataObject, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        machine = readers.read(f"@{path.parent.name}", bytes(content))
    except ConfigurationError:
        return
    assert machine.memory > 0
    assert machine.sockets * machine.cores_per_socket > 0


# --- which file of a backup is which disk

DISKS = (
    MachineDisk("scsi0", "SCSI", 0, None, ("vm-100-disk-0",)),
    MachineDisk("scsi1", "SCSI", 1, None, ("vm-100-disk-1",)),
)


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (["scsi1", "scsi0"], ["scsi1", "scsi0"]),
        (["vm-100-disk-1", "SCSI0"], ["scsi1", "scsi0"]),
        (["vm-100-disk-1", "other"], ["scsi1", "scsi0"]),
        (["first", "second"], ["scsi0", "scsi1"]),
        (["scsi0", "first", "second"], ["scsi0", None, None]),
        (["other"], [None]),
        (["scsi0", "vm-100-disk-0"], ["scsi0", "scsi1"]),
    ],
)
def test_files_find_their_disks_by_name_and_by_order_when_nothing_else_is_left(
    stems: list[str], expected: list[str | None]
) -> None:
    found = match_disks(DISKS, stems)
    assert [found[stem].key if stem in found else None for stem in stems] == expected
