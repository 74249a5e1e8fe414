"""`qualify` on every release of the lab, and on clusters that answer questions the other way."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from prism_lab import PERSONALITIES

if TYPE_CHECKING:
    from collections.abc import Callable

RIGHTS = "Has the account the rights?"
APIS = "Which APIs does Prism have?"
FROM_VOLUME_GROUP = "Does Prism make a VM from disks of volume groups?"
IMAGES = "Can images be uploaded?"
READ = "Can the disks of a recovery point be read over iSCSI, in user space?"
CHAP = "Does the data services address accept CHAP?"
RUNS = "Does the VM run?"
CHANGES = "Does Prism say what changed since a recovery point?"
ALL_CHANGES = "Are all changes in the incremental?"
ORDER = "Can a recovery point be deleted while a volume group uses its disks?"
CLEAN = "Is everything removed again?"


def answers(rows: dict[str, dict[str, str]]) -> dict[str, str]:
    return {question: row["answer"] for question, row in rows.items()}


@pytest.mark.parametrize("personality", PERSONALITIES)
def test_every_release(cluster: Callable[..., Any], personality: str) -> None:
    with cluster(personality=personality) as made:
        code, rows = made.qualify()
        found = answers(rows)
        assert code == 0, rows
        assert "NO" not in found.values()
        for question in (RIGHTS, IMAGES, READ, RUNS, ALL_CHANGES, CLEAN):
            assert found[question] == "yes", rows[question]
        assert found[APIS] == ("otherwise" if personality == "2023.4" else "yes")
        made.assert_untouched()


def test_a_cluster_that_makes_no_vm_from_a_volume_group(cluster: Callable[..., Any]) -> None:
    with cluster(volume_disk_clones=False) as made:
        code, rows = made.qualify()
        assert code == 0
        assert answers(rows)[FROM_VOLUME_GROUP] == "otherwise"
        assert rows[FROM_VOLUME_GROUP]["consequence"] == "restores go through images"
        assert "Is a restored VM right, made through image?" in rows
        made.assert_untouched()


def test_a_cluster_that_takes_no_images(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        made.lab.faults.status("PUT */images/*/file", 403, times=99)
        made.lab.faults.status("POST */images", 403, times=99)
        code, rows = made.qualify()
        made.lab.faults.clear()
        assert code == 0
        assert answers(rows)[IMAGES] == "otherwise"
        assert answers(rows)["Is a restored VM right, made through volume group?"] == "yes"
        made.assert_untouched()


def test_a_cluster_whose_recovery_points_cannot_be_cloned(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        made.lab.faults.status("POST */config/volume-groups", 422, times=99)
        code, rows = made.qualify()
        made.lab.faults.clear()
        assert code == 1
        assert answers(rows)[READ] == "NO"
        assert "422" in rows[READ]["seen"]
        assert answers(rows)[CLEAN] == "yes"
        made.assert_untouched()


def test_a_cluster_without_change_tracking(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        made.lab.faults.status("POST */compute-changed-regions", 404, times=999)
        code, rows = made.qualify()
        made.lab.faults.clear()
        assert answers(rows)[CHANGES] == "otherwise"
        assert rows[CHANGES]["consequence"] == "every backup is a full"
        assert answers(rows)[ALL_CHANGES] == "yes"
        assert code == 0
        made.assert_untouched()


def test_a_cluster_that_refuses_the_order_of_deletion(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        made.lab.faults.status("DELETE */config/recovery-points/*", 409, message="it is in use")
        code, rows = made.qualify()
        made.lab.faults.clear()
        assert code == 0
        assert answers(rows)[CLEAN] == "yes"
        made.assert_untouched()


@pytest.mark.parametrize(
    ("call", "operation", "needed"),
    [
        ("GET */config/recovery-points", "View Recovery Point", True),
        ("GET */config/subnets", "View Subnet", True),
        ("GET */config/protection-policies", "View Protection Policy", False),
        ("GET */config/storage-containers", "View Storage Container", True),
        ("GET */config/categories", "View Category", True),
        ("GET */config/volume-groups", "View Volume Group Details", True),
    ],
)
def test_a_right_that_is_missing(
    cluster: Callable[..., Any], call: str, operation: str, needed: bool
) -> None:
    with cluster() as made:
        made.lab.faults.status(call, 403, times=999)
        code, rows = made.qualify()
        made.lab.faults.clear()
        found = answers(rows)[f"Has the account the right {operation}?"]
        assert found == ("NO" if needed else "otherwise")
        assert code == int(needed)
        made.qualify("--limit", "1")  # what was not removed without the right goes now
        made.assert_untouched()


@pytest.mark.parametrize(
    "call",
    [
        "POST */config/recovery-points",
        "POST */compute-changed-regions",
        "POST */config/volume-groups",
        "POST */attach-iscsi-client",
        "POST */ahv/config/vms",
        "POST */power-on",
        "DELETE */config/volume-groups/*",
        "DELETE */ahv/config/vms/*",
    ],
)
def test_a_right_to_write_that_is_missing(cluster: Callable[..., Any], call: str) -> None:
    """Some row has the words of the refusal, and the next run removes what stayed."""
    with cluster() as made:
        made.lab.faults.status(call, 403, times=999, message="the role has no such operation")
        _, rows = made.qualify()
        made.lab.faults.clear()
        told = [row for row in rows.values() if "the role has no such operation" in row["seen"]]
        assert told, rows
        assert {row["answer"] for row in told} != {"yes"}
        made.qualify("--limit", "1")
        made.assert_untouched()


def test_an_account_that_may_list_no_clusters_is_told_so(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        made.lab.faults.status("GET */config/clusters", 403, times=999, message="not yours")
        done = subprocess.run(
            made.command("--yes"), capture_output=True, text=True, timeout=60, check=False
        )
        made.lab.faults.clear()
        assert done.returncode == 1
        assert "not yours" in done.stderr.splitlines()[-1]
        made.assert_untouched()


def test_too_little_time(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        code, rows = made.qualify("--limit", "1")
        assert code == 0
        assert answers(rows)["Was there time for all questions?"] == "open"
        assert answers(rows)[CLEAN] == "yes"
        made.assert_untouched()


def test_nothing_is_done_without_consent(cluster: Callable[..., Any]) -> None:
    with cluster() as made:
        done = subprocess.run(
            made.command(), input="no\n", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert "nothing was done" in done.stderr
        assert made.lab.state() == made.before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment(cluster: Callable[..., Any], how: signal.Signals) -> None:
    """Whatever a run leaves that was killed, the next one removes."""
    source = random.Random(how)
    with cluster() as made:
        for _ in range(4):
            run = subprocess.Popen(
                made.command("--yes"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(source.uniform(1, 25))
            run.send_signal(how)
            run.wait(120)
        code, rows = made.qualify()
        assert code == 0, rows
        made.assert_untouched()
