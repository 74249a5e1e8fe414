"""pytest fixtures for whoever tests against the lab: `pytest_plugins = ["prism_lab.testing"]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prism_lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A fresh cluster for each test; it starts in a fraction of a second."""
    with Lab.start(tmp_path / "lab") as running:
        yield running


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cluster for a whole test module, for tests that do not mind each other."""
    with Lab.start(tmp_path_factory.mktemp("lab")) as running:
        yield running
