"""Configurations in the wild: samples of every kind, the result compared field by field.

Each file in samples/ was written by hand after the public description of its format; the JSON
beside it says what a reader must find, with everything left out that has its default value.
"""

from __future__ import annotations

import json
from encodings.aliases import aliases
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vm_config import readers
from vm_config.ahv_record import SCHEMA, ConfigDisk, VmConfig
from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, match_disks

SAMPLES = Path(__file__).parent / "samples"
FILES = sorted(path for path in SAMPLES.glob("*/*") if path.suffix != ".json")
KINDS = ["@proxmox", "@vsphere", "@hyperv", "@nutanix"]
VM = b"name: x\ncores: 1\nscsi0: a:b,size=1G\n"
OVF = (
    b"<Envelope><VirtualSystem><VirtualHardwareSection>%b</VirtualHardwareSection>"
    b"</VirtualSystem></Envelope>"
)
MEMORY = b"<Item><ResourceType>4</ResourceType><VirtualQuantity>512</VirtualQuantity>%b</Item>"
XML = (
    "<configuration><settings><memory><bank><size>512</size></bank></memory></settings>"
    "{}</configuration>"
)


def plain(machine: Machine) -> dict[str, Any]:
    """A machine as JSON, without what has its default value."""
    fields = attrs.asdict(machine, filter=lambda f, value: value not in (f.default, {}))
    found: dict[str, Any] = json.loads(json.dumps(fields))
    return found


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def kind_of(path: Path) -> str:
    """The namespace of a sample's backup; an OVF descriptor stands where VMware's files do."""
    return "@vsphere" if path.parent.name == "ovf" else f"@{path.parent.name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_sample_gives_the_machine_that_it_describes(path: Path) -> None:
    expected = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
    found = plain(readers.read(kind_of(path), path.read_bytes()))
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
    "a processor of another kind": ("@proxmox", VM + b"arch: aarch64\n", "where=/a/folder"),
    "a container without a disk": ("@proxmox", b"arch: arm64\ncores: 1\n", "container"),
    "keys and little else": (
        "@vsphere",
        b'.encoding="UTF-8"\ndisplayName="x"\nencryption.data="v"\n',
        "decrypt the VM",
    ),
    "other XML as OVF": ("@vsphere", b"<domain/>", "not an OVF descriptor"),
    "OVF cut off": ("@vsphere", b"<Envelope><VirtualSystem>", "is not XML"),
    "OVF without a machine": ("@vsphere", b"<Envelope/>", "describes no machine"),
    "OVF of two machines": (
        "@vsphere",
        (
            b'<Envelope><VirtualSystemCollection><VirtualSystem id="a"/><VirtualSystem id="b"/>'
            b"</VirtualSystemCollection></Envelope>"
        ),
        r"2 machines \(a, b\): export each",
    ),
    "OVF without hardware": (
        "@vsphere",
        b"<Envelope><VirtualSystem/></Envelope>",
        "machine without hardware",
    ),
    "OVF without memory": ("@vsphere", OVF % b"", "how much memory"),
    "OVF with memory in an unknown unit": (
        "@vsphere",
        OVF % (MEMORY % b"<AllocationUnits>pages</AllocationUnits>"),
        "0 bytes of memory",
    ),
    "OVF with too much memory": (
        "@vsphere",
        OVF % (MEMORY % b"<AllocationUnits>byte * 2^60</AllocationUnits>"),
        "bytes of memory",
    ),
    "OVF of an encrypted machine": (
        "@vsphere",
        b"<Envelope><EncryptionSection/></Envelope>",
        "export it without encryption",
    ),
    "OVF of more devices than there are": ("@vsphere", OVF % (b"<Item/>" * 5000), "5000 devices"),
    "an OVF that is too long": ("@vsphere", b"<" + b" " * (4 << 20), "none is as large"),
}


