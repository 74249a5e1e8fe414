"""The metrics of the receiver, as Prometheus reads them."""

from __future__ import annotations

import os
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from replica_receiver import metrics
from vm_replica.errors import ReplicationError
from vm_replica.protocol import tls
from vm_replica.receiver import Receiver
from vm_replica.store.access import make_store
from vm_replica.store.admission import Limits

from libs.vm_replica.tests.receiver_site import SIZE, VM, Site, cycle_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A receiver, which serves."""
    store = make_store(tmp_path / "store", Limits(reserve=0))
    made = Site(tmp_path, store)
    tls.ensure_identity(made.identity, "receiver")
    with Receiver(store, made.identity, options=made.options) as made.running:
        yield made


def scraped(address: tuple[str, int]) -> dict[str, dict[str, float]]:
    """Each metric: its values by the UUID of the VM."""
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics") as answer:
        text = answer.read().decode()
    return {
        family.name: {sample.labels["uuid"]: sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_a_request_shows_how_the_replicas_stand_now(site: Site) -> None:
    with metrics.served("127.0.0.1:0", site.store) as address:
        assert scraped(address) == {metrics.PREFIX + f.name: {} for f in metrics.FAMILIES}
        now = int(time.time())
        manifest, stream = cycle_of(os.urandom(SIZE), taken=now - 300)
        with site.connect(site.source("source", VM)) as session:
            send(session, manifest, stream)
        found = scraped(address)
    assert found["podheitor_replica_level"] == {VM: 2.0}
    assert found["podheitor_replica_lag_seconds"][VM] >= 300
    assert found["podheitor_replica_rpo_seconds"] == {VM: 60.0}
    assert found["podheitor_replica_disk_bytes"] == {VM: float(SIZE)}
    assert found["podheitor_replica_last_cycle_timestamp_seconds"][VM] >= now


def test_a_replica_that_cannot_be_read_is_critical_and_hides_no_other(site: Site) -> None:
    manifest, stream = cycle_of(os.urandom(SIZE))
    with site.connect(site.source("source", VM)) as session:
        send(session, manifest, stream)
    site.replica().files.state_path.write_text("{}")
    with metrics.served("127.0.0.1:0", site.store) as address:
        assert scraped(address)["podheitor_replica_level"] == {VM: 2.0}


@pytest.mark.parametrize("address", ["0.0.0.0:9849", "192.0.2.1:9849", "receiver.example:9849"])
def test_metrics_are_not_offered_to_other_hosts(site: Site, address: str) -> None:
    with (
        pytest.raises(ReplicationError, match="is not an address of this host itself"),
        metrics.served(address, site.store),
    ):
        pass


def test_localhost_is_this_host(site: Site) -> None:
    with metrics.served("localhost:0", site.store) as (_, port):
        assert port
