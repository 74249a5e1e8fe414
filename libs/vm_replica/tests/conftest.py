"""Receivers that serve while a test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from vm_replica.protocol import tls
from vm_replica.receiver import Options, Receiver
from vm_replica.store.admission import Limits
from vm_replica.store.replica import Store

from libs.vm_replica.tests.receiver_site import QUICK, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Start a receiver with these options."""
    started = []

    def begin(limits: Limits | None = None, **options: Any) -> Site:
        store = Store(tmp_path / "store", limits or Limits(reserve=0))
        site = Site(tmp_path, store, Options(**{"patience": QUICK, **options}))
        tls.ensure_identity(site.identity, "receiver")
        site.running = Receiver(store, site.identity, options=site.options)
        site.running.__enter__()
        started.append(site.running)
        return site

    yield begin
    for running in started:
        running.__exit__(None, None, None)


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    """A receiver that serves."""
    return start()
