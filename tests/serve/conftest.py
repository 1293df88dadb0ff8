"""The service over a folder of three colours, with a model that needs no training."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from support.colour_encoder import ColourEncoder, paint

from cl2cm_jax.search.entry import Entry, id_of
from cl2cm_jax.search.stores.memory import MemoryIndex
from cl2cm_jax.search.stores.milvus import Manifest
from cl2cm_jax.serve.app import create_app
from cl2cm_jax.serve.connection import Connection
from cl2cm_jax.serve.limits import Limits
from cl2cm_jax.serve.pictures import Pictures
from cl2cm_jax.serve.proxies import parse_proxies
from cl2cm_jax.serve.service import Service

LOOPBACK = frozenset({"localhost", "127.0.0.1"})
NAMES = {"rot": "de", "赤": "ja", "أزرق": "ar"}


def folder(root: Path, *, captioned: bool = True) -> MemoryIndex:
    """red.png, lime.png, sea/blue.png, of which the first has captions; and two entries whose paths lead outside."""
    paint(root.parent / "secret.png", "red")
    for name, colour in (("red.png", "red"), ("lime.png", "lime"), ("sea/blue.png", "blue")):
        paint(root / name, colour, side=700)
    (root / "linked.png").symlink_to(root.parent / "secret.png")
    names = ["red.png", "lime.png", "sea/blue.png", "../secret.png", "linked.png"]
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0.6, 0, 0.8]], np.float32)
    captions = {"red.png": {"en": ("a <b>red</b> picture",), "ar": ("صورة حمراء",)}} if captioned else {}
    entries = [Entry(id=id_of(name), path=name, date=86400, captions=captions.get(name, {})) for name in names]
    return MemoryIndex(entries, vectors, Manifest(weights="step 10", model="colours", dim=3, images=str(root)))


def application(root: Path, limits: Limits, *, captioned: bool = True):
    model = ColourEncoder().model("colours", "en", "de", "ja", "ar")
    service = Service(folder(root, captioned=captioned), model, lambda query: NAMES.get(query, ""))
    return create_app(service, Pictures(str(root)), limits)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Server:
    """A running service, and a client of it."""

    port: int
    connections: set[Any]

    def ask(self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())


@contextlib.contextmanager
def serving(app: Any, *, proxies: str = "") -> Iterator[Server]:
    networks = parse_proxies(proxies)
    options = {"http": Connection, "ws": "none", "lifespan": "off", "access_log": False, "server_header": False}
    options |= {"proxy_headers": bool(networks), "forwarded_allow_ips": networks}
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield Server(server.servers[0].sockets[0].getsockname()[1], server.server_state.connections)
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("serve") / "photos"
    with serving(application(root, Limits(hosts=LOOPBACK, per_minute=1_000_000))) as running:
        yield running
