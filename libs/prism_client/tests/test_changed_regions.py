"""The list of changes: two hops, a token that expires, and a list that proves itself or fails."""

from __future__ import annotations

import json
from typing import Any

import attrs
import prism_client as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prism_client._fields import Fields
from prism_client._regions import CheckedListing, Page
from prism_client._v4.changed_regions import read_page, token_claims

DISK = pc.DiskSnapshotRef("rp-2", "vmrp-2", "drp-2")
REFERENCE = pc.DiskSnapshotRef("rp-1", "vmrp-1", "drp-1")
K = 1 << 10
M = 1 << 20


@pytest.fixture
def listed(prism: Any, client: Any) -> Any:
    def listing(reference: pc.DiskSnapshotRef | None = REFERENCE) -> list[tuple[int, int, bool]]:
        found = client.changed_regions.open(DISK, reference, disk_size=prism.disk_size)
        return [(r.offset, r.length, r.zeroed) for r in found]

    return listing


def asked(prism: Any, *, windows: bool = False) -> list[Any]:
    """What the cluster was asked for pages; or for windows, to prove that nothing is in there."""
    calls = [r for r in prism.sent("POST", "compute-changed-regions") if r.host == prism.pe]
    return [r for r in calls if ("length" in r.json) == windows]


def discovered(prism: Any) -> int:
    return len(prism.sent("POST", "discover-cluster"))


# the two hops


def test_all_pages_under_one_token(prism: Any, client: Any, listed: Any) -> None:
    prism.regions = [(n * M, 64 * K, "ZEROED" if n % 2 else "REGULAR") for n in range(5)]
    assert listed() == [(n * M, 64 * K, bool(n % 2)) for n in range(5)]
    assert discovered(prism) == 1
    assert [r.json["offset"] for r in asked(prism)] == [0, 2 * M, 4 * M]


def test_what_is_sent_on_both_hops(prism: Any, client: Any, listed: Any) -> None:
    assert listed() == []
    hop_1, hop_2, proof = prism.requests
    assert proof.json == hop_2.json | {"offset": 0, "length": prism.disk_size}
    disk, reference = (
        hop_1.json["spec"]["diskRecoveryPoint"],
        hop_1.json["spec"]["referenceDiskRecoveryPoint"],
    )
    assert hop_1.path.endswith("/config/recovery-points/rp-2/$actions/discover-cluster")
    assert hop_1.json["operation"] == "COMPUTE_CHANGED_REGIONS"
    assert hop_1.json["spec"]["$objectType"].endswith("ComputeChangedRegionsClusterDiscoverSpec")
    assert disk == {
        "$objectType": "dataprotection.v4.content.VmDiskRecoveryPointReference",
        "recoveryPointExtId": "rp-2",
        "vmRecoveryPointExtId": "vmrp-2",
        "diskRecoveryPointExtId": "drp-2",
    }
    assert reference["diskRecoveryPointExtId"] == "drp-1"
    assert hop_2.path == (
        "/api/dataprotection/v4.0/content/recovery-points/rp-2/vm-recovery-points/vmrp-2"
        "/disk-recovery-points/drp-2/$actions/compute-changed-regions"
    )
    assert hop_2.json == {
        "offset": 0,
        "referenceRecoveryPointExtId": "rp-1",
        "referenceVmRecoveryPointExtId": "vmrp-1",
        "referenceDiskRecoveryPointExtId": "drp-1",
    }
    assert "authorization" not in hop_2.headers


def test_without_a_reference_none_is_named(prism: Any, client: Any, listed: Any) -> None:
    listed(None)
    assert "referenceDiskRecoveryPoint" not in prism.requests[0].json["spec"]
    assert prism.requests[1].json == {"offset": 0}


@pytest.mark.parametrize("revision", ["v4.0", "v4.1", "v4.12", "v4.0.b1"])
def test_the_scope_of_the_token_names_the_revision(prism: Any, listed: Any, revision: str) -> None:
    prism.scope = f"/api/dataprotection/{revision}/content"
    listed()
    assert f"/{revision}/content/" in asked(prism)[0].path


def test_a_token_without_a_readable_scope_is_tried_at_our_own_revision(
    prism: Any, listed: Any
) -> None:
    prism.claims = {"scope": ["something", "else"]}
    prism.scope = "/api/dataprotection/v4.2/content"
    assert listed() == []


