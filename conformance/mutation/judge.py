"""The first judge of a mutant: the vectors, in this process. Exit status 1: it was noticed."""

from __future__ import annotations

import json
import sys

import python_testee
from vectortool import runner, vectors

LARGEST = 20_000  # characters of a request; the large ones are left to the second judge


def main() -> int:
    """Judge by the suites that are named."""
    for suite in sys.argv[1:]:
        for case in vectors.cases(suite):
            for check in runner.checks(case):
                if len(json.dumps(check.request)) > LARGEST:
                    continue
                if runner.plain(python_testee.answer(check.request)) != runner.plain(
                    check.expected
                ):
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
