"""List 1,000,000 changed regions from a server on loopback: seconds and memory.

The server runs in a process of its own and answers pages of 1,000 regions, over plain TLS without
verification. Run: python benchmarks/changed_regions.py
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import trustme
from prism_client import ApiKey, DiskSnapshotRef, Endpoint, Trust, connect

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

COUNTS = (10_000, 100_000, 1_000_000)
PER_PAGE = 1_000
STEP = 128 << 10
HOST = "127.0.0.1"


class Handler(BaseHTTPRequestHandler):
    """Announces v4.2, has one empty list, and as many changed regions as the disk id says."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        self.answer({})

    def do_OPTIONS(self) -> None:
        self.answer({"data": "v4.2"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "discover-cluster" in self.path:
            address = {"ipv4": {"value": HOST}}
            self.answer({"data": {"jwtToken": "none", "clusterIp": address}})
        else:
            self.answer(page(body["offset"] // STEP, int(self.path.split("/")[-3])))

    def answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def page(first: int, count: int) -> dict[str, object]:
    end = min(first + PER_PAGE, count)
    extra = [
        {"name": "nextOffset", "value": end * STEP if end < count else 0},
        {"name": "fileSize", "value": count * STEP},
    ]
    data = [
        {
            "$objectType": "dataprotection.v4.content.ChangedRegion",
            "offset": n * STEP,
            "length": STEP // 2,
            "regionType": "REGULAR",
        }
        for n in range(first, end)
    ]
    return {"data": data, "metadata": {"extraInfo": extra}}


def serve(ready: Connection) -> None:
    server = ThreadingHTTPServer((HOST, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    ready.send(server.server_address[1])
    server.serve_forever()


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        measure(ours.recv())
    finally:
        process.terminate()
        process.join()


def measure(port: int) -> None:
    with connect(Endpoint(HOST, port), ApiKey("k"), Trust(insecure=True)) as prism:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for count in COUNTS:
            cpu, wall = time.process_time(), time.monotonic()
            ref = DiskSnapshotRef("rp", "vmrp", str(count))
            regions = prism.changed_regions.open(ref, None, disk_size=count * STEP)
            listed = sum(1 for _ in regions)
            if listed != count:
                sys.exit(f"{listed} of {count} regions came")
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(
                f"{count:>9,} regions: {wall:6.2f} s, {1e6 * cpu / count:5.2f} us CPU each,"
                f" {peak / 1024:5.1f} MiB resident at most (+{(peak - before) / 1024:.1f})"
            )


if __name__ == "__main__":
    main()
