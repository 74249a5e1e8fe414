"""A store, what its source holds, and the commands of its administrator."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import attrs
from command_line import program
from phcbt01.testing import encode
from replica_receiver.__main__ import command_line
from vm_config.ahv_record import ConfigDisk, VmConfig
from vm_replica.protocol.manifest import SCHEMA, Configuration, CycleDisk, CycleManifest
from vm_replica.store.admission import Limits
from vm_replica.store.replica import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from vm_replica.store.replica import Replica

KIB, MIB = 1 << 10, 1 << 20
VM_ID = "22222222-2222-4222-8222-222222222222"
SIZES = {"disk-a": 3 * MIB, "disk-b": MIB}


@attrs.define
class Site:
    """A store, what its source holds, and the commands of its administrator."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    vm_id: str = VM_ID
    vm_name: str = "web01"
    images: dict[str, bytearray] = attrs.field(factory=dict)
    history: list[dict[str, bytes]] = attrs.field(factory=list)
    taken: int = 1_700_000_000
    chance: random.Random = attrs.field(factory=lambda: random.Random(1))

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def copies(self) -> Path:
        return self.root / "copies"

    @property
    def replica(self) -> Replica:
        return Store(self.store, Limits(reserve=0)).replica("lab", self.vm_id)

    def cycle(self, *, taken: int = 0, boot_sector: bytes = b"") -> int:
        """The guest writes, and the source sends what changed, or all of it at first.

        With a boot sector, that is written to the first disk.
        """
        changes = {}
        self.taken = taken or self.taken + 60
        for disk_id, size in SIZES.items():
            image = self.images.setdefault(disk_id, bytearray(size))
            offset = self.chance.randrange(size // (64 * KIB)) * 64 * KIB
            data = self.chance.randbytes(64 * KIB)
            if boot_sector and disk_id == "disk-a":
                offset, data = 0, boot_sector + data[len(boot_sector) :]
            image[offset : offset + len(data)] = data
            changes[disk_id] = [(offset, data)]
        state = self.replica.state()
        base = state.current.digest if state and state.current else ""
        streams = {name: encode(SIZES[name], change) for name, change in changes.items()}
        manifest = self.manifest(base, streams)
        with self.replica.begin_cycle(manifest, "source") as incoming:
            for name, stream in streams.items():
                with incoming.disk(name, 0) as spool:
                    spool.write(stream)
                    spool.finish()
            number = incoming.commit(manifest.digest())
        self.history.append({name: bytes(image) for name, image in self.images.items()})
        return number

    def manifest(self, base: str, streams: dict[str, bytes]) -> CycleManifest:
        disks = [ConfigDisk(name, "SCSI", n, size) for n, (name, size) in enumerate(SIZES.items())]
        config = VmConfig(
            schema=1, vm_id=self.vm_id, name=self.vm_name, description="", cluster_id="c",
            sockets=1, cores_per_socket=1, threads_per_core=1, memory=1 << 28, machine_type="PC",
            firmware="legacy", secure_boot=False, boot_order=("DISK",), disks=tuple(disks),
            nics=(), prism={},
        )  # fmt: skip
        return CycleManifest(
            schema=SCHEMA, cluster="lab", vm_id=self.vm_id, vm_name=self.vm_name, base=base,
            taken=self.taken, rpo=60, consistency="crash", recovery_point=f"point-{self.taken}",
            configuration=Configuration("@nutanix", config.encode().decode()),
            disks=tuple(
                CycleDisk(name, n, SIZES[name], not base, len(streams[name]), 1)
                for n, name in enumerate(SIZES)
            ),
        )  # fmt: skip

    def run(self, action: str, *words: object) -> tuple[int, str]:
        """A command; its status, and what it said."""
        arguments = ["failover", action, "--store", self.store, *words]
        status = program.run(command_line(), [str(word) for word in arguments])
        captured = self.capsys.readouterr()
        return status, captured.out + captured.err

    def good(self, action: str, *words: object) -> str:
        status, said = self.run(action, *words)
        assert status == 0, said
        return said

    def refused(self, action: str, *words: object, code: int = 1) -> str:
        status, said = self.run(action, *words)
        assert status == code
        assert said.count("\n") == 1, said
        return said

    def state(self) -> dict[str, Any]:
        _, said = self.run("status", "--json")
        (row,) = json.loads(said)
        assert isinstance(row, dict)
        return row

    def is_copy_of(self, folder: Path, generation: int) -> bool:
        """Whether the raw images in a folder are those of a generation."""
        truth = self.history[generation - 1]
        return all(
            (folder / f"disk-{n}.raw").read_bytes() == truth[name] for n, name in enumerate(SIZES)
        )


def here(site: Site) -> tuple[object, ...]:
    return ("web01", "--folder", site.copies, "--format", "raw")
