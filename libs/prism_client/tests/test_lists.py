"""A list is whole, each entity once, or it is an error."""

from __future__ import annotations

from typing import Any

import prism_client as pc
import pytest


@pytest.fixture
def many(prism: Any) -> list[str]:
    for number in range(249):
        prism.add_vm(f"vm {number:03}")
    return [vm["name"] for vm in prism.lists["vmm:ahv/config/vms"]]


def test_all_pages_are_read_and_no_more(prism: Any, client: Any, many: list[str]) -> None:
    assert [vm.name for vm in client.vms.list()] == many
    pages = [(r.query["$page"], r.query["$limit"]) for r in prism.requests]
    assert pages == [("0", "100"), ("1", "100"), ("2", "100")]


def test_a_server_with_smaller_pages_loses_nothing(
    prism: Any, client: Any, many: list[str]
) -> None:
    prism.page_limit = 40
    assert [vm.name for vm in client.vms.list()] == many


def test_an_empty_list_comes_without_data(prism: Any, client: Any) -> None:
    assert client.subnets.list() == []
    assert client.storage_containers.list() == []
    assert list(client.recovery_points.list()) == []


def test_without_a_total_the_end_is_an_empty_page(prism: Any, client: Any) -> None:
    item = prism.lists["clustermgmt:config/clusters"][0]
    pages = [[item], [item | {"extId": "c2"}], []]
    prism.script("GET", "/clusters$", *[prism.reply(body={"data": page}) for page in pages])
    assert [c.ext_id for c in client.clusters.list()] == ["c1", "c2"]


def test_a_page_that_repeats_earlier_ones_is_no_progress(prism: Any, client: Any) -> None:
    item = prism.lists["clustermgmt:config/clusters"][0]
    reply = prism.reply(body={"data": [item], "metadata": {"totalAvailableResults": 2}})
    prism.script("GET", "/clusters$", reply, reply)
    with pytest.raises(pc.BadAnswer, match="repeats"):
        client.clusters.list()


def test_an_entity_that_slips_across_a_page_is_found_again(
    prism: Any, client: Any, many: list[str]
) -> None:
    vms = prism.lists["vmm:ahv/config/vms"]
    # while page 1 is asked for, a VM of page 0 goes: what was first on page 1 is now on page 0
    prism.script("GET", "/vms$", lambda: None, lambda: vms.pop(0))
    names = [vm.name for vm in client.vms.list()]
    assert sorted(names) == sorted(many)
    assert len(prism.requests) == 6


def test_a_list_that_never_holds_still_is_an_error(prism: Any, client: Any, many: Any) -> None:
    prism.script("GET", "/vms$", *[lambda: prism.add_vm("yet another")] * 100)
    with pytest.raises(pc.BadAnswer, match="not whole"):
        list(client.vms.list())


def test_a_total_that_is_never_reached_is_an_error(prism: Any, client: Any) -> None:
    item = prism.lists["clustermgmt:config/clusters"][0]
    metadata = {"metadata": {"totalAvailableResults": 2}}
    round_ = [prism.reply(body=metadata | {"data": [item]}), prism.reply(body=metadata)]
    prism.script("GET", "/clusters$", *round_ * 5)
    with pytest.raises(pc.BadAnswer, match="not whole"):
        client.clusters.list()


def test_a_filter_is_quoted_and_its_result_checked(prism: Any, client: Any) -> None:
    prism.add_vm("it's")
    assert [vm.name for vm in client.vms.find("it's")] == ["it's"]
    assert prism.requests[-1].query["$filter"] == "name eq 'it''s'"
    everything = prism.lists["vmm:ahv/config/vms"]
    body = {"data": everything, "metadata": {"totalAvailableResults": 2}}
    prism.script("GET", "/vms$", prism.reply(body=body))
    assert [vm.name for vm in client.vms.find("it's")] == ["it's"]
    assert client.vms.find("nobody") == []


def test_a_filter_that_the_server_does_not_know_is_left_out(prism: Any, client: Any) -> None:
    prism.add_vm("two")
    prism.script("GET", "/vms$", prism.refused(400, "unknown filter"))
    assert [vm.name for vm in client.vms.find("two")] == ["two"]
    assert ["$filter" in r.query for r in prism.requests] == [True, False]
    prism.script("GET", "/vms$", prism.refused(400, "no"))
    with pytest.raises(pc.BadRequest):
        list(client.vms.list())
