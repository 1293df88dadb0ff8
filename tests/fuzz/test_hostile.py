"""Malicious files and requests: pickles, decompression bombs, path traversal, header injection."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tar_shards import files_of, picture, write_shard

from cl2cm_jax.data.media import images
from cl2cm_jax.data.media.images import ImageError, decode
from cl2cm_jax.data.readers import text_lines
from cl2cm_jax.data.readers.shards import read_shard
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import load_gallery
from cl2cm_jax.evaluation.report import read_results
from cl2cm_jax.models import pretrained
from cl2cm_jax.models.files.e5_file import read_e5_file
from cl2cm_jax.models.files.tokenizer_file import read_tokenizer
from cl2cm_jax.models.files.torch_pickle import read_torch_pickle
from cl2cm_jax.models.hub_folder import read_tensors
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.search import vector_files
from cl2cm_jax.search.entry import captions_from_text
from cl2cm_jax.trained.bundle_layout import HEADS, MANIFEST, bundle_config, read_manifest
from cl2cm_jax.training.identity import BUILT_ON, read_record
from cl2cm_jax.training.workdir import read_config
from fuzz.attempt import attempt
from fuzz.service import raw_request, spoken
from fuzz.targets import as_bytes, bundle, gallery, results, targets

PACKAGE = Path(__file__).resolve().parents[2] / "cl2cm_jax"


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def zipped(**members: bytes) -> bytes:
    def write(out: io.BytesIO) -> None:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return as_bytes(write)


def payloads(marker: Path) -> dict[str, bytes]:
    """The file formats that can hold a pickle."""
    array = np.array([Payload(marker)], object)
    npy = as_bytes(lambda out: np.save(out, array, allow_pickle=True))
    plain = pickle.dumps(Payload(marker), protocol=2)
    about = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return {
        "pickle": plain,
        "text": pickle.dumps(Payload(marker), protocol=0),
        "npy": npy,
        "npz": zipped(**{"embeddings.npy": npy, "texts.npy": npy, "a/kernel.npy": npy}),
        "torch": about + plain,
        "torch, zipped": zipped(**{"archive/data.pkl": plain, "archive/version": b"3"}),
        "gzipped": gzip.compress(plain),
    }


@pytest.mark.parametrize("name", targets())
def test_no_reader_runs_a_pickle(name, tmp_path) -> None:
    marker = tmp_path / "ran"
    for content in payloads(marker).values():
        attempt(targets()[name], content)
        assert not marker.exists()
    pickle.loads(payloads(marker)["pickle"])
    assert marker.exists()  # an unsafe reader would have


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_model_folder_of_pickles_is_refused(name, tmp_path) -> None:
    (tmp_path / name).write_bytes(payloads(tmp_path / "ran")["torch, zipped"])
    with pytest.raises(UserError, match=f"{name} is a pickle, which can run any program, and is not read"):
        read_tensors(tmp_path)


def test_nothing_in_the_package_unpickles_or_evaluates() -> None:
    """Except for the reader with the allow-list; every np.load passes allow_pickle=False."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"pickle", "shelve", "marshal", "dill", "joblib"} & set(names) and path.name != "torch_pickle.py":
                wrong.append(f"{path.name}:{node.lineno}")  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(node, ast.Call):
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                called = ast.unparse(node.func)
                unsafe = called in ("eval", "exec", "os.system", "os.popen") or said.get("shell") == "True"
                if unsafe or (called == "np.load" and said.get("allow_pickle") != "False"):
                    wrong.append(f"{path.name}:{node.lineno} {called}")
    assert wrong == []


# --- decompression bombs ---


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pretrained, "_ALWAYS_UNPACKED", 100_000)
    zeros = as_bytes(lambda out: np.save(out, np.zeros(1_000_000, np.uint8)))
    (tmp_path / "bomb.npz").write_bytes(zipped(**{"a.npy": zeros}))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"unpacks to 1,000,128 bytes, more than 20 times its size"):
        pretrained.read_npz(tmp_path / "bomb.npz")


@pytest.mark.parametrize("name", ["ids.txt", "ids.txt.gz"])
def test_a_file_of_line_ends_only_is_refused(name, tmp_path, monkeypatch) -> None:
    """Each empty line would be a text: 300 kB of gzip would become gigabytes."""
    monkeypatch.setattr(text_lines, "MAX_LINES", 5)
    for lines, refused in ((5, False), (6, True)):
        content = b"\n" * lines
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        if refused:
            with pytest.raises(UserError, match="has 6 lines, and 5 are read"):
                text_lines.read_lines(tmp_path / name)
        else:
            assert text_lines.read_lines(tmp_path / name) == [""] * 5


