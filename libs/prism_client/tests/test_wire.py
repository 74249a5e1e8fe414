"""Reading: any JSON becomes a record or BadAnswer, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import prism_client as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prism_client._fields import Fields, natural
from prism_client._refusal import refusal, server_words
from prism_client._v4 import wire
from prism_client._v4.api import has_flag

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = [
    "extId",
    "name",
    "status",
    "creationTime",
    "vmRecoveryPoints",
    "vmExtId",
    "disks",
    "diskAddress",
    "busType",
    "index",
    "backingInfo",
    "diskExtId",
    "diskSizeBytes",
    "nics",
    "cluster",
    "numSockets",
    "numCoresPerSocket",
    "config",
    "memorySizeBytes",
    "bootConfig",
    "flags",
    "metadata",
    "entitiesAffected",
    "rel",
    "completionDetails",
    "value",
    "errorMessages",
    "network",
    "externalAddress",
    "ipv4",
    "ipv6",
    "networkId",
    "subnetType",
    "sizeBytes",
    "recoveryPointType",
    "diskRecoveryPoints",
    "diskRecoveryPointExtId",
    "targetName",
    "clusterFunction",
]
scalars = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["VLAN", "7"])
)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=25,
)
objects = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=12)


READERS: list[Callable[[Fields], object]] = [
    wire.cluster,
    wire.subnet,
    wire.storage_container,
    wire.vm,
    wire.recovery_point,
    wire.disk_recovery_points,
    lambda data: wire.volume_group(data, data.items("disks")),
    wire.image,
    wire.task,
    lambda body: has_flag(body, "hasError"),
]


@given(value=objects)
def test_any_object_is_read_or_refused(value: Any) -> None:
    for read in READERS:
        try:
            read(Fields.of(value, "GET x"))
        except pc.BadAnswer as exc:
            assert str(exc).startswith("GET x")  # noqa: PT017 - some examples do not raise


@given(st.binary(max_size=50) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_body_can_be_a_refusal(body: bytes) -> None:
    words, _ = server_words(body)
    assert words.isprintable()
    assert "\n" not in str(refusal("GET x", 400, body, "id"))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        ("12", 12),
        (1 << 62, 1 << 62),
        (-1, None),
        (True, None),
        (1.0, None),
        ("", None),
        ("-1", None),
        ("\u0661", None),
        ("9" * 21, None),
        (None, None),
    ],
)
def test_numbers_come_as_numbers_or_digits(value: object, number: int | None) -> None:
    assert natural(value) == number


def test_times_without_a_zone_are_utc_and_nonsense_is_refused() -> None:
    part = {"extId": "p", "vmExtId": "v"}
    data = {"extId": "r", "vmRecoveryPoints": [part], "creationTime": "2026-11-23T07:10:31"}
    read = wire.recovery_point(Fields.of(data, "GET x"))
    assert wire.time_text(read.created) == "2026-11-23T07:10:31Z"
    assert read.expires is None
    with pytest.raises(pc.BadAnswer, match="creationTime: 'soon' is no time"):
        wire.recovery_point(Fields.of(data | {"creationTime": "soon"}, "GET x"))
