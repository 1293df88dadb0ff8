from __future__ import annotations

import dataclasses
import io
import json
import logging
import pickle
import struct
import threading
import urllib.parse
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.colour_encoder import ColourEncoder

from cl2cm_jax.search.entry import Filters, id_of
from cl2cm_jax.serve.limits import HEADERS
from cl2cm_jax.serve.service import Service

from .conftest import NAMES, Server, folder

FEW = settings(max_examples=60, deadline=None)


def search(server: Server, query: str, **options: object) -> dict:
    reply = server.ask(f"/api/search?{urllib.parse.urlencode({'q': query, **options})}")
    assert reply.status == 200, reply.content
    return reply.json()


def paths(answer: dict) -> list[str]:
    return [result["path"] for result in answer["results"]]


@pytest.mark.parametrize(("query", "first"), [("rot", "red.png"), ("赤", "red.png"), ("أزرق", "sea/blue.png")])
def test_a_text_in_any_script(server, query, first) -> None:
    answer = search(server, query, top=2)
    assert paths(answer)[0] == first and len(answer["results"]) == 2
    assert (answer["query"], answer["language"]) == (query, NAMES[query])
    assert answer["results"][0]["score"] == 1.0


def test_captions_in_the_language_of_the_query(server) -> None:
    texts = {query: search(server, query, language="en")["results"][0]["caption"] for query in ("rot", "أزرق")}
    assert texts == {"rot": "a <b>red</b> picture", "أزرق": "صورة حمراء"}


def test_filters(server) -> None:
    assert paths(search(server, "rot", path="sea/")) == ["sea/blue.png"]
    assert search(server, "rot", since="1971")["results"] == []
    assert len(search(server, "rot", until="1970-01-02")["results"]) == 5


def test_filters_that_select_nothing_say_so(server) -> None:
    assert search(server, "rot", since="2024")["notice"] == "no picture of the index meets since=2024-01-01"
    both = search(server, "rot", path="nowhere/", until="1960")
    assert both["notice"] == "no picture of the index meets path=nowhere/ and until=1960-12-31" and not both["results"]
    assert "notice" not in search(server, "rot", path="sea/")
    similar = server.ask(f"/api/pictures/{id_of('red.png')}/similar?path=nowhere/").json()
    assert similar["notice"] == "no picture of the index meets path=nowhere/"


def test_a_picture_as_the_query(server) -> None:
    content = io.BytesIO()
    Image.new("RGB", (30, 20), "blue").save(content, "JPEG")
    reply = server.ask("/api/search/picture?top=1", method="POST", body=content.getvalue())
    assert reply.status == 200 and paths(reply.json()) == ["sea/blue.png"]


def test_similar_leaves_out_the_picture_itself(server) -> None:
    reply = server.ask(f"/api/pictures/{id_of('red.png')}/similar?top=2")
    assert set(paths(reply.json())) == {"../secret.png", "linked.png"}  # as vectors they may be found
    assert server.ask(f"/api/pictures/{'0' * 32}/similar").status == 404


def test_a_thumbnail_is_reencoded(server) -> None:
    reply = server.ask(f"/api/pictures/{id_of('red.png')}/thumbnail")
    assert reply.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(reply.content)) as image:
        assert image.size == (480, 480) and image.convert("RGB").getpixel((9, 9))[0] > 250  # pyright: ignore
    with Image.open(io.BytesIO(server.ask(f"/api/pictures/{id_of('red.png')}/large").content)) as image:
        assert image.size == (700, 700)


@pytest.mark.parametrize("name", ["../secret.png", "linked.png"])
def test_no_file_outside_the_folder_is_served(server, name) -> None:
    """An index may come from elsewhere, and a file may become a link after it was indexed."""
    for size in ("thumbnail", "large"):
        assert server.ask(f"/api/pictures/{id_of(name)}/{size}").status == 404


