"""What every v4 call has in common, over real HTTPS."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from apps.prism_lab.tests.conftest import Api

VMS = "/vmm/v4.2/ahv/config/vms"


@pytest.fixture
def api(module_api: Api) -> Api:
    """One cluster for the whole module: these tests only look, or mind their own VM."""
    return module_api


def plain(api: Api, **options: Any) -> requests.Response:
    options.setdefault("verify", str(api.lab.ca_file))
    return requests.get(f"{api.base}{VMS}", timeout=10, **options)


def test_versions_are_told_per_namespace(api: Api) -> None:
    def probe(base: str, namespace: str) -> requests.Response:
        url = f"{base}/{namespace}/unversioned/info"
        return requests.options(url, verify=str(api.lab.ca_file), timeout=10)

    assert probe(api.base, "dataprotection").json() == {"data": "v4.3"}
    assert probe(api.base, "vmm").json() == {"data": "v4.2"}
    assert probe(api.base, "nosuch").status_code == 404
    assert probe(f"{api.pe}/api", "dataprotection").json() == {"data": "v4.2"}
    assert api.call("GET", "/vmm/v4.0/ahv/config/vms").status_code == 200
    assert api.call("GET", "/vmm/v4.3/ahv/config/vms").status_code == 404


def test_the_certificate_is_of_the_labs_own_authority(api: Api) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        plain(api, verify=True)


def test_login_with_basic_cookie_and_api_key(api: Api) -> None:
    assert plain(api).status_code == 401
    assert plain(api, auth=("admin", "wrong")).status_code == 401
    first = plain(api, auth=(api.lab.user, api.lab.password))
    assert first.status_code == 200
    cookies = {"NTNX_IAM_SESSION": first.cookies["NTNX_IAM_SESSION"]}
    assert plain(api, cookies=cookies).status_code == 200
    api.lab.expire_sessions()
    assert plain(api, cookies=cookies).status_code == 401
    assert plain(api, headers={"X-ntnx-api-key": api.lab.api_key}).status_code == 200
    assert plain(api, headers={"X-ntnx-api-key": "guess"}).status_code == 401
    api.http.cookies.clear()


def test_every_object_says_what_it_is(api: Api) -> None:
    vm = api.lab.create_vm(
        "typed", [1 << 20], bootConfig={"$objectType": "vmm.v4.ahv.config.UefiBoot"}
    )
    answer = api.call("GET", f"{VMS}/{vm}").json()
    assert answer["$objectType"] == "vmm.v4.ahv.config.GetVmApiResponse"

    def check(value: Any) -> None:
        if isinstance(value, dict) and "$objectType" in value:
            assert value["$reserved"] == {"$fv": "v4.r2"}
        if isinstance(value, dict):
            assert "$objectType" in value or set(value) <= {"$fv"}, value
            for inner in value.values():
                check(inner)
        if isinstance(value, list):
            for inner in value:
                check(inner)

    check(answer)
    assert answer["data"]["bootConfig"]["$objectType"] == "vmm.v4.ahv.config.UefiBoot"


def test_paging(api: Api) -> None:
    for number in range(7):
        api.lab.create_vm(f"page-{number}", [1 << 20])
    found = []
    path = f"{VMS}?$limit=3&$filter=startswith(name,'page-')&$orderby=name desc"
    for page in range(4):
        answer = api.call("GET", f"{path}&$page={page}").json()
        assert answer["metadata"]["totalAvailableResults"] == 7
        rels = {link["rel"] for link in answer["metadata"]["links"]}
        assert ("next" in rels, "prev" in rels) == (page < 2, 0 < page <= 3)
        found += [vm["name"] for vm in answer.get("data", [])]
        assert ("data" in answer) == (page < 3)  # an empty list has no data at all
    assert found == [f"page-{number}" for number in range(6, -1, -1)]


@pytest.mark.parametrize("query", ["$limit=0", "$limit=101", "$page=-1", "$limit=x", "$filter=a b"])
def test_bad_query_is_a_validation_error(api: Api, query: str) -> None:
    answer = api.call("GET", f"{VMS}?{query}")
    assert answer.status_code == 400
    error = answer.json()["data"]["error"]
    assert error["$objectType"] == "vmm.v4.error.SchemaValidationError"
    assert error["validationErrorMessages"][0]["location"] == "Query Parameter"


def test_error_envelope_of_a_missing_entity(api: Api) -> None:
    path = f"/dataprotection/v4.3/config/recovery-points/{uuid.uuid4()}"
    answer = api.call("POST", f"{path}/$actions/discover-cluster", {})
    assert answer.status_code == 404
    body = answer.json()
    assert body["$objectType"] == "dataprotection.v4.config.ClusterInfoApiResponse"
    assert body["data"]["error"][0]["code"] == "DP-10400"
    assert {"hasError": True}.items() <= {
        flag["name"]: flag["value"] for flag in body["metadata"]["flags"]
    }.items()


def test_a_write_needs_the_current_etag(api: Api) -> None:
    vm = api.lab.create_vm("etag", [1 << 20])
    path = f"{VMS}/{vm}"
    old = api.etag(path)
    assert old.startswith("YXBwbGljYXRpb24")
    assert api.call("POST", f"{path}/$actions/power-off").status_code == 428
    api.do("POST", f"{path}/$actions/power-off", If_Match=old)
    assert api.get(path)["powerState"] == "OFF"
    assert api.call("DELETE", path, If_Match=old).status_code == 412
    api.delete(path)
    assert api.call("GET", path).status_code == 404


def test_the_same_request_id_gets_the_same_task(api: Api) -> None:
    vm = api.lab.create_vm("replay", [1 << 20])
    body = {
        "name": "x",
        "expirationTime": "2099-01-01T00:00:00Z",
        "vmRecoveryPoints": [{"vmExtId": vm}],
    }
    path = "/dataprotection/v4.3/config/recovery-points"
    request_id = str(uuid.uuid4())
    first = api.start("POST", path, body, NTNX_Request_Id=request_id)
    again = api.start("POST", path, body, NTNX_Request_Id=request_id)
    other = api.start("POST", path, body)
    assert first == again != other
    for task in (first, other):
        api.wait(task)
    mine = [p for p in api.lab.state()["recovery_points"] if p["vms"] == [vm]]
    assert len(mine) == 2
    gone = f"{path}/{mine[0]['ext_id']}"
    first = api.start("DELETE", gone, NTNX_Request_Id=request_id)
    api.wait(first)
    assert api.start("DELETE", gone, NTNX_Request_Id=request_id) == first
    assert api.call("DELETE", gone).status_code == 404


def test_recovery_point_writes_need_a_request_id(api: Api) -> None:
    url = f"{api.base}/dataprotection/v4.3/config/recovery-points"
    assert api.http.post(url, json={}, timeout=10).status_code == 400


@pytest.mark.parametrize(
    ("change", "attribute"),
    [
        ({"name": ""}, "name"),
        ({"expirationTime": "2001-01-01T00:00:00Z"}, "expirationTime"),
        ({"expirationTime": "tomorrow"}, "expirationTime"),
        ({"vmRecoveryPoints": []}, "vmRecoveryPoints"),
        ({"recoveryPointType": "FUZZY"}, "recoveryPointType"),
    ],
)
def test_bad_recovery_points_are_refused(api: Api, change: dict[str, Any], attribute: str) -> None:
    vm = api.lab.create_vm("refused", [1 << 20])
    body = {
        "name": "x",
        "expirationTime": "2099-01-01T00:00:00Z",
        "vmRecoveryPoints": [{"vmExtId": vm}],
    }
    answer = api.call("POST", "/dataprotection/v4.3/config/recovery-points", body | change)
    assert answer.status_code == 400
    assert (
        answer.json()["data"]["error"]["validationErrorMessages"][0]["attributePath"] == attribute
    )


def test_clusters_list_prism_central_too(api: Api) -> None:
    found = {
        tuple(cluster["config"]["clusterFunction"]): cluster
        for cluster in api.get("/clustermgmt/v4.2/config/clusters")
    }
    assert set(found) == {("AOS",), ("PRISM_CENTRAL",)}
    cluster = found["AOS",]
    assert cluster["network"]["externalDataServiceIp"]["ipv4"]["value"] == api.lab.data_services_ip
    assert api.get(f"/clustermgmt/v4.2/config/clusters/{cluster['extId']}")["name"] == "lab-cluster"


def test_inventory_lists(api: Api) -> None:
    for path in (
        "/clustermgmt/v4.2/config/storage-containers",
        "/networking/v4.3/config/subnets",
        "/prism/v4.3/config/categories",
        "/prism/v4.3/config/domain-managers",
    ):
        assert api.get(path), path
    assert api.get("/datapolicies/v4.2/config/protection-policies") is None
    missing = api.call("GET", "/dataprotection/v4.3/config/protected-resources/x")
    assert missing.status_code == 404


def test_tasks_are_listed_and_filtered(api: Api) -> None:
    vm = api.lab.create_vm("tasks", [1 << 20])
    api.do("POST", f"{VMS}/{vm}/$actions/reset", If_Match=api.etag(f"{VMS}/{vm}"))
    path = f"/prism/v4.3/config/tasks?$filter=entitiesAffected/any(a:a/extId eq '{vm}')"
    tasks = api.get(path)
    assert [task["operation"] for task in tasks] == ["ResetVm"]
    assert tasks[0]["extId"].startswith("ZXJnb24=:")
    assert api.call("GET", f"/prism/v4.3/config/tasks/{uuid.uuid4()}").status_code == 404


def test_what_neither_side_serves(api: Api) -> None:
    content = (
        "/dataprotection/v4.2/content/recovery-points/a/x/b/y/c/$actions/compute-changed-regions"
    )
    on_central = api.call("POST", content, {})
    assert (on_central.status_code, on_central.content) == (501, b"")
    assert api.call("GET", "/vmm/v4.2/esxi/config/vms").status_code == 501
    assert api.call("POST", "/nutanix/v3/vm_snapshots", {}).status_code == 404
    on_element = api.http.get(f"{api.pe}/api{VMS}", timeout=10)
    assert on_element.status_code == 404
