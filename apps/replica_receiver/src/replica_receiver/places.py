"""Where a receiver keeps its files, unless it is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HOME = Path("/var/lib/podheitor-receiver")
STORE = HOME / "store"
IDENTITY = HOME / "identity"


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add --store."""
    parser.add_argument(
        "--store", type=Path, default=STORE, metavar="DIR",
        help="folder of the replicas; default: %(default)s",
    )  # fmt: skip
