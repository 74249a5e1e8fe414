"""A million changed regions, under a token that expires on the way."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import prism_client as pc
import pytest

K = 1 << 10
STEP, LENGTH = 128 * K, 64 * K
REGIONS, PER_PAGE = 1_000_000, 10_000
SIZE = REGIONS * STEP
LIFE = 250.0
"""Seconds that a token is good for, which it does not say."""


def resident() -> int:
    """Bytes of memory of this process, the server of the test included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def serve_many(prism: Any, issued: list[float]) -> None:
    """Let the cluster list a region every 128 KiB, to who has a token that is young enough."""
    usual_discover = prism.discover

    def discover() -> Any:
        prism.live_tokens.clear()
        issued.append(prism.clock.now())
        return usual_discover()

    def element(request: Any) -> Any:
        token = request.headers["cookie"].removeprefix("NTNX_IGW_SESSION=")
        if token not in prism.live_tokens or prism.clock.now() > issued[-1] + LIFE:
            return prism.refused(401, "the token has expired")
        prism.clock.sleep(4)
        asked = request.json
        end = asked["offset"] + asked.get("length", SIZE)
        first = -(-asked["offset"] // STEP)
        last = min(first + PER_PAGE, REGIONS, -(-end // STEP))
        found = [(number * STEP, LENGTH, "REGULAR") for number in range(first, last)]
        return prism.regions_reply(
            found, next_offset=last * STEP if last < REGIONS else 0, file_size=SIZE
        )

    prism.discover, prism.element = discover, element


@pytest.mark.timeout(400)
def test_a_million_regions_come_out_whole_in_little_memory(prism: Any, client: Any) -> None:
    issued: list[float] = []
    serve_many(prism, issued)
    disk = pc.DiskSnapshotRef("rp", "vmrp", "drp")
    listing = client.changed_regions.open(disk, None, disk_size=SIZE)
    before, most, count, total = resident(), 0, 0, 0
    half, halves = time.thread_time(), []
    for number, region in enumerate(listing):
        assert region.offset == number * STEP
        count, total = count + 1, total + region.length
        if number % PER_PAGE == 0:
            most = max(most, resident())
        if count % (REGIONS // 2) == 0:
            half, spent = time.thread_time(), time.thread_time() - half
            halves.append(spent)
    assert (count, total) == (REGIONS, REGIONS * LENGTH)
    assert most - before < 40 << 20, "a page at a time, not the list"
    assert len(issued) >= 3, "the token expired twice on the way, and more"
    assert halves[1] < 1.5 * halves[0], f"linear time, but the halves took {halves} s"
    calls = [r for r in prism.sent("POST", "compute-changed-regions") if r.host == prism.pe]
    pages = REGIONS // PER_PAGE
    refused = len(issued) - 1
    assert len(calls) == 2 * pages + refused, "each page once, each seam proven once: linear"
