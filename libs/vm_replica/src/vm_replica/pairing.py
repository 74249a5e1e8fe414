"""The command `pair`, of a source and of a receiver: our key, and whom we trust."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import arguments, terminal

from vm_replica.errors import IdentityError
from vm_replica.owner import refuse_foreign
from vm_replica.protocol import tls
from vm_replica.protocol.channel import parse_address

if TYPE_CHECKING:
    import argparse

    from command_line.arguments import Subparsers

ALLOW = "sudo -u podheitor-receiver podheitor-receiver allow"
TIMEOUT = 30.0
"""Seconds to wait for a receiver that shows its certificate."""


def add_parser(subparsers: Subparsers, identity: Path) -> None:
    """Add `pair` to a program's subparsers; `identity` is the default of its --identity."""
    parser = subparsers.add_parser(
        "pair", help="make the key of this host for replication, and trust another host"
    )
    add_identity(parser, identity)
    parser.add_argument(
        "--name", default="", help="name in our certificate; default: that of this host"
    )
    parser.add_argument(
        "--receiver", metavar="HOST[:PORT]", help="fetch the certificate of this receiver"
    )
    parser.add_argument(
        "--certificate", metavar="FILE|LINE", help="certificate of the other host, to trust it"
    )
    parser.add_argument(
        "--fingerprint", default="",
        help="fingerprint that `pair` shows on the other host: it must fit its certificate",
    )  # fmt: skip
    parser.add_argument(
        "--renew", action="store_true",
        help="make our next key and certificate, and show it; the one of today stays in use",
    )  # fmt: skip
    parser.add_argument(
        "--change", action="store_true",
        help="use the next key from now on: the other hosts must trust its certificate already",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", type=arguments.seconds(), default=0, metavar="TIME",
        help="with --receiver: its certificate of before still counts for this time: 7d",
    )  # fmt: skip
    parser.set_defaults(run=run)


def add_identity(parser: argparse.ArgumentParser, default: Path) -> None:
    """Add --identity, the folder of our key."""
    parser.add_argument(
        "--identity", type=Path, default=default, metavar="DIR",
        help="folder of our key and of the certificates that we trust; default: %(default)s",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Show our certificate, made if need be; trust another. Raises ReplicationError."""
    refuse_foreign(args.identity)
    name = args.name or socket.gethostname()
    ours = tls.ensure_identity(args.identity, name)
    if args.change:
        ours = tls.change_to_next(args.identity)
    if args.renew:
        ours = tls.make_next(args.identity, name)
    terminal.say(f"our fingerprint: {ours.fingerprint}")
    terminal.say(f"our certificate: {ours.one_line}")
    found = ""
    if args.certificate:
        found = tls.add_peer(args.identity, certificate_of(args.certificate), args.fingerprint)
        terminal.say(f"trusted from now on: {found}")
    if args.receiver:
        _pair_with_receiver(args, found)
        terminal.say(f"on the receiver, allow us each VM: {ALLOW} {ours.one_line} --vm UUID")
    return 0


def _pair_with_receiver(args: argparse.Namespace, found: str) -> None:
    host, port = parse_address(args.receiver)
    if not found:
        certificate = tls.fetch_certificate(host, port, timeout=TIMEOUT)
        found = _trust(args, certificate)
    tls.remember_pair(args.identity, f"{host}:{port}", found, int(args.overlap))
    terminal.say(f"paired with the receiver at {host}:{port}")


def _trust(args: argparse.Namespace, certificate: bytes) -> str:
    shown = tls.fingerprint(certificate)
    if not args.fingerprint:
        raise IdentityError(
            f"{args.receiver} shows the fingerprint {shown}: compare it with the one that `pair` "
            f"shows on the receiver; if they are equal, add --fingerprint {shown}"
        )
    return tls.add_peer(args.identity, certificate, args.fingerprint)


def certificate_of(text: str) -> bytes:
    """A certificate (DER) that was given as a line or as a file; raise IdentityError."""
    if text.startswith(tls.ONE_LINE):
        return tls.read_certificate(text)
    try:
        return tls.read_certificate(Path(text).read_text("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"{text[:200]} is not a certificate: {error}") from error
