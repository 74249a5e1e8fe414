"""Jobs of a sibling's adapter: our backend, started to restore what another plugin has saved.

Plugin line and restore options of such a job belong to the sibling; even where a name is one of
ours it means something else (its user, its password). So none of them is looked at: a file on this
host says where restores go.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ptcomm import JobType

from nutanix_backend.errors import ParameterError
from nutanix_backend.names import NAMESPACE
from nutanix_backend.settings import parameters, places

if TYPE_CHECKING:
    from ptcomm import Job, Phase

    from nutanix_backend.settings.parameters import Settings

CONFIG_FILE = Path("/etc/podheitor-nutanix/adapter.conf")
VARIABLE = "PODHEITOR_ADAPTER_CONF"
"""Names another file than CONFIG_FILE, in the environment of bacula-fd."""

Items = tuple[tuple[str, str], ...]


def settings(job: Job, given: Items) -> Settings:
    """The settings of a job: as given in ours, from the file of this host in a sibling's."""
    if not is_sibling(job.namespace):
        found = parameters.parse(given, _place(job.type))
        return parameters.with_target(found) if job.type is JobType.RESTORE else found
    path = Path(os.environ.get(VARIABLE, CONFIG_FILE))
    return parameters.parse((("config_file", str(path)),) if path.exists() else ())


def _place(job: JobType) -> places.SettingPlace:
    """Who has written the parameters of such a job."""
    if os.environ.get(places.STARTED_BY) == places.COMMAND_LINE:
        return places.HOST
    if job is JobType.BACKUP:
        return places.PLUGIN_LINE
    return places.RESTORE if job is JobType.RESTORE else places.TYPED_LINE


def refuse_all_but_restores(namespace: str, phase: Phase) -> None:
    """Raise ParameterError when an adapter is asked to back up, to estimate or to list."""
    if is_sibling(namespace) and phase.name != "RESTORE":
        raise ParameterError(
            f"the adapter for {namespace} restores its backups to Nutanix and does nothing else: "
            "back up on a client with the sibling's own plugin"
        )


def is_sibling(namespace: str) -> bool:
    """Whether the plugin that started us is another's."""
    return namespace not in {"", NAMESPACE}
