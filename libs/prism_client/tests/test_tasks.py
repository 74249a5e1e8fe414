"""Waiting for a task, and what a failed one says."""

from __future__ import annotations

from typing import Any

import prism_client as pc
import pytest


@pytest.fixture
def start(prism: Any) -> Any:
    """Start a task on the fake, with its statuses in turn; return its id."""

    def started(*statuses: str, **fields: Any) -> str:
        reply = prism.start_task("RestoreVm", "vm", "v1", statuses=list(statuses), **fields)
        return str(reply.body["data"]["extId"])

    return started


def test_a_task_is_polled_with_growing_pauses(
    prism: Any, client: Any, clock: Any, start: Any
) -> None:
    details = [{"name": "vmExtIds", "value": "v1,v2"}]
    ext_id = start(*["RUNNING"] * 20, "SUCCEEDED", details=details)
    prism.tasks[ext_id]["completionDetails"] = details
    task = client.tasks.wait(ext_id)
    assert task.affected == {"vm": ("v1",)}
    assert task.details == {"vmExtIds": "v1,v2"}
    assert task.ids("vmExtIds") == ("v1", "v2")
    assert clock.slept[0] == 0.05
    assert sum(clock.slept[:9]) < 3, "a recovery point takes a second or two"
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == 5.0
    raw = prism.requests[-1].path
    assert raw.endswith("/config/tasks/" + ext_id.replace("=", "%3D").replace(":", "%3A"))


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("v1", ("v1",)),
        ("v1, v2,", ("v1", "v2")),
        (["v1", "v2"], ("v1", "v2")),
        ("", ()),
        (7, ()),
        ([None, {}], ()),
        (None, ()),
    ],
)
def test_ids_come_alone_listed_or_joined(value: object, ids: tuple[str, ...]) -> None:
    task = pc.Task("t", "op", "SUCCEEDED", 100, {}, {"vmExtIds": value}, "")
    assert task.ids("vmExtIds") == ids
    assert task.ids("another") == ()


@pytest.mark.parametrize("status", ["FAILED", "CANCELED"])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"errorMessages": [{"message": "no space"}, {"message": "left"}]}, "no space; left"),
        ({"legacyErrorMessage": "kNoSpace"}, "kNoSpace"),
        ({}, ""),
    ],
)
def test_a_failed_task_says_what_the_server_says(
    client: Any, start: Any, status: str, fields: Any, words: str
) -> None:
    ext_id = start("RUNNING", status, **fields)
    with pytest.raises(pc.TaskFailed, match=f"RestoreVm ended {status}: {words}") as caught:
        client.tasks.wait(ext_id)
    assert caught.value.server_words == words
    assert caught.value.operation == "RestoreVm"
    assert caught.value.task.affected == {"vm": ("v1",)}


def test_an_unknown_status_is_waited_for(client: Any, start: Any) -> None:
    assert client.tasks.wait(start("DEFERRED", "SUSPENDED", "SUCCEEDED")).status == "SUCCEEDED"


def test_the_deadline_ends_the_waiting(client: Any, clock: Any, start: Any) -> None:
    ext_id = start("SUSPENDED", progressPercentage=40)
    with pytest.raises(pc.TaskTimeout, match="still SUSPENDED at 40 % after 90 s") as caught:
        client.tasks.wait(ext_id, 90)
    assert caught.value.task_ext_id == ext_id
    assert sum(clock.slept) == pytest.approx(90)


def test_the_deadline_of_connect_is_the_default(dial: Any, clock: Any, start: Any) -> None:
    with pytest.raises(pc.TaskTimeout, match="after 7 s"):
        dial(deadline=7).tasks.wait(start("RUNNING"))


def test_a_busy_moment_does_not_lose_the_task(prism: Any, client: Any, start: Any) -> None:
    prism.script("GET", "/tasks/", prism.reply(503), prism.reply(cut=-1))
    assert client.tasks.wait(start("RUNNING", "SUCCEEDED")).status == "SUCCEEDED"


def test_an_unknown_task(client: Any) -> None:
    with pytest.raises(pc.NotFound):
        client.tasks.get("ZXJnb24=:nobody")
