"""What a client exchanges with the lab, made anonymous, answers a client in the same way."""

from __future__ import annotations

import json
import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import attrs
import prism_client as pc
import pytest
from prism_client import capture
from prism_lab import PERSONALITIES, Lab
from prism_lab.errors import LabError
from prism_lab.replay import replaying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
CHAP = "a-chap-secret-1"


def connect(host: str, ca: Path, record: Any = None) -> pc.PrismClient:
    return pc.connect(
        pc.Endpoint(host), pc.Basic("admin", "any password"), pc.Trust(ca_file=ca), record=record
    )


def plain(value: object) -> Any:
    """A record of the client as JSON; sets and what came raw are of no interest."""
    if attrs.has(type(value)):
        fields = attrs.asdict(cast("Any", value), recurse=False)
        return {name: plain(item) for name, item in fields.items() if name not in {"raw", "id"}}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, str, type(None))) else str(value)


MISSING = "0a1b2c3d-0000-0000-0000-000000000000"


def story(client: pc.PrismClient, missing: str = MISSING) -> list[Any]:
    """Calls of a backup and of a clean-up, and what they give."""
    seen: list[object] = [client.clusters.list(), client.subnets.list(), client.categories.list()]
    vms = list(client.vms.list())
    vm = client.vms.get(vms[0].ext_id)
    seen += [vms, vm, client.storage_containers.list(), client.protection_policies.of_vm(vm)]
    point = client.recovery_points.create(
        vm.ext_id,
        name=f"podheitor {vm.name}",
        expires=datetime(2031, 1, 1, tzinfo=UTC),
        consistency=pc.Consistency.CRASH,
    )
    seen.append(point)
    for disk in point.disks:
        try:
            listing = client.changed_regions.open(
                point.disk_ref(disk), None, disk_size=vm.disks[0].size
            )
            seen.append(list(listing))
        except pc.PrismError as error:  # a release without change tracking; a CD-ROM drive
            seen.append(type(error).__name__)
    client.recovery_points.delete(point.ext_id)
    try:
        client.vms.get(missing)
    except pc.NotFound as error:
        seen.append(re.sub(r"https://[^/]+|request id [^)]+", "", str(error)))
    told: list[Any] = plain(seen)
    return told


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., tuple[Lab, list[Any], dict[str, Any], Any]]:
    """Run the story against a lab; give the lab, what was seen, the capture, and its disguise."""

    def run(personality: str) -> tuple[Lab, list[Any], dict[str, Any], Any]:
        with Lab.start(tmp_path / "lab", personality=personality, cluster_name="harbour") as lab:
            vm = lab.create_vm("payroll", (MIB,))
            lab.create_vm("WEB01", (MIB,))
            lab.protect_vm(vm, policy="nightly gold")
            with lab.disk_file(vm, 0).open("r+b") as disk:
                disk.write(b"x" * 100)
            recorder = capture.Recorder(tmp_path / "raw")
            client = pc.connect(
                pc.Endpoint(lab.pc_host),
                pc.Basic(lab.user, lab.password),
                pc.Trust(ca_file=lab.ca_file),
                record=recorder,
            )
            with client:
                seen = story(client)
                if client.recovery_points.generation == "v4":
                    offer(client, lab)
        disguise = capture.Disguise()
        found = capture.anonymised(capture.read_recorded(tmp_path / "raw"), disguise)
        return lab, seen, found, disguise

    return run


def offer(client: pc.PrismClient, lab: Lab) -> None:
    """Open a volume group to an initiator with a secret."""
    container = client.storage_containers.list()[0].ext_id
    group = client.volume_groups.create_blank(
        "podheitor secret", lab.cluster_ext_id, [MIB], container, chap_secret=CHAP
    )
    initiator = "iqn.2026-11.org.harbour:host"
    client.volume_groups.attach_client(group.ext_id, initiator, chap_secret=CHAP)
    client.volume_groups.detach_client(group.ext_id, initiator)
    client.volume_groups.delete(group.ext_id)


@pytest.mark.parametrize("personality", PERSONALITIES)
def test_a_capture_answers_as_the_server_did(
    recorded: Callable[..., Any], tmp_path: Path, personality: str
) -> None:
    _, seen, content, disguise = recorded(personality)
    file = tmp_path / "capture.json"
    file.write_text(json.dumps(content))
    with replaying(file, tmp_path / "ca.pem") as replay:
        with connect(replay.pc_host, tmp_path / "ca.pem") as client:
            again = story(client, disguise.ids(MISSING))
        text = json.dumps(again)
        for recorded_host, here in replay.hosts.items():
            text = text.replace(here, recorded_host)
    assert json.loads(text) == disguise.json(seen)


@pytest.mark.parametrize("personality", PERSONALITIES)
def test_nothing_of_the_site_is_in_a_capture(
    recorded: Callable[..., Any], personality: str
) -> None:
    lab, _, content, _ = recorded(personality)
    text = json.dumps(content)
    world = lab._world
    ids = {*world.vms, *world.subnets, *world.containers, *world.policies, lab.cluster_ext_id}
    names = {"harbour", "payroll", "WEB01", "nightly gold", lab.user, lab.password, CHAP}
    names |= {named.name for shelf in (world.subnets, world.containers) for named in shelf.values()}
    macs = {nic.mac for vm in world.vms.values() for nic in vm.nics}
    hosts = {lab.pc_host, lab.pe_host, lab.data_services_ip}
    left = [secret for secret in ids | names | macs | hosts if secret in text]
    assert left == []
    assert len(content["exchanges"]) > 15


def test_the_words_of_an_error_stay(recorded: Callable[..., Any]) -> None:
    _, _, content, _ = recorded("7.6")
    (missing,) = [e for e in content["exchanges"] if e["status"] == 404 and "/vms/" in e["path"]]
    assert "not" in json.dumps(missing["body"])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "exchanges": []}']
)
def test_a_file_that_is_no_capture(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with (
        pytest.raises(LabError, match=r"capture|schema 2"),
        replaying(file, tmp_path / "ca.pem"),
    ):
        raise AssertionError("it is served")


def test_one_value_gets_one_replacement() -> None:
    disguise = capture.Disguise()
    secret = secrets.token_hex(8)
    value = {"name": "db", "other": {"vmName": "db", "password": secret, "state": "ON", "size": 5}}
    disguise.learn(value)
    found = disguise.json(value)
    assert found["name"] == found["other"]["vmName"] != "db"
    assert secret not in json.dumps(found)
    assert (found["other"]["state"], found["other"]["size"]) == ("ON", 5)