def test_an_address_that_is_none(prism: Any, listed: Any) -> None:
    body = {"data": {"jwtToken": "x", "clusterIp": {}}}
    prism.script("POST", "discover", prism.reply(body=body))
    with pytest.raises(pc.BadAnswer, match="clusterIp: holds no address"):
        listed()


# the token


def test_a_token_is_renewed_before_it_expires(prism: Any, client: Any, clock: Any) -> None:
    prism.regions = [(n * M, 4 * K, "REGULAR") for n in range(20)]
    prism.claims = {"exp": int(clock.now()) + 100}
    for region in client.changed_regions.open(DISK, REFERENCE, disk_size=prism.disk_size):
        clock.sleep(20)
        prism.claims = {"exp": int(clock.now()) + 100}
        assert region.length == 4 * K
    assert discovered(prism) == 6  # at 0, 80, 160, 240 and 320 s, and for the proof at the end
    assert len(asked(prism)) == 10


def test_a_clock_that_is_wrong_does_not_matter_where_the_issue_time_is_told(
    prism: Any, client: Any, listed: Any
) -> None:
    prism.regions = [(n * M, 4 * K, "REGULAR") for n in range(20)]
    prism.claims = {"iat": 1000, "exp": 1900}  # long ago, by our clock
    assert len(listed()) == 20
    assert discovered(prism) == 1


def test_a_token_refused_in_mid_listing_is_renewed_once(prism: Any, listed: Any) -> None:
    prism.regions = [(n * M, 4 * K, "REGULAR") for n in range(6)]
    prism.script("POST", "compute-changed-regions", lambda: None, prism.live_tokens.clear)
    assert len(listed()) == 6
    assert discovered(prism) == 2


def test_a_new_token_that_is_refused_too_is_an_error(prism: Any, listed: Any) -> None:
    prism.script("POST", "compute-changed-regions", *[prism.refused(401, "no")] * 9)
    with pytest.raises(pc.AuthFailed):
        listed()
    assert len(asked(prism)) == 1


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.!!.c", "a.W10.c", "a.\u00e9.c"])
def test_a_token_that_is_no_jwt_has_no_claims(token: str) -> None:
    assert token_claims(token) == {}


@given(st.text())
def test_no_token_breaks_the_reader(token: str) -> None:
    assert isinstance(token_claims(token), dict)


# not here


@pytest.mark.parametrize("status", [404, 501])
@pytest.mark.parametrize("hop", ["discover-cluster", "compute-changed-regions"])
@pytest.mark.parametrize("reference", [None, REFERENCE])
def test_not_here_means_read_everything(
    prism: Any, listed: Any, hop: str, status: int, reference: Any
) -> None:
    prism.script("POST", hop, prism.reply(status))
    with pytest.raises(pc.ChangeTrackingUnavailable, match=f"drp-2: POST .*answered {status}"):
        listed(reference)


def test_a_reference_that_the_server_does_not_take(prism: Any, listed: Any) -> None:
    prism.script("POST", "compute", prism.refused(400, "reference expired"))
    with pytest.raises(pc.ChangeTrackingUnavailable, match="reference expired"):
        listed()
    prism.script("POST", "compute", prism.refused(400, "malformed"))
    with pytest.raises(pc.BadRequest):
        listed(None)


@pytest.mark.parametrize(("status", "kind"), [(403, pc.Forbidden), (500, pc.ServerError)])
def test_a_failure_is_not_taken_for_not_here(
    prism: Any, listed: Any, status: int, kind: type
) -> None:
    prism.script("POST", "compute", prism.refused(status, "no"))
    with pytest.raises(kind):
        listed()


# the list proves itself


@pytest.fixture
def answered(prism: Any, listed: Any) -> Any:
    """Answer with these pages, each (regions, nextOffset[, fileSize])."""

    def pages(*answers: Any) -> list[tuple[int, int, bool]]:
        replies = []
        for regions, next_offset, *size in answers:
            file_size = size[0] if size else prism.disk_size
            replies.append(
                prism.regions_reply(
                    [(*r, "REGULAR")[:3] for r in regions],
                    next_offset=next_offset,
                    file_size=file_size,
                )
            )
        prism.script("POST", "compute", *replies)
        return list(listed())

    return pages


@pytest.mark.parametrize("end", [0, "0", None, 1 << 30])
def test_the_end_may_be_told_in_several_ways(answered: Any, end: Any) -> None:
    assert answered(([(0, K)], M), ([(M, K)], end)) == [(0, K, False), (M, K, False)]


