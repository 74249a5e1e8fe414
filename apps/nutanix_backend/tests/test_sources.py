"""Names of any sibling's files: what each is for, and what a doubled prefix hides."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore.sources import Role, SourceFile, recognise

VECTORS = Path(__file__).parents[3] / "conformance" / "nutanix" / "v1" / "names.json"
CONFIGURATION, DISK, EXTENT, DELTA, PACKAGE, LIST, OTHER = Role
WEB: dict[str, Any] = {"namespace": "@vsphere", "vm": "web 01", "where": "/r/"}
STAMP = "20261123T070102Z"


def vectors() -> list[Any]:
    groups = json.loads(VECTORS.read_text())["groups"]
    tests = [test for group in groups for test in group["tests"] if test["op"] == "decode"]
    return [test for test in tests if test["result"] == "valid"]


def text(value: Any) -> str:
    """A text of the vectors; one that is not plain ASCII is there as its bytes."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]).decode("utf-8", "surrogateescape")
    return str(value)


@pytest.mark.parametrize("test", vectors(), ids=lambda test: str(test["comment"]))
def test_every_name_of_the_golden_vectors_is_recognised(test: Any) -> None:
    value = test["value"]
    name = bytes.fromhex(test["input"]).decode("utf-8", "surrogateescape")
    found = recognise(name)
    assert found.where + found.name == name
    assert (found.where, found.namespace, found.cluster, found.vm) == tuple(
        text(value[key]) for key in ("where", "namespace", "cluster", "vm")
    )
    if "metadata" in value:
        assert (found.role, found.file) == (CONFIGURATION, value["metadata"])
    else:
        stamped = LIST if "kind" in value else DELTA
        role = stamped if "stamp" in value else DISK
        assert (found.role, found.stamp) == (role, value.get("stamp", ""))
        assert (found.key, found.index) == (value["disk"], int(value["index"]))


