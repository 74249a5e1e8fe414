"""Laws over arbitrary streams, images and chains."""

from __future__ import annotations

import io
import random
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st
from phcbt01 import apply, diff, merge, testing

Changes = list[tuple[int, bytes]]


class Delta(NamedTuple):
    """What a stream says."""

    size: int
    changes: Changes


@st.composite
def deltas(draw: st.DrawFn, smallest: int = 0) -> Delta:
    """Regions of up to 40 bytes, touching now and then, some all zero."""
    changes: Changes = []
    end = 0
    for _ in range(draw(st.integers(0, 6))):
        offset = end + draw(st.just(0) | st.integers(0, 40))
        payload = draw(st.binary(min_size=1, max_size=40) | st.integers(1, 40).map(bytes))
        changes.append((offset, payload))
        end = offset + len(payload)
    return Delta(max(smallest, end) + draw(st.integers(0, 20)), changes)


def stream(delta: Delta) -> bytes:
    return testing.encode(delta.size, delta.changes)


def applied(raw: bytes, base: bytes) -> bytes:
    target = testing.MemoryTarget(base)
    apply(io.BytesIO(raw), target)
    return bytes(target.content)


def images(minimum: int = 0) -> st.SearchStrategy[bytes]:
    """Images with long runs, so that blocks are equal often enough."""
    runs = st.lists(st.tuples(st.sampled_from(b"\0\0ab"), st.integers(1, 60)), max_size=12)
    return runs.map(lambda some: b"".join(bytes([byte]) * count for byte, count in some)).map(
        lambda content: content + bytes(max(0, minimum - len(content)))
    )


@given(delta=deltas())
def test_decoding_returns_what_was_encoded(delta: Delta) -> None:
    found = testing.decode(stream(delta))
    assert found.header is not None
    assert found.header.original_size == delta.size
    assert [(region.offset, payload) for region, payload in found.regions] == delta.changes
    assert (found.ended, found.fault) == (True, None)


@given(delta=deltas(), cuts=st.lists(st.integers(0, 200)))
def test_cuts_make_no_difference(delta: Delta, cuts: list[int]) -> None:
    raw = stream(delta)
    found = testing.check_input(raw, cuts=[cut for cut in cuts if cut <= len(raw)])
    assert found.fault is None


FIELD_VALUES = [0, 1, 2, 16, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@given(delta=deltas(), seed=st.integers(0, 2**32))
def test_damaged_streams_are_refused_or_still_exact(delta: Delta, seed: int) -> None:
    """A few bytes or a whole field is replaced, the end is moved: check_input holds for all."""
    dice = random.Random(seed)
    raw = bytearray(stream(delta))
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(raw))
        damage = dice.choice(FIELD_VALUES).to_bytes(8, "little")
        raw[at : at + 8] = dice.choice([damage, bytes([dice.randrange(256)]), b"", damage[:1]])
        raw = raw or bytearray(b"P")
    testing.check_input(bytes(raw), cuts=sorted(dice.randrange(len(raw) + 1) for _ in range(5)))


@given(raw=st.binary(max_size=120))
def test_any_bytes_after_a_good_beginning(raw: bytes) -> None:
    testing.check_input(b"PHCBT01\0" + raw, cuts=range(0, len(raw), 3))


@given(old=images(), new=images(), block_size=st.integers(1, 70))
@example(old=b"a", new=b"a\0\0b", block_size=1)
def test_applying_a_diff_gives_the_new_image(old: bytes, new: bytes, block_size: int) -> None:
    new += bytes(max(0, len(old) - len(new)))
    out = io.BytesIO()
    header = diff(io.BytesIO(old), io.BytesIO(new), out, block_size=block_size)
    assert applied(out.getvalue(), old) == new
    assert testing.check_input(out.getvalue(), cuts=[]).header == header


@given(data=st.data())
def test_applying_a_merge_is_applying_one_after_the_other(data: st.DataObject) -> None:
    chain = [data.draw(deltas())]
    for _ in range(data.draw(st.integers(0, 3))):
        chain.append(data.draw(deltas(smallest=chain[-1].size)))
    base = data.draw(images())[: chain[0].size]
    one_by_one = base
    for delta in chain:
        one_by_one = applied(stream(delta), one_by_one)
    out = io.BytesIO()
    merge([io.BytesIO(stream(delta)) for delta in chain], out)
    assert applied(out.getvalue(), base) == one_by_one
    assert testing.check_input(out.getvalue(), cuts=[]).fault is None
