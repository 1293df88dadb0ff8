"""Access control and limits of every request, as the outermost ASGI application."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cl2cm_session"
OPEN_PATHS = frozenset({"/", "/app.js", "/style.css", "/icon.svg", "/api/login"})  # needed to ask for the token
UPLOAD_PATH = "/api/search/picture"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_ADDRESSES = 10_000  # whose rate is remembered
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # addresses of IPv4 clients behind a translator
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^][:/@\s]+)(:[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one request and of one client address."""

    hosts: frozenset[str] = frozenset()  # accepted in the Host header, against DNS rebinding; empty: any
    token: str = ""  # required of callers; "": none
    head: int = 16_384  # maximum bytes of a request's headers
    body: int = 16_384  # maximum bytes of a request's body
    upload: int = 20_000_000  # the same of a picture
    uploads: int = 24  # pictures that are sent or searched with at the same time; each takes its bytes of memory
    uploads_of_client: int = 4  # the same of one address, so that others are served
    seconds: float = 30.0  # for a whole request, body and answer included
    per_minute: int = 3_000  # requests of one address, which may come all at once
    logins: int = 10  # tries of the token per minute and address, by the page's form
    wrong: int = 60  # requests per minute and address with a wrong token; a page with an old cookie sends many at once

    def session(self) -> str:
        """The content of the cookie: a function of the token that does not reveal it."""
        return hmac.new(self.token.encode(), b"cl2cm session", hashlib.sha256).hexdigest()

    def body_limit(self, path: str) -> int:
        """Maximum bytes of a request's body."""
        return self.upload if path == UPLOAD_PATH else self.body


class Refused(Exception):
    """A request that is answered with an error status and one line."""

    def __init__(self, status: int, detail: str, **headers: str):
        super().__init__(detail)
        self.response = JSONResponse({"detail": detail}, status, headers)


