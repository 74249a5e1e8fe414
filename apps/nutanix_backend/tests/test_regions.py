"""Region lists: the second look at what the server says changed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.errors import SourceError

SIZE = 4096


@st.composite
def region_lists(draw: st.DrawFn) -> RegionList:
    """A list within SIZE bytes, some regions touching, some zeroed."""
    cuts = sorted(draw(st.sets(st.integers(0, SIZE), max_size=20)))
    kinds = st.sampled_from(["data", "zeroed", "unchanged"])
    regions = [
        Region(start, end - start, kind == "zeroed")
        for start, end in itertools.pairwise(cuts)
        if (kind := draw(kinds)) != "unchanged"
    ]
    return RegionList(SIZE, regions)


def painted(regions: list[Region]) -> dict[int, bool]:
    """Every byte that the regions cover, and whether it is zeroed."""
    return {byte: r.zeroed for r in regions for byte in range(r.offset, r.end)}


@pytest.mark.parametrize(
    "bad",
    [
        [Region(0, 10), Region(5, 10)],
        [Region(10, 10), Region(0, 5)],
        [Region(0, 10), Region(0, 10)],
        [Region(0, 0)],
        [Region(SIZE - 1, 2)],
        [Region(SIZE, 1)],
    ],
)
def test_a_list_that_is_not_ascending_disjoint_and_inside_is_refused(bad: list[Region]) -> None:
    with pytest.raises(SourceError, match="not usable"):
        RegionList(SIZE, bad)


def test_touching_regions_of_a_kind_are_merged() -> None:
    regions = RegionList(SIZE, [Region(0, 4), Region(4, 4), Region(8, 4, zeroed=True)])
    assert list(regions) == [Region(0, 8), Region(8, 4, zeroed=True)]


@given(region_lists())
def test_spans_cover_the_same_bytes_and_never_touch(regions: RegionList) -> None:
    spans = list(regions.spans())
    assert painted(spans).keys() == painted(list(regions)).keys()
    assert all(one.end < other.offset for one, other in itertools.pairwise(spans))
    assert regions.span_count == len(spans)
    assert regions.bytes == sum(span.length for span in spans)


@given(region_lists(), st.integers(0, 200))
def test_merged_extents_read_all_data_and_only_small_gaps(regions: RegionList, gap: int) -> None:
    data = {byte for byte, zeroed in painted(list(regions)).items() if not zeroed}
    extents = list(regions.merged_extents(gap))
    read = {byte for e in extents for byte in range(e.offset, e.offset + e.length)}
    assert data <= read
    assert all(e.offset in data and e.offset + e.length - 1 in data for e in extents)
    assert all(
        other.offset - (one.offset + one.length) > gap for one, other in itertools.pairwise(extents)
    )


@given(region_lists(), st.integers(0, SIZE))
def test_a_list_is_what_lies_before_and_what_lies_behind_any_cut(
    regions: RegionList, cut: int
) -> None:
    parts = [*regions.before(cut), *regions.behind(cut)]
    assert painted(parts) == painted(list(regions))
    assert all(r.end <= cut or r.offset >= cut for r in parts)


@given(region_lists())
def test_data_bytes_are_what_has_to_be_read(regions: RegionList) -> None:
    assert regions.data_bytes == sum(e.length for e in regions.data_extents())
    assert regions.data_bytes == sum(not zeroed for zeroed in painted(list(regions)).values())
