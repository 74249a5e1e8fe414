"""HTTPS to one server: trust, login, retries, and every foreign exception made ours.

The only module that uses requests. It knows nothing of any API generation.
"""

from __future__ import annotations

import base64
import email.utils
import json
import logging
import ssl
import uuid
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import attrs
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar

from prism_client import _tls
from prism_client._answer import AnswerLimit, HeadTooLarge, TooSlow
from prism_client._fields import Fields, natural
from prism_client._refusal import refusal
from prism_client._text import one_line
from prism_client.errors import (
    BadAnswer,
    PrismError,
    Timeout,
    Unreachable,
    UntrustedCertificate,
)
from prism_client.model import ApiKey, Basic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from prism_client._clock import Clock
    from prism_client.model import Credentials, Endpoint, Trust

log = logging.getLogger(__name__)

# Prism's session cookies, without and with IAM. Any other cookie is no reason to stop sending the
# password: it may be a load balancer's.
_SESSION_COOKIES = frozenset(
    {
        "NTNX_IGW_SESSION",
        "NTNX_MERCURY_IGW_SESSION",
        "JSESSIONID",
        "NTNX_MERCURY_IAM_SESSION",
        "NTNX_IAM_SESSION",
    }
)
_REFUSED_UNREAD = frozenset({429, 503})  # the server did not take the call: any call may repeat
_GAVE_UP = frozenset({408, 502, 504})  # it may have acted: only a repeatable call may repeat
_MOST_ANSWER = 64 << 20  # a page of 100 large VMs is below 2 MiB; no answer may fill the memory
_MOST_VALUES = 2_000_000  # lists, objects and their members: Python needs up to 100 bytes for each
_CHUNK = 64 << 10
_PATIENCE = 120.0  # seconds one call may wait for a busy server in total
_SLOWEST = 10  # time-outs that a whole answer may take, however steadily it drips
_CONNECTIONS = 32  # kept open to one server; a job prepares several VMs at a time
_BREAKS = 3  # tries over a connection that cannot be made, or breaks
_HOPS = 3  # redirections in a row


@attrs.frozen
class Call:
    """One request. Repeatable: sending it again, with the same request id, cannot act twice.

    body: makes the stream to upload, anew for each try; its bytes are counted by `length`.
    silence: seconds until the answer begins, counted from the end of the request, where more than
    the usual is to be expected.
    """

    method: str
    path: str
    params: Mapping[str, str] = attrs.field(factory=dict)
    json: Mapping[str, Any] | None = None
    body: Callable[[], Iterable[bytes]] | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    request_id: uuid.UUID = attrs.field(factory=uuid.uuid4)
    repeatable: bool = False
    silence: float | None = None


