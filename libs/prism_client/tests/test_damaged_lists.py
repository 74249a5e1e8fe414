"""One entry that cannot be understood costs no other; it is named, and refused when asked for."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import prism_client as pc
import pytest

TARGET = Path(__file__).parents[1] / "fuzz/prism_lists.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_prism_lists", TARGET)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lists = _load()


@pytest.mark.parametrize("kind", lists.LISTS, ids=lambda kind: kind.path)
def test_no_damage_to_one_entry_loses_another(kind: Any) -> None:
    entry = lists.three(kind)[1]
    tried = 0
    for place in lists.paths(entry):
        for harm in (lists.REMOVED, *lists.HARM):
            lists.check_list(kind, lists.harmed(entry, place, harm))
            tried += 1
    assert tried >= 13


HOLES: list[tuple[str, str, Any]] = [
    ("no cluster", "cluster: is missing", lambda vm: vm.pop("cluster")),
    (
        "an empty slot",
        "disks[0].backingInfo: is missing",
        lambda vm: vm["disks"][0].pop("backingInfo"),
    ),
    (
        "a disk that is being cloned",
        "disks[0].backingInfo.diskSizeBytes: is missing",
        lambda vm: vm["disks"][0]["backingInfo"].pop("diskSizeBytes"),
    ),
    ("no name", "name: is missing", lambda vm: vm.pop("name")),
    (
        "memory is null",
        "memorySizeBytes: is missing",
        lambda vm: vm.update(memorySizeBytes=None),
    ),
    ("no id", "extId: is missing", lambda vm: vm.pop("extId")),
]


@pytest.mark.parametrize(("hole", "problem", "make"), HOLES, ids=[hole for hole, _, _ in HOLES])
def test_an_incomplete_vm_is_left_out_and_named(
    prism: Any, client: Any, hole: str, problem: str, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    odd = prism.add_vm("odd")
    ext_id = odd["extId"]
    prism.add_vm("last")
    make(odd)
    with caplog.at_level(logging.WARNING, "prism_client"):
        assert [vm.name for vm in client.vms.list()] == ["vm one", "last"]
        assert [vm.name for vm in client.vms.list()] == ["vm one", "last"]
    (entry,) = client.unreadable.of("VM")
    assert entry.problem == problem
    assert entry.field == problem.split(":", maxsplit=1)[0]
    assert (entry.ext_id or ext_id) == ext_id
    assert caplog.text.count(str(entry)) == 1, "said once, however often it is listed"
    assert str(entry).startswith("VM odd" if entry.name else f"a VM without a name ({ext_id})")
    assert [vm.name for vm in client.vms.find("last")] == ["last"]


def test_who_asks_for_an_unreadable_vm_is_told_which_field_it_is(prism: Any, client: Any) -> None:
    odd = prism.add_vm("odd")
    del odd["cluster"]
    with pytest.raises(pc.BadAnswer, match="cluster: is missing") as caught:
        client.vms.get(odd["extId"])
    assert caught.value.field == "cluster"
    with pytest.raises(pc.BadAnswer, match=r"VM odd \(.*\): cluster: is missing"):
        client.vms.find("odd")


def test_a_record_that_can_be_read_again_is_forgotten(prism: Any, client: Any) -> None:
    odd = prism.add_vm("odd")
    cluster = odd.pop("cluster")
    list(client.vms.list())
    assert [entry.name for entry in client.unreadable.of()] == ["odd"]
    odd["cluster"] = cluster
    list(client.vms.list())
    assert client.unreadable.of() == ()


def test_a_list_that_is_not_whole_is_an_error_all_the_same(prism: Any, client: Any) -> None:
    body = {"data": [{"name": "no id"}], "metadata": {"totalAvailableResults": 2}}
    prism.script("GET", "/vms$", *[prism.reply(body=body), prism.reply(body=body)] * 5)
    with pytest.raises(pc.BadAnswer, match="repeats"):
        list(client.vms.list())


def test_two_entries_with_one_id_are_one_record_and_a_problem(prism: Any, client: Any) -> None:
    twin = prism.add_vm("twin")
    prism.add_vm("other", extId=twin["extId"])
    assert [vm.name for vm in client.vms.list()] == ["vm one", "twin"]
    (entry,) = client.unreadable.of("VM")
    assert str(entry) == f"VM other ({twin['extId']}) cannot be read: has the id of another entry"


def test_the_disks_of_a_volume_group_are_whole_or_an_error(prism: Any, client: Any) -> None:
    """Completeness is safety here: a disk that is left out would be a disk that is not saved."""
    path = "volumes:config/volume-groups"
    prism.lists[path].append({"extId": "g", "name": "g"})
    disks = [{"extId": "a", "index": 0, "diskSizeBytes": 1}, {"extId": "b", "index": 1}]
    prism.lists[f"{path}/g/disks"] = disks
    with pytest.raises(pc.BadAnswer, match="diskSizeBytes: is missing"):
        client.volume_groups.get("g")


def test_a_strange_name_is_shown_in_one_printable_line(prism: Any, client: Any) -> None:
    odd = prism.add_vm("o\x1b[31md\n" + "d" * 1000)
    del odd["cluster"]
    list(client.vms.list())
    (entry,) = client.unreadable.of()
    assert str(entry).isprintable()
    assert len(str(entry)) <= 600
