"""The client's count of an upload and the line in the job log, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prism_client
from command_line import progress

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from prism_lab import Lab

MIB = 1 << 20


def test_the_log_of_an_upload_ends_at_one_hundred_percent(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    file, lines = tmp_path / "image", list[str]()
    file.write_bytes(bytes(5 * MIB))
    lab.faults.status("PUT */file", 503, retry_after=0)
    told = progress.Progress(lines.append, "disk 0 upload", 5 * MIB)
    with prism_client.connect(
        prism_client.Endpoint(lab.pc_host, lab.port),
        prism_client.Basic(lab.user, lab.password),
        prism_client.Trust(ca_file=lab.ca_file),
    ) as client:
        image = client.images.upload("counted", file, progress=told.advance)
        client.images.delete(image.ext_id)
    assert lines[-1] == "disk 0 upload: 100 % (5.0 MiB of 5.0 MiB)"
    percents = [int(line.split(": ")[1].split(" %")[0]) for line in lines]
    assert percents == sorted(percents)