@attrs.frozen
class Answer:
    """A whole answer. `where` names the call and its request id, for messages."""

    where: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def etag(self) -> str | None:
        """The version of the entity, opaque; newer servers may use their own header for it."""
        return self.headers.get("ETag") or self.headers.get("X-Ntnx-Etag")

    def json(self) -> Fields:
        """Return the JSON object that the answer must be."""
        if sum(map(self.body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise BadAnswer(f"{self.where}: the answer holds more than {_MOST_VALUES} values")
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            kind = self.headers.get("Content-Type", "no content type")
            raise BadAnswer(
                f"{self.where}: {len(self.body)} bytes of {kind} are not JSON;"
                " is this host and port a Prism?"
            ) from exc
        return Fields.of(value, self.where)


@attrs.frozen
class Exchange:
    """One request and its answer, as they went over the wire, without our login.

    `sent` is the JSON of the request, None if it had none. `headers` are those of the answer that
    a client reads. `body` is that of the answer.
    """

    method: str
    url: str
    sent: Mapping[str, Any] | None
    status: int
    headers: Mapping[str, str]
    body: bytes


_READ_HEADERS = (
    "Content-Type", "ETag", "X-Ntnx-Etag", "Location", "Retry-After", "X-Redirect-Token",
)  # fmt: skip


class Http:
    """Requests to one endpoint. Use from several threads is fine."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials | None,
        trust: Trust,
        *,
        timeout: float,
        clock: Clock,
        record: Callable[[Exchange], None] | None = None,
    ) -> None:
        self._record = record
        self.endpoint = endpoint
        self._trust = trust
        self._credentials = credentials
        self._timeout = timeout
        self._clock = clock
        limit = AnswerLimit(_SLOWEST * timeout, clock)
        self._session = _new_session(_TrustAdapter(trust, limit, keeps=True))
        # An idle connection may be closed just when a call goes out, and nobody knows then whether
        # it took effect: a call that must not be repeated gets a new connection.
        self._fresh = _new_session(_TrustAdapter(trust, limit, keeps=False))
        self._fresh.cookies = self._session.cookies
        if not isinstance(credentials, Basic):  # a session is only ever opened with a password
            self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
        self._fresh.close()

    def send(self, call: Call) -> Answer:
        """Return the answer, whatever it took within the patience for one call.

        Raises TransportError, or the ApiError that the status stands for.
        """
        answer = self.exchange(call)
        if answer.status >= 400:
            raise refusal(
                f"{call.method} {self._url(call)}", answer.status, answer.body, str(call.request_id)
            )
        if answer.status >= 300:
            raise BadAnswer(
                f"{answer.where}: redirected to {answer.headers.get('Location', 'nowhere')!r};"
                " is this host and port a Prism?"
            )
        return answer

    def exchange(self, call: Call) -> Answer:
        """Return the last answer, also a refusal."""
        patience = _Patience(self._clock)
        while True:
            try:
                answer = self._redirected(call, self._logged_in(call))
            except (Unreachable, Timeout) as exc:
                if not (call.repeatable and patience.after_break()):
                    raise
                log.info("trying again: %s", exc)
                continue
            busy = answer.status in _REFUSED_UNREAD or (
                call.repeatable and answer.status in _GAVE_UP
            )
            if not (busy and patience.when_busy(_retry_after(answer, self._clock))):
                return answer
            log.info("%s answered %d, trying again", answer.where, answer.status)

    def _logged_in(self, call: Call) -> Answer:
        """Use the session that the server gave us; when it has expired, log in once more."""
        cookies = self._session.cookies
        if call.body is not None:
            cookies.clear()  # an upload is not sent twice only because a session has expired
        with_cookie = any(cookie.name in _SESSION_COOKIES for cookie in cookies)
        answer = self._once(call, {} if with_cookie else self._login())
        if answer.status == 401 and with_cookie:
            log.debug("the session has expired, logging in again")
            cookies.clear()
            answer = self._once(call, self._login())
        return answer

    def _redirected(self, call: Call, answer: Answer) -> Answer:
        """Read where Prism sends us with a token, which takes the place of our login there.

        A redirection without a token is no answer of Prism's, and our login goes nowhere else.
        """
        at = self._url(call)
        for _ in range(_HOPS):
            token = answer.headers.get("X-Redirect-Token")
            at = _joined(at, answer.headers.get("Location", ""))
            is_ours = call.method == "GET" and answer.status == 302 and token
            if not (is_ours and at.startswith("https://")):
                break
            answer = self._once(attrs.evolve(call, params={}), {"Cookie": str(token)}, at)
        return answer

    def _login(self) -> dict[str, str]:
        match self._credentials:
            case Basic(user, password):
                pair = base64.b64encode(f"{user}:{password}".encode()).decode()
                return {"Authorization": f"Basic {pair}"}
            case ApiKey(key):
                return {"X-ntnx-api-key": key}
            case None:
                return {}

    def fill(self, call: Call, buffer: memoryview, offset: int, size: int) -> None:
        """Fill the buffer with the bytes from `offset` on of something of `size` bytes.

        It is asked once, without our login. Only a 206 that says it is exactly these bytes is read,
        and no more than the buffer takes: raises the ApiError that the status stands for, BadAnswer
        for anything else, TransportError.
        """
        wanted = f"bytes {offset}-{offset + len(buffer) - 1}/{size}"
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Range": wanted.replace(" ", "=").partition("/")[0],
        }
        call = attrs.evolve(call, headers={**headers, **call.headers})
        with self._answered(call, {}, self._url(call)) as (response, where):
            _check_range(response, where, wanted, len(buffer))
            done = 0
            while piece := response.raw.read(len(buffer) - done, decode_content=False):
                buffer[done : done + len(piece)] = piece
                done += len(piece)
            if done < len(buffer):
                raise BadAnswer(f"{where}: {done} bytes of {len(buffer)} came")

    def _once(self, call: Call, login: Mapping[str, str], url: str | None = None) -> Answer:
        url = url or self._url(call)
        started = self._clock.monotonic()
        with self._answered(call, login, url) as (response, where):
            body = _bounded_body(response, where)
        seconds = self._clock.monotonic() - started
        log.debug("%s -> %d, %.3f s", where, response.status_code, seconds)
        if self._record is not None:
            found = {name: text for name in _READ_HEADERS if (text := response.headers.get(name))}
            sent_to = response.request.url or url
            self._record(
                Exchange(call.method, sent_to, call.json, response.status_code, found, body)
            )
        return Answer(where, response.status_code, response.headers, body)

    @contextmanager
    def _answered(
        self, call: Call, login: Mapping[str, str], url: str
    ) -> Iterator[tuple[requests.Response, str]]:
        """Send a call; yield the answer, of which only the head was read, and what to call it."""
        session, connection = (
            (self._session, "keep-alive") if call.repeatable else (self._fresh, "close")
        )
        with (
            _mapped(f"{call.method} {url}", urlsplit(url).netloc, self._trust),
            session.request(
                call.method,
                url,
                params=call.params,
                json=call.json,
                data=call.body() if call.body else None,
                headers={
                    "Accept": "application/json",
                    "Connection": connection,
                    "User-Agent": "prism_client",
                    "NTNX-Request-Id": str(call.request_id),
                    **login,
                    **call.headers,
                },
                timeout=(self._timeout, call.silence or self._timeout),
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            yield response, one_line(f"{call.method} {url} (request id {call.request_id})")

    def _url(self, call: Call) -> str:
        return f"https://{self.endpoint.address}{call.path}"


class _Cookies(RequestsCookieJar):
    """Cookies that several threads may look at while others get new ones."""

    _cookies_lock: AbstractContextManager[object]  # the one under which a jar is changed

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the cookies of this moment."""
        with self._cookies_lock:
            return iter(list(super().__iter__()))


class _Session(requests.Session):
    """A session that leaves a Location alone: requests reads it even where it may not follow."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - requests'
        """Return no target: what may be followed is decided in Http."""
        return


def _new_session(adapter: HTTPAdapter) -> requests.Session:
    session = _Session()
    session.cookies = _Cookies()
    # Neither REQUESTS_CA_BUNDLE nor .netrc nor a proxy variable may overrule what we were told.
    session.trust_env = False
    session.mount("https://", adapter)
    return session


def _bounded_body(response: requests.Response, where: str) -> bytes:
    """Read as it comes, to the end, after which the connection can take another call."""
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > _MOST_ANSWER:
            raise BadAnswer(f"{where}: the answer is larger than {_MOST_ANSWER >> 20} MiB")
    return bytes(body)


def _check_range(response: requests.Response, where: str, wanted: str, length: int) -> None:
    """Raise unless the head of an answer says that exactly these bytes follow, as they are."""
    status, headers = response.status_code, response.headers
    if status >= 400:
        raise refusal(where, status, b"", response.request.headers.get("NTNX-Request-Id", ""))
    if status != requests.codes.partial_content:
        raise BadAnswer(f"{where}: a range was asked for, and the answer is {status}, not 206")
    said = " ".join(headers.get("Content-Range", "none").split())
    if said.lower() != wanted:
        raise BadAnswer(f"{where}: the answer is Content-Range {said!r}, not {wanted!r}")
    if headers.get("Content-Encoding", "identity") != "identity" or "Transfer-Encoding" in headers:
        raise BadAnswer(f"{where}: the answer is encoded, and was to be as it is")
    if headers.get("Content-Length") != str(length):
        announced = headers.get("Content-Length", "none")
        raise BadAnswer(f"{where}: the answer is Content-Length {announced}, not {length}")


def _joined(base: str, location: str) -> str:
    """Return where a Location leads; "" for what is no URL."""
    try:
        return urljoin(base, location)
    except ValueError:
        return ""


class _TrustAdapter(HTTPAdapter):
    """Applies Trust, and nothing else, to each connection."""

    def __init__(self, trust: Trust, limit: AnswerLimit, *, keeps: bool) -> None:
        self._trust = trust
        self._limit = limit
        self._keeps = keeps
        super().__init__(pool_maxsize=_CONNECTIONS)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 - the signature is requests'
        **options: object,
    ) -> None:
        options |= _tls.pool_arguments(self._trust)
        super().init_poolmanager(connections, maxsize, block, **options)
        pool = _tls.pool_class(self._trust, self._limit, keeps=self._keeps)
        self.poolmanager.pool_classes_by_scheme = {"https": pool}

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ANN401 - the types are private to requests
        cert: Any = None,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}  # the TLS arguments are the pool manager's

    def cert_verify(self, *args: object, **kwargs: object) -> None:
        """Leave the connection as it is: requests would add certifi's authorities to ours."""


class _Patience:
    """What one call may still wait: growing pauses, or what the server asks for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = _PATIENCE
        self._breaks = _BREAKS
        self._pause = 1.0

    def after_break(self) -> bool:
        """Wait before another try over a new connection; False when there is none left."""
        self._breaks -= 1
        return self._breaks > 0 and self.when_busy(None)

    def when_busy(self, asked: float | None) -> bool:
        """Wait as long as the server asks; False, at once, when that is more than is left."""
        pause = self._pause if asked is None else asked
        if pause > self._left:
            return False
        self._left -= max(pause, 1.0)  # "Retry-After: 0" must not go on for ever
        self._pause = min(2 * self._pause, 30.0)
        self._clock.sleep(pause)
        return True


def _retry_after(answer: Answer, clock: Clock) -> float | None:
    """Return the seconds that the server asks to wait for, given as a number or as a date."""
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    seconds = natural(value.strip())
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - clock.now())
    except (ValueError, OverflowError):
        return None


@contextmanager
def _mapped(what: str, host: str, trust: Trust) -> Iterator[None]:
    """Turn what requests raises into a PrismError."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, HeadTooLarge) as exc:
        raise _mapped_error(exc, what, host, trust) from exc


def _mapped_error(exc: Exception, what: str, host: str, trust: Trust) -> PrismError:
    """Return a TransportError, most specific first; BadAnswer for what is no answer of Prism."""
    root = _innermost(exc)
    if isinstance(root, HeadTooLarge):
        return BadAnswer(f"{what}: {root}; is {host} a Prism?")
    if isinstance(root, TooSlow):
        return Timeout(f"{what}: {root}")
    if isinstance(root, _tls.NotPinned):
        return UntrustedCertificate(
            f"the certificate of {host} is not trusted: its fingerprint is {root.seen}, which is"
            " not the one given; was it renewed? Compare it with the server's own, then give it"
        )
    if isinstance(root, ssl.SSLCertVerificationError):
        return UntrustedCertificate(
            f"the certificate of {host} is not trusted: {_reason(root)}; {_tls.advice(root, trust)}"
        )
    if isinstance(exc, requests.Timeout) or isinstance(
        root, (TimeoutError, urllib3.exceptions.TimeoutError)
    ):
        return Timeout(f"{what}: no answer in time; is {host} up, and the time-out long enough?")
    return Unreachable(f"{what}: no answer: {_reason(root)}; is {host} the right host and port?")


def _innermost(error: BaseException) -> BaseException:
    """Return the exception at the core: the libraries wrap it as reason, argument or cause."""
    for _ in range(10):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in error.args if isinstance(a, BaseException)), error.__cause__)
        if inner is None:
            break
        error = inner
    return error


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", None) or str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
