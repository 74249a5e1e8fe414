"""The HTTPS servers: TLS, the request log and the faults on order. No API lives here."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs
from flask import Flask, Response, g, request
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.test import run_wsgi_app

from prism_lab.errors import StartFailed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from werkzeug.datastructures import Headers
    from werkzeug.wsgi import ClosingIterator

    from prism_lab.faults import Fault, Faults

log = logging.getLogger(__name__)
PORT = 9440


_NO_ANSWER = {"drop", "drop_answer", "reset", "reset_answer"}
_LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Prism</title></head><body>Log in</body></html>"
_MOST_PIECES = 200
_PIECE = 1 << 20


_HANG_UP = "prism_lab.hang_up"


class _Unread(io.RawIOBase):
    """The body of a request, which ends where its length says."""

    def __init__(self, source: Any, length: int) -> None:  # noqa: ANN401 - socketserver's
        self._source = source
        self.left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a writable buffer
        piece = self._source.read1(min(len(buffer), self.left)) if self.left else b""
        buffer[: len(piece)] = piece
        self.left -= len(piece)
        return len(piece)

    def drop(self) -> None:
        """Read what nobody wanted: the next request begins behind it."""
        while self.left and self.read(_PIECE):
            pass


class _Handler(WSGIRequestHandler):
    """Speaks HTTP/1.1 and keeps the connection, as Prism does; nothing goes to stderr.

    werkzeug's own handler closes a connection after each answer.
    """

    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float | None] = 75.0
    """Seconds after which an idle connection is closed."""
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Answer one request."""
        if self.headers.get("Expect", "").lower().strip() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        environ = self.make_environ()
        environ[_HANG_UP] = self._hang_up
        body = _Unread(self.rfile, int(self.headers.get("Content-Length") or 0))
        if environ.get("wsgi.input_terminated"):
            self.close_connection = True  # chunked, which no client of ours sends
        else:
            environ["wsgi.input"] = body
        pieces, status, headers = run_wsgi_app(self.server.app, environ)
        try:
            self._send_head(status, headers)
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True  # a fault on order, or the client was not interested
        finally:
            cast("ClosingIterator", pieces).close()
        if not self.close_connection:
            body.drop()

    def _send_head(self, status: str, headers: Headers) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's name
        log.debug("%s %s", type, message % args)


class _Server(ThreadedWSGIServer):
    """Knows its connections, so that none outlives it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - werkzeug's
        self._connections: set[socket.socket] = set()
        super().__init__(*args, **kwargs)

    def get_request(self) -> Any:  # noqa: ANN401 - socketserver's
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:  # noqa: ANN401 - socketserver's
        self._connections.discard(request)
        super().close_request(request)

    def cut_all(self) -> None:
        """End every connection, busy or idle."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

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
        self._server.cut_all()


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
        self.exchanges: list[Exchange] = []

    def note(self, status: int) -> None:
        """Record the current request."""
        self.entries.append((request.method, request.path, status))
        exchange = Exchange(
            host=request.host.partition(":")[0],
            method=request.method,
            target=request.environ["REQUEST_URI"],
            headers=dict(request.headers),
            body=g.get("asked"),
            status=status,
        )
        self.exchanges.append(exchange)


@attrs.frozen
class Exchange:
    """One request as it came, with its JSON body if it had one, and the status it got."""

    host: str
    method: str
    target: str
    """Path and query, encoded as they came."""
    headers: dict[str, str]
    body: Any
    status: int


def new_app(
    name: str,
    log: RequestLog,
    faults: Faults,
    expire_jwt: Callable[[], None],
    call_seconds: float,
) -> Flask:
    """Make a Flask app with the log and the faults in front of every route.

    call_seconds: how long each call takes at least.
    """
    app = Flask(name)
    app.url_map.merge_slashes = False

    @app.before_request
    def disturb() -> Response | None:
        if request.mimetype == "application/json" and request.content_length:
            g.asked = request.get_json(silent=True)
        time.sleep(call_seconds)
        g.fault = fault = faults.take(request.method, request.path)
        return _before(fault, expire_jwt) if fault else None

    @app.after_request
    def finish(answer: Response) -> Response:
        fault: Fault | None = g.get("fault")
        log.note(0 if fault is not None and fault.kind in _NO_ANSWER else answer.status_code)
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
        case "drop" | "reset":  # the connection ends once the request is in the log
            return Response(status=500)
        case "html":
            return Response(_LOGIN_PAGE, content_type="text/html")
        case _:
            pass
    return None


def _after(fault: Fault, answer: Response) -> Response:
    match fault.kind:
        case "drop" | "drop_answer":
            _cut_connection()
        case "reset" | "reset_answer":
            _reset_connection()
        case "truncate":
            return _truncated(answer)
        case "cut_json":
            body = answer.get_data()
            answer.set_data(body[: len(body) // 2])
        case "html_answer":
            return Response(_LOGIN_PAGE, content_type="text/html")
        case "drip":
            return _dripping(answer, fault.seconds)
        case "edit" if fault.edit is not None:
            body = json.loads(answer.get_data())
            fault.edit(body)
            answer.set_data(json.dumps(body))
        case _:
            pass
    return answer


def _status_answer(fault: Fault) -> Response:
    answer = Response(status=fault.status, content_type="application/json")
    if fault.message:
        answer.set_data(json.dumps(_envelope(request.path, fault)))
    if fault.retry_after is not None:
        answer.headers["Retry-After"] = f"{fault.retry_after:g}"
    return answer


def _envelope(path: str, fault: Fault) -> dict[str, Any]:
    """Put the words of a fault where the API that was called puts its own."""
    words = {"message": fault.message, "severity": "ERROR", "errorGroup": "ORDERED_FAULT"}
    if path.startswith("/api/nutanix/v3"):
        listed = [{"message": fault.message, "reason": "INTERNAL_ERROR", "details": {}}]
        return {
            "api_version": "3.1", "code": fault.status, "state": "ERROR", "message_list": listed,
        }  # fmt: skip
    if "/v2.0/" in path:
        return {"error_code": {"code": fault.status}, "message": fault.message}
    namespace = path.split("/")[2] if path.count("/") > 1 else "prism"
    error = [{"$objectType": f"{namespace}.v4.error.AppMessage", "code": "LAB-1", **words}]
    return {"data": {"$objectType": f"{namespace}.v4.error.ErrorResponse", "error": error}}


def _reset_connection() -> None:
    """Close so that the client sees RST: nothing is flushed, no goodbye is said.

    TLS still writes to the number of the descriptor, which must not become another file's: a
    socket that nobody reads takes its place.
    """
    request.environ[_HANG_UP]()
    connection = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    dead, other = socket.socketpair()
    other.close()
    os.dup2(dead.fileno(), connection.fileno(), inheritable=False)
    dead.close()


def _dripping(answer: Response, seconds: float) -> Response:
    body = answer.get_data()
    step = max(1, -(-len(body) // _MOST_PIECES))
    pause = seconds * step / max(1, len(body))

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), step):
            time.sleep(pause)
            yield body[at : at + step]

    answer.response = pieces()
    answer.headers["Content-Length"] = str(len(body))
    return answer


def _cut_connection() -> None:
    request.environ[_HANG_UP]()
    with contextlib.suppress(OSError):  # the client was faster
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _truncated(answer: Response) -> Response:
    body = answer.get_data()
    request.environ[_HANG_UP]()
    connection = request.environ["werkzeug.socket"]

    def half() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    answer.response = half()
    answer.headers["Content-Length"] = str(len(body))
    return answer
