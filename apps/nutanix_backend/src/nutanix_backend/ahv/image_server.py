"""One file over HTTPS, for as long as Prism fetches it: an image by URL, where v3 takes no upload.

The path is a random word of 256 bits. Only addresses in the networks of Prism Central and of the
cluster are answered (the first 24 bits of an IPv4 address, 64 of an IPv6 address: a cluster has its
controller VMs in the network of its own address). Everything else gets an end of the connection and
no byte. The certificate is made for the occasion and signed by itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import logging
import secrets
import socket
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

CHUNK = 1 << 20
SILENCE = 60.0
"""Seconds that a client may be silent."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@contextlib.contextmanager
def served(file: Path, cluster: Iterable[str], progress: Callable[[int], None]) -> Iterator[str]:
    """Serve a file to the hosts near these addresses while the context is open; give its URL.

    The first address of `cluster` is the one that the file is served towards. `progress` is called
    with the number of bytes sent, in another thread. Raises OSError.
    """
    addresses = [address for host in cluster for address in _addresses(host)]
    if not addresses:
        raise OSError("the cluster has no address that this host can resolve")
    word = secrets.token_urlsafe(32)
    handler = type("Handler", (_Handler,), {
        "path_served": f"/{word}",
        "file": file,
        "networks": [_network(address) for address in addresses],
        "progress": staticmethod(progress),
    })  # fmt: skip
    here = _own_address(addresses[0])
    with tempfile.TemporaryDirectory(prefix="podheitor-image-") as folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(Path(folder), here))
    server = _Server((here, 0), handler, context)
    thread = threading.Thread(target=server.serve_forever, name="image server", daemon=True)
    thread.start()
    host = f"[{here}]" if ":" in here else here
    try:
        yield f"https://{host}:{server.server_address[1]}/{word}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """Handshakes in the thread of the connection, so that a silent client holds up nobody."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any, context: ssl.SSLContext) -> None:  # noqa: ANN401 - a class made above
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - socketserver's
        """Answer over TLS."""
        request.settimeout(SILENCE)
        with self._context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's
        """Expect clients that hang up."""
        log.info("a connection from %s to the image server ended", client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one path, for hosts of some networks."""

    path_served: str
    file: Path
    networks: list[Network]
    progress: Callable[[int], None]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Tell the size."""
        if self._is_allowed():
            self._head()

    def do_GET(self) -> None:
        """Send the file."""
        if not self._is_allowed():
            return
        self._head()
        with self.file.open("rb") as source:
            while piece := source.read(CHUNK):
                self.wfile.write(piece)
                self.progress(len(piece))

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(self.file.stat().st_size))
        self.end_headers()

    def _is_allowed(self) -> bool:
        """Tell whether this client may have the file; the connection of any other ends here."""
        client = ipaddress.ip_address(self.client_address[0])
        is_near = any(client in network for network in self.networks)
        if is_near and secrets.compare_digest(self.path.encode(), self.path_served.encode()):
            return True
        log.warning("the image server refused %s", client)
        self.close_connection = True
        return False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, ARG002 - http.server's
        """Log as the rest of the program does; never the path."""
        log.debug("image server: a request from %s", self.client_address[0])


def _addresses(host: str) -> list[str]:
    try:
        return [
            str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        ]
    except OSError:
        return []


def _network(address: str) -> Network:
    return ipaddress.ip_network((address, 64 if ":" in address else 24), strict=False)


def _own_address(towards: str) -> str:
    """The address of this host on the way to another; nothing is sent."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])


def _certificate(folder: Path, address: str) -> Path:
    """Make a key and a certificate for an address, in one file."""
    from cryptography import x509  # noqa: PLC0415 - large, and only needed here
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "podheitor image")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=7))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    path = folder / "server.pem"
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return path
