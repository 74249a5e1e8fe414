"""The jobs behind `.ls` and `.query`, through the runner, on the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from nutanix_backend.queries.query import QUERIES, _text
from nutanix_backend.settings.table import BY_NAME
from ptcomm import FileType, Phase, Severity
from ptcomm_runner import jobs
from ptcomm_runner.catalog import Status

if TYPE_CHECKING:
    from ptcomm import File

    from apps.nutanix_backend.tests.conftest import Product

MIB = 1 << 20
OF_ALL_CLUSTERS = ("leftovers", "sweep")
"""Queries about what is ours, on whichever cluster it is."""


def listing(product: Product, path: str, **parameters: object) -> tuple[File, ...]:
    result = jobs.listing("ls", product.settings(listing=path, **parameters), Phase.LISTING)
    assert result.status is Status.GOOD, result.log
    return result.files


def query(product: Product, what: str, **parameters: object) -> list[dict[str, str]]:
    result = jobs.query("query", product.settings(query=what, **parameters))
    assert result.status is Status.GOOD, result.log
    return [dict(pair.split("=", 1) for pair in row.split(",")) for row in result.rows]


def refusal(product: Product, **parameters: object) -> str:
    run = jobs.query if "query" in parameters else None
    settings = product.settings(**parameters)
    result = run("no", settings) if run else jobs.listing("no", settings, Phase.LISTING)
    assert result.status is Status.FAILED
    (line,) = (message.text for message in result.log if message.severity is Severity.FATAL)
    return line


def test_a_listing_goes_from_the_clusters_to_the_disks(product: Product) -> None:
    guest = product.guest(3 * MIB, 2 * MIB, name="shop: front")
    (cluster,) = listing(product, "/")
    assert cluster.stat.type is FileType.DIRECTORY
    vms = listing(product, cluster.name)
    assert f"{cluster.name}/shop%3A front" in {vm.name for vm in vms}
    assert {vm.stat.type for vm in vms} == {FileType.DIRECTORY}
    ids = guest.disk_ids()
    for vm in ("shop%3A front", "shop: front", guest.ext_id):
        disks = listing(product, f"{cluster.name}/{vm}/")
        assert [(disk.name, disk.size) for disk in disks] == [
            (f"{cluster.name}/shop%3A front/disk-0-{ids[0]}.raw", 3 * MIB),
            (f"{cluster.name}/shop%3A front/disk-1-{ids[1]}.raw", 2 * MIB),
        ]


def test_vms_that_share_a_name_are_listed_by_their_ids(product: Product) -> None:
    twins = [product.guest(MIB, name="twin") for _ in range(2)]
    (cluster,) = listing(product, "")
    names = {vm.name for vm in listing(product, cluster.name)}
    assert {f"{cluster.name}/{twin.ext_id}" for twin in twins} <= names
    assert f"{cluster.name}/twin" not in names
    (disk,) = listing(product, f"{cluster.name}/{twins[1].ext_id}")
    assert twins[1].disk_ids()[0] in disk.name


def test_a_path_that_leads_nowhere_is_refused_by_name(product: Product) -> None:
    (cluster,) = listing(product, "/")
    assert "cluster nowhere is not known" in refusal(product, listing="/nowhere")
    line = refusal(product, listing=f"{cluster.name}/nobody")
    assert line.startswith("no VM is called nobody in cluster")
    assert "is too deep" in refusal(product, listing="/a/b/c")


def test_the_table_offers_the_queries_that_there_are() -> None:
    assert tuple(QUERIES) == BY_NAME["query"].choices


def test_queries_answer_rows(product: Product) -> None:
    guest = product.guest(3 * MIB, 2 * MIB)
    (cluster,) = query(product, "clusters")
    assert cluster["data_services_ip"].startswith("127.")
    (vm,) = (row for row in query(product, "vms") if row["uuid"] == guest.ext_id)
    del vm["power"]
    assert vm == {
        "name": guest.name,
        "uuid": guest.ext_id,
        "cluster": cluster["name"],
        "disks": "2",
        "bytes": str(5 * MIB),
    }
    disks = [row for row in query(product, "disks") if row["vm_uuid"] == guest.ext_id]
    assert [row["uuid"] for row in disks] == guest.disk_ids()
    assert [(row["disk"], row["bytes"]) for row in disks] == [("0", "3145728"), ("1", "2097152")]
    assert [row["name"] for row in query(product, "subnets")] == ["lab-net", "lab-net-2"]
    assert [row["name"] for row in query(product, "containers")] == ["default-container"]


@pytest.mark.parametrize("what", [what for what in QUERIES if what not in OF_ALL_CLUSTERS])
def test_queries_look_at_the_cluster_asked_for(product: Product, what: str) -> None:
    product.guest(MIB)
    (cluster,) = query(product, "clusters")
    assert query(product, what, cluster=cluster["uuid"]) == query(product, what)
    assert "cluster elsewhere is not known" in refusal(product, query=what, cluster="elsewhere")


def test_a_query_that_is_not_there_is_refused(product: Product) -> None:
    assert "query=wishes is not one of clusters, vms" in refusal(product, query="wishes")
    assert "parameter query is missing: one of clusters" in refusal(product, query="")


def test_a_value_cannot_forge_another() -> None:
    assert _text({"name": "a,b=c\nd", "vlan": None, "n": 3}) == "name=a_b=c_d,vlan=,n=3"
