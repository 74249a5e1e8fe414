"""Two testees against each other on generated models: what one writes the other must read alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeAlias

from vectortool.runner import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vectortool.testee import Program

Json: TypeAlias = Any
IDS = "0123456789ABCXYZabcxyz"
EDGES = [0, 1, 2, 15, 16, 4095, 4096, 2**16, 2**31 - 1, 2**32, 2**63 - 1]


def cross(one: Program, other: Program, *, seed: int, count: int) -> Iterator[str]:
    """A line per disagreement."""
    for number in range(count):
        dice = random.Random(f"{seed}/{number}")  # noqa: S311 - reproducible, not secret
        for suite, make in MODELS.items():
            value = plain(make(dice))
            for writer, reader in ((one, other), (other, one)):
                if fault := _disagreement(suite, value, writer, reader, dice):
                    yield f"seed {seed}, model {number}, {suite}: {fault}"


def _disagreement(
    suite: str, value: Json, writer: Program, reader: Program, dice: random.Random
) -> str:
    written = writer.ask({"suite": suite, "op": "encode", "value": value})
    if "ok" not in written:
        return f"{writer.name} does not write {value!s:.200}: {written}"
    data = written["ok"]
    size = max(len(data) // 2, 1)
    cuts = sorted({dice.randrange(size) for _ in range(dice.randrange(5))} - {0})
    read = reader.ask({"suite": suite, "op": "decode", "input": data, "cuts": cuts})
    if plain(read) != {"ok": value}:
        return f"{reader.name} reads {read!s:.200} where {writer.name} wrote {value!s:.200}"
    again = reader.ask({"suite": suite, "op": "encode", "value": value})
    if again != written:
        return f"{reader.name} writes {again!s:.200}, {writer.name} {written!s:.200}"
    return ""


def _packets(dice: random.Random) -> Json:
    return [_packet(dice.choice("CDFTIWQEASNRPOV"), dice) for _ in range(dice.randrange(6))]


def _packet(status: str, dice: random.Random) -> Json:
    size = dice.choice([0, 1, 7, 8, 9, 300, dice.randrange(5000)])
    return [status, "" if status in "FT" else dice.randbytes(size).hex()]


def _stream(dice: random.Random) -> Json:
    regions, end = [], dice.choice([0, 1, 2**40])
    for _ in range(dice.randrange(6)):
        offset, length = end + dice.choice(EDGES[:8]), dice.choice([1, 2, 15, 16, 17, 4096])
        regions.append([hex(offset), dice.randbytes(length).hex()])
        end = offset + length
    size = dice.choice([end, end + 1, 2**63 - 1])
    return {"original_size": hex(size), "region_count": hex(len(regions)), "regions": regions}


def _name(dice: random.Random) -> Json:
    namespace = dice.choice(["@nutanix", "@proxmox", "@vsphere", "@hyperv"])
    where = dice.choice(["", "/", "/restore/", "//", "/a b/@nutanix/c/"])
    cluster = dice.choice(["c", "...", "a b", "%2F", "\u00e9", "@nutanix", '"\\'])
    value = {"where": where, "namespace": namespace, "cluster": cluster, "vm": _id(dice)}
    if dice.random() < 0.3:
        endings = {"@proxmox": ".conf", "@vsphere": ".vmx", "@hyperv": ".xml"}
        ending = endings.get(namespace)
        return value | {
            "metadata": _id(dice) + ending
            if ending
            else dice.choice(["vm-metadata.json", "vg-metadata.json"])
        }
    stamp = {"stamp": f"{dice.randrange(10**8):08}T{dice.randrange(10**6):06}Z"}
    disk = {"index": str(dice.choice([0, 1, 9, 10, 9999])), "disk": _id(dice)}
    return value | disk | dice.choice([{}, stamp, stamp | {"kind": "digests"}])


def _id(dice: random.Random) -> str:
    rest = (dice.choice(IDS + "-_") for _ in range(dice.choice([0, 1, 35, 63])))
    return dice.choice(IDS) + "".join(rest)


MODELS = {"ptcomm-packets": _packets, "phcbt01-streams": _stream, "names": _name}
