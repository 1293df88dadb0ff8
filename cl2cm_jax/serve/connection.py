"""uvicorn protocol with read and write timeouts, and bounds on open connections.

uvicorn itself limits the time between requests only, counts connections when their first request is complete, and sends
two answers to a request whose body is not valid HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cl2cm_jax.serve.limits import client_of
from cl2cm_jax.serve.proxies import is_proxy

HEAD_SECONDS = 10.0  # from connecting, or the previous request's end, to the end of a request's head
ANSWER_SECONDS = 30.0  # for a client to receive what is buffered of an answer
CONNECTIONS = 512  # open at the same time, those without a request included
CONNECTIONS_OF_CLIENT = 128  # the same of one client, so that others find room; a trusted proxy has them all


class Connection(H11Protocol):
    """Closes the connection of a client that does not send a complete head, or receive an answer, in time.

    A connection over a bound closes the oldest one that waits for a request; if none does, it is answered with an error
    and closed itself.
    """

    client_name, is_trusted = "", False
    opened = 0.0
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # any buffered byte calls pause_writing
        self.client_name, self.opened = client_of(self.client[0]) if self.client else "", self.loop.time()
        networks = self.config.forwarded_allow_ips if self.config.proxy_headers else ()
        self.is_trusted = bool(self.client) and is_proxy(self.client[0], networks)
        crowd = self._crowd()
        waiting = [one for one in crowd if one._head_timer is not None]
        if crowd and not waiting:
            self._refuse()
            return
        if waiting:
            min(waiting, key=lambda one: one.opened).transport.abort()
        self._update_head_timer()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        self._update_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._stop_head_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by asyncio when the client has not received all of an answer yet."""
        super().pause_writing()
        self._answer_timer = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)  # close() waits for the client

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._stop_answer_timer()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Called by uvicorn after each answer."""
        super().on_response_complete()
        self._update_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn on invalid HTTP; the application's answer to the valid beginning is dropped."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Called by uvicorn on a request for a WebSocket, whose advice to install a library does not apply here."""

    def _crowd(self) -> list[Connection]:
        """The open connections that are more than a bound, those of this client or all; [] if there is room."""
        there = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        own = [one for one in there if one.client_name == self.client_name]
        is_own = len(own) > CONNECTIONS_OF_CLIENT and not self.is_trusted
        return own if is_own else there if len(there) > CONNECTIONS else []

    def _refuse(self) -> None:
        content = b'{"detail":"too many connections; close some, or try again later"}'
        fields = {"content-type": "application/json", "content-length": len(content), "cache-control": "no-store"}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, "connection": "close"}.items())
        self.transport.write(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + content)
        self.transport.close()

    def _update_head_timer(self) -> None:
        """Runs the timer while the head of a request is expected."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
