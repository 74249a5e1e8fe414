"""The metrics of a backup job in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nutanix_backend.backup.outcome import EndedJob, Outcome
    from nutanix_backend.references.known import Known
    from nutanix_backend.references.roster import Roster

PREFIX = "podheitor_nutanix_"
_JOB = ("backup_job", "selection")
_VM = (*_JOB, "vm", "uuid")


class Page:
    """The text of one job."""

    def __init__(self, series: str, selection: str) -> None:
        """Begin one for a job resource and what stands for its selection."""
        self._registry = CollectorRegistry()
        self._job = (series, selection)

    def job(self, ended: EndedJob, pending: int) -> None:
        """Add what is said of the job as a whole."""
        failed = ended.error or ended.outcome.failed
        values = {
            "job_success": ("1: every VM was saved, 0: not", float(not failed)),
            "job_end_timestamp_seconds": ("when the job ended", ended.ended),
            "job_duration_seconds": ("how long it took", ended.ended - ended.began),
            "leftovers": ("objects that ended jobs have left on the clusters", float(pending)),
        }
        for name, (meaning, value) in values.items():
            self._gauge(name, meaning, _JOB).labels(*self._job).set(value)
        self._errors(ended)

    def _errors(self, ended: EndedJob) -> None:
        errors = self._gauge("errors", "VMs that were not saved, by error", (*_JOB, "kind"))
        kinds = [type(error).__name__ for error in ended.outcome.failed.values()]
        for kind in kinds or filter(None, [ended.error]):
            errors.labels(*self._job, kind).inc()

    def vms(self, roster: Roster | None, recorded: Mapping[str, Known], outcome: Outcome) -> None:
        """Add what is said of each VM."""
        success = self._gauge("vm_last_success_timestamp_seconds", "0: never saved", _VM)
        references = self._gauge("vm_references", "recovery points kept for later jobs", _VM)
        proof = self._gauge(
            "vm_oldest_proof_timestamp_seconds", "when the longest unproven block was proven", _VM
        )
        for vm in roster.vms if roster else ():
            labels = (*self._job, vm.name, vm.ext_id)
            of_vm = recorded.get(vm.ext_id)
            success.labels(*labels).set(of_vm.saved if of_vm else 0)
            references.labels(*labels).set(of_vm.references if of_vm else 0)
            if of_vm and (blocks := of_vm.blocks()):
                proof.labels(*labels).set(blocks.oldest)
        self._saved(outcome)

    def _saved(self, outcome: Outcome) -> None:
        seconds = self._gauge("vm_duration_seconds", "seconds by stage", (*_VM, "stage"))
        amounts = self._gauge("vm_bytes", "bytes read and sent", (*_VM, "direction"))
        for uuid, vm in outcome.saved.items():
            labels = (*self._job, vm.name, uuid)
            for stage in ("prepare", "stream", "clean_up"):
                seconds.labels(*labels, stage).set(getattr(vm.seconds, stage))
            amounts.labels(*labels, "read").set(vm.read)
            amounts.labels(*labels, "sent").set(vm.sent)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(PREFIX + name, meaning, labels, registry=self._registry)

    def write(self, path: Path) -> None:
        """Write the text so that every user can read it; raise OSError."""
        write_to_textfile(str(path), self._registry)
        path.chmod(0o644)  # node_exporter is another user
