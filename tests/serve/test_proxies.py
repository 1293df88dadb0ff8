"""Trusted reverse proxies: whose X-Forwarded-For counts, and what a client of theirs can forge."""

from __future__ import annotations

import argparse
import contextlib
import socket

import pytest
import uvicorn

from cl2cm_jax.errors import UserError
from cl2cm_jax.serve import __main__ as command
from cl2cm_jax.serve import connection
from cl2cm_jax.serve.limits import Limits
from cl2cm_jax.serve.proxies import is_proxy, parse_proxies

from .conftest import LOOPBACK, Server, application, serving


def statuses(server: Server, *forwarded: str) -> list[int]:
    """Of one request for each value of X-Forwarded-For."""
    return [server.ask("/api/about", headers={"X-Forwarded-For": value}).status for value in forwarded]


def test_clients_of_a_trusted_proxy_have_their_own_rates(tmp_path) -> None:
    app = application(tmp_path / "photos", Limits(hosts=LOOPBACK, per_minute=1))
    with serving(app, proxies="10.1.0.0/16,127.0.0.1") as running:
        assert statuses(running, "9.9.9.1", "9.9.9.2", "2001:db8::1", "9.9.9.3:5000") == [200] * 4
        assert statuses(running, "9.9.9.1", "2001:db8::2", "9.9.9.3") == [429] * 3
        # what a client sends itself comes before the address that the proxy adds
        assert statuses(running, "7.7.7.1, 9.9.9.1", "7.7.7.2, 9.9.9.1, 10.1.2.3", "junk\t,,9.9.9.1") == [429] * 3
        assert statuses(running, "9.9.9.1, 8.8.8.8", "") == [200] * 2
        assert statuses(running, "") == [429]  # without an address it counts for the proxy


@pytest.mark.parametrize("proxies", ["", "10.0.0.7"])
def test_nobody_else_is_believed(tmp_path, proxies) -> None:
    app = application(tmp_path / "photos", Limits(hosts=LOOPBACK, per_minute=1))
    with serving(app, proxies=proxies) as running:
        assert statuses(running, "9.9.9.1", "9.9.9.2", "9.9.9.3") == [200, 429, 429]


def test_a_trusted_proxy_may_hold_more_connections_than_a_client(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_OF_CLIENT", 2)
    app = application(tmp_path / "photos", Limits(hosts=LOOPBACK))
    with contextlib.ExitStack() as held, serving(app, proxies="127.0.0.1") as running:
        for _ in range(9):
            held.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        assert running.ask("/api/about").status == 200
        assert len(running.connections) >= 9


def test_networks_and_addresses() -> None:
    networks = parse_proxies(" 10.0.0.7, 192.168.4.0/24 ,::1,")
    for address in ("10.0.0.7", "::ffff:10.0.0.7", "192.168.4.200", "::ffff:192.168.4.200", "::1"):
        assert is_proxy(address, networks), address
    for address in ("10.0.0.8", "::ffff:10.0.0.8", "192.168.5.1", "::2", "", "unix:", "10.0.0.7.example.org"):
        assert not is_proxy(address, networks), address
    assert parse_proxies("") == []


@pytest.mark.parametrize("text", ["*", "proxy.example.org", "10.0.0.1/24", "10.0.0.1:80", "0.0.0.0/0", "::/0", "a\nb"])
def test_what_is_no_address_of_a_proxy_is_refused(text) -> None:
    with pytest.raises(UserError, match="--trusted_proxy="):
        command.parse(["--model=m", "--index=i.db", f"--trusted_proxy={text}"])


@pytest.mark.parametrize(("given", "believed"), [("", []), ("10.0.0.7", ["10.0.0.7/32", "::ffff:a00:7/128"])])
def test_the_option_reaches_the_server(given, believed, monkeypatch) -> None:
    """Whatever the environment says: uvicorn reads FORWARDED_ALLOW_IPS."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setattr(command, "application", lambda *_: None)
    configs: list[uvicorn.Config] = []
    monkeypatch.setattr(
        uvicorn, "Server", lambda config: configs.append(config) or argparse.Namespace(run=lambda **_: 0)
    )
    command.main(["--model=m", "--index=i.db", "--port=0", f"--trusted_proxy={given}"])
    assert (configs[0].proxy_headers, configs[0].forwarded_allow_ips) == (bool(believed), believed)