class Guard:
    """An ASGI application around another one that enforces `Limits` and sets the security headers of every answer."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits
        self._uploads = Counter[str]()  # that go on, by client
        self._rates = {"all": Rate(limits.per_minute), "login": Rate(limits.logins), "wrong": Rate(limits.wrong)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(scope, receive, send)
        try:
            async with asyncio.timeout(self._limits.seconds):
                self._check(scope)
                with self._upload_slot(scope):
                    await self._app(_as_get(scope), self._bounded(scope, receive, reply), reply)
        except Refused as error:
            await reply.refuse(error)
        except TimeoutError:
            if reply.has_begun:
                raise  # the server closes the connection, so that a truncated answer does not look complete
            late = f"the request took more than {self._limits.seconds:g} s"
            await reply.refuse(Refused(408, late, connection="close"))

    def _check(self, scope: Scope) -> None:
        headers, path, client = Headers(scope=scope), scope["path"], _client(scope)
        self._check_head(headers)
        if self._limits.hosts and _host(headers.get("host", "")) not in self._limits.hosts:
            raise Refused(421, "this host name is not accepted; use the address that the service printed")
        is_cross_site = headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and path != "/"
        origin = headers.get("origin")
        if is_cross_site or (origin is not None and origin.partition("://")[2] != headers.get("host", "")):
            raise Refused(403, "requests from pages of other sites are refused")
        _check_rate(self._rates["all"].wait(client) or (path == "/api/login" and self._rates["login"].wait(client)))
        if self._limits.token and path not in OPEN_PATHS:
            self._check_token(headers, client)
        size, limit = headers.get("content-length", "0"), self._limits.body_limit(path)
        if not size.isdecimal() or len(size) > 15 or int(size) > limit:
            raise _too_large(limit)

    @contextmanager
    def _upload_slot(self, scope: Scope) -> Iterator[None]:
        """Counts an upload while it goes on; refuses one that is too many. Other requests pass."""
        if scope["path"] != UPLOAD_PATH or scope["method"] != "POST":
            yield
            return
        client, limits = client_of(_client(scope)), self._limits
        if self._uploads[client] >= limits.uploads_of_client or self._uploads.total() >= limits.uploads:
            busy = "too many pictures at once; try again later"
            raise Refused(503, busy, connection="close", **{"retry-after": "5"})
        self._uploads[client] += 1
        try:
            yield
        finally:
            self._uploads[client] -= 1
            self._uploads += Counter()  # without clients that have none

    def _check_head(self, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in headers.raw) > self._limits.head:
            raise Refused(431, f"the headers are larger than {self._limits.head:,} bytes", connection="close")
        if "content-length" in headers and "transfer-encoding" in headers:  # against request smuggling by a proxy
            raise Refused(400, "send either content-length or transfer-encoding, not both", connection="close")

    def _check_token(self, headers: Headers, client: str) -> None:
        """After too many wrong tokens a right one is refused too, so that guessing is slow."""
        if "authorization" in headers or "cookie" in headers:
            _check_rate(self._rates["wrong"].wait(client, cost=0))
            scheme, _, token = headers.get("authorization", "").partition(" ")
            cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
            if scheme.lower() == "bearer" and same(token.strip(), self._limits.token):
                return
            if same(cookie, self._limits.session()):
                return
            self._rates["wrong"].wait(client)
        raise Refused(401, "a token is required: Authorization: Bearer ...", **{"www-authenticate": "Bearer"})

    def _bounded(self, scope: Scope, receive: Receive, reply: _Reply) -> Receive:
        """`receive` with a limit on the bytes that actually arrive."""
        limit, seen = self._limits.body_limit(scope["path"]), 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                error = _too_large(limit)
                await reply.refuse(error)  # now, since the application would turn it into another error
                raise error
            return message

        return bounded


class _Reply:
    """`send` with the security headers; ignores the application's answer after a refusal."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self._scope, self._receive, self._send = scope, receive, send
        self.has_begun, self._is_refused = False, False

    async def __call__(self, message: Message) -> None:
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("cache-control", "no-store")  # answers show private pictures and queries
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Sends the error, unless an answer has begun."""
        if not self.has_begun:
            await refused.response(self._scope, self._receive, self)
            self._is_refused = True


class Rate:
    """A token bucket per client address: `per_minute` requests at once, refilled continuously."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic):
        self._size, self._clock = float(per_minute), clock
        self._left: dict[str, tuple[float, float]] = {}  # by address: tokens left, and when

    def wait(self, address: str, *, cost: int = 1) -> float:
        """Takes `cost` tokens; returns 0 if the request is allowed, else the seconds until one is."""
        now, address = self._clock(), client_of(address)
        left, since = self._left.pop(address, (self._size, now))
        left = min(self._size, left + (now - since) * self._size / 60)
        allowed = left >= 1
        self._left[address] = (left - cost * allowed, now)  # in the order of the last request
        if len(self._left) > _ADDRESSES:
            del self._left[next(iter(self._left))]
        return 0.0 if allowed else (1 - left) * 60 / self._size


def client_of(address: str) -> str:
    """What counts as one client: an IPv4 address, also where IPv6 carries it, or a /64 network of IPv6.

    One client has a /64 as a whole, except for link-local addresses, whose /64 is that of all neighbours.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped or parsed in _NAT64:
        return str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
    if parsed.is_link_local:
        return str(parsed)
    return str(ipaddress.ip_network(f"{parsed}/64", strict=False))


def _client(scope: Scope) -> str:
    return (scope.get("client") or ("", 0))[0]


def _as_get(scope: Scope) -> Scope:
    """A request without HEAD, which is answered as GET is; the server leaves out the body."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def same(given: str, expected: str) -> bool:
    """Compares two texts in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def _check_rate(seconds: float) -> None:
    if seconds:
        raise Refused(429, "too many requests; try again later", **{"retry-after": str(int(seconds) + 1)})


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit:,} bytes", connection="close")


def _host(header: str) -> str:
    """The name in a Host header, without the port; "" if the header is not valid."""
    found = _HOST.fullmatch(header.lower())
    return found[1] if found else ""
