"""The digest of a stream does not depend on how the stream is cut."""

from __future__ import annotations

from digests import StreamDigest
from hypothesis import given
from hypothesis import strategies as st


def test_the_text_names_the_algorithm() -> None:
    assert StreamDigest().text() == "xxh3-128:99aa06d3014798d86001c324468d497f"


@given(st.lists(st.binary(max_size=50)))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    one, other = StreamDigest(), StreamDigest()
    one.update(b"".join(pieces))
    for piece in pieces:
        other.update(memoryview(piece))
    assert one.text() == other.text()
