"""Where the firmware of a restored VM still is: only a recovery point of Prism's has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prism_client

if TYPE_CHECKING:
    from vm_config.machine import Machine

    from nutanix_backend.manifest import Manifest


def kept_by(
    client: prism_client.PrismClient, manifest: Manifest | None, machine: Machine
) -> str | None:
    """Name the recovery point that still has the UEFI variables and the vTPM of a VM.

    None where there is none to name, or nothing that it would have.
    """
    if manifest is None or machine.firmware != "uefi" or not manifest.recovery_point:
        return None
    try:
        if not client.recovery_points.exists(manifest.recovery_point):
            return None
    except prism_client.PrismError:
        return None
    return (
        f"recovery point {manifest.recovery_point} of this backup still has the old ones: if the "
        "guest needs its UEFI variables or its vTPM, restore that recovery point in Prism while "
        "it is there"
    )
