"""A Prism that answers as it was recorded: `prism-lab replay FILE`.

FILE is a JSON object: `hosts` are the addresses that were asked, `exchanges` what was asked of them
and the answers, in order: host, method, path, query, status, headers, body. Each host gets a
loopback address, which takes its place in all answers. A request is answered as the first one of
its method, path and query that was not repeated yet; then as the last one of them.
"""

from __future__ import annotations

import contextlib
import json
import random
import ssl
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import attrs
import trustme
from flask import Flask, Response, request

from prism_lab._server import HttpsServer, listen
from prism_lab.errors import LabError, StartFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_TRIES = 50


@attrs.frozen
class Replay:
    """A capture that is served: the loopback address of each of its hosts, in the file's order."""

    hosts: Mapping[str, str]

    @property
    def pc_host(self) -> str:
        """The address of Prism Central, which was asked first."""
        return next(iter(self.hosts.values()))


@contextlib.contextmanager
def replaying(file: Path, ca_file: Path) -> Iterator[Replay]:
    """Serve the capture in a file while the context is open; raise LabError if it is none.

    The certificates are signed by the CA in `ca_file`, which is written.
    """
    by_host = _read(file)
    with contextlib.ExitStack() as stack:
        listeners = _claim(len(by_host), stack)
        addresses = (listener.getsockname()[0] for listener in listeners)
        hosts = dict(zip(by_host, addresses, strict=True))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(ca_file))
        for (host, exchanges), listener in zip(by_host.items(), listeners, strict=True):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(hosts[host]).configure_cert(context)
            stack.callback(HttpsServer(_app(exchanges, hosts), listener, context).stop)
        yield Replay(hosts)


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the exchanges of a capture by host; raise LabError."""
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        content = json.loads(file.read_bytes())
        if content["schema"] != 1:
            raise LabError(f"{file} has schema {content['schema']}, this program reads 1")
        for exchange in content["exchanges"]:
            found.setdefault(exchange["host"], []).append(exchange)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{file} is not a capture: {error!r}") from error
    if not found:
        raise LabError(f"the capture {file} holds no exchanges")
    return found


def _claim(count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Listen on so many addresses of a loopback network that nobody uses."""
    for _ in range(_TRIES):
        network = f"127.{random.randint(64, 254)}.{random.randint(0, 254)}"  # noqa: S311 - no secret
        with contextlib.ExitStack() as claim:
            try:
                addresses = (f"{network}.{n + 1}" for n in range(count))
                found = [claim.enter_context(listen(address)) for address in addresses]
            except StartFailed:
                continue
            stack.push(claim.pop_all())
            return found
    raise StartFailed(f"no free loopback network in {_TRIES} tries")


def _app(exchanges: Sequence[dict[str, Any]], hosts: dict[str, str]) -> Flask:
    app = Flask("replay")
    app.url_map.merge_slashes = False
    exact: dict[object, list[dict[str, Any]]] = defaultdict(list)
    by_path: dict[object, list[dict[str, Any]]] = defaultdict(list)
    for exchange in exchanges:
        key = (exchange["method"], exchange["path"])
        exact[*key, tuple(sorted(exchange["query"].items()))].append(exchange)
        by_path[key].append(exchange)

    @app.before_request
    def answer() -> Response:
        key = (request.method, request.path)
        query = tuple(sorted(request.args.items()))
        recorded = exact.get((*key, query)) or by_path.get(key)
        if not recorded:
            return Response("this request is not in the capture", status=404)
        return _response(recorded.pop(0) if len(recorded) > 1 else recorded[0], hosts)

    return app


def _response(exchange: dict[str, Any], hosts: dict[str, str]) -> Response:
    body = exchange["body"]
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {name: _located(value, hosts) for name, value in exchange["headers"].items()}
    return Response(_located(text, hosts), status=exchange["status"], headers=headers)


def _located(text: str, hosts: dict[str, str]) -> str:
    """Put the addresses of this replay in the place of those in the capture."""
    for recorded, here in hosts.items():
        text = text.replace(recorded, here)
    return text
