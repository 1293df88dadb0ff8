"""What every request must pass: who may ask, how much, how often and how long. Pure ASGI, outermost.

Source: ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "cl2cm_session"
OPEN_PATHS = frozenset(
    {"/", "/app.js", "/style.css", "/icon.svg", "/api/login"}
)  # what a page needs to ask for the token
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
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^][:/@\s]+)(:[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of one request and of one address.

    Attributes:
      hosts: names by which the service may be called (the Host header), so that no web page of a stranger can reach it
        under a name of its own; empty: any, where a token is asked for.
      token: that callers must have; "": none.
      head: most bytes of the names and values of a request's headers.
      body, upload: most bytes of a request's body, and of a picture.
      seconds: for a whole request, body and answer included.
      per_minute: requests of one address, which may come all at once.
      logins: tries of the token a minute, of one address, by the page's form.
      wrong: requests a minute, of one address, with a token or cookie that is wrong; a page whose cookie has become old
        asks for a screenful of pictures at once.
    """

    hosts: frozenset[str] = frozenset()
    token: str = ""
    head: int = 16_384
    body: int = 16_384
    upload: int = 20_000_000
    seconds: float = 30.0
    per_minute: int = 3_000
    logins: int = 10
    wrong: int = 60

    def session(self) -> str:
        """What the cookie holds: a function of the token that does not give it away."""
        return hmac.new(self.token.encode(), b"cl2cm session", hashlib.sha256).hexdigest()


class Refused(Exception):
    """A request that is answered with a status and a line, not with what it asked for."""

    def __init__(self, status: int, detail: str, **headers: str):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Guard:
    """An ASGI application around another one that keeps `Limits` and sets the headers of every answer."""

    def __init__(self, app: App, limits: Limits):
        self._app, self._limits = app, limits
        self._rates = {"all": Rate(limits.per_minute), "login": Rate(limits.logins), "wrong": Rate(limits.wrong)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(send)
        try:
            async with asyncio.timeout(self._limits.seconds):
                self._check(scope)
                await self._app(scope, self._bounded(scope, receive, reply), reply)
        except Refused as error:
            await reply.refuse(error)
        except TimeoutError:
            if reply.begun:
                raise  # the server closes the connection: an answer that is cut must not look whole
            late = f"the request took more than {self._limits.seconds:g} s"
            await reply.refuse(Refused(408, late, connection="close"))

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, client = scope["path"], (scope.get("client") or ("", 0))[0]
        self._check_head(scope, headers)
        if self._limits.hosts and _host(headers.get("host", "")) not in self._limits.hosts:
            raise Refused(421, "this service is not called by that name; use the address that it printed")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and path != "/":
            raise Refused(403, "requests of other sites' pages are refused")
        if "origin" in headers and headers["origin"].partition("://")[2] != headers.get("host", ""):
            raise Refused(403, "requests of other sites' pages are refused")
        _wait(self._rates["all"].wait(client) or (path == "/api/login" and self._rates["login"].wait(client)))
        if self._limits.token and path not in OPEN_PATHS:
            self._check_token(headers, client)
        size = headers.get("content-length", "0")
        if not size.isdecimal() or len(size) > 15 or int(size) > self._most(path):
            raise Refused(413, f"the body is larger than {self._most(path):,} bytes", connection="close")

    def _check_head(self, scope: Scope, headers: dict[str, str]) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._limits.head:
            raise Refused(431, f"the headers are larger than {self._limits.head:,} bytes", connection="close")
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may see another end of the body
            raise Refused(400, "a body has one length; send content-length or chunks", connection="close")

    def _check_token(self, headers: dict[str, str], client: str) -> None:
        """Nobody may guess fast: after too many wrong ones a right one is not looked at either."""
        if "authorization" in headers or "cookie" in headers:
            _wait(self._rates["wrong"].wait(client, cost=0))
            if self._is_known(headers):
                return
            self._rates["wrong"].wait(client)
        raise Refused(401, "a token is needed: Authorization: Bearer ...", **{"www-authenticate": "Bearer"})

    def _most(self, path: str) -> int:
        return self._limits.upload if path == "/api/search/picture" else self._limits.body

    def _is_known(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), self._limits.token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, self._limits.session())

    def _bounded(self, scope: Scope, receive: Receive, reply: _Reply) -> Receive:
        """`receive`, which refuses a body that grows beyond the limit, whatever its header said."""
        most, seen = self._most(scope["path"]), 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                error = Refused(413, f"the body is larger than {most:,} bytes", connection="close")
                await reply.refuse(error)  # now: the application would make another fault of it
                raise error
            return message

        return bounded


class _Reply:
    """`send` with the headers of every answer; deaf once the request is refused."""

    def __init__(self, send: Send):
        self._send, self.begun, self._is_refused = send, False, False

    async def __call__(self, message: Message) -> None:
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answers with a status and a line, unless an answer has begun."""
        if self.begun:
            return
        body = json.dumps({"detail": refused.detail}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
        await self({"type": "http.response.start", "status": refused.status, "headers": _encoded(headers)})
        await self({"type": "http.response.body", "body": body})
        self._is_refused = True


class Rate:
    """How often an address may come: `per_minute` at once, then as they are earned."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic):
        self._most, self._clock = float(per_minute), clock
        self._left: dict[str, tuple[float, float]] = {}  # by address: what is left, as of when

    def wait(self, address: str, *, cost: int = 1) -> float:
        """Counts a request, unless it costs 0; 0 if it may go on, else the seconds until one may."""
        now, address = self._clock(), _network(address)
        left, since = self._left.pop(address, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60)
        allowed = left >= 1
        self._left[address] = (left - cost * allowed, now)  # the last one to come stands last
        if len(self._left) > _ADDRESSES:
            del self._left[next(iter(self._left))]
        return 0.0 if allowed else (1 - left) * 60 / self._most


def _network(address: str) -> str:
    """An IPv6 caller has a whole /64 of addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{parsed}/64", strict=False)) if parsed.version == 6 else address


def same(given: str, expected: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def _wait(seconds: float) -> None:
    if seconds:
        raise Refused(429, "too many requests; wait a little", **{"retry-after": str(int(seconds) + 1)})


def _host(header: str) -> str:
    """The name in a Host header, without the port; "" of what is no such header."""
    found = _HOST.fullmatch(header.lower())
    return found[1] if found else ""


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
