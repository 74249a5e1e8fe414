"""What the pages say about monitoring, judged by Prometheus and its promtool."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest

from libs.vm_replica.tests.receiver_site import VM
from suites.monitoring.conftest import EXAMPLES, RULES, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from suites.monitoring.conftest import Prometheus

DAY = 86_400


def promtool(*words: object, typed: bytes = b"") -> str:
    """Run promtool and return what it prints; it must be content."""
    done = subprocess.run(
        ["promtool", *map(str, words)], input=typed, check=False, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    text = done.stdout.decode()
    assert done.returncode == 0, text
    return text


def test_the_rules_are_rules() -> None:
    assert "SUCCESS: 7 rules found" in promtool("check", "rules", RULES)


def test_the_metrics_of_the_receiver_are_well_formed(receiver: str) -> None:
    with urllib.request.urlopen(f"http://{receiver}/metrics") as answer:
        text = answer.read()
    assert f'uuid="{VM}"'.encode() in text
    assert promtool("check", "metrics", typed=text) == ""


CASES = {
    "BackupJobFailed": ("podheitor_nutanix_job_success", "0", "1"),
    "BackupJobMissing": ("podheitor_nutanix_job_end_timestamp_seconds", "0", str(3 * DAY)),
    "VmNotSaved": ("podheitor_nutanix_vm_last_success_timestamp_seconds", "0", str(3 * DAY)),
    "LeftoversOnCluster": ("podheitor_nutanix_leftovers", "2", "0"),
    "ReplicaCritical": ("podheitor_replica_level", "2", "1"),
    "ReceiverDown": ('up{job="podheitor-receiver"}', "0", "1"),
}
"""Of each alert: what it looks at, a value with which it fires on the third day, and a good one."""


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path, alert: str) -> None:
    series, bad, good = CASES[alert]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": f"{value}x{3 * DAY // 60 + 1}"}],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": "72h",
                    "exp_samples": [{"value": 1, "labels": "{}"}] if fires else [],
                }
            ],
        }
        for value, fires in ((f"{bad}+0", True), (f"{good}+0", False))
    ]
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps(document))
    assert "SUCCESS" in promtool("test", "rules", file)


def test_the_alert_of_a_late_replica_fires(prometheus: Prometheus) -> None:
    def firing() -> set[str]:
        alerts = prometheus.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    wait_until(lambda: {"ReplicaLate", "ReplicaCritical"} <= firing(), "the alert")
    (late,) = [
        alert
        for alert in prometheus.ask("alerts")["alerts"]
        if alert["labels"]["alertname"] == "ReplicaLate"
    ]
    assert late["labels"]["uuid"] == VM
    assert re.search(r"shows a state of 1h \d+m", late["annotations"]["summary"])
    assert "ReceiverDown" not in firing()


def test_every_panel_of_the_dashboard_asks_for_what_there_is(
    prometheus: Prometheus, tmp_path: Path
) -> None:
    board = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) >= 10
    for query in queries:
        prometheus.ask("query", query=query)
    wait_until(
        lambda: bool(prometheus.ask("query", query="podheitor_replica_lag_seconds")["result"]),
        "the first numbers",
    )
    for query in queries:
        if "podheitor_replica" in query:
            assert prometheus.ask("query", query=query)["result"], query