@pytest.mark.parametrize(("kind", "content", "why"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_vm_is_refused_with_the_reason(kind: str, content: bytes, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refused:
        readers.read(kind, content)
    assert "\n" not in str(refused.value)


def test_xml_may_have_what_is_not_a_declaration() -> None:
    content = "<?xml version='1.0'?><!-- c --><?pi x?>" + XML.format("<notes>a &lt; b</notes>")
    assert readers.read("@hyperv", content.encode()).description == "a < b"


@given(kind=st.sampled_from(KINDS), content=st.binary())
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
        machine = readers.read(kind_of(path), bytes(content))
    except ConfigurationError:
        return
    assert machine.memory > 0
    assert machine.sockets * machine.cores_per_socket > 0


# --- what one line of a configuration means

VMX = 'config.version = "8"\nmemSize = "512"\nscsi0:0.fileName = "a.vmdk"\n'
PACKER = "<configuration><properties><subtype>1</subtype></properties>" + XML.format("{}")[15:]
DRIVES = (
    "<_1_><controller0>"
    "<drive0><type>VHD</type><pathname>a.vhdx</pathname></drive0>"
    "<drive1><type>ISO</type><pathname>a.iso</pathname></drive1>"
    "<drive2><type>VHD</type><pathname>c.vhdx</pathname></drive2>"
    "</controller0></_1_>"
)

LINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sockets as they were called": ("@proxmox", "smp: 2\ncores: 3\n", {"sockets": 2}),
    "processors that do not divide": (
        "@proxmox",
        "sockets: 2\ncores: 4\nvcpus: 3\n",
        {"sockets": 1, "cores_per_socket": 3},
    ),
    "more plugged in than there are": ("@proxmox", "cores: 2\nvcpus: 9\n", {"cores_per_socket": 2}),
    "a machine that names its processor": (
        "@proxmox",
        "arch: x86_64\nscsi0: a:b\n",
        {"sockets": 1},
    ),
    "no balloon": ("@proxmox", "memory: 512\nballoon: 0\n", {"left_out": None}),
    "a balloon of the whole memory": (
        "@proxmox",
        "memory: 512\nballoon: 512\n",
        {"left_out": None},
    ),
    "a suspended machine": (
        "@proxmox",
        "cores: 1\nlock: suspended\nvmstate: local:x\n",
        {"left_out": ["suspended state: the guest starts as after a power failure"]},
    ),
    "a UUID of zeros": (
        "@proxmox",
        "cores: 1\nsmbios1: uuid=00000000-0000-0000-0000-000000000000\n",
        {"bios_uuid": None},
    ),
    "a UUID in capitals": (
        "@proxmox",
        "cores: 1\nsmbios1: base64=1,uuid=ABCDEF00-0000-4000-8000-000000000001\n",
        {"bios_uuid": "abcdef00-0000-4000-8000-000000000001"},
    ),
    "what a backup program saved": (
        "@proxmox",
        "#notes\nscsi0: a:b,backup=0\nscsi1: a:c\n#qmdump#map:scsi0:drive-x:local:raw:\n",
        {
            "description": "notes",
            "left_out": [
                "disks that Proxmox leaves out of backups: scsi1",
                "SCSI controller lsi: AHV has virtio-scsi, whose driver the guest needs",
            ],
        },
    ),
    "the third disk boots": (
        "@proxmox",
        "boot: order=scsi2;net0\nscsi0: a:0\nscsi1: a:1\nscsi2: a:2\n",
        {"boot_disk": "scsi2", "boot_order": ["DISK", "NETWORK"]},
    ),
    "the older word for the disk that boots": (
        "@proxmox",
        "boot: c\nbootdisk: virtio1\nvirtio0: a:0\nvirtio1: a:1\n",
        {"boot_disk": "virtio1"},
    ),
    "a port group by its name": (
        "@vsphere",
        (
            f'{VMX}ethernet0.present = "TRUE"\nethernet0.networkName = "LAN"\n'
            'ethernet0.dvs.portgroupId = "dvportgroup-7"\n'
        ),
        {"nics": [{"mac": "", "network": "LAN"}]},
    ),
    "a segment of NSX": (
        "@vsphere",
        (
            f'{VMX}ethernet0.present = "TRUE"\nethernet0.opaqueNetwork.id = "ls-1"\n'
            'ethernet0.opaqueNetwork.type = "nsx.LogicalSwitch"\n'
        ),
        {"nics": [{"mac": "", "network": "ls-1"}]},
    ),
    "the card of a host-only network": (
        "@vsphere",
        f'{VMX}ethernet0.present = "TRUE"\nethernet0.connectionType = "hostonly"\n',
        {"nics": [{"mac": "", "network": "hostonly"}]},
    ),
    "a disk that forgets": (
        "@vsphere",
        f'{VMX}scsi0:0.mode = "independent-nonpersistent"\n',
        {
            "left_out": [
                "nonpersistent disk (scsi0:0: a.vmdk): on AHV what the guest writes to it stays",
                (
                    "independent disk (scsi0:0: a.vmdk): VMware leaves it out of snapshots, "
                    "and so of most backups"
                ),
            ]
        },
    ),
    "a bus that several machines share": (
        "@vsphere",
        f'{VMX}scsi0.sharedBus = "physical"\n',
        {"left_out": ["disks shared with other VMs (scsi0): this VM gets copies of its own"]},
    ),
    "a bus that nobody shares": (
        "@vsphere",
        f'{VMX}scsi0.sharedBus = "none"\n',
        {"left_out": None},
    ),
    "a device of the host without a type": (
        "@vsphere",
        f'{VMX}scsi0:1.fileName = "/dev/sg1"\n',
        {"left_out": ["SCSI device of the host (scsi0:1: /dev/sg1)"]},
    ),
    "a USB device of the host": (
        "@vsphere",
        f'{VMX}usb:0.present = "TRUE"\nusb:0.deviceType = "disk"\n',
        {"left_out": ["USB device (usb:0)"]},
    ),
    "a controller that is absent or empty": (
        "@vsphere",
        f'{VMX}scsi1.present = "FALSE"\nscsi1.virtualDev = "lsilogic"\n',
        {"left_out": None},
    ),
    "keys of a TPM on ESXi": (
        "@vsphere",
        f'{VMX}virtualHW.version = "19"\nencryption.bundle = "x"\n',
        {"memory": 512 << 20},
    ),
    "a UUID with hyphens": (
        "@vsphere",
        f'{VMX}uuid.bios = "{{564D0011-2233-4455-6677-8899AABBCCDD}}"\n',
        {"bios_uuid": "564d0011-2233-4455-6677-8899aabbccdd"},
    ),
    "half a UUID": ("@vsphere", f'{VMX}uuid.bios = "56 4d 00"\n', {"bios_uuid": None}),
    "the second disk first": (
        "@vsphere",
        f'{VMX}scsi0:1.fileName = "b.vmdk"\nbios.hddOrder = "scsi0:1,scsi0:0"\n',
        {"boot_disk": "b"},
    ),
    "the firmware looks at the third drive": (
        "@hyperv",
        PACKER.format(
            f"<boot><device0>MAC(00155D)</device0><device1>SCSI(0,2)</device1></boot>{DRIVES}"
        ),
        {"boot_order": ["NETWORK", "DISK"], "boot_disk": "c"},
    ),
    "the firmware looks at a disk of several": (
        "@hyperv",
        PACKER.format(
            "<boot><device0>AcpiEx(VMBUS,0,0)/SCSI(0,1)</device0>"
            f"<device1>AcpiEx(VMBUS,0,0)/SCSI(0,2)</device1></boot>{DRIVES}"
        ),
        {"boot_order": ["CDROM", "DISK"], "boot_disk": "c"},
    ),
    "drives in the order of their names": (
        "@hyperv",
        PACKER.format(DRIVES.replace("drive0", "drive1").replace("drive2", "drive0")),
        {
            "disks": [
                {"key": "c", "bus": "SCSI", "index": 0},
                {"key": "a", "bus": "SCSI", "index": 1},
            ]
        },
    ),
    "an optical drive only, which is not restored": (
        "@hyperv",
        PACKER.format(f"<boot><device0>Optical</device0></boot>{DRIVES}"),
        {"boot_order": ["CDROM", "DISK"], "boot_disk": None},
    ),
}


@pytest.mark.parametrize(("kind", "content", "expected"), LINES.values(), ids=LINES)
def test_a_line_means_what_its_product_means_by_it(
    kind: str, content: str, expected: dict[str, Any]
) -> None:
    found = plain(readers.read(kind, content.encode()))
    assert {field: found.get(field) for field in expected} == expected


def test_a_prism_that_names_a_boot_disk_is_heeded() -> None:
    disks = [ConfigDisk("d0", "SCSI", 0, 1), ConfigDisk("d1", "SCSI", 1, 1)]
    for address, expected in (({"busType": "SCSI", "index": 1}, "d1"), ({"index": 1}, ""), (5, "")):
        config = record(disks, {"bootConfig": {"bootDevice": {"diskAddress": address}}})
        assert readers.read("@nutanix", config.encode()).boot_disk == expected
    assert readers.read("@nutanix", record(disks, {"bootConfig": []}).encode()).boot_disk == ""


@pytest.mark.parametrize(
    "prism",
    [
        {"disks": [{"backingInfo": {"volumeGroupExtId": "group"}}, {"backingInfo": {}}] * 2},
        {
            "status": {"resources": {"disk_list": [{"volume_group_reference": {"uuid": "group"}}]}},
            "spec": {"resources": {"disk_list": [{"volume_group_reference": {"uuid": "old"}}]}},
        },
        {"spec": {"resources": {"disk_list": [{"volume_group_reference": {"uuid": "group"}}]}}},
    ],
)
def test_the_attached_volume_groups_are_known(prism: dict[str, Any]) -> None:
    found = readers.read("@nutanix", record([], prism).encode())
    assert found.volume_groups == ("group",)


@pytest.mark.parametrize(
    "prism",
    [
        {},
        {"disks": 1, "status": []},
        {"disks": [1, {"backingInfo": 1}, {"backingInfo": {"volumeGroupExtId": 7}}]},
        {"spec": {"resources": {"disk_list": {"volume_group_reference": {"uuid": "group"}}}}},
    ],
)
def test_what_names_no_volume_group_has_none(prism: dict[str, Any]) -> None:
    found = readers.read("@nutanix", record([], prism).encode())
    assert found.volume_groups == ()


def record(disks: list[ConfigDisk], prism: dict[str, Any]) -> VmConfig:
    """What a backup of ours holds of a VM."""
    named: dict[str, Any] = {
        "schema": SCHEMA,
        "memory": 1 << 30,
        "sockets": 1,
        "cores_per_socket": 1,
    }
    named |= {"threads_per_core": 1, "secure_boot": False, "boot_order": (), "nics": ()}
    texts = ("vm_id", "name", "description", "cluster_id", "machine_type", "firmware")
    named |= dict.fromkeys(texts, "x")
    return VmConfig(**named, disks=tuple(disks), prism=prism)


# --- encodings


def alphabets() -> dict[str, str]:
    """Python's encodings that contain ASCII, each with other letters that it has."""
    letters = "äñçčŐжщשםαλด한中文サ漢"
    found = {}
    for name in sorted(set(aliases.values())):
        try:
            is_like_ascii = "encoding".encode(name) == b"encoding"
            has = "".join(letter for letter in letters if _has(name, letter))
        except LookupError:
            continue
        if (
            has
            and is_like_ascii
            and name not in {"idna", "punycode", "raw_unicode_escape", "unicode_escape"}
        ):
            found[name] = has
    return found


def _has(name: str, letter: str) -> bool:
    try:
        return letter.encode(name).decode(name) == letter
    except UnicodeError:
        return False


ALPHABETS = alphabets()


def test_python_has_many_encodings() -> None:
    assert len(ALPHABETS) > 60


@pytest.mark.parametrize("name", ALPHABETS)
def test_every_encoding_of_python_is_read(name: str) -> None:
    line = f'displayName = "{ALPHABETS[name]}"\n'.encode(name)
    head = f'.encoding = "{name}"\nmemSize = "512"\n'.encode()
    assert readers.read("@vsphere", head + line).name == ALPHABETS[name]


ICU = {
    "windows-949-2000": ("cp949", "한글"),
    "windows-936-2000": ("gbk", "数据"),
    "windows-950-2000": ("cp950", "資料"),
    "windows-874-2000": ("cp874", "ไทย"),
    "windows-31j": ("cp932", "髙①"),
    "ibm-943_P15A-2003": ("cp932", "髙①"),
    "x-sjis": ("cp932", "髙①"),
    "GB2312": ("gbk", "碁數"),
    "Big5": ("cp950", "裏"),
    "EUC-KR": ("cp949", "똠"),
    "ISO-8859-1": ("cp1252", "“€”"),
    "US-ASCII": ("utf-8", "é"),
    "Windows-1250": ("cp1250", "čŐ"),
    "no such encoding": ("utf-8", "é"),
    "idna": ("utf-8", "é"),
    "UTF-16": ("utf-8", "é"),
    "cp037": ("utf-8", "é"),
}


@pytest.mark.parametrize("said", ICU)
def test_encodings_have_the_names_of_vmware(said: str) -> None:
    encoding, name = ICU[said]
    content = f'.encoding = "{said}"\nmemSize = "512"\ndisplayName = "{name}"\n'.encode(encoding)
    assert readers.read("@vsphere", content).name == name


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "shift_jis", "windows-1251"])
@pytest.mark.parametrize("bad", [b"\xff", b"\x98", b"\xa0\xff"])
def test_one_invalid_byte_changes_nothing_else(encoding: str, bad: bytes) -> None:
    name = {"gbk": "数据", "shift_jis": "サーバ", "windows-1251": "сервер"}.get(encoding, "Zürich")
    head = f'.encoding = "{encoding}"\nmemSize = "512"\ndisplayName = "{name}"\n'.encode(encoding)
    machine = readers.read("@vsphere", head + b'annotation = "x' + bad + b'"\n')
    assert machine.name == name
    assert machine.description.startswith("x")


