"""No input makes a reader slow: ten times as much takes about ten times as long, up to its budget.

Times are of the processor, so that a busy machine does not matter.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from vm_config import readers
from vm_config.errors import ConfigurationError
from vm_config.machine import MachineDisk, match_disks
from vm_config.readers import text

from libs.vm_config.tests.test_readers import ALPHABETS

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
BUDGETS = {"@nutanix": 4 * MIB, "@proxmox": MIB, "@vsphere": MIB, "@hyperv": 4 * MIB}
TOO_SLOW = 45
"""How many times as long ten times as much may take: a square would take 100 times as long."""
LEAST = 0.004
"""Seconds below which a measurement means nothing."""
VMX = b'\nconfig.version = "8"\n'
XML = (
    b"<configuration><settings><memory><bank><size>1</size></bank></memory></settings>",
    b"</configuration>",
)
OVF = (
    b"<Envelope><References/>",
    (
        b"<VirtualSystem><VirtualHardwareSection><Item><ResourceType>4</ResourceType>"
        b"<VirtualQuantity>1</VirtualQuantity></Item></VirtualHardwareSection></VirtualSystem>"
    ),
    b"</Envelope>",
)


def repeated(piece: bytes, size: int) -> bytes:
    """About `size` bytes of a piece; each `%d` in it is the number of its repetition."""
    count = size // (len(piece) + 4 * piece.count(b"%d"))
    if b"%d" not in piece:
        return piece * count
    return b"".join(piece.replace(b"%d", b"%d" % number) for number in range(count))


def between(start: bytes, piece: bytes, end: bytes) -> Callable[[int], bytes]:
    return lambda size: start + repeated(piece, size - len(start) - len(end)) + end


SHAPES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "newlines": ("@vsphere", between(b"", b"\n", VMX)),
    "blanks": ("@vsphere", between(b"", b" ", VMX)),
    "blanks before an encoding": ("@vsphere", between(b"", b" \n", b'.encoding = "GBK"' + VMX)),
    "the same drives": ("@vsphere", between(b"", b'scsi0:1.fileName = "a"\n', VMX)),
    "other drives": ("@vsphere", between(b"", b'scsi1:%d.fileName = "%d"\n', VMX)),
    "other cards": ("@vsphere", between(b"", b'ethernet%d.present = "TRUE"\n', VMX)),
    "other keys": ("@vsphere", between(b"", b'k%d = "a"\n', VMX)),
    "an order of drives": ("@vsphere", between(b'bios.hddOrder = "', b"scsi0:%d,", b'"' + VMX)),
    "escapes": ("@vsphere", between(b'displayName = "', b"|41", b'"' + VMX)),
    "bytes of no encoding": ("@vsphere", between(b'displayName = "', b"\xff", b'"' + VMX)),
    "one long line": ("@proxmox", between(b"cores: 1\nscsi0: ", b"a=b,", b"\n")),
    "sections": ("@proxmox", between(b"cores: 1\n", b"[a%d]\n", b"")),
    "devices": ("@proxmox", between(b"cores: 1\n", b"usb%d: host=1\n", b"")),
    "a description": ("@proxmox", between(b"cores: 1\n", b"#%41\n", b"")),
    "disks that were saved": ("@proxmox", between(b"cores: 1\n", b"#qmdump#map:scsi%d:x:\n", b"")),
    "an order of boot": ("@proxmox", between(b"cores: 1\nboot: order=", b"scsi%d;", b"\n")),
    "elements with text around": ("@hyperv", between(XML[0], b"<a/>xxxxxxxxxxxxxxxxxx", XML[1])),
    "attributes": ("@hyperv", between(XML[0] + b"<a ", b'abcdefghijklm%d="x" ', b"/>" + XML[1])),
    "much text": ("@hyperv", between(XML[0], "\N{GRINNING FACE}A".encode(), XML[1])),
    "cards": ("@hyperv", between(XML[0], b"<_%d><macaddress>00</macaddress></_%d>", XML[1])),
    "drives": (
        "@hyperv",
        between(
            XML[0] + b"<_1><controller0>",
            b"<drive0><type>VHD</type><pathname>a%d</pathname></drive0>",
            b"</controller0></_1>" + XML[1],
        ),
    ),
    "devices of a boot order": (
        "@hyperv",
        between(XML[0] + b"<boot>", b"<device%d>SCSI(0,1)</device%d>", b"</boot>" + XML[1]),
    ),
    "devices of a boot order, and drives": (
        "@hyperv",
        lambda size: (
            XML[0]
            + repeated(b"<boot><device0>SCSI(0,1)</device0></boot>", size // 2)
            + b"<_1><controller0>"
            + repeated(b"<drive%d><type>VHD</type></drive%d>", size // 3)
            + b"</controller0></_1>"
            + XML[1]
        ),
    ),
    "devices of an OVF": (
        "@vsphere",
        between(
            OVF[0] + b"<VirtualSystem><VirtualHardwareSection>",
            b"<Item><ResourceType>17</ResourceType><Parent>1</Parent></Item>",
            b"</VirtualHardwareSection></VirtualSystem>" + OVF[2],
        ),
    ),
    "disks of an OVF": (
        "@vsphere",
        between(
            OVF[0] + b"<DiskSection>",
            b'<Disk diskId="d%d" fileRef="f"/>',
            b"</DiskSection>" + OVF[1] + OVF[2],
        ),
    ),
    "collections of an OVF": (
        "@vsphere",
        between(OVF[0], b"<VirtualSystemCollection/>", OVF[1] + OVF[2]),
    ),
    "lists in metadata": ("@nutanix", between(b'{"schema":1,"disks":[', b"[],", b"[]]}")),
}


def seconds(kind: str, content: bytes) -> float:
    start = time.process_time()
    try:
        readers.read(kind, content)
    except ConfigurationError as error:
        assert len(str(error)) < 1000  # noqa: PT017 - either way is right
    return time.process_time() - start


def budget_of(kind: str, content: bytes) -> int:
    return 4 * MIB if content.startswith(b"<Envelope") else BUDGETS[kind]


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_times_as_much_takes_about_ten_times_as_long(shape: str) -> None:
    kind, make = SHAPES[shape]
    budget = budget_of(kind, make(1000))
    little, much = make(budget // 10), make(budget)
    assert budget // 2 < len(much) <= budget
    before = max(min(seconds(kind, little) for _ in range(3)), LEAST)
    assert seconds(kind, much) < TOO_SLOW * before
    over = make(10 * budget)
    assert seconds(kind, over) < TOO_SLOW * LEAST
    with pytest.raises(ConfigurationError, match="none is as large"):
        readers.read(kind, over)


@pytest.mark.parametrize("encoding", ALPHABETS)
def test_no_encoding_is_slow_with_bytes_that_it_does_not_have(encoding: str) -> None:
    def measure(size: int) -> float:
        start = time.process_time()
        text.decode(b"\xff\x80~{\x1b$B" * (size // 7), "text", encoding)
        return time.process_time() - start

    assert measure(MIB) < TOO_SLOW * max(measure(MIB // 10), LEAST)


def test_disks_find_their_files_in_linear_time() -> None:
    def measure(count: int) -> float:
        disks = [MachineDisk(f"k{number}", "SCSI", number) for number in range(count)]
        start = time.process_time()
        assert len(match_disks(disks, [f"s{number}" for number in range(count)])) == count
        assert len(match_disks(disks, [f"k{number}" for number in range(count)])) == count
        return time.process_time() - start

    assert measure(30_000) < TOO_SLOW * max(measure(3_000), LEAST)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("@hyperv", SHAPES["cards"][1](MIB)),
        ("@hyperv", SHAPES["drives"][1](MIB)),
    ],
)
def test_no_machine_has_thousands_of_devices(kind: str, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no machine has more than 1024"):
        readers.read(kind, content)


def test_what_is_left_out_is_told_as_far_as_a_person_reads_it() -> None:
    content = b"cores: 1\n" + b"".join(b"[%d%b]\n" % (n, b"x" * 500) for n in range(500))
    left_out = readers.read("@proxmox", content).left_out
    assert len(left_out) == 101
    assert left_out[-1] == "400 more things of this kind"
    assert max(map(len, left_out)) == 300
