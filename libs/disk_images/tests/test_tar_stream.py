"""Archives in pieces."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest
from disk_images import ImageRefused, TarStream
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterable


def tar(members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Kept:
    """A member that is kept."""

    def __init__(self, members: dict[str, bytes], name: str) -> None:
        self.members, self.name = members, name
        members[name] = b""

    def write(self, piece: memoryview) -> None:
        self.members[self.name] += piece

    def end(self) -> None:
        self.members[self.name] += b"."


@given(
    members=st.dictionaries(
        st.text(
            st.characters(exclude_characters="\0/", exclude_categories=["Cs"]),
            min_size=1,
            max_size=200,
        ).filter(lambda name: not name.startswith("._") and name.strip(".")),
        st.binary(max_size=2000),
        max_size=5,
    ),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    pieces=st.lists(st.integers(1, 700), min_size=1),
)
def test_an_archive_in_pieces_of_any_length_is_what_it_was(
    members: dict[str, bytes], form: int, pieces: list[int]
) -> None:
    found: dict[str, bytes] = {}
    stream = TarStream("x.ova", lambda name, _: Kept(found, name))
    data, at, turn = memoryview(tar(members.items(), form)), 0, 0
    while at < len(data):
        stream.write(data[at : at + pieces[turn % len(pieces)]])
        at += pieces[turn % len(pieces)]
        turn += 1
    if members:
        stream.end()
    assert found == {name: content + b"." for name, content in members.items()}


def test_a_file_of_over_eight_gib_is_announced_as_long_as_it_is() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.vmdk")
        info.size = 9 << 30
        sizes: list[int] = []
        stream = TarStream("x.ova", lambda _, size: sizes.append(size))  # noqa: B023 - used at once
        stream.write(memoryview(info.tobuf(form)))
        assert sizes == [9 << 30]
        with pytest.raises(ImageRefused, match=r"in the middle of big\.vmdk"):
            stream.end()
