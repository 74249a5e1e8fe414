"""Whether a cluster gives bytes of snapshots by HTTP ranges, as far as a job knows.

No public release is known to. So the first VM of a job whose disks are open over iSCSI asks for
some blocks by range, and compares them. The outcome is kept on this host for the release of the
cluster: one that does not offer ranges is asked once per release, and one that does is asked again
by each job that opens any disk over iSCSI.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import attrs
import durable
from durable import records
from durable.names import component

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import prism_client

    from nutanix_backend.settings.parameters import Settings

log = logging.getLogger(__name__)

SCHEMA = 1
FOLDER = "ranges"


@attrs.frozen
class Shown:
    """What a cluster has shown at a release; `refused` says why not, "" if it is proven."""

    schema: int
    cluster: str
    release: str
    refused: str


class RangeOffer:
    """What is known of one cluster. For any thread."""

    def __init__(
        self, path: Path, cluster: prism_client.Cluster, warn: Callable[[str], object]
    ) -> None:
        """Go on from the outcome in the file, if it is of this release of the cluster."""
        self._path = path
        self._cluster = cluster
        self._warn = warn
        self._lock = threading.Lock()
        known = _load(path)
        is_current = bool(known and known.release == cluster.version != "")
        self._is_proven = bool(is_current and known and not known.refused)
        self._is_settled = is_current and not self._is_proven

    @property
    def is_proven(self) -> bool:
        """Whether disks may be read by range."""
        return self._is_proven

    def claim(self) -> bool:
        """Whether the caller shall ask now: one VM of a job does, unless the answer is known."""
        with self._lock:
            claimed, self._is_settled = not self._is_settled, True
            return claimed

    def unclaim(self) -> None:
        """It could not be told: the next VM shall ask."""
        self._is_settled = False

    def prove(self) -> None:
        """The bytes by range were those over iSCSI."""
        with self._lock:
            if not self._is_proven:
                self._keep("")
            self._is_proven = True

    def refuse(self, reason: str, *, is_lasting: bool, is_wrong: bool = True) -> None:
        """Use ranges no more in this job; `is_lasting`: in no job, until the release changes.

        What `is_wrong` is said in the job log, once.
        """
        with self._lock:
            self._is_proven, self._is_settled = False, True
            if is_lasting:
                self._keep(reason)
        log.info("cluster %s gives no bytes by range: %s", self._cluster.name, reason)
        if is_wrong:
            self._warn(
                f"cluster {self._cluster.name} gave a wrong answer to an HTTP range: disks are "
                f"read over iSCSI from here on: {reason}"
            )

    def _keep(self, refused: str) -> None:
        """Keep the outcome; without it, the next job asks again."""
        outcome = Shown(SCHEMA, self._cluster.ext_id, self._cluster.version, refused)
        try:
            durable.make_folder(self._path.parent)
            durable.replace(self._path, records.dump(outcome))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


class RangeOffers:
    """Those of the clusters of a job."""

    def __init__(self, settings: Settings, warn: Callable[[str], object]) -> None:
        """Use what is known on this host; `warn` hears of wrong answers."""
        self._folder = settings.state_dir / FOLDER
        self._is_wanted = settings.data_path == "auto"
        self._warn = warn
        self._offers: dict[str, RangeOffer] = {}
        self._lock = threading.Lock()

    def of(self, cluster: prism_client.Cluster) -> RangeOffer | None:
        """That of a cluster; None where all is to go over iSCSI."""
        if not self._is_wanted:
            return None
        with self._lock:
            if cluster.ext_id not in self._offers:
                path = self._folder / f"{component(cluster.ext_id)}.json"
                self._offers[cluster.ext_id] = RangeOffer(path, cluster, self._warn)
            return self._offers[cluster.ext_id]


def _load(path: Path) -> Shown | None:
    try:
        return records.load(path.read_bytes(), Shown, schema=SCHEMA)
    except FileNotFoundError:
        return None
    except (OSError, records.RecordError) as error:
        log.warning("%s cannot be used: %s", path, error)
        return None
