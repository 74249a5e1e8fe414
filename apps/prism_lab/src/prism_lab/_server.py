"""The HTTPS servers: TLS, the request log and the faults on order. No API lives here."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from prism_lab.errors import StartFailed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from prism_lab.faults import Fault, Faults

log = logging.getLogger(__name__)
PORT = 9440


class _Handler(WSGIRequestHandler):
    """Speaks HTTP/1.1, one request a connection; nothing goes to stderr."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's name
        log.debug("%s %s", type, message % args)


class _Server(ThreadedWSGIServer):
    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver calls it so
        """Expect clients that hang up, and those that we cut off."""
        log.debug("connection of %s ended", client_address)


class HttpsServer:
    """One Flask app behind one address; handshakes run in the connection's own thread."""

    def __init__(self, app: Flask, listener: socket.socket, context: ssl.SSLContext) -> None:
        host, port = listener.getsockname()
        self._server = _Server(host, port, app, _Handler, fd=listener.fileno())
        self._server.ssl_context = context
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=f"https {host}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def listen(address: str, port: int = PORT) -> socket.socket:
    """Claim an address and port; StartFailed when it is taken."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except OSError as exc:
        listener.close()
        raise StartFailed(f"{address}:{port} cannot be used: {exc.strerror}") from exc
    return listener


class RequestLog:
    """What was asked, in order of the answers: (method, path, status); 0 when none was sent."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, int]] = []

    def note(self, status: int) -> None:
        """Record the current request."""
        self.entries.append((request.method, request.path, status))


def new_app(name: str, log: RequestLog, faults: Faults, expire_jwt: Callable[[], None]) -> Flask:
    """Make a Flask app with the log and the faults in front of every route."""
    app = Flask(name)
    app.url_map.merge_slashes = False

    @app.before_request
    def disturb() -> Response | None:
        g.fault = fault = faults.take(request.method, request.path)
        return _before(fault, expire_jwt) if fault else None

    @app.after_request
    def finish(answer: Response) -> Response:
        fault: Fault | None = g.get("fault")
        dropped = fault is not None and fault.kind in {"drop", "drop_answer"}
        log.note(0 if dropped else answer.status_code)
        return _after(fault, answer) if fault else answer

    return app


def _before(fault: Fault, expire_jwt: Callable[[], None]) -> Response | None:
    match fault.kind:
        case "delay":
            time.sleep(fault.seconds)
        case "expire_jwt":
            expire_jwt()
        case "status":
            return _status_answer(fault)
        case "drop":
            _cut_connection()
            return Response(status=500)
        case _:
            pass
    return None


def _after(fault: Fault, answer: Response) -> Response:
    match fault.kind:
        case "drop_answer":
            _cut_connection()
        case "truncate":
            return _truncated(answer)
        case "edit" if fault.edit is not None:
            body = json.loads(answer.get_data())
            fault.edit(body)
            answer.set_data(json.dumps(body))
        case _:
            pass
    return answer


def _status_answer(fault: Fault) -> Response:
    answer = Response(fault.message, status=fault.status, content_type="text/plain")
    if fault.retry_after is not None:
        answer.headers["Retry-After"] = f"{fault.retry_after:g}"
    return answer


def _cut_connection() -> None:
    with contextlib.suppress(OSError):  # the client was faster
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _truncated(answer: Response) -> Response:
    body = answer.get_data()
    connection = request.environ["werkzeug.socket"]

    def half() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    answer.response = half()
    answer.headers["Content-Length"] = str(len(body))
    return answer
