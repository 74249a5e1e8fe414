"""Says how much of the matrix was tried."""

from __future__ import annotations

from collections import Counter

import pytest

from apps.nutanix_backend.tests.conftest import faulty, prepared_door, quick_lab

__all__ = ["faulty", "prepared_door", "quick_lab", "tally"]

_tally: Counter[str] = Counter()


@pytest.fixture(scope="session")
def tally() -> Counter[str]:
    """Counts calls, cells and outcomes."""
    return _tally


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    terminalreporter.write_line("fault matrix: " + ", ".join(f"{n} {k}" for k, n in _tally.items()))