def test_touching_regions_and_empty_pages_are_fine(answered: Any) -> None:
    found = answered(([(0, K), (K, K)], 2 * K), ([], 8 * M), ([(8 * M, K)], 0))
    assert found == [(0, K, False), (K, K, False), (8 * M, K, False)]


def test_the_last_block_may_reach_beyond_a_disk_that_is_no_multiple(
    prism: Any, client: Any
) -> None:
    size = 100 * M + 512
    prism.script(
        "POST",
        "compute",
        prism.regions_reply([(100 * M, 64 * K, "REGULAR")], next_offset=0, file_size=size),
    )
    nothing = prism.regions_reply([], next_offset=0, file_size=size)
    prism.script("POST", "compute", nothing)
    found = client.changed_regions.open(DISK, None, disk_size=size)
    assert list(found) == [pc.ChangedRegion(100 * M, 512)]


END = 1 << 30


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param([([(0, 2 * K), (K, K)], 0)], id="overlap"),
        pytest.param([([(M, K), (0, K)], 0)], id="descending"),
        pytest.param([([(0, K), (0, K)], 0)], id="repeated"),
        pytest.param([([(0, 0)], 0)], id="empty region"),
        pytest.param([([(END, K)], 0)], id="beyond the end"),
        pytest.param([([(END - K, 2 * K)], 0)], id="across the end"),
        pytest.param([([(0, 1 << 62)], 0)], id="absurd length"),
        pytest.param([([(0, K)], M), ([(K, K)], 0)], id="before its page"),
        pytest.param([([(0, 2 * M)], M), ([(M, K)], 0)], id="next page inside a region"),
        pytest.param([([(0, K)], M), ([(M, K)], M)], id="no progress"),
        pytest.param([([(0, K)], 2 * M), ([], M)], id="going back"),
        pytest.param([([(0, K)], END + M)], id="next page beyond the end"),
        pytest.param([([(0, K)], M), ([(M, K)], 0, END - M)], id="the size changes"),
        pytest.param([([(0, K)], 0, END + M)], id="another size than the disk's"),
        pytest.param([([(0, K)], None, None)], id="nothing says that it ends"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(answered: Any, pages: Any) -> None:
    with pytest.raises(pc.IncompleteChangeList, match=r"POST https://127.0.0.2:\d+/api/datap"):
        answered(*pages)


def test_a_truncated_last_page_is_refused(prism: Any, listed: Any) -> None:
    reply = prism.regions_reply([(0, K, "REGULAR")], next_offset=0, file_size=prism.disk_size)
    reply.body["metadata"]["flags"] = [{"name": "isTruncated", "value": True}]
    prism.script("POST", "compute", reply)
    with pytest.raises(pc.IncompleteChangeList, match="does not say that the list ends"):
        listed()


@pytest.mark.parametrize("status", [400, 404])
def test_a_recovery_point_that_goes_in_mid_listing(prism: Any, listed: Any, status: int) -> None:
    prism.regions = [(n * M, K, "REGULAR") for n in range(6)]
    prism.script("POST", "compute", lambda: None, prism.reply(status))
    with pytest.raises(pc.IncompleteChangeList, match=f"broke off at {2 * M}"):
        listed()


@pytest.mark.parametrize(
    "region",
    [None, 7, {}, {"offset": 0}, {"offset": -1, "length": 4}, {"offset": 0.5, "length": 4}, []],
)
def test_what_is_no_region(prism: Any, listed: Any, region: Any) -> None:
    reply = prism.regions_reply([], next_offset=0, file_size=prism.disk_size)
    prism.script("POST", "compute", prism.reply(body=reply.body | {"data": [region]}))
    with pytest.raises(pc.BadAnswer, match="is no changed region"):
        listed()


def test_an_unknown_kind_of_region_is_data(prism: Any, listed: Any) -> None:
    prism.regions = [(0, K, "COMPRESSED")]
    assert listed() == [(0, K, False)]


def test_a_cut_answer_is_asked_for_again(prism: Any, listed: Any) -> None:
    prism.regions = [(n * M, K, "REGULAR") for n in range(6)]
    whole = prism.regions_reply(prism.regions[:2], next_offset=2 * M, file_size=prism.disk_size)
    cut = prism.reply(body=whole.body, cut=60)
    prism.script("POST", "compute", cut, prism.reply(503))
    assert len(listed()) == 6


def test_a_listing_can_be_read_twice(prism: Any, client: Any) -> None:
    prism.regions = [(n * M, K, "REGULAR") for n in range(5)]
    listing = client.changed_regions.open(DISK, None, disk_size=prism.disk_size)
    assert listing.file_size == prism.disk_size
    assert list(listing) == list(listing)
    assert len(list(listing)) == 5


SIZE = 100_000
extra = st.one_of(st.none(), st.integers(-5, 2 * SIZE), st.text(max_size=3))
any_region = st.fixed_dictionaries(
    {"offset": st.integers(-5, 2 * SIZE), "length": st.integers(-5, 2 * SIZE)}
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.lists(any_region, max_size=4), extra, extra), min_size=1, max_size=5))
def test_whatever_is_answered_the_list_is_sound_or_refused(answers: Any) -> None:
    """A server may say anything: what comes out is ascending, disjoint and inside the disk."""
    remaining = iter(answers)

    def fetch(offset: int, length: int | None) -> Page:
        regions, next_offset, file_size = next(remaining, ([], 0, SIZE))
        fields = (("nextOffset", next_offset), ("fileSize", file_size))
        extra_info = [{"name": n, "value": v} for n, v in fields if v is not None]
        text = json.dumps({"data": regions, "metadata": {"extraInfo": extra_info}})
        return read_page(Fields.of(json.loads(text), "POST x"))

    end = 0
    try:
        for region in CheckedListing(fetch, fetch(0, None), SIZE):
            assert region.offset >= end
            assert region.length > 0
            end = region.offset + region.length
    except (pc.IncompleteChangeList, pc.BadAnswer):
        pass
    assert end <= SIZE


