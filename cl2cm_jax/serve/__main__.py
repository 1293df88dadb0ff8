"""Serves an index as a web page and a JSON API.

cl2cm serve --model=runs/emoji --index=runs/emoji.db [--port=8080]

It listens on this machine only. To be reachable from other machines it needs a token:

CL2CM_TOKEN=... cl2cm serve --model=runs/emoji --index=runs/emoji.db --host=0.0.0.0
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cl2cm_jax
from cl2cm_jax.errors import UserError, exit_cleanly, not_installed
from cl2cm_jax.runtime.command_line import Arguments, add_model_option
from cl2cm_jax.search.index_command import add_index_options, open_store
from cl2cm_jax.serve.proxies import parse_proxies
from cl2cm_jax.text.terminal import log_to_stderr

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
TOKEN = "CL2CM_TOKEN"  # an environment variable, since other users of the machine can read command lines
MIN_TOKEN_LENGTH = 16


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; raises a UserError where it is wrong."""
    parser = Arguments(prog="cl2cm serve", description="Serves an index as a web page and a JSON API.")
    add_model_option(parser)
    add_index_options(parser)
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the pictures, if it is not the indexed one"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--requests_per_minute", type=int, default=3000, help="limit for one client (default: %(default)s)"
    )
    parser.add_argument(
        "--trusted_proxy",
        default="",
        metavar="ADDRESS[,...]",
        help="reverse proxies whose X-Forwarded-For names the client, as addresses or networks (default: none)",
    )
    options = parser.parse_args(arguments)
    options.trusted_proxy = parse_proxies(options.trusted_proxy)
    if not 0 <= options.port <= 65_535:
        raise UserError(f"--port={options.port} is not a port; use 1024 to 65535")
    if options.requests_per_minute < 1:
        raise UserError(f"--requests_per_minute={options.requests_per_minute} must be 1 or more")
    return options


def check_token(host: str, token: str) -> None:
    """Requires a token of sufficient length to listen beyond this machine."""
    if token and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UserError(
            f"{TOKEN} must have {MIN_TOKEN_LENGTH} or more printable ASCII characters; try: openssl rand -hex 16"
        )
    if not token and not is_loopback(host):
        raise UserError(f"--host={host} can be reached from other machines; set {TOKEN}=$(openssl rand -hex 16) first")


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only; of host names only localhost counts."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(options: argparse.Namespace, token: str) -> ASGIApp:
    """Loads model and index, and creates the service."""
    from cl2cm_jax.runtime.progress import CountReport
    from cl2cm_jax.search.stores import memory
    from cl2cm_jax.search.stores.milvus import is_local
    from cl2cm_jax.serve.app import create_app
    from cl2cm_jax.serve.language import detector
    from cl2cm_jax.serve.limits import Limits
    from cl2cm_jax.serve.pictures import Pictures, cache_folder
    from cl2cm_jax.serve.service import Service
    from cl2cm_jax.serve.workers import Workers

    if options.images is not None and not options.images.is_dir():
        raise UserError(f"--images={options.images}: no such folder; give the folder of the pictures")
    store = open_store(options, must_exist=True)
    assert store.manifest is not None
    model = cl2cm_jax.load(options.model)
    store.manifest.check(weights=model.weights, model=model.name, uri=options.index)
    index = store
    if is_local(options.index):
        with CountReport("read") as report:
            index = memory.load(store, on_progress=report)
        store.close()  # so that the index can be updated while it is served
    root = str(options.images.resolve()) if options.images else _indexed_folder(store.manifest.images)
    hosts = frozenset() if token else frozenset({*LOOPBACK_NAMES, options.host.lower()})
    limits = Limits(hosts=hosts, token=token, per_minute=options.requests_per_minute)
    workers = Workers()
    service = Service(index, model, detector(model.languages), workers)
    service.warm()
    return create_app(service, Pictures(root, workers, kept=cache_folder()), limits)


def _indexed_folder(root: str) -> str:
    """The folder that the index names, which is printed: whoever made the index chose it."""
    if root and Path(root) == Path(Path(root).anchor):
        raise UserError(f"--index: its pictures are in {root}, the whole disk; name their folder with --images=DIR")
    if root:
        print(f"Shows the pictures in {root}, which the index names; --images=DIR shows those of another folder")
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is stopped."""
    log_to_stderr()
    options, token = parse(arguments), os.environ.get(TOKEN, "")
    check_token(options.host, token)
    try:
        import uvicorn

        from cl2cm_jax.serve.connection import Connection
    except ImportError as error:
        raise not_installed(error.name, run="in a checkout pip install -e '.[serve]'") from error
    listening = _listen(options.host, options.port)  # before loading the model: a port in use is an error at once
    config = uvicorn.Config(
        application(options, token),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,  # that of log_to_stderr
        log_level="warning",
        access_log=False,  # queries are private
        server_header=False,
        proxy_headers=bool(options.trusted_proxy),
        forwarded_allow_ips=options.trusted_proxy,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16_384,
    )
    host, port = listening.getsockname()[:2]
    name = "localhost" if is_loopback(options.host) else host
    print(f"Search:  http://{name}:{port}/   API: http://{name}:{port}/api/openapi.json   (Ctrl-C to stop)", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise UserError(f"--host={host} --port={port} is not available ({error.strerror}); try another port") from error
    return listening


if __name__ == "__main__":
    exit_cleanly(main)
