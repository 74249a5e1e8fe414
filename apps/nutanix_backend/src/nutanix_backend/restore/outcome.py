"""What became of the VMs of a restore: one that fails does not stop the others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import chain_disk
import disk_images
import guest_files
import iscsi_attach
import phcbt01
import prism_client
import qemu_img

from nutanix_backend.errors import BackendError, DrillFailed, RestoreFailed, as_line
from nutanix_backend.restore.refusal import Refusal

if TYPE_CHECKING:
    from nutanix_backend.report import Report

log = logging.getLogger(__name__)

VM_ERRORS = (
    BackendError,
    prism_client.PrismError,
    chain_disk.ChainError,
    disk_images.ImageRefused,
    guest_files.FilesError,
    iscsi_attach.IscsiAttachError,
    phcbt01.PhcbtError,
    qemu_img.ToolFailed,
    OSError,
)
"""What may fail for one VM without ending the job."""


class RestoreOutcome:
    """Which VMs are not restored, and why.

    The reason is told at once when there are other VMs; that of the only VM is told once, at the
    end, as the reason why the job failed. VMs are known by their folders in the backup.
    """

    def __init__(self, report: Report, *, abort_on_error: bool) -> None:
        """Tell `report`; with `abort_on_error` the first failure ends the whole restore."""
        self._report = report
        self._abort_on_error = abort_on_error
        self._folders: set[str] = set()
        self._failed: set[str] = set()
        self._untold: list[tuple[str, Exception]] = []
        self._refusal: Refusal | None = None

    def expect(self, folder: str) -> None:
        """There is a VM of this folder in the restore."""
        self._folders.add(folder)
        self._tell()

    def has_failed(self, folder: str) -> bool:
        """Whether the rest of a VM is skipped."""
        return self._refusal is not None or folder in self._failed

    def vm_failed(self, folder: str, name: str, error: Exception) -> None:
        """A VM is not restored."""
        log.warning("%s is not restored", name, exc_info=error)
        self._failed.add(folder)
        if self._abort_on_error:
            self.job_failed(error)
            return
        self._untold.append((name, error))
        self._tell()

    def job_failed(self, error: Exception) -> None:
        """Nothing can be restored: all that still comes is skipped."""
        log.warning("the restore failed", exc_info=error)
        self._refusal = self._refusal or Refusal(error)

    def skip(self, length: int) -> None:
        """A file of `length` bytes is skipped; raise the error when the job waits too long for it.

        As long as there are VMs that can be restored, everything is skipped that must be.
        """
        if self._refusal is not None:
            self._refusal.skip(length)

    def conclude(self, restored: int) -> None:
        """Everything has arrived, and so many VMs are restored.

        Raises the error that fails the job, if one does.
        """
        if self._refusal is not None:
            raise self._refusal.error
        if not self._failed or restored:
            self._tell(all_of_them=True)
        elif self._untold:
            raise self._untold[0][1]
        else:
            raise RestoreFailed("no VM is restored: the reasons are above")

    def _tell(self, *, all_of_them: bool = False) -> None:
        if len(self._folders) > 1 or all_of_them:
            for name, error in self._untold:
                text = as_line(error)
                if isinstance(error, DrillFailed):
                    self._report.report(f"{name} fails its drill: {text}")
                else:
                    self._report.report(f"{name} is not restored: {text}")
            self._untold.clear()