def test_a_gzipped_list_is_unpacked_up_to_a_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_lines, "MAX_UNPACKED", 1000)
    (tmp_path / "lines.gz").write_bytes(gzip.compress(b"line\n" * 200))
    assert text_lines.read_lines(tmp_path / "lines.gz") == ["line"] * 200
    (tmp_path / "lines.gz").write_bytes(gzip.compress(b"line\n" * 201))
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        text_lines.read_lines(tmp_path / "lines.gz")
    monkeypatch.undo()
    monkeypatch.setattr(text_lines, "ALWAYS_UNPACKED", 1000)  # a small file of one letter is a line of megabytes
    (tmp_path / "lines.gz").write_bytes(gzip.compress(b"a" * 100_000))
    with pytest.raises(UserError, match=r"unpacks to more than 2,\d\d\d bytes"):
        text_lines.read_gzipped(tmp_path / "lines.gz")
    (tmp_path / "lines.gz").write_bytes(gzip.compress(b"") * 10_001)
    with pytest.raises(UserError, match="has 10,001 parts, and 10,000 are read"):
        text_lines.read_gzipped(tmp_path / "lines.gz")


def progressive(repeated: int) -> bytes:
    """A JPEG whose last scan is repeated."""
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    whole = as_bytes(lambda out: image.save(out, "JPEG", progressive=True))
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * repeated + whole[-2:]


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """A scan of a few bytes is one more pass over all pixels."""
    assert decode(progressive(0)).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="scans, over the limit of 100"):
        decode(progressive(200))
    assert decode(progressive(0) + b"\xff\xda\x00\x02" * 300).shape == (
        64,
        64,
        3,
    )  # trailing data


