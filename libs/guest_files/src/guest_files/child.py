"""The process that reads the file systems: it has a socket, and nothing else of this host.

It is started as a program, loads all that it needs, and gives up every right before it sees the
first byte of a disk. What it says is checked by whoever started it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import attrs
from qemu_img import sandbox

from guest_files import wire
from guest_files.damage import DAMAGE, words
from guest_files.errors import FilesError
from guest_files.patterns import Pattern
from guest_files.sources import CachedSource
from guest_files.volumes import discover

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guest_files.model import Entry
    from guest_files.trees import Node, Tree
    from guest_files.volumes import Found


class Child:
    """The volumes of some disks, which are read through a channel."""

    def __init__(self, channel: socket.socket, order: dict[str, Any]) -> None:
        """Read disks of the `sizes` in the order."""
        self._channel = channel
        self._disks = [
            CachedSource(size, self._fetcher(number)) for number, size in enumerate(order["sizes"])
        ]
        self._keys = [key.encode("utf-8", "surrogateescape") for key in order["keys"]]
        self._depth = order["depth"]
        self._numbers = order["numbers"]
        self._volumes: list[Found] | None = None
        self._trees: dict[str, Tree] = {}

    def _fetcher(self, number: int) -> Any:  # noqa: ANN401 - a function
        def fetch(offset: int, length: int) -> bytes:
            found = []
            for at in range(offset, offset + length, wire.PIECE):
                size = min(wire.PIECE, offset + length - at)
                wire.send(self._channel, b"R", wire.READ.pack(number, at, size))
                kind, piece = wire.receive(self._channel)
                if kind != b"B" or len(piece) != size:
                    raise wire.Ended("a wrong answer")
                found.append(bytes(piece))
            return found[0] if len(found) == 1 else b"".join(found)

        return fetch

    def serve(self) -> None:
        """Carry out orders until there are no more."""
        while True:
            _, raw = wire.receive(self._channel)
            order = json.loads(raw)
            try:
                if order["do"] == "volumes":
                    for found in self.volumes():
                        self._say(b"V", attrs.asdict(found.volume))
                else:
                    self._select(order)
            except FilesError as error:
                self._say(b"X", str(error))
            except DAMAGE as error:
                self._say(b"X", words(error))
            self._say(b"Z", None)

    def volumes(self) -> list[Found]:
        """What is on the disks; looked for once."""
        if self._volumes is None:
            self._volumes = discover(dict(zip(self._numbers, self._disks, strict=True)), self._keys)
        return self._volumes

    def _say(self, kind: bytes, plain: object) -> None:
        wire.send(self._channel, kind, json.dumps(plain).encode())

    def _select(self, order: dict[str, Any]) -> None:
        for found in self.volumes():
            name = found.volume.name
            if name not in order["volumes"]:
                continue
            if name not in self._trees:
                self._trees[name] = found.tree()
                if note := self._trees[name].note:
                    self._warn(f"{name}: {note}")
            tree = self._trees[name]
            patterns = [Pattern(text, folds_case=tree.folds_case) for text in order["patterns"]]
            walk = Walk(name, patterns, self._depth, self._warn)
            for entry, node in walk.run(tree.root):
                self._say(b"E", attrs.asdict(entry))
                if order["data"]:
                    self._send_data(entry, node)

    def _warn(self, text: str) -> None:
        self._say(b"W", text)

    def _send_data(self, entry: Entry, node: Node) -> None:
        """Send what is no hole, and how it ended."""
        fault = entry.reason
        try:
            for begin, length in () if fault else entry.ranges:
                for at in range(begin, begin + length, wire.PIECE):
                    size = min(wire.PIECE, begin + length - at)
                    piece = node.read_at(at, size)
                    if len(piece) != size:
                        raise OSError("it is cut short")
                    wire.send(self._channel, b"D", wire.OFFSET.pack(at), piece)
        except DAMAGE as error:
            fault = words(error)
        self._say(b"F", fault)


@attrs.define
class Walk:
    """The entries of a file system that patterns mean, each folder before what is in it."""

    volume: str
    patterns: Sequence[Pattern]
    depth: int
    warn: Any

    def run(self, root: Node) -> Iterator[tuple[Entry, Node]]:
        """Begin at the root."""
        yield from self._visit(root, (), [pattern.start for pattern in self.patterns], set())

    def _visit(
        self, node: Node, path: tuple[str, ...], states: list[frozenset[int]], above: set[int]
    ) -> Iterator[tuple[Entry, Node]]:
        try:
            entry = node.entry(self.volume, path)
        except DAMAGE as error:
            self.warn(f"{self.volume}:{_shown(path)} is damaged: {words(error)}")
            return
        pairs = list(zip(self.patterns, states, strict=True))
        if any(pattern.accepts(state) for pattern, state in pairs):
            yield entry, node
        if entry.kind != "folder" or not any(pattern.goes_on(state) for pattern, state in pairs):
            return
        if entry.inode in above or len(path) >= self.depth:
            what = "is a loop" if entry.inode in above else "lies too deep"
            self.warn(f"{self.volume}:{_shown(path)} {what}: what is below it is left out")
            return
        yield from self._below(node, path, states, {*above, entry.inode})

    def _below(
        self, node: Node, path: tuple[str, ...], states: list[frozenset[int]], above: set[int]
    ) -> Iterator[tuple[Entry, Node]]:
        children = node.children()
        while True:
            try:
                name, child = next(children)
            except StopIteration:
                return
            except DAMAGE as error:
                self.warn(
                    f"{self.volume}:{_shown(path)} is damaged, what follows in it is left out: "
                    f"{words(error)}"
                )
                return
            if name in {".", ".."}:
                continue
            if not name or "/" in name or "\0" in name:
                self.warn(f"{self.volume}:{_shown(path)} holds {name!r}, which is no name")
                continue
            below = [
                pattern.follow(state, name)
                for pattern, state in zip(self.patterns, states, strict=True)
            ]
            if any(below):
                yield from self._visit(child, (*path, name), below, above)


def _shown(path: tuple[str, ...]) -> str:
    return "/" + "/".join(path)


def main() -> None:
    """Take the socket and the order, give up all rights, and serve."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    _, raw = wire.receive(channel)
    order = json.loads(raw)
    child = Child(channel, order)
    names = {"memory": "RLIMIT_AS", "processor": "RLIMIT_CPU", "processes": "RLIMIT_NPROC"}
    sandbox.seal({name: order[key] for key, name in names.items()})
    try:
        child.serve()
    except (wire.Ended, ConnectionError):
        os._exit(0)


if __name__ == "__main__":
    main()
