"""An HTTP connection that waits for no client for ever, and does not stumble over half a request.

Source: ours; uvicorn limits the time between requests only, and answers twice what begins well and is no HTTP then.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from a connection, or the end of the request before, to the end of a request's head
ANSWER_SECONDS = 30.0  # for a client to take what of an answer the system has not taken for it


class Connection(H11Protocol):
    """Closes the connection of a client that does not send a whole head in time, or does not take an answer."""

    _patience: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that whatever lies here pauses
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client has not taken all of an answer yet."""
        super().pause_writing()
        self._untaken = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)  # close() would wait for the client

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._taken()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Called by uvicorn after each answer."""
        super().on_response_complete()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn on bytes that are no HTTP; what the application says to their beginning is not sent."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Called by uvicorn on a wish for another protocol, which is answered as if there was none.

        Its advice to install a library for WebSockets is no use: there is nothing here that speaks them.
        """

    def _wait(self) -> None:
        """Starts the clock if a head is awaited and it is not running; stops it if none is."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.abort()