def test_no_external_program_reads_a_picture(tmp_path, monkeypatch) -> None:
    """Pillow would run Ghostscript on PostScript."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(page)
    assert not (tmp_path / "ran").exists() and "EPS" not in images.FORMATS


@pytest.mark.parametrize(
    "name", [name for name in targets() if name.endswith(".json") or name in ("run", "bundle", "results")]
)
@pytest.mark.parametrize("content", [b'{"a":' * 200_000, b"[" * 200_000, b'{"a": ' + b"9" * 200_000 + b"}"])
def test_deep_and_long_json(name, content) -> None:
    assert not attempt(targets()[name], content)


@pytest.mark.parametrize(
    "changes",
    [
        {"test": {}},
        {"test": {"de": {}}},
        {"test": {"de": dict.fromkeys(json.loads(results())["test"]["de"], "x")}},
        {"test": {"de": dict.fromkeys(json.loads(results())["test"]["de"], 10**400)}},
        {"groups": {"a": {"protocol": {}, "test": {}}}},
        {"config": {"data.source": ["en"], "data.targets": ["de"]}},
        {"config": {"data.source": "en", "data.targets": []}},
        {"evaluators": {"mine": {"test": {"de": {"a": "x"}}}}},
        {"evaluators": {"mine": {}}},
        {"protocol": None},
    ],
)
def test_results_of_other_types_are_refused_when_they_are_read(changes, tmp_path) -> None:
    """And not where a table of them is printed."""
    (tmp_path / "results.json").write_text(json.dumps(json.loads(results()) | changes))
    with pytest.raises(UserError, match=r"results\.json cannot be read .* --mode=evaluate"):
        read_results(tmp_path)


@pytest.mark.parametrize("body", [b"[" * 16_000, b'{"token":' * 1_700, b'{"token": ' + b"9" * 16_000 + b"}", b"\xff"])
def test_deep_and_long_json_in_a_request(body) -> None:
    answer = spoken(raw_request("POST", "/api/login", body, **{"Content-Type": "application/json"}))
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 422") and body[:100] not in answer


def test_a_gallery_of_deep_texts(tmp_path) -> None:
    with zipfile.ZipFile(io.BytesIO(gallery())) as archive:
        embeddings = archive.read("embeddings.npy")
    deep = as_bytes(lambda out: np.save(out, np.frombuffer(b"[" * 100_000, np.uint8)))
    assert not attempt(targets()["gallery"], zipped(**{"embeddings.npy": embeddings, "texts.npy": deep}))


@pytest.mark.parametrize("text", ['{"de": ["\\ud800"]}', "[" * 100_000, '{"de": 1}', "\x00"])
def test_captions_of_an_index_that_cannot_be_written_are_none(text) -> None:
    assert captions_from_text(text) == {}


def test_a_manifest_of_lists_is_not_parsed(tmp_path) -> None:
    """Three bytes of a file would take sixty of memory."""
    (tmp_path / vector_files.MANIFEST_FILE).write_bytes(b'{"a":[' + b"[]," * 500_000 + b"[]]}")
    with pytest.raises(UserError, match=r"cl2cm_index\.json is damaged \(ValueError\)"):
        vector_files.read_manifest(tmp_path)


# --- pipes and devices ---

FILES = {
    "config.json": lambda path: read_config(path.parent),
    BUILT_ON: lambda path: read_record(path.parent),
    "gallery.npz": load_gallery,
    "it.npz": pretrained.read_npz,
    "it.safetensors": pretrained.read_safetensors,
    "model.safetensors": lambda path: read_tensors(path.parent),
    "it.pth": read_torch_pickle,
    "it.bin": read_e5_file,
    "tokenizer.json": lambda path: read_tokenizer(path, vocabulary=9),
    "hash": pretrained.weights_hash,
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_or_device_in_place_of_a_file_is_refused(name, kind, tmp_path) -> None:
    """A pipe would be waited on for ever, and /dev/zero would be read for ever."""
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="a pipe or a device|has no model.safetensors"):
        FILES[name](tmp_path / name)


# --- path traversal ---


def test_names_in_a_shard_do_not_lead_out_of_its_folder(tmp_path) -> None:
    """Nothing is unpacked; links are not followed, and names are keys, not paths."""
    outside = tmp_path / "outside.jpg"
    shutil.copyfileobj(io.BytesIO(picture(9)), outside.open("wb"))
    link = tarfile.TarInfo("b.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    files = {"../../a.jpg": picture(1), "../../a.txt": b"a dog", "b.txt": b"a cat", **files_of(3)}
    path = write_shard(
        tmp_path / "in" / "0.tar", {**files, "b.jpg": link, "/etc/c.jpg": picture(2), "/etc/c.txt": b"a"}
    )
    before = sorted(tmp_path.rglob("*"))
    shard = read_shard(str(path), source="en", frames=1)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(str(path) in row.picture for sample in shard.samples for row in sample)
    assert "b" in shard.left_out


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "a\x00b"])
def test_a_bundle_lists_no_file_elsewhere(name, tmp_path) -> None:
    for place, content in bundle().items():
        (tmp_path / "it" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / place).write_bytes(content)
    (tmp_path / "secret").write_text("x")
    about = json.loads((tmp_path / "it" / MANIFEST).read_text())
    about["files"][name] = "0" * 64
    write_checked(tmp_path / "it" / MANIFEST, json.dumps(about))
    with pytest.raises(UserError, match="which is outside"):
        read_manifest(tmp_path / "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"a" * 300: "0"}}, "has no aaa"),
        ({"files": {"\U0001f44d" * 200: "0"}}, "has no "),
        ({"files": {"./" * 9 + HEADS: "0"}}, "which is outside"),
        ({"files": {str(number): "0" for number in range(1001)}}, "lists 1,00. files; use at most 1,000"),
        ({"weights": ["ab"]}, "not both text"),
        ({"library": None}, "not both text"),
        ({"config": {"text.backbone": json.loads("[" * 900 + "]" * 900)}}, "config.text.backbone=.* must be text"),
        ({"config": {"data.name": {"a": "."}}}, "config.data.name=.* must be text"),
        ({"config": {"student.dim": 2**40}}, "config.student.dim=1099511627776 must be between"),
        ({"config": {"text.path": "\0"}}, "config.text.path=.* has NUL"),
        ({"config": {"optimizer.exclude": "(a*)*b"}}, "could take very long"),
        ({"config": {"terms": ["a.b"]}}, "a module outside this package"),
        ({"shape": {"text": 2**70, "vision": 4, "max_words": 3, "max_frames": 1}}, "not a number of 64 bits"),
        ({"extra": [[]] * 600_000}, r"it has about 1,2\d\d,\d+ values"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_strangers_manifest_is_refused_in_one_line(changes, message, tmp_path) -> None:
    for place, content in bundle().items():
        (tmp_path / place).write_bytes(content)
    about = json.loads((tmp_path / MANIFEST).read_text())
    about |= {name: about[name] | new if name == "files" else new for name, new in changes.items()}
    (tmp_path / MANIFEST).write_text(json.dumps(about))
    with pytest.raises(UserError, match=message) as error:
        bundle_config(tmp_path, read_manifest(tmp_path))
    assert len(str(error.value)) <= 2000


# --- header injection ---


@pytest.mark.parametrize(
    "sent",
    [
        raw_request("GET", "/api/search?q=a%0d%0aX-Bad:%201&path=%0d%0aX-Bad:%201"),
        raw_request("GET", "/api/search/?q=%0d%0aX-Bad:%201"),
        raw_request("GET", "/api/pictures/%0d%0aX-Bad:%201/large"),
        raw_request("GET", "/api/about", Cookie="cl2cm_session=a\rX-Bad: 1"),
        raw_request("GET", "/api/about", Authorization="Bearer a\nX-Bad: 1"),
        raw_request("POST", "/api/login", b'{"token": "a\\r\\nX-Bad: 1"}', **{"Content-Type": "application/json"}),
        b"GET /api/about\r\nX-Bad: 1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/about HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
    ],
)
def test_no_value_becomes_a_header(sent) -> None:
    head = spoken(sent).partition(b"\r\n\r\n")[0]  # raises a Finding for an unknown header
    assert head.startswith(b"HTTP/1.1 ") and b"\nx-bad" not in head.lower()


def test_a_body_of_two_lengths_is_refused() -> None:
    """It would allow request smuggling through a proxy in front of the service."""
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na"
    assert spoken(two).startswith(b"HTTP/1.1 400")