class Disk:
    """Changed blocks of a disk of 1000 KiB, listed page by page; pages may get lost."""

    size = 1000 * K

    def __init__(self, blocks: set[int], per_page: int) -> None:
        self.regions = [{"offset": b * K, "length": K} for b in sorted(blocks)]
        self.per_page = per_page
        self.calls = 0

    def fetch(self, offset: int, length: int | None) -> Page:
        self.calls += 1
        end = self.size if length is None else offset + length
        later = [r for r in self.regions if offset <= r["offset"] < end]
        after = later[self.per_page]["offset"] if len(later) > self.per_page else end % self.size
        return Page(later[: self.per_page], after, self.size, False, "POST x")

    def listing(self, fetch: Any = None) -> list[int]:
        fetch = fetch or self.fetch
        return [r.offset // K for r in CheckedListing(fetch, fetch(0, None), self.size)]


@given(st.sets(st.integers(0, 999)), st.integers(1, 50))
def test_any_honest_list_comes_out_whole(blocks: set[int], per_page: int) -> None:
    disk = Disk(blocks, per_page)
    assert disk.listing() == sorted(blocks)
    pages = max(1, -(-len(blocks) // per_page))
    assert disk.calls <= 2 * pages + 1, "a page, and the proof that nothing is before it"


@given(st.sets(st.integers(0, 999), min_size=2), st.integers(1, 20), st.data())
def test_a_page_that_goes_missing_is_noticed(blocks: set[int], per_page: int, data: Any) -> None:
    disk = Disk(blocks, per_page)
    lost = data.draw(st.integers(0, -(-len(blocks) // per_page) - 1))
    how = data.draw(st.sampled_from(["empty", "the one after it", "the end of the list"]))
    numbers = iter(range(2000))

    def fetch(offset: int, length: int | None) -> Page:
        page = disk.fetch(offset, length)
        if length is not None or next(numbers) != lost:
            return page
        if how == "the one after it" and page.next_offset:
            return disk.fetch(page.next_offset, None)
        return attrs.evolve(page, regions=[], next_offset=page.next_offset if how == "empty" else 0)

    with pytest.raises(pc.IncompleteChangeList, match="a page of the list is missing"):
        disk.listing(fetch)


def test_a_proof_that_makes_no_progress_is_refused() -> None:
    def fetch(offset: int, length: int | None) -> Page:
        listed = [{"offset": 0, "length": K}] if length is None else []
        return Page(listed, 0 if length is None else offset, 10 * K, False, "POST x")

    with pytest.raises(pc.IncompleteChangeList, match="does not get beyond 1024"):
        list(CheckedListing(fetch, fetch(0, None), 10 * K))
