from __future__ import annotations

import contextlib
import http.client
import re
import socket
import sys
import time
from functools import partial

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.serve import __main__ as command
from cl2cm_jax.serve import connection, limits
from cl2cm_jax.serve.limits import COOKIE, Limits, Rate, client_of

from .conftest import LOOPBACK, application, serving

TOKEN = "correct-horse-battery"
ABOUT = b"GET /api/about HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{"


def talk(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Sends bytes and reads until the other side closes, 5 minutes at most."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        received = b""
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionResetError:
            pass
        return received


@pytest.fixture
def stopped_clock(monkeypatch) -> None:
    """No rate refills, however slow the machine is."""
    monkeypatch.setattr(limits, "Rate", partial(Rate, clock=lambda: 0.0))


@pytest.fixture
def guarded(tmp_path, stopped_clock):
    with serving(application(tmp_path / "photos", Limits(token=TOKEN, logins=3))) as running:
        yield running


def test_the_token_is_required(guarded) -> None:
    for path in ("/api/search?q=rot", "/api/about", "/api/openapi.json", f"/api/pictures/{'0' * 32}/thumbnail"):
        assert guarded.ask(path).status == 401
        assert guarded.ask(path, headers={"Authorization": f"Bearer {TOKEN}x"}).status == 401
        assert guarded.ask(path, headers={"Authorization": "Bearer \u00e9"}).status == 401
        assert guarded.ask(path, headers={"Cookie": f"{COOKIE}={TOKEN}"}).status == 401
    assert guarded.ask("/api/search?q=rot", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
    assert guarded.ask("/").status == 200  # the page asks for it


def test_login_sets_a_cookie_and_is_rate_limited(guarded) -> None:
    def login(token: str):
        body = f'{{"token": "{token}"}}'
        return guarded.ask("/api/login", method="POST", body=body, headers={"Content-Type": "application/json"})

    reply = login(TOKEN)
    cookie = reply.headers["set-cookie"]
    assert reply.status == 204 and "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert guarded.ask("/api/about", headers={"Cookie": cookie.split(";")[0]}).status == 200
    assert [login("wrong").status for _ in range(3)] == [401, 401, 429]
    assert login(TOKEN).status == 429


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80@localhost"}, 421),
        ({"Host": "localhost:80@evil.example"}, 421),
        ({"Host": "localhost:"}, 421),
        ({"Host": "localhost/evil"}, 421),
        ({"Host": "LOCALHOST:1"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_cross_site_requests_are_refused(server, headers, status) -> None:
    assert server.ask("/api/about", headers=headers).status == status


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/api/login", 16_385, 413), ("/api/search/picture", 20_000_001, 413), ("/api/login", -1, 400)],
)
def test_a_body_that_is_too_large_is_not_read(server, path, size, status) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    assert talk(server.port, head.encode()).startswith(f"HTTP/1.1 {status}".encode())


def test_a_chunked_body_over_the_limit_is_refused(server) -> None:
    head = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = talk(server.port, head, *[b"1000\r\n" + b"a" * 4096 + b"\r\n"] * 5, pause=0.02)
    assert reply.startswith(b"HTTP/1.1 413") and reply.count(b"HTTP/1.1") == 1


def test_an_endless_head_is_refused(server) -> None:
    assert not talk(server.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000).startswith(
        b"HTTP/1.1 200"
    )


def test_large_headers_are_refused(server) -> None:
    assert server.ask("/api/about", headers={"X": "a" * 16_000}).status == 200
    assert server.ask("/api/about", headers={"X": "a" * 20_000}).status == 431
    assert server.ask("/api/about", headers={f"X-{number}": "a" * 100 for number in range(90)}).status == 200
    assert server.ask("/api/about", headers={f"X-{number}": "a" * 200 for number in range(90)}).status == 431


def test_content_length_with_transfer_encoding_is_refused(server) -> None:
    """Request smuggling: a proxy that uses the other length takes the rest for a request."""
    head = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = talk(server.port, head + b"0\r\n\r\nGET /api/about HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400") and reply.count(b"HTTP/1.1") == 1


def test_wrong_tokens_and_cookies_are_rate_limited(tmp_path, stopped_clock) -> None:
    with serving(application(tmp_path / "photos", Limits(token=TOKEN, wrong=4))) as running:

        def status(headers: dict[str, str]) -> int:
            return running.ask("/api/about", headers=headers).status

        right = {"Authorization": f"Bearer {TOKEN}"}
        assert [status({}) for _ in range(9)] == [401] * 9  # no try
        assert [status(right) for _ in range(9)] == [200] * 9
        assert [status({"Authorization": f"Bearer guess{n}"}) for n in range(2)] == [401] * 2
        assert [status({"Cookie": f"{COOKIE}=guess{n}"}) for n in range(3)] == [401, 401, 429]
        assert status(right) == 429  # or the answer would tell


def test_slow_clients_time_out(tmp_path, monkeypatch) -> None:
    with serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as running:
        with monkeypatch.context() as patch:
            patch.setattr(connection, "HEAD_SECONDS", 0.3)
            assert talk(running.port) == b""  # sends nothing
            assert talk(running.port, b"GET / HTTP/1.1\r\nHo") == b""  # half a head
        assert running.ask("/api/about").status == 200


def test_a_second_head_times_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 2.0)
    with serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as running:
        complete = b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert talk(running.port, complete + b"GET / HT").count(b"HTTP/1.1 200") == 1


def test_a_slow_body_times_out(tmp_path) -> None:
    with serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK, seconds=0.3))) as running:
        body = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        assert talk(running.port, body).startswith(b"HTTP/1.1 408")


