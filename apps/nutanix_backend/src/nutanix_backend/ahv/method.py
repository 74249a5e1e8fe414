"""The choice between images and volume groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import iscsi_attach
import prism_client

from nutanix_backend.ahv.upload import ImageUpload, UploadMethod
from nutanix_backend.ahv.volume_group import VolumeGroupUpload
from nutanix_backend.cluster.guards import new_secret
from nutanix_backend.errors import BackendError, RestoreRefused
from nutanix_backend.settings.parameters import prism_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from nutanix_backend.ahv.creation import Creation
    from nutanix_backend.ahv.site import Site

REASONS = (
    prism_client.ApiError,
    prism_client.TaskFailed,
    prism_client.Unsupported,
    BackendError,
    iscsi_attach.IscsiAttachError,
)
"""Errors that mean "no volume group here"; a Prism that does not answer is none of them."""


@attrs.define
class KnownCluster:
    """What is known of a cluster, for the VMs that come after the first; and what they share.

    `refusal` says why it creates no VM from volume groups, `is_proven` that it does. `secret` is
    the CHAP secret of all sessions: Prism keeps the one of an initiator for all volume groups.
    """

    secret: str | None = attrs.field(repr=False)
    is_proven: bool = False
    refusal: str = ""


def require_volume_groups(
    site: Site, creation: Creation, stack: ExitStack, secret: str | None
) -> None:
    """Raise RestoreRefused unless the cluster makes disks of VMs from those of volume groups."""
    try:
        images = ImageUpload(site.client, creation, _no_images, [])
        VolumeGroupUpload(site, creation, stack, images, secret).try_out(site)
    except REASONS as error:
        raise RestoreRefused(
            f"cluster {site.cluster.name} gives a VM no disk from a volume group: {error}: leave "
            "restore_to=inplace out to make a new VM"
        ) from error


def _no_images() -> Path:
    raise RestoreRefused("disks are not restored in place through images")


def choose(
    site: Site,
    creation: Creation,
    stack: ExitStack,
    staging: Callable[[], Path],
    known: KnownCluster | None = None,
) -> UploadMethod:
    """Return the method that `restore_via` asks for; `auto` takes the volume group where it works.

    `staging` makes the folder for images. What is not yet `known` is tried out. Raises
    RestoreRefused when a volume group is asked for and the cluster, or this host, cannot;
    PrismError when images cannot be uploaded either.
    """
    hosts = (
        prism_endpoint(creation.settings).host,
        site.cluster.external_address,
        site.cluster.data_services_ip,
    )
    cluster = [host for host in hosts if host]
    images = ImageUpload(site.client, creation, staging, cluster)
    wanted = creation.settings.restore_via
    known = known or KnownCluster(new_secret(chap=creation.settings.chap))
    if wanted != "image" and not known.refusal:
        try:
            method = VolumeGroupUpload(site, creation, stack, images, known.secret)
            if not known.is_proven:
                method.try_out(site)
        except REASONS as error:
            reason = f"cluster {site.cluster.name} creates no VM from volume groups: {error}"
            if wanted == "volume_group":
                raise RestoreRefused(f"restore_via=volume_group: {reason}") from error
            known.refusal = reason
            creation.report.say(f"disks go through the image service: {reason}")
        else:
            known.is_proven = True
            return method
    images.check()
    return images
