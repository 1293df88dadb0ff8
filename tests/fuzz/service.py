"""Sends raw requests to the search service without a socket, and checks the answers."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
from serve.conftest import LOOPBACK, application
from uvicorn.server import ServerState

from cl2cm_jax.serve import connection
from cl2cm_jax.serve.limits import HEADERS, Limits
from fuzz.attempt import Finding

ANSWERS = {200, 204, 400, 401, 403, 404, 405, 408, 413, 421, 422, 429}
NAMES = {
    *HEADERS, "allow", "cache-control", "connection", "content-length", "content-type", "date", 
    "retry-after", "transfer-encoding", "www-authenticate",
}  # fmt: skip
SECONDS = 300.0  # after which a service that does not answer is a finding
_STATUS = re.compile(rb"(?:^|\n)HTTP/1\.1 (\d{3})[ \r]")


def raw_request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request as a client sends it."""
    named = {"Host": "localhost", **headers, **({"Content-Length": str(len(body))} if body else {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def upload(content: bytes) -> bytes:
    """The request that searches by a picture."""
    return raw_request("POST", "/api/search/picture", content)


def spoken(sent: bytes) -> bytes:
    """Returns the answers; raises a Finding for a status outside `ANSWERS`, an unknown header or a logged error."""
    runner, config, faults = _service()
    faults.clear()
    received = runner.run(_talk(config, sent))
    if faults:
        raise Finding(f"the service has logged a fault: {faults[0]}")
    statuses = {int(status) for status in _STATUS.findall(received)}
    if not statuses <= ANSWERS:
        raise Finding(f"the service answered {sorted(statuses - ANSWERS)}")
    head = received.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    names = {line.partition(b":")[0].decode("latin-1").lower() for line in head}
    if not names <= NAMES:
        raise Finding(f"the answer has the headers {sorted(names - NAMES)}")
    return received


class _Wire(asyncio.Transport):
    """The client's end of a connection."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8080)})
        self.received, self._closing = bytearray(), False
        self._protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def write(self, data: Any) -> None:
        self.received += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing and isinstance(self._protocol, asyncio.Protocol):
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
        self._closing = True

    def abort(self) -> None:
        self.close()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Faults(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(repr(record.exc_info[1]) if record.exc_info else record.getMessage())


@cache
def _service() -> tuple[asyncio.Runner, uvicorn.Config, list[str]]:
    app = application(Path(tempfile.mkdtemp()) / "photos", Limits(hosts=LOOPBACK, per_minute=10**9, logins=10**9))
    config = uvicorn.Config(
        app, http=connection.Connection, ws="none", lifespan="off", access_log=False, log_config=None,
        proxy_headers=False, h11_max_incomplete_event_size=16_384,
    )  # fmt: skip
    config.load()
    faults: list[str] = []
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(_Faults(faults))
    logger.propagate = False
    return asyncio.Runner(), config, faults


async def _talk(config: uvicorn.Config, sent: bytes) -> bytes:
    wire, state = _Wire(), ServerState()
    talking = connection.Connection(config, state, {})
    wire.set_protocol(talking)
    talking.connection_made(wire)
    if sent:  # asyncio passes on no empty data
        talking.data_received(sent)
    async with asyncio.timeout(SECONDS):
        while state.tasks:
            lacks = talking.cycle is not None and talking.cycle.more_body
            _, running = await asyncio.wait(state.tasks, timeout=0.05 if lacks else SECONDS)
            if lacks and running:  # the rest of the body never comes
                wire.close()
    wire.close()
    await asyncio.sleep(0)
    return bytes(wire.received)
