"""Whether a mutant is noticed: by a vector, or by a fast test of its library.

The mutant is judged in a child of this process, which has imported all but the library: that is
most of the time that a test run takes to begin.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

import hypothesis  # noqa: F401 - for the children
import pytest
from vectortool import runner, vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import CodeType, ModuleType

PROCESSOR_SECONDS = {"vectors": 8, "tests": 30}  # they take 1 and 10; more is a hang
MEMORY = 4 << 30
LARGEST = 20_000  # characters of a request that is also tried in pieces


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the mutant from the place where the module is."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        """The code of the mutant."""
        return compile(self._source, self.get_filename(fullname), "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the mutant in place of the module."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name = name
        self._loader = _Loader(name, str(path), source)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The place of the mutant; None for every other module."""
        del path, target
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, loader=self._loader)


def start(name: str, path: Path, source: str, suites: list[str], tests: list[str]) -> int:
    """Judge a mutant of a module in a child of ours; its exit status is 0 if it survives."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.meta_path.insert(0, _Finder(name, path, source))
        _limit("vectors")
        if _agrees(suites):
            _limit("tests")
            status = 0 if _passes(tests) else 1
    finally:
        os._exit(status)


def _limit(what: str) -> None:
    """Be killed once that has taken too much of the processor."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time()) + PROCESSOR_SECONDS[what]
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _agrees(suites: list[str]) -> bool:
    """Whether our testee agrees with the vectors."""
    import python_testee  # noqa: PLC0415 - imports the library, which is the mutant

    return all(
        runner.plain(python_testee.answer(check.request)) == runner.plain(check.expected)
        for suite in suites
        for case in vectors.cases(suite)
        for check in runner.checks(case)
        if not check.request.get("cuts") or len(json.dumps(check.request)) <= LARGEST
    )


def _passes(tests: list[str]) -> bool:
    options = ["-x", "-q", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis was imported before
    return pytest.main([*options, *tests]) is pytest.ExitCode.OK
