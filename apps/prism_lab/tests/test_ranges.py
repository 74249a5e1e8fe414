"""Bytes of a snapshot by HTTP ranges: a call of the lab's own, answered well and badly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import requests
from prism_lab import Lab, StartFailed

if TYPE_CHECKING:
    from pathlib import Path

    from apps.prism_lab.tests.conftest import Api, Snapshot

MIB = 1 << 20
CONTENT = os.urandom(MIB)


def snapshot_of(lab: Lab, api: Api) -> Snapshot:
    vm = lab.create_vm("web", [2 * MIB])
    lab.disk_file(vm, 0).write_bytes(CONTENT + bytes(MIB))
    return api.snapshot(vm)


def read(api: Api, snapshot: Snapshot, wanted: str | None) -> requests.Response:
    """Ask the cluster as for changed regions."""
    asked = snapshot.changed().request
    url = str(asked.url).replace("$actions/compute-changed-regions", "data")
    headers = {"Cookie": asked.headers["Cookie"]} | ({"Range": wanted} if wanted else {})
    return requests.get(url, headers=headers, verify=str(api.lab.ca_file), timeout=10)


def test_no_release_offers_it(api: Api) -> None:
    assert read(api, snapshot_of(api.lab, api), "bytes=0-9").status_code == 404


def test_every_way_to_answer(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, ranged_reads="yes") as lab:
        api = connect(lab)
        snapshot = snapshot_of(lab, api)

        def answer(wanted: str | None = "bytes=4096-4999") -> tuple[int, str | None, bytes]:
            found = read(api, snapshot, wanted)
            return found.status_code, found.headers.get("Content-Range"), found.content

        said = f"bytes 4096-4999/{2 * MIB}"
        assert answer() == (206, said, CONTENT[4096:5000])
        assert answer(f"bytes=4096-{9 * MIB}")[1] == f"bytes 4096-{2 * MIB - 1}/{2 * MIB}"
        assert answer(f"bytes={2 * MIB}-{3 * MIB}") == (416, f"bytes */{2 * MIB}", b"")
        assert answer(None) == (200, None, CONTENT + bytes(MIB))
        lab.answer_ranges("whole")
        assert answer() == (200, None, CONTENT + bytes(MIB))
        lab.answer_ranges("shifted")
        assert answer() == (206, f"bytes 4608-5511/{2 * MIB}", CONTENT[4608:5512])
        end = f"bytes={2 * MIB - 512}-{2 * MIB - 1}"
        assert answer(end)[1] == f"bytes {2 * MIB - 1024}-{2 * MIB - 513}/{2 * MIB}"
        lab.answer_ranges("short")
        assert answer() == (206, said, CONTENT[4096 : 4096 + 452])
        lab.answer_ranges("wrong")
        status, where, content = answer()
        assert (status, where, len(content)) == (206, said, 904)
        assert content != CONTENT[4096:5000]
        lab.answer_ranges("yes")
        lab.answer_ranges("no", after=1)
        assert answer()[2] == CONTENT[4096:5000]
        assert answer()[0] == 404
        with pytest.raises(StartFailed, match="ranged_reads is one of no, yes"):
            lab.answer_ranges("perhaps")


def test_the_token_is_checked(tmp_path: Path, connect: type[Api]) -> None:
    with Lab.start(tmp_path, ranged_reads="yes") as lab:
        api = connect(lab)
        snapshot = snapshot_of(lab, api)
        lab.faults.expire_jwt("GET */data")
        assert read(api, snapshot, "bytes=0-9").status_code == 401
