"""The command `allow`: which source may write which replicas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from command_line import arguments, terminal
from command_line.text import utc
from vm_replica import audit, pairing
from vm_replica.errors import IdentityError
from vm_replica.owner import refuse_foreign
from vm_replica.protocol import allowed, tls
from vm_replica.protocol.allowed import Grant
from vm_replica.store.access import open_store

from replica_receiver.places import IDENTITY, add_store

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from command_line.arguments import Subparsers

FINGERPRINT = r"(sha256:)?([0-9a-fA-F]:?){64}"


def add_parser(commands: Subparsers) -> None:
    """Add `allow` to the subparsers of the program."""
    parser = commands.add_parser(
        "allow", help="allow a source to write replicas; without a source: list who is allowed"
    )
    add_store(parser)
    pairing.add_identity(parser, IDENTITY)
    parser.add_argument(
        "source", nargs="?", type=arguments.typed,
        help="its certificate (file, or the line that `pair` shows), its fingerprint, or, "
        "where a CA decides, cn:NAME",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", default="*", type=arguments.typed, metavar="PATTERN",
        help="clusters of its VMs; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--vm", default="", metavar="PATTERN", help="UUIDs of its VMs, with * and ?"
    )
    parser.add_argument("--remove", action="store_true", help="withdraw all that it is allowed")
    parser.add_argument(
        "--adopt", action="store_true",
        help="give it the existing replicas that the patterns fit",
    )  # fmt: skip
    parser.add_argument(
        "--deny", action="store_true", help="never accept this certificate again, with a CA too"
    )
    parser.add_argument(
        "--renews", metavar="FINGERPRINT",
        help="the certificate takes the place of this one of the same source",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", type=arguments.seconds(), default=7 * 86_400, metavar="TIME",
        help="with --renews: how long the old certificate still counts; default: 7d",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, allow or remove. Raises ReplicationError."""
    refuse_foreign(args.identity)
    if not args.source:
        return _list(args.identity)
    if args.deny:
        return _deny(args)
    if args.renews:
        return _renew(args)
    if args.remove:
        return _remove(args)
    return _allow(args)


def _list(identity: Path) -> int:
    for grant in allowed.load(identity):
        terminal.say(terminal.plain(f"{grant.source}  cluster {grant.cluster}  VM {grant.vm}"))
    return 0


def _deny(args: argparse.Namespace) -> int:
    found = _fingerprint(args.source)
    audit.note(args.store, "deny", peer=found)
    tls.deny(args.identity, found)
    terminal.say(f"the certificate {found} is not accepted any more")
    return 0


def _renew(args: argparse.Namespace) -> int:
    certificate = pairing.certificate_of(args.source)
    old, new = tls.normalise(args.renews), tls.fingerprint(certificate)
    audit.note(args.store, "renew", peer=old, detail=f"by {new}")
    made = tls.renew_peer(args.identity, old, certificate, int(args.overlap))
    terminal.say(f"trusted from now on, for the source {made.source}: {made.new}")
    terminal.say(f"{made.old} counts until {utc(made.until)} UTC")
    return 0


def _remove(args: argparse.Namespace) -> int:
    source = _source(args)
    if not source.startswith(allowed.BY_NAME):
        source = tls.original(args.identity, source)
    grants = allowed.load(args.identity)
    audit.note(args.store, "remove", peer=source)
    allowed.save(args.identity, tuple(grant for grant in grants if grant.source != source))
    if not source.startswith(allowed.BY_NAME):
        for found in tls.certificates_of(args.identity, source):
            tls.remove_peer(args.identity, found)
    terminal.say(terminal.plain(f"{source} is not allowed to write any replica now"))
    return 0


def _allow(args: argparse.Namespace) -> int:
    if not args.vm:
        raise IdentityError("give --vm with the VMs that it may replicate: a UUID, or '*' for all")
    store = open_store(args.store) if args.adopt else None
    new = Grant(_source(args), args.cluster, args.vm)
    grants = allowed.load(args.identity)
    audit.note(args.store, "allow", peer=new.source, detail=f"cluster {new.cluster}, VM {new.vm}")
    allowed.save(args.identity, (*(grant for grant in grants if grant != new), new))
    terminal.say(
        terminal.plain(f"{new.source} may write replicas of cluster {new.cluster}, VM {new.vm}")
    )
    for replica in store.replicas() if store else ():
        files = replica.files
        if allowed.is_allowed(args.identity, new.source, files.cluster, files.vm_id):
            audit.note(args.store, "adopt", peer=new.source, replica=replica.name)
            replica.adopt(new.source)
            terminal.say(terminal.plain(f"the replica {replica.name} belongs to it now"))
    return 0


def _source(args: argparse.Namespace) -> str:
    """How the source stands in the list; its certificate is trusted from now on."""
    text: str = args.source
    if text.startswith(allowed.BY_NAME):
        if not tls.uses_ca(args.identity):
            raise IdentityError(
                f"{text} is a name, but no CA decides here: there is no ca.pem in {args.identity}"
            )
        return text
    if re.fullmatch(FINGERPRINT, text):
        found = tls.normalise(text)
        if found not in tls.peers(args.identity) and not args.remove:
            raise IdentityError(
                f"no certificate with the fingerprint {found} is known: give the certificate itself"
            )
        return found
    certificate = pairing.certificate_of(text)
    return tls.fingerprint(certificate) if args.remove else tls.add_peer(args.identity, certificate)


def _fingerprint(text: str) -> str:
    """The fingerprint that was given, or that of the certificate that was given."""
    if re.fullmatch(FINGERPRINT, text):
        return tls.normalise(text)
    return tls.fingerprint(pairing.certificate_of(text))
