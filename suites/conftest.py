"""What every suite needs: plugin lines of tests may name files in the temporary folder."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def allowed_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """List that folder as one that may be named (see nutanix_backend.settings.places)."""
    file = tmp_path_factory.mktemp("etc") / "allowed-folders"
    file.write_text(f"{tempfile.gettempdir()}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PODHEITOR_ALLOWED_FOLDERS", str(file))
        yield