def test_an_invalid_byte_is_windows_1252_where_it_stands() -> None:
    content = VM + b"#Z\xc3\xbcrich \x80 Z\xfcrich\n"
    assert readers.read("@proxmox", content).description == "Zürich € Zürich"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-16-le"])
def test_a_mark_or_zeros_tell_the_encoding(encoding: str) -> None:
    content = 'memSize = "512"\ndisplayName = "数据"\n'.encode(encoding)
    assert readers.read("@vsphere", content).name == "数据"


def test_only_a_line_feed_ends_a_line() -> None:
    content = 'memSize = "512"\r\ndisplayName = "a\u2028numvcpus = b\x85c\x0b"\rnumvcpus = "2"\r'
    machine = readers.read("@vsphere", content.encode())
    assert (machine.name, machine.sockets) == ("a\u2028numvcpus = b\x85c\x0b", 2)


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


def test_a_disk_that_backups_leave_out_is_not_waited_for() -> None:
    left_out = MachineDisk("scsi2", "SCSI", 2, is_saved=False)
    found = match_disks((left_out, *DISKS), ["first", "second"])
    assert [found[stem].key for stem in ("first", "second")] == ["scsi0", "scsi1"]
    assert match_disks((left_out, *DISKS), ["scsi2"])["scsi2"] is left_out