@pytest.mark.parametrize(
    "path",
    ["/api/pictures/../../etc/passwd", "/api/pictures/..%2f..%2fetc%2fpasswd/thumbnail", "/../../etc/passwd",
     "/static/../app.py", "/api/pictures/red.png/thumbnail", "/%2e%2e/%2e%2e/etc/passwd", "/app.js/../app.py",
     f"/api/pictures/{'0' * 31}%00/large", f"/api/pictures/{'A' * 32}/large", "/docs", "/redoc"],
)  # fmt: skip
def test_only_ids_lead_to_files(server, path) -> None:
    reply = server.ask(path)
    assert reply.status in (404, 422) and b"root:" not in reply.content and b"import" not in reply.content


@FEW
@given(id=st.text(min_size=1, max_size=60))
def test_any_text_as_an_id(server, id) -> None:
    quoted = urllib.parse.quote(id.encode("utf-8", "replace"), safe="")
    assert server.ask(f"/api/pictures/{quoted}/thumbnail").status in (404, 422)


@FEW
@given(
    q=st.text(max_size=600),
    top=st.one_of(st.integers(), st.text(max_size=5)),
    narrowed=st.dictionaries(st.sampled_from(["language", "path", "since", "until"]), st.text(max_size=20)),
)
def test_any_query(server, q, top, narrowed) -> None:
    sent = {name: str(value).encode("utf-8", "replace") for name, value in {"q": q, "top": top, **narrowed}.items()}
    reply = server.ask(f"/api/search?{urllib.parse.urlencode(sent)}")
    assert reply.status in (200, 422)
    assert set(reply.json()) - {"notice"} == (
        {"detail"} if reply.status == 422 else {"query", "language", "milliseconds", "results"}
    )
    assert reply.status == 422 or len(q) <= 500
    assert all(reply.headers[name] == value for name, value in HEADERS.items())
    assert "\n" not in str(reply.json().get("detail", ""))


@FEW
@given(body=st.binary(max_size=2000))
def test_any_upload(server, body) -> None:
    assert server.ask("/api/search/picture", method="POST", body=body).status == 422


