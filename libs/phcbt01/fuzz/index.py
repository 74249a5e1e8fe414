"""Any bytes: an index or the FormatError of decoding; an index finds every region."""

from __future__ import annotations

import io

import phcbt01
from phcbt01.testing import decode


def check(data: bytes) -> None:
    """Index the bytes and compare with what decoding says."""
    whole = decode(data)
    try:
        index = phcbt01.read_index(io.BytesIO(data))
    except phcbt01.FormatError as error:
        if (error.code, error.offset) != whole.fault:
            raise AssertionError(f"the index says {error}, decoding {whole.fault}") from error
        return
    if whole.fault or [entry.region for entry in index] != [region for region, _ in whole.regions]:
        raise AssertionError("the index is of another stream")
    for entry, (region, payload) in zip(index, whole.regions, strict=True):
        if data[entry.position : entry.position + region.length] != payload:
            raise AssertionError("the index points to the wrong bytes")
        if index.find(region.offset) != entry or index.find(region.end - 1) != entry:
            raise AssertionError("the index does not find a region by its bytes")
