"""Our testee with one thing broken: what the runner must catch. Started by test_breakage.py."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "testees"))

import python_testee as sound

if TYPE_CHECKING:
    from collections.abc import Callable


def value(request: Any, answer: Any) -> Any:
    if answer.get("ok") and isinstance(answer["ok"], list):
        answer["ok"][0][1] += "00"
    return answer


def position(request: Any, answer: Any) -> Any:
    if answer.get("error") == "bad-length":
        answer["offset"] += 1
    return answer


def leniency(request: Any, answer: Any) -> Any:
    return {"ok": []} if answer.get("error") == "truncated" else answer


def cuts(request: Any, answer: Any) -> Any:
    return {"error": "truncated", "offset": 1} if request["cuts"] == "bytes" else answer


def crash(request: Any, answer: Any) -> Any:
    if answer.get("error") == "bad-status":
        raise RuntimeError("planted")
    return answer


def death(request: Any, answer: Any) -> Any:
    if answer.get("error") == "truncated":
        os._exit(0)
    return answer


def hang(request: Any, answer: Any) -> Any:
    if answer.get("error") == "bad-length":
        time.sleep(60)
    return answer


def allocation(request: Any, answer: Any) -> Any:
    if answer.get("error") == "truncated":
        bytearray(600 << 20)
    return answer


def skip(request: Any, answer: Any) -> Any:
    return {"skipped": "not today"} if answer.get("error") else answer


def chatter(request: Any, answer: Any) -> Any:
    sys.stdout.write("decoding...\n")
    return answer


def main() -> int:
    broken: Callable[[Any, Any], Any] = globals()[sys.argv[1]]
    for line in sys.stdin:
        request = json.loads(line)
        answer = sound.answer(request)
        if request["op"] == "decode":
            answer = broken(request, answer)
        sys.stdout.write(json.dumps({"id": request["id"], **answer}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