def test_a_slowly_sent_head_times_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
            with pytest.raises(OSError):  # noqa: PT011  # of which kind depends on the system
                for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100:
                    client.sendall(bytes([byte]))
                    time.sleep(0.05)


def test_a_client_that_does_not_receive_is_disconnected(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.3)
    unlimited = Limits(hosts=LOOPBACK, per_minute=1_000_000)
    with serving(application(tmp_path / "photos", unlimited)) as running, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(300)
        client.connect(("127.0.0.1", running.port))
        with pytest.raises(ConnectionError):
            for _ in range(200):  # answers of megabytes, of which none is read
                client.sendall(b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
                time.sleep(0.02)
            time.sleep(1)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        assert running.ask("/api/about").status == 200


def test_too_many_requests_get_retry_after(tmp_path, stopped_clock) -> None:
    with serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK, per_minute=5))) as running:
        replies = [running.ask("/api/about") for _ in range(7)]
    assert [reply.status for reply in replies] == [200] * 5 + [429] * 2
    assert replies[-1].headers["retry-after"] == "13"


def test_a_rate_refills() -> None:
    now = 0.0
    rate = Rate(60, clock=lambda: now)
    assert [rate.wait("a") for _ in range(61)] == [0.0] * 60 + [1.0] and rate.wait("b") == 0
    now = 2.0
    assert [rate.wait("a") for _ in range(3)] == [0.0, 0.0, 1.0]
    assert [rate.wait(f"2001:db8::{number:x}") for number in range(61)][-1] > 0  # one household


def test_http_1_0(server) -> None:
    reply = talk(server.port, b"GET /api/about HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in reply.partition(b"\r\n")[0] and b'"pictures":5' in reply
    assert b" 421 " in talk(server.port, b"GET /api/about HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]  # no host


def test_pipelined_requests_are_answered_in_order(server) -> None:
    path = b"/api/search?q=%d&top=1"
    asked = [b"GET " + path % number + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for number in range(5)]
    reply = talk(server.port, b"".join(asked) + ABOUT)
    assert reply.count(b"HTTP/1.1 200") == 6
    assert re.findall(rb'"query":"(\d)"', reply) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n",
        b"fffffffffffffffffffff\r\n{}",
        b"2;" + b"x" * 70_000,
        b"\0" * 99 + b"\r\n",
    ],
)
def test_chunks_that_are_not_valid(server, body) -> None:
    head = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = talk(server.port, head, body)
    assert reply.count(b"HTTP/1.1 ") == 1 and reply.startswith(b"HTTP/1.1 400")
    assert server.ask("/api/about").status == 200


def test_no_other_site_may_read_answers(server) -> None:
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    replies = [server.ask("/api/search?q=a", method="OPTIONS", headers=preflight), server.ask("/api/about")]
    assert [reply.status for reply in replies] == [403, 200]
    assert not [name for reply in replies for name in reply.headers if name.startswith("access-control")]


def test_ranges_and_conditions_are_ignored(server) -> None:
    whole = server.ask("/app.js")
    for headers in ({"Range": "bytes=0-1"}, {"Range": "bytes=" + "0-," * 4000}, {"If-Modified-Since": "x"}):
        reply = server.ask("/app.js", headers=headers)
        assert (reply.status, reply.content) == (200, whole.content)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:102:304", "1.2.3.4"),
        ("64:ff9b::1.2.3.4", "1.2.3.4"),
        ("2001:db8:0:1::5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::5", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::1%eth0"),  # all neighbours have this /64
        ("::ffff:169.254.1.1", "169.254.1.1"),
        ("::1", "::/64"),
        ("no address", "no address"),
        ("", ""),
    ],
)
def test_what_counts_as_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


def test_ipv4_clients_of_a_dual_stack_socket_have_their_own_rates() -> None:
    rate = Rate(1, clock=lambda: 0.0)
    assert [rate.wait(f"::ffff:10.0.0.{number}") for number in range(20)] == [0.0] * 20
    assert rate.wait("10.0.0.7") > 0 and rate.wait("::ffff:10.0.0.7") > 0


