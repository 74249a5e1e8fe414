"""The lab in each of its personalities, and the client connected to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from prism_client import Basic, Endpoint, PrismClient, Trust, connect
from prism_client._clock import SystemClock
from prism_lab import PERSONALITIES, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
_seen: dict[str, set[str]] = {}


class ShortPauses(SystemClock):
    """The lab needs a few hundredths of a second for a task, not the seconds of a cluster."""

    def sleep(self, seconds: float) -> None:
        super().sleep(0.1 * seconds)


@attrs.frozen
class Prism:
    """One personality of the lab, the client on it, and what of a Prism it is expected to be."""

    lab: Lab
    client: PrismClient
    generation: str
    tracks_changes: bool

    def vm(self, name: str, *sizes: int) -> str:
        """A VM with one disk of 4 MiB, or of these sizes; its id."""
        return self.lab.create_vm(name, sizes or (4 * MIB,))

    def write(self, vm: str, offset: int, content: bytes, index: int = 0) -> None:
        with self.lab.disk_file(vm, index).open("r+b") as file:
            file.seek(offset)
            file.write(content)


@pytest.fixture(scope="session", params=[*PERSONALITIES, "2023.4 listing holes"])
def prism(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prism]:
    name, _, holes = request.param.partition(" ")
    root: Path = tmp_path_factory.mktemp("lab")
    with (
        Lab.start(root, personality=name, v3_lists_holes=bool(holes), regions_per_page=3) as lab,
        connect(
            Endpoint(lab.pc_host, lab.port),
            Basic(lab.user, lab.password),
            Trust(ca_file=lab.ca_file),
            timeout=10,
            deadline=20,
        ) as client,
    ):
        yield Prism(lab, client, "v3" if name == "2023.4" else "v4", name != "2024.3")
        _seen[request.param] = {f"{method} {_shape(path)}" for method, path, _ in lab.requests}


def _shape(path: str) -> str:
    """A path without its ids."""
    parts = path.split("/")
    return "/".join("*" if any(c.isdigit() for c in p) and len(p) > 30 else p for p in parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was tried."""
    for name, calls in sorted(_seen.items()):
        terminalreporter.write_line(f"personality {name}: {len(calls)} kinds of call")
    kinds = set().union(*_seen.values())
    tests = sum(len(terminalreporter.stats.get(outcome, ())) for outcome in ("passed", "failed"))
    terminalreporter.write_line(
        f"contract: {len(_seen)} personalities, {len(kinds)} kinds of call, {tests} tests"
    )
