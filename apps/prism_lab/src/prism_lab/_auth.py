"""Who may call: basic, API key, session cookies, and the JWT of discover-cluster."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from flask import Request

PC_COOKIE = "NTNX_IAM_SESSION"
PE_COOKIE = "NTNX_IGW_SESSION"


class Unauthorized(Exception):
    """The call is not allowed: 401."""


@attrs.define
class Auth:
    """The accounts, sessions and tokens of one lab."""

    user: str
    password: str = attrs.field(repr=False)
    api_key: str = attrs.field(repr=False)
    jwt_seconds: float
    _key: bytes = attrs.field(factory=lambda: secrets.token_bytes(32), repr=False)
    _sessions: set[str] = attrs.field(factory=set, repr=False)
    _issued: itertools.count[int] = attrs.field(factory=itertools.count)
    _oldest_valid: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def check(self, request: Request, *, cookie: str, api_key: bool) -> str | None:
        """Let the call pass or raise Unauthorized; return a new session id after basic.

        A session cookie goes before basic, as on clusters.
        """
        if session := request.cookies.get(cookie):
            with self._lock:
                if session in self._sessions:
                    return None
            raise Unauthorized("the session has expired")
        if api_key and (key := request.headers.get("X-ntnx-api-key")):
            if hmac.compare_digest(key.encode(), self.api_key.encode()):
                return None
            raise Unauthorized("the API key is not known")
        given = request.authorization
        if given is None or given.type != "basic":
            raise Unauthorized("authentication is required")
        if (given.username, given.password) != (self.user, self.password):
            raise Unauthorized("wrong user name or password")
        with self._lock:
            self._sessions.add(session := secrets.token_urlsafe(24))
        return session

    def expire_sessions(self) -> None:
        """Forget every session cookie."""
        with self._lock:
            self._sessions.clear()

    def mint_jwt(self, scope: str) -> str:
        """Issue a token for the content calls below `scope`."""
        claims = {
            "scope": scope,
            "exp": int(time.time() + self.jwt_seconds),
            "jti": next(self._issued),
        }
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
        return f"{signed}.{self._sign(signed)}"

    def expire_jwts(self) -> None:
        """Let every token issued so far count as expired."""
        self._oldest_valid = next(self._issued)

    def check_jwt(self, token: str, path: str) -> None:
        """Raise Unauthorized unless the token is ours, valid now and made for `path`."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(signed).encode()):
            raise Unauthorized("the token's signature is wrong")
        claims: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
        if claims["exp"] <= time.time() or claims["jti"] < self._oldest_valid:
            raise Unauthorized("the token has expired")
        if not path.startswith(f"{claims['scope']}/"):
            raise Unauthorized(
                f"scope claim {claims['scope']} does not match the API base path {path}"
            )

    def _sign(self, signed: str) -> str:
        digest = hmac.new(self._key, signed.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _encode(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
