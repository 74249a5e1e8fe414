"""Virtual names: what we write we can read, and nothing else gets through."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from durable.names import component
from hypothesis import given
from hypothesis import strategies as st
from nutanix_backend import names
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.names import FileKind, VirtualFile, VmFolder

FOLDER = VmFolder("prod", "0a1b")
WHEN = datetime(2026, 11, 23, 7, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("where", ["", "/", "/restore/", "/restore/@nutanix/c/"])
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (FOLDER.metadata(), (FileKind.METADATA,)),
        (FOLDER.raw(0, "d-1"), (FileKind.RAW, "d-1", 0)),
        (FOLDER.delta(12, "d-1", WHEN), (FileKind.DELTA, "d-1", 12, "20261123T070102Z")),
    ],
)
def test_names_come_back_as_they_were_made(
    where: str, name: str, parts: tuple[FileKind, str, int, str]
) -> None:
    assert names.parse(where + name) == VirtualFile(name, where, FOLDER, *parts)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("@nutanix/c/v/vm-metadata.json", "@nutanix"),
        ("@proxmox/c/100/100.conf", "@proxmox"),
        ("/restore/@vsphere/c/vm-1/web.vmx", "@vsphere"),
        ("@hyperv/c/v/disks/disk-0-a.raw", "@hyperv"),
    ],
)
def test_backups_of_siblings_are_recognised(name: str, namespace: str) -> None:
    file = names.recognise(name)
    assert file.folder.namespace == namespace
    assert file.where + file.name == name


def test_a_delta_is_named_by_its_time() -> None:
    assert (
        FOLDER.delta(1, "d", WHEN) == "@nutanix/prod/0a1b/disks/disk-1-d.20261123T070102Z.phcbt01"
    )


def test_a_digest_list_is_named_by_its_time_too() -> None:
    name = FOLDER.digests(1, "d", WHEN)
    assert name == "@nutanix/prod/0a1b/disks/disk-1-d.20261123T070102Z.digests"
    assert names.parse(name).kind is names.FileKind.DIGESTS


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "@nutanix/../0a1b/vm-metadata.json",
        "/restore/../@nutanix/prod/0a1b/vm-metadata.json",
        "@nutanix/prod/../vm-metadata.json",
        "@nutanix/prod/0a1b/disks/../vm-metadata.json",
        "@nutanix/prod/0a1b/disks/disk-0-../x.raw",
        "@nutanix/prod/0a1b/disks/disk-0-a/b.raw",
        "@nutanix/prod/0a1b/disks/disk-0-a.raw\n",
        "@nutanix/prod/0a1b/disks/disk-0-a.vmdk",
        "@nutanix/prod/0a1b/disks/disk-0-a.2026.phcbt01",
        "@nutanix/pr\0od/0a1b/vm-metadata.json",
        "@proxmox/prod/0a1b/vm-metadata.json",
        "@proxmox/prod/0a1b/100.conf",
        "@nutanix/prod/0a1b/disks/disk-00-a.raw",
        "@nutanix/prod/0a1b/disks/disk-0-a.\u0662\u0660261123T070102Z.phcbt01",
        "x@nutanix/prod/0a1b/vm-metadata.json",
    ],
)
def test_foreign_names_are_refused(name: str) -> None:
    with pytest.raises(RestoreRefused):
        names.parse(name)


@given(st.text(min_size=1).filter(lambda t: t.isprintable()))
def test_any_cluster_name_becomes_a_component_that_parses(text: str) -> None:
    folder = VmFolder(component(text), "0a1b")
    assert names.parse(folder.metadata()).folder == folder


@given(st.text(), st.text())
def test_two_cluster_names_never_become_one(one: str, other: str) -> None:
    assert (component(one) == component(other)) == (one == other)
