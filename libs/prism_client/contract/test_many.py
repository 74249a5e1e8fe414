"""A site with 5,000 VMs: one call for each 100, time that grows with the number, little memory."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from prism_client import Basic, Endpoint, PrismClient, Trust, connect
from prism_lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
COUNT = 5000


@pytest.fixture(scope="module", params=["7.6", "2023.4"], ids=["v4", "v3"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, PrismClient]]:
    root: Path = tmp_path_factory.mktemp("many")
    with (
        Lab.start(root, personality=request.param) as lab,
        connect(
            Endpoint(lab.pc_host), Basic(lab.user, lab.password), Trust(ca_file=lab.ca_file)
        ) as client,
    ):
        lab.create_vms("many", COUNT, [64 * MIB, MIB])
        yield lab, client


def test_all_are_listed_in_linear_time_and_bounded_memory(site: tuple[Lab, PrismClient]) -> None:
    lab, client = site
    before = len(lab.requests)
    spent, seen, most = [], 0, 0
    began = time.process_time()
    tracemalloc.start()
    try:
        for vm in client.vms.list():
            seen += 1
            assert vm.name == f"many-{seen:05}"
            if seen % (COUNT // 2) == 0:
                spent.append(time.process_time() - began)
                began = time.process_time()
                most = max(most, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert seen == COUNT
    assert len(lab.requests) - before == COUNT // 100
    assert spent[1] < 2 * spent[0], f"the second half cost more: {spent}"
    assert most < 40 * MIB, "the client, and the lab in the same process: not the whole list"


def test_a_busy_prism_in_between_costs_waiting_and_no_vm(
    site: tuple[Lab, PrismClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, client = site
    monkeypatch.setattr("prism_client._clock.time.sleep", lambda _: None)
    lab.faults.status("*/vms*", 429, times=3, skip=20, retry_after=1)
    assert len({vm.ext_id for vm in client.vms.list()}) == COUNT
    assert lab.faults.pending() == []


def test_one_is_found_by_its_name(site: tuple[Lab, PrismClient]) -> None:
    _, client = site
    (found,) = client.vms.find("many-04711")
    assert client.vms.get(found.ext_id) == found