NAMES: dict[str, dict[str, Any]] = {
    "@proxmox/100/100.conf": {"role": CONFIGURATION, "format": "conf"},
    "@proxmox/100/disks/scsi0.raw": {"role": DISK, "key": "scsi0", "format": "raw"},
    f"@proxmox/100/disks/scsi0.{STAMP}.phcbt01": {"role": DELTA, "key": "scsi0", "stamp": STAMP},
    f"@proxmox/100/disks/scsi0.raw.{STAMP}.phcbt01": {"role": DELTA, "key": "scsi0"},
    "@proxmox/100/disks/scsi0.phcbt01": {"role": DELTA, "key": "scsi0", "stamp": ""},
    "@proxmox/pve/100/disks/disk-2-abc.raw": {"cluster": "pve", "index": 2, "key": "abc"},
    "@proxmox/100/100.fw": {"role": OTHER},
    "@proxmox/100/disks/readme.txt": {"role": OTHER},
    "/r/@vsphere/web 01/web.VMX": WEB | {"role": CONFIGURATION, "format": "vmx"},
    "/r/@vsphere/web 01/disks/web.vmdk": WEB | {"role": DISK, "key": "web", "format": "vmdk"},
    "/r/@vsphere/web 01/disks/web-flat.vmdk": WEB | {"role": EXTENT, "key": "web"},
    "/r/@vsphere/web 01/disks/web-s001.vmdk": WEB | {"role": EXTENT, "key": "web"},
    "/r/@vsphere/web 01/disks/web-f012.vmdk": WEB | {"role": EXTENT, "key": "web"},
    "/r/@vsphere/web 01/disks/web-ctk.vmdk": WEB | {"role": OTHER},
    "/r/@vsphere/web 01/web.ovf": WEB | {"role": CONFIGURATION, "format": "ovf"},
    "/r/@vsphere/web 01/web.OVA": WEB | {"role": PACKAGE, "format": "ova", "key": ""},
    "/r/@vsphere/web 01/web.mf": WEB | {"role": OTHER},
    "@proxmox/100/box.ova": {"role": OTHER},
    "/r/@vsphere/web 01/web.nvram": WEB | {"role": OTHER},
    "@hyperv/v/v.xml": {"role": CONFIGURATION, "format": "xml"},
    "@hyperv/v/v.vmcx": {"role": CONFIGURATION, "format": "vmcx"},
    "@hyperv/v/disks/win.vhdx": {"role": DISK, "format": "vhdx", "key": "win"},
    "@hyperv/v/disks/win_1.avhdx": {"role": DISK, "format": "avhdx"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_siblings_name_says_what_the_file_is(name: str) -> None:
    found = attrs.asdict(recognise(name))
    assert {key: found[key] for key in NAMES[name]} == NAMES[name]


@pytest.mark.parametrize(
    "before",
    [
        "/@vsphere/",
        "/@vsphere/web/",
        "/@vsphere/web/disks/",
        "/@vsphere/@vsphere/web/",
        "/r/@vsphere/web/",
    ],
)
def test_a_doubled_prefix_of_older_vsphere_backups_counts_once(before: str) -> None:
    plain = recognise("/@vsphere/web/disks/a.vmdk")
    found = recognise(f"{before}@vsphere/web/disks/a.vmdk")
    where = "/r/" if before.startswith("/r/") else "/"
    assert found == attrs.evolve(plain, where=where)


def test_only_older_vsphere_backups_double_their_prefix() -> None:
    for name in ("@proxmox/100/disks/a.raw", "@hyperv/100/disks/a.vhdx"):
        namespace = name.partition("/")[0]
        assert recognise(f"/{namespace}/100/{name}").where == f"/{namespace}/100/"
    assert recognise("/@vsphere/other/@vsphere/web/disks/a.vmdk").where == "/@vsphere/other/"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "@kvm/a/disks/b.raw",
        "@proxmox",
        "@proxmox/100",
        "@proxmox//100.conf",
        "@proxmox/100/",
        "@proxmox/100/disks/",
        "@proxmox/../disks/a.raw",
        "@proxmox/100/disks/..",
        "/../@proxmox/100/100.conf",
        "r/@proxmox/100/100.conf",
        "@proxmox/100/a\nb.conf",
        "@proxmox/100/a\0b.conf",
        "@proxmox/a/b/c/d.conf",
        "@nutanix/c/v/100.conf",
        "@nutanix/c/v/disks/disk-0-d.vmdk",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(RestoreRefused):
        recognise(name)


def test_the_folder_of_a_vm_has_the_cluster_when_there_is_one() -> None:
    assert recognise("@proxmox/100/100.conf").folder == "@proxmox/100"
    assert recognise("/@proxmox/pve/100/100.conf").folder == "@proxmox/pve/100"
    assert isinstance(recognise("@hyperv/v/v.xml"), SourceFile)


LONG = {
    "doubled prefixes": "{}x/disks/a.vmdk",
    "namespaces": "{}x",
    "extents": "@vsphere/x/disks/{}.vmdk",
    "images": "@vsphere/x/disks/{}.phcbt01",
    "times": "@vsphere/x/disks/{}.phcbt01x",
    "numbers": "@vsphere/x/disks/{}.vmdk",
}
PIECES = ("@vsphere/", "@nutanix/", "-s000", ".raw", ".20200101T000000Z", "disk-1-")


@pytest.mark.parametrize(("form", "piece"), [*zip(LONG.values(), PIECES, strict=True)], ids=LONG)
def test_a_long_name_takes_as_long_as_it_is(form: str, piece: str) -> None:
    """Ten times as long takes ten times as much, by the processor, and never a hundred times."""

    def measure(count: int) -> float:
        start = time.process_time()
        with contextlib.suppress(RestoreRefused):
            recognise(form.format(piece * count))
        return time.process_time() - start

    assert measure(50_000) < 45 * max(measure(5_000), 0.004)
