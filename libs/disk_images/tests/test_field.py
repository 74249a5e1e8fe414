"""Images as people have them, taken or refused wrongly once; the JSON beside says what is right."""

from __future__ import annotations

import json
from pathlib import Path

import disk_images as images
import pytest
from disk_images.errors import ImageRefused

FIELD = Path(__file__).parent / "field_images"
IMAGES = sorted(FIELD.glob("*.json"))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_an_image_is_taken_or_refused_for_what_it_is(path: Path, tmp_path: Path) -> None:
    expected = json.loads(path.read_text(encoding="utf-8"))
    files = sorted(path.with_suffix("").iterdir())
    if words := expected.get("refused"):
        with pytest.raises(ImageRefused) as refused:
            images.vet(files)
        assert words in str(refused.value)
        return
    found = images.vet(files)
    assert {field: getattr(found, field) for field in expected} == expected
    assert images.convert_to_raw(files, tmp_path / "out.raw") == found
    assert (tmp_path / "out.raw").stat().st_size == found.size


def test_no_image_of_the_field_is_without_its_right_value() -> None:
    assert {path.with_suffix("") for path in IMAGES} == {p for p in FIELD.iterdir() if p.is_dir()}
