"""Uploading a file into an image, which only v3 can."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import prism_client as pc
import pytest
from prism_client._clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 10_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_streamed_and_its_bytes_arrive(prism: Any, client: Any, file: Path) -> None:
    seen: list[int] = []
    digest = hashlib.sha256(CONTENT).hexdigest()
    image = client.images.upload("disk", file, sha256=digest, progress=seen.append)
    assert image == pc.Image(image.ext_id, "disk", len(CONTENT))
    assert prism.image_bytes[image.ext_id] == CONTENT
    assert sum(seen) == len(CONTENT)
    assert all(0 < more <= 1 << 20 for more in seen)
    [put] = prism.sent("PUT", "/file$")
    assert put.headers["content-type"] == "application/octet-stream"
    assert put.headers["content-length"] == str(len(CONTENT))
    assert put.headers["x-nutanix-checksum-type"] == "SHA_256"
    [created] = prism.sent("POST", "/v3/images$")
    assert created.json["metadata"] == {"kind": "image"}
    assert created.json["spec"]["name"] == "disk"


def test_an_upload_without_checksum_or_content(prism: Any, client: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    image = client.images.upload("empty", empty)
    assert prism.image_bytes[image.ext_id] == b""
    assert "x-nutanix-checksum-type" not in prism.sent("PUT")[0].headers


def test_an_upload_survives_a_busy_server(prism: Any, client: Any, file: Path) -> None:
    prism.script("PUT", "/file$", prism.reply(503, headers={"Retry-After": "1"}))
    image = client.images.upload("disk", file)
    assert prism.image_bytes[image.ext_id] == CONTENT


def test_a_long_upload_counts_once_and_is_sent_once(prism: Any, dial: Any, file: Path) -> None:
    """The time of the sending is not the time of the answer: here it is 20 time-outs long."""
    client = dial(clock=SystemClock(), timeout=0.1)
    seen: list[int] = []

    def slow(more: int) -> None:
        seen.append(more)
        time.sleep(0.1)

    image = client.images.upload("disk", file, progress=slow)
    assert prism.image_bytes[image.ext_id] == CONTENT
    assert len(prism.sent("PUT")) == 1
    assert sum(seen) == len(CONTENT)
    assert len(seen) >= 20


def test_what_is_sent_again_does_not_count_again(prism: Any, client: Any, file: Path) -> None:
    usual, tries = prism.take_bytes, []

    def lose(image_id: str, request: Any) -> Any:
        tries.append(len(request.body))
        return prism.reply(cut=-1) if len(tries) < 3 else usual(image_id, request)

    prism.take_bytes = lose
    seen: list[int] = []
    image = client.images.upload("disk", file, progress=seen.append)
    assert prism.image_bytes[image.ext_id] == CONTENT
    assert tries == [len(CONTENT)] * 3, "Prism had nothing of it, so it had to be sent again"
    assert sum(seen) == len(CONTENT)


@pytest.mark.parametrize("lost", [{"cut": -1}, {"status": 504}, {"status": 502}])
def test_what_arrived_is_not_sent_again_when_the_answer_is_lost(
    prism: Any, client: Any, file: Path, lost: Any
) -> None:
    usual = prism.take_bytes

    def take_and_be_silent(image_id: str, request: Any) -> Any:
        usual(image_id, request)
        return prism.reply(**lost)

    prism.take_bytes = take_and_be_silent
    image = client.images.upload("disk", file)
    assert image.size == len(CONTENT)
    assert len(prism.sent("PUT")) == 1


def test_a_late_answer_to_an_upload_is_waited_for_by_looking(
    prism: Any, dial: Any, file: Path
) -> None:
    client = dial(clock=SystemClock(), timeout=0.5, deadline=0.5)
    usual, done = prism.take_bytes, threading.Event()

    def take_and_sleep(image_id: str, request: Any) -> Any:
        reply = usual(image_id, request)
        prism.lock.release()  # whoever looks at the image must be answered meanwhile
        done.wait(2)
        prism.lock.acquire()
        return reply

    prism.take_bytes = take_and_sleep
    image = client.images.upload("disk", file)
    done.set()
    assert image.size == len(CONTENT)
    assert len(prism.sent("PUT")) == 1


def test_an_upload_that_keeps_breaking_is_given_up(prism: Any, client: Any, file: Path) -> None:
    prism.script("PUT", "/file$", *[prism.reply(cut=-1)] * 9)
    with pytest.raises(pc.Unreachable):
        client.images.upload("disk", file)
    assert len(prism.sent("PUT")) == 3
    assert prism.lists["v3 images"] == []


def test_an_upload_does_not_lean_on_a_session(prism: Any, dial: Any, file: Path) -> None:
    prism.gives_sessions = True
    client = dial()
    prism.sessions.clear()
    image = client.images.upload("disk", file)
    assert len(prism.sent("PUT")) == 1
    assert prism.image_bytes[image.ext_id] == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_stays(prism: Any, client: Any, file: Path) -> None:
    with pytest.raises(pc.BadRequest, match="bad checksum"):
        client.images.upload("disk", file, sha256="00" * 32)
    assert prism.lists["v3 images"] == []


def test_bytes_that_did_not_arrive_are_noticed(prism: Any, client: Any, file: Path) -> None:
    usual = prism.take_bytes

    def half(image_id: str, request: Any) -> Any:
        reply = usual(image_id, request)
        prism.image_bytes[image_id] = CONTENT[:1000]
        return reply

    prism.take_bytes = half
    with pytest.raises(pc.BadAnswer, match=f"{len(CONTENT)} bytes were sent, 1000 arrived"):
        client.images.upload("disk", file)
    assert prism.lists["v3 images"] == []


def test_an_image_that_ends_in_error_says_why(prism: Any, client: Any, file: Path) -> None:
    def fail() -> None:
        prism.lists["v3 images"][0]["state"] = "ERROR"

    prism.script("GET", "/images/", fail)
    with pytest.raises(pc.TaskFailed, match="bad blocks"):
        client.images.upload("disk", file)
    assert prism.lists["v3 images"] == []


@pytest.mark.parametrize(("status", "ending"), [("FAILED", "FAILED"), ("ABORTED", "CANCELED")])
def test_an_image_that_is_not_created_says_why(
    prism: Any, client: Any, file: Path, status: str, ending: str
) -> None:
    body = {"status": status, "error_detail": "no container"}
    prism.script("GET", "/tasks/", prism.reply(body={"status": "QUEUED"}), prism.reply(body=body))
    with pytest.raises(pc.TaskFailed, match=f"{ending}: no container"):
        client.images.upload("disk", file)
    assert prism.sent("PUT") == []


def test_an_image_that_is_never_ready_is_given_up(
    prism: Any, client: Any, file: Path, clock: Any
) -> None:
    usual = prism.reply(body={"status": {"state": "PENDING"}})
    prism.script("GET", "/images/", *[usual] * 2000)
    with pytest.raises(pc.TaskTimeout, match="not ready after 600 s"):
        client.images.upload("disk", file)
    assert sum(clock.slept) == pytest.approx(600, abs=2)


def test_a_cleanup_that_fails_leaves_a_note_and_the_first_error(
    prism: Any, client: Any, file: Path
) -> None:
    prism.script("DELETE", "/images/", prism.refused(500, "no"))
    with pytest.raises(pc.BadRequest, match="bad checksum") as caught:
        client.images.upload("disk", file, sha256="00" * 32)
    assert "stays behind" in caught.value.__notes__[0]
    prism.script("DELETE", "/images/", prism.refused(404, "gone"))
    with pytest.raises(pc.BadRequest) as caught:
        client.images.upload("disk", file, sha256="00" * 32)
    assert not hasattr(caught.value, "__notes__")


def test_a_progress_that_raises_stops_the_upload(prism: Any, client: Any, file: Path) -> None:
    def cancel(sent: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.images.upload("disk", file, progress=cancel)
    assert prism.lists["v3 images"] == []


def test_a_file_that_changes_its_size_meanwhile(prism: Any, client: Any, file: Path) -> None:
    with pytest.raises(ValueError, match="became shorter"):
        client.images.upload("disk", file, progress=lambda sent: os.truncate(file, 1 << 20))
    assert prism.lists["v3 images"] == []
    file.write_bytes(CONTENT)

    def grow(sent: int) -> None:
        with file.open("ab") as more:
            more.write(b"more")

    image = client.images.upload("disk", file, progress=grow)
    assert prism.image_bytes[image.ext_id] == CONTENT


def test_an_upload_is_refused_before_it_begins_where_v3_does_not_take_the_login(
    prism: Any, dial: Any
) -> None:
    client = dial(pc.ApiKey("the-key"))
    prism.script("POST", "v3/images/list", prism.refused(401, "who are you"))
    with pytest.raises(pc.Unsupported, match=r"an API key may be for v4 only.*who are you"):
        client.images.check_upload()
    prism.script("POST", "v3/images/list", prism.reply(body={"entities": []}))
    client.images.check_upload()


def test_images_are_read_and_deleted_over_v4(prism: Any, client: Any) -> None:
    images = prism.lists["vmm:content/images"]
    images += [
        {"extId": "i1", "name": "one", "sizeBytes": 4096},
        {"extId": "i2", "name": "two"},
    ]
    assert [i.name for i in client.images.list()] == ["one", "two"]
    assert list(client.images.list(name="two")) == [pc.Image("i2", "two", 0)]
    assert client.images.get("i1") == pc.Image("i1", "one", 4096)
    assert client.images.delete("i1") is True
    assert client.images.delete("i1") is False
