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
from typing import TYPE_CHECKING, Any, Self

import trustme
from flask import Flask, Response, request

from prism_lab._server import HttpsServer, listen
from prism_lab.errors import LabError, StartFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

_TRIES = 50


class Replay:
    """The servers of one capture. Use it as a context manager. The first host is Prism Central."""

    def __init__(self, content: dict[str, Any], ca_file: Path) -> None:
        """Serve a capture; its certificates are signed by the CA in `ca_file`, which is written."""
        self._stack = contextlib.ExitStack()
        exchanges = content["exchanges"]
        hosts = list(dict.fromkeys(exchange["host"] for exchange in exchanges))
        if not hosts:
            raise LabError("the capture holds no exchanges")
        listeners = _claim(len(hosts), self._stack)
        self.hosts = dict(
            zip(hosts, (listener.getsockname()[0] for listener in listeners), strict=True)
        )
        self.pc_host = self.hosts[hosts[0]]
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(ca_file))
        for host, listener in zip(hosts, listeners, strict=True):
            own = [exchange for exchange in exchanges if exchange["host"] == host]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(self.hosts[host]).configure_cert(context)
            server = HttpsServer(_app(own, self.hosts), listener, context)
            self._stack.callback(server.stop)

    @classmethod
    def of(cls, file: Path, ca_file: Path) -> Self:
        """Serve the capture in a file; raise LabError if it is none."""
        try:
            content = json.loads(file.read_bytes())
            if content["schema"] != 1:
                raise LabError(f"{file} has schema {content['schema']}, this program reads 1")
            return cls(content, ca_file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{file} is not a capture: {error!r}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


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