def of_another_address(port: int, path: str, *, body: bytes | None = None) -> int:
    """The status of a request whose client has the address 127.0.0.2."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=("127.0.0.2", 0))
    with contextlib.closing(client):
        client.request("GET" if body is None else "POST", path, body=body)
        return client.getresponse().status


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_one_client_with_many_connections_does_not_shut_out_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 300.0)
    with contextlib.ExitStack() as held, serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as running:
        for _ in range(260):
            one = held.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            one.sendall(b"GET / HTTP/1.1\r\nHo")
        assert [of_another_address(running.port, "/api/about") for _ in range(40)] == [200] * 40
        wait_until(lambda: len(running.connections) <= connection.CONNECTIONS_OF_CLIENT + 1)
        assert b" 200 " in talk(running.port, ABOUT)  # not even others of the same address


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_one_client_with_many_uploads_does_not_shut_out_others(tmp_path) -> None:
    """Their bytes are in memory until they are answered."""
    begun = b"POST /api/search/picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    limits = Limits(hosts=LOOPBACK, uploads=3, uploads_of_client=2)
    with contextlib.ExitStack() as held, serving(application(tmp_path / "photos", limits)) as running:
        slow = [hold(held, running.port, begun) for _ in range(2)]
        wait_until(lambda: sum(one.cycle is not None for one in running.connections) == 2)
        assert talk(running.port, begun).startswith(b"HTTP/1.1 503")
        assert running.ask("/api/about").status == 200
        assert of_another_address(running.port, "/api/search/picture", body=b"no picture") == 422
        other = held.enter_context(
            socket.create_connection(("127.0.0.1", running.port), source_address=("127.0.0.2", 0))
        )
        other.sendall(begun)
        wait_until(lambda: sum(one.cycle is not None for one in running.connections) == 3)
        assert of_another_address(running.port, "/api/search/picture", body=b"no picture") == 503  # three in all
        for one in (*slow, other):
            one.sendall(b"a" * 9)
            assert one.recv(12) == b"HTTP/1.1 422"
        assert running.ask("/api/search/picture", method="POST", body=b"no picture").status == 422


def hold(held: contextlib.ExitStack, port: int, sent: bytes) -> socket.socket:
    """A connection that stays open."""
    one = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
    one.sendall(sent)
    return one


@pytest.mark.parametrize("bound", ["CONNECTIONS", "CONNECTIONS_OF_CLIENT"])
def test_a_connection_over_a_bound_replaces_the_oldest_that_waits(tmp_path, monkeypatch, bound) -> None:
    monkeypatch.setattr(connection, bound, 3)
    with contextlib.ExitStack() as held, serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as running:
        busy = hold(held, running.port, BODY)
        wait_until(lambda: len(running.connections) == 1)
        idle = [hold(held, running.port, b"") for _ in range(20)]
        wait_until(lambda: len(running.connections) == 3)
        assert b" 200 " in talk(running.port, ABOUT)
        assert [one.recv(1) for one in idle[:18]] == [b""] * 18  # closed
        busy.sendall(b"}")
        assert busy.recv(12) == b"HTTP/1.1 422"


@pytest.mark.parametrize("bound", ["CONNECTIONS", "CONNECTIONS_OF_CLIENT"])
def test_a_connection_is_refused_where_all_others_have_requests(tmp_path, monkeypatch, bound) -> None:
    monkeypatch.setattr(connection, bound, 2)
    with contextlib.ExitStack() as held, serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as running:
        busy = [hold(held, running.port, BODY) for _ in range(2)]
        wait_until(lambda: sum(one.cycle is not None for one in running.connections) == 2)
        refused = talk(running.port)
        assert refused.startswith(b"HTTP/1.1 503") and b"too many connections" in refused
        for one in busy:
            one.sendall(b"}")
            assert one.recv(12) == b"HTTP/1.1 422"


def wait_until(happened) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it has not happened within 30 s")


def test_other_machines_need_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UserError, match=rf"--host={host} can be reached from other machines; set CL2CM_TOKEN"):
            command.check_token(host, "")
        command.check_token(host, TOKEN)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        command.check_token(host, "")
    for token in ("short", "a long enough one\r\nX: y", "a long enough \u00e9"):
        with pytest.raises(UserError, match="16 or more printable ASCII"):
            command.check_token("127.0.0.1", token)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=m", "--index=nowhere.db", "--port=99999"], "--port=99999 is not a port"),
        (["--model=m", "--index=nowhere.db", "--requests_per_minute=0"], "requests_per_minute=0 must be 1 or more"),
        (["--model=m", "--index=nowhere.db", "--port=0"], "--index=nowhere.db does not exist"),
        (["--index=nowhere.db"], "the following arguments are required: --model"),
    ],
)
def test_mistakes(arguments, message, monkeypatch) -> None:
    monkeypatch.delenv("CL2CM_TOKEN", raising=False)
    with pytest.raises(UserError, match=message):
        command.main(arguments)


def test_a_port_in_use_is_an_error(server) -> None:
    with pytest.raises(UserError, match=f"--port={server.port} is not available"):
        command._listen("127.0.0.1", server.port)