def test_truncated_pictures(server) -> None:
    content = io.BytesIO()
    Image.effect_noise((40, 40), 60).save(content, "PNG")
    for end in range(0, len(content.getvalue()) - 20, 97):
        reply = server.ask("/api/search/picture", method="POST", body=content.getvalue()[:end])
        assert reply.status == 422 and "detail" in reply.json(), end


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_pickle_as_a_picture_is_not_executed(server, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert server.ask("/api/search/picture", method="POST", body=pickle.dumps(Payload())).status == 422
    assert not (tmp_path / "ran").exists()


def bomb(side: int) -> bytes:
    """A PNG of side x side white pixels, in a few kilobytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 30_000, 2_000_000])
def test_a_decompression_bomb_is_refused_by_its_header(server, side) -> None:
    reply = server.ask("/api/search/picture", method="POST", body=bomb(side))
    assert reply.status == 422 and "pixels" in reply.json()["detail"] and "50,000,000" in reply.json()["detail"]


def test_a_url_is_not_fetched(server) -> None:
    for body in (b"http://127.0.0.1:1/a.png", b"file:///etc/passwd", b"<svg><image href='http://x/'/></svg>"):
        assert server.ask("/api/search/picture", method="POST", body=body).status == 422
    described = json.dumps(server.ask("/api/openapi.json").json()["paths"])
    assert "url" not in described.lower() and "uri" not in described.lower()  # nor is there a field for one


def test_errors_do_not_repeat_the_input(server) -> None:
    reply = server.ask("/api/search?q=a&top=%3Cscript%3Ealert(1)%3C/script%3E")
    assert reply.status == 422 and b"alert" not in reply.content and reply.headers["content-type"] == "application/json"


def test_header_injection(server) -> None:
    for query in ("/api/search?q=a%0d%0aSet-Cookie:%20x=1", "/api/pictures/%0d%0aX-Bad:%201/thumbnail"):
        reply = server.ask(query)
        assert "set-cookie" not in reply.headers and "x-bad" not in reply.headers


@pytest.mark.parametrize(
    "path",
    ["/", "/app.js", "/style.css", "/api/about", "/api/openapi.json", "/api/pictures/none", "/api/none",
     f"/api/pictures/{id_of('red.png')}", f"/api/pictures/{id_of('red.png')}/thumbnail", "/api/search?q="],
)  # fmt: skip
def test_head_is_answered_as_get_without_the_body(server, path) -> None:
    reply, whole = server.ask(path, method="HEAD"), server.ask(path)
    assert (reply.status, reply.content) == (whole.status, b"")
    assert reply.headers["content-length"] == str(len(whole.content))
    assert {**reply.headers, "date": ""} == {**whole.headers, "date": ""}


def test_head_where_there_is_no_get(server) -> None:
    assert [server.ask("/api/login", method=method).status for method in ("HEAD", "GET")] == [405, 405]


@pytest.mark.parametrize(
    ("path", "method", "status", "expected"),
    [
        ("/api/about", "GET", 200, "no-store"),
        ("/api/search?q=rot", "GET", 200, "no-store"),
        ("/api/search?q=", "GET", 422, "no-store"),
        ("/api/openapi.json", "GET", 200, "no-store"),
        ("/api/none", "GET", 404, "no-store"),
        ("/api/login", "POST", 422, "no-store"),
        ("/", "GET", 200, "no-cache"),
        (f"/api/pictures/{id_of('red.png')}/thumbnail", "GET", 200, "private, max-age=300"),
    ],
)
def test_no_cache_keeps_answers(server, path, method, status, expected) -> None:
    reply = server.ask(path, method=method)
    assert (reply.status, reply.headers["cache-control"]) == (status, expected)


def test_a_websocket_is_refused_without_a_log_line(server, caplog) -> None:
    wanted = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "a"}
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.WARNING)
    try:
        assert server.ask("/api/none", headers=wanted).status == 404
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(logging.CRITICAL)
    assert caplog.messages == []


def test_openapi_description(server) -> None:
    described = server.ask("/api/openapi.json").json()
    assert described["openapi"].startswith("3.") and set(described["paths"]) == {
        "/api/about", "/api/login", "/api/pictures/{id}", "/api/pictures/{id}/large", "/api/pictures/{id}/similar",
        "/api/pictures/{id}/thumbnail", "/api/search", "/api/search/picture"}  # fmt: skip
    assert described["components"]["schemas"]["Answer"]["required"] == ["query", "language", "milliseconds", "results"]
    about = server.ask("/api/about").json()
    assert about["pictures"] == 5
    assert (about["languages"], about["caption_languages"]) == (["en", "de", "ja", "ar"], ["ar", "en"])


def test_twenty_concurrent_clients(server) -> None:
    right = {query: paths(search(server, query)) for query in NAMES}
    wrong: list[object] = []

    def client(number: int) -> None:
        for turn in range(50):
            query = list(NAMES)[(number + turn) % 3]
            try:
                if paths(search(server, query)) != right[query]:
                    wrong.append(query)
            except Exception as error:  # noqa: BLE001  # each is a lost request
                wrong.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_cannot_be_answered_is_a_notice(tmp_path) -> None:
    model = ColourEncoder().model("colours", "en", "de")
    model.encoder = dataclasses.replace(model.encoder, notice=lambda text: "it is cut" if "long" in text else "")
    service = Service(folder(tmp_path / "photos"), model, lambda query: "")
    assert service.notice("LONG QUERY", Filters()) == "it is cut"
    assert service.notice("red", Filters(language="EN-us")) == ""
    assert service.notice("red", Filters(language="de_DE")) == (
        "no picture has a caption in 'de'; the index has captions in ar, en"
    )


def test_a_notice_does_not_scan_the_index(tmp_path, monkeypatch) -> None:
    service = Service(folder(tmp_path / "photos"), ColourEncoder().model("colours", "en"), lambda query: "")
    monkeypatch.setattr(service.index, "languages", lambda: pytest.fail("every entry is read for each request"))
    assert "no picture has a caption in 'pt-BR'" in service.notice("red", Filters(language="pt-BR"))


def test_a_notice_is_part_of_the_answer(server) -> None:
    plain, narrowed = (server.ask(f"/api/search?q=rot{more}").json() for more in ("", "&language=pt-br"))
    assert "notice" not in plain
    assert narrowed["results"] == [] and "no picture has a caption in 'pt-BR'" in narrowed["notice"]
    assert paths(server.ask("/api/search?q=rot&language=EN").json()) == ["red.png"]
