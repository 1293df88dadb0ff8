"""Fuzz targets: each reader as a function of bytes, with valid inputs. A reader of folders has one for each file."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sentencepiece
from PIL import Image
from safetensors.numpy import save
from support.tar_shards import files_of, pax_header, write_shard
from support.tiny_e5 import e5_bytes
from support.tiny_models import write_tiny_text
from support.tokenizer_kinds import KINDS

from cl2cm_jax.data.media.images import decode, decode_frames
from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.data.readers.feature_file import read_feature_file
from cl2cm_jax.data.readers.shards import read_shard
from cl2cm_jax.data.readers.text_lines import read_ids, read_lines
from cl2cm_jax.data.sets.paper.captions import read_caption_lines
from cl2cm_jax.data.sets.paper.features import read_frame_folder
from cl2cm_jax.evaluation.gallery import Gallery, load_gallery, save_gallery
from cl2cm_jax.evaluation.report import SHOWN, SHOWN_RANKS, Protocol, read_results
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.models.files.torch_pickle import read_torch_pickle
from cl2cm_jax.models.pretrained import read_npz, read_safetensors, weights_hash
from cl2cm_jax.models.tokenizers import PIECES, HubTokenizer, SentencePieceTokenizer
from cl2cm_jax.runtime.checksums import LIST_NAME
from cl2cm_jax.search import parquet_rows, vector_files
from cl2cm_jax.search.entry import captions_to_text
from cl2cm_jax.trained.bundle_layout import FORMAT, HEADS, MANIFEST, bundle_config, read_manifest
from cl2cm_jax.training.identity import BUILT_ON, read_record
from cl2cm_jax.training.workdir import read_config
from fuzz.attempt import Target
from fuzz.service import raw_request, spoken, upload

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PIXELS = 4_000_000  # of one picture or animation, below the limit of the package to save memory
Files = Mapping[str, bytes]


def of_file(name: str, read: Callable[[Path], object], *seeds: bytes) -> Target:
    """A reader of one file; its name matters for the suffix."""
    return of_folder({name: b""}, name, lambda folder: read(folder / name), *seeds)


def of_folder(files: Files, name: str, read: Callable[[Path], object], *seeds: bytes) -> Target:
    """A reader of a folder of `files`, one of which is the input."""

    def reads(data: bytes, folder: Path) -> object:
        for place, content in {**files, name: data}.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        (folder / LIST_NAME).unlink(missing_ok=True)  # as a stranger's file has no checksum, or the right one
        return read(folder)

    return Target(read=reads, seeds=lambda: seeds or (files[name],))


def each_file(prefix: str, files: Files, read: Callable[[Path], object]) -> dict[str, Target]:
    """One target for each file of a folder, with the other files valid."""
    return {f"{prefix}/{name}": of_folder(files, name, read) for name in files}


def content(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The content of the files that `write` makes in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "it")
        return content(Path(folder) / "it") if (Path(folder) / "it").is_dir() else content(Path(folder))


def as_bytes(save_to: Callable[[io.BytesIO], object]) -> bytes:
    out = io.BytesIO()
    save_to(out)
    return out.getvalue()


# --- captions, features, shards ---

ROWS = [("a.jpg", "en", "a dog"), ("a.jpg", "de", "ein Hund"), ("b/c.png", "zh-TW", "\u72d7, \u201cok\u201d")]


def captions(separator: str) -> bytes:
    lines = [("image", "language", "caption", "split", "origin"), *((*row, "val", "human") for row in ROWS)]
    return "\n".join(separator.join(f'"{cell}"' if "," in cell else cell for cell in line) for line in lines).encode()


def caption_targets() -> dict[str, Target]:
    objects = "\n".join(json.dumps(dict(zip(("image", "language", "caption"), row, strict=True))) for row in ROWS)
    of = {"csv": captions(","), "tsv": captions("\t"), "jsonl": objects.encode()}
    return {
        f"captions/{ending}": of_file(
            f"it.{ending}", lambda path: read_caption_file(str(path), image_is_path=True), seed
        )
        for ending, seed in of.items()
    } | {
        "captions/paper": of_file(
            "it.txt",
            lambda path: read_caption_lines(path, tags=("enc",)),
            "1.jpg#enc#0 a dog\n1.jpg#enc#1 \u72d7\n".encode(),
        ),
        "lines": of_file("it.txt", read_ids, b"one\ntwo\n"),
        "lines/gz": of_file("it.gz", read_lines, gzip.compress(b"one\ntwo\n" * 9)),
    }


FRAMES = {
    "shape.txt": b"3 2",
    "id.txt": b"a_1 a_2 b_1",
    "feature.bin": np.arange(6, dtype="<f4").tobytes(),
    "video2frames.txt": b"{'a.avi': ['a_1', 'a_2'], 'b': ['b_1'], 'c': []}",
}


def read_frames(folder: Path) -> object:
    frames = read_frame_folder(folder)
    return [frames.row(video) for video in frames.row_of]


def npy(array: np.ndarray) -> bytes:
    return as_bytes(lambda out: np.save(out, array))


def read_npy(folder: Path) -> object:
    features = read_feature_file(str(folder / "it.npy"), str(folder / "ids.txt"))
    return [features.row(name) for name in features.row_of]


def npy_targets() -> dict[str, Target]:
    arrays = (np.ones((2, 3), np.float32), np.ones((2, 2, 3), np.float16, order="F"), np.ones((2, 3), ">f8"))
    return {"npy": of_folder({"ids.txt": b"a\nb\n", "it.npy": b""}, "it.npy", read_npy, *map(npy, arrays))}


def shard() -> bytes:
    files = {**files_of(1, captions={"de": "Hund"}), **files_of(2)}
    return written(lambda path: write_shard(path / "it.tar", files))["it.tar"]


# --- weights and models ---


class _Storage:
    """Pickled as a torch storage: by a persistent id."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", "torch FloatStorage", "0", "cpu", 6, None) if isinstance(obj, _Storage) else None


def torch_file() -> bytes:
    """A state dict as torch wrote it before 1.6; torch is not needed."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, None, ["0"]]
    # {"w": _rebuild_tensor_v2(storage, 0, (2, 3), (3, 1), False, OrderedDict())}, written by hand
    state = (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n"
        b")RtRs."
    )
    pickled = [state if part is None else pickle.dumps(part, protocol=2) for part in parts]
    return b"".join(pickled) + (6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes()


ARRAYS = {"a/kernel": np.ones((2, 3), np.float32), "b": np.arange(3), "c": np.zeros((), np.float16)}


def weight_targets() -> dict[str, Target]:
    zipped = (as_bytes(lambda out: np.savez(out, **ARRAYS)), as_bytes(lambda out: np.savez_compressed(out, **ARRAYS)))
    return {
        "torch": of_file("it.pth", read_torch_pickle, torch_file()),
        "npz": of_file("it.npz", read_npz, *zipped),
        "safetensors": of_file("it.safetensors", read_safetensors, save(ARRAYS)),
    }


def read_text_model(name: str, path: Path) -> object:
    backbone = text_backbone(name, path)
    return backbone.tokenizer(max_tokens=9)(["a dog", "\ud800", "\u3000\xb2"])


def tokenizer_target(made: Any) -> Target:
    """The tokenizer.json of a model folder, with texts that its parts are for."""

    def read(folder: Path) -> object:
        tokenise = HubTokenizer(path=folder, max_tokens=9, vocabulary=made.get_vocab_size())
        return tokenise(["a red car", "", "\u3000\ufb01  \xbd it's <s>12", "a" * 500])

    return of_folder({"tokenizer.json": made.to_str().encode()}, "tokenizer.json", read)


def slow_tokenizer_targets() -> dict[str, Target]:
    """The files that transformers makes a tokenizer of."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "car", "app", "##el"]
    letters = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "r", "e", "d", "re"])}
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(["red car", "a dog"] * 9), model_writer=made, vocab_size=12, minloglevel=2
    )
    about = json.dumps({"do_lower_case": True, "unk_token": "[UNK]", "added_tokens_decoder": {}}).encode()
    kinds = {
        "bert": {"vocab.txt": "\n".join(words).encode(), "tokenizer_config.json": about},
        "roberta": {"vocab.json": json.dumps(letters).encode(), "merges.txt": b"#version: 0.2\nr e\n"},
        "xlm-roberta": {
            "sentencepiece.bpe.model": made.getvalue(),
            "special_tokens_map.json": b'{"sep_token": "</s>"}',
        },
    }

    def read(folder: Path) -> object:
        with mock.patch("cl2cm_jax.models.files.slow_tokenizer.user_cache", lambda: folder / "cache"):
            return HubTokenizer(path=folder, max_tokens=9, vocabulary=16)(["a red car", "", "\u3000\ufb01  it's <s>12"])

    targets = {}
    for kind, files in kinds.items():
        config = {"config.json": json.dumps({"model_type": kind}).encode()}
        for name in files:
            target = of_folder(config | files, name, read)
            targets[f"slow_tokenizer/{kind}/{name}"] = replace(target, seeds=partial(imported, target.seeds))
    return targets


def imported(seeds: Callable[[], tuple[bytes, ...]]) -> tuple[bytes, ...]:
    """The seeds, after the import of what reads them, which takes longer than any input may."""
    import transformers

    for name in ("BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer", "AutoTokenizer"):
        getattr(transformers, name)
    return seeds()


def golden(name: str) -> dict[str, bytes]:
    return {name: data for name, data in content(GOLDEN / name).items() if name != "outputs.npz"}


def read_both_towers(folder: Path) -> object:
    return vision_backbone("clip_vit", folder), read_text_model("clip_text", folder)


def model_targets() -> dict[str, Target]:
    texts: dict[str, Target] = {}
    for family, template in (("bert", "[CLS] $A [SEP]"), ("modernbert", "[CLS] $A [SEP]"), ("qwen3", "$A [SEP]")):
        files = written(partial(write_tiny_text, family=family, template=template))
        files["1_Pooling/config.json"] = json.dumps({"pooling_mode_mean_tokens": True}).encode()
        texts |= each_file(family, files, partial(read_text_model, family))
    clip, both = golden("clip"), golden("dual_siglip")
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}
    index = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "part-1.safetensors")}).encode()
    split = {"model.safetensors.index.json": index, "part-1.safetensors": save(tensors)}
    run = json.dumps({"data.source": "en", "train.batch_size": 4}).encode()
    backbone = {"backbone": "bert", "path": "bert", "is_hub_id": False, "revision": "", "files": {"config.json": "00"}}
    built_on = json.dumps({"format": 1, "data": "content:00", "text": backbone, "init": {"model": "run"}}).encode()
    return {
        **texts,
        "e5": of_file("it.bin", partial(read_text_model, "e5_small"), e5_bytes()),
        **each_file("clip", clip, partial(vision_backbone, "clip_vit")),
        **each_file("dino", golden("dinov3"), partial(vision_backbone, "dino")),
        **each_file("clip_text", both, read_both_towers),
        **each_file("open_clip", golden("open_clip"), read_both_towers),
        **each_file("open_clip_xlm", golden("open_clip_xlm"), partial(read_text_model, "clip_text")),
        **each_file("split", split, hub_folder.read_tensors),
        **{f"tokenizer/{name}": tokenizer_target(make()) for name, make in KINDS.items()},
        **slow_tokenizer_targets(),
        "pieces": of_file("sp.model", lambda path: SentencePieceTokenizer(path=path), PIECES.locate().read_bytes()),
        "run": of_folder({"config.json": run}, "config.json", read_config),
        "built_on": of_folder({BUILT_ON: built_on}, BUILT_ON, read_record),
    }


def bundle() -> dict[str, bytes]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / HEADS).write_bytes(save(ARRAYS))
        shape = {"text": 4, "vision": 4, "max_words": 3, "max_frames": 1}
        about = {"weights": "ab", "config": {}, "library": "0.1", "files": {HEADS: weights_hash(folder / HEADS)}}
        (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "shape": shape, **about}))

    return written(write)


# --- search ---


def gallery() -> bytes:
    made = Gallery(np.eye(2, dtype=np.float32), ("a", "b"), ("a dog", ""), ("a.png", "b.png"), "step 1")
    return written(lambda path: save_gallery(path, made))["it"]


def vectors() -> dict[str, bytes]:
    """A folder of exported vectors: shard, metadata, manifest."""
    import pyarrow
    import pyarrow.parquet

    rows = {"image_path": ["a.png", "b.png"], "caption": ["a dog", ""], "captions": ['{"de": ["Hund"]}', "{}"]}
    table = pyarrow.table({**rows, "size": [1, 2], "hash": ["0" * 64, None]})
    return {
        "img_emb/img_emb_0.npy": npy(np.eye(2, dtype=np.float32)),
        "metadata/metadata_0.parquet": as_bytes(lambda out: pyarrow.parquet.write_table(table, out)),
        vector_files.MANIFEST_FILE: b'{"weights": "ab", "model": "m", "dim": 2, "images": "", "format": 1}',
    }


def rows(path: Path, *, count: int, text_limit: int) -> Iterator[dict[str, Any]]:
    """The reader of `parquet_rows` without the process around it, which takes half a second."""
    return parquet_rows.read(str(path), count=count, text_limit=text_limit)


def read_vectors(folder: Path) -> object:
    with mock.patch.object(vector_files, "rows", rows):
        entries = [entry for part, _ in vector_files.read_vectors(folder) for entry in part]
    return vector_files.read_manifest(folder), [
        captions_to_text(entry.captions, limit=1000).encode() for entry in entries
    ]


def results() -> bytes:
    protocol = Protocol("test", 2, {"de": 2}).as_dict()
    whole = {"config": {"data.source": "en", "data.targets": ["de"]}, "protocol": protocol, "groups": {}}
    metrics = {"de": dict.fromkeys(SHOWN | SHOWN_RANKS, 12.5)}
    return json.dumps({**whole, "test": metrics, "validation": metrics, "seconds": {}}).encode()


# --- pictures and the service ---


def pictures() -> Iterator[bytes]:
    """Pictures of each format, with unusual variants, and two animations."""
    noise = Image.effect_noise((12, 9), 60)
    colour = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "JPEG", {"progressive": True, "exif": exif}),
        (colour, "JPEG", {}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (noise.convert("I;16"), "PNG", {}),
        (colour, "WEBP", {"exif": exif}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (noise.convert("F"), "TIFF", {}),
        (colour, "BMP", {}),
        *((colour, kind, {"save_all": True, "append_images": [colour.rotate(180)]}) for kind in ("GIF", "PNG", "WEBP")),
    ]
    for image, kind, options in kinds:
        yield as_bytes(partial(image.save, format=kind, **options))


def read_picture(data: bytes, _: Path) -> object:
    frames = decode_frames(data, limit=3, max_pixels=PIXELS, max_frames=100, max_animation_pixels=PIXELS)
    return decode(data, max_pixels=PIXELS), list(frames)


def requests() -> Iterator[bytes]:
    """One of each kind of request."""
    yield raw_request("GET", "/api/search?q=ein+roter%20Apfel&top=3&language=de&path=sea/&since=2024-05&until=2025")
    yield raw_request("GET", f"/api/pictures/{'0' * 32}/similar?top=2", Cookie='cl2cm_session="a"; b=c')
    yield raw_request("GET", f"/api/pictures/{'0' * 32}/thumbnail", Authorization="Bearer abc")
    yield raw_request("POST", "/api/login", b'{"token": "a"}', **{"Content-Type": "application/json"})
    yield raw_request("POST", "/api/search/picture?top=1", b"GIF89a")
    yield raw_request("GET", "/", Origin="http://localhost", **{"Sec-Fetch-Site": "same-origin"})
    yield b'POST /api/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n0\r\n\r\n'
    yield raw_request("OPTIONS", "/api/about") + raw_request("GET", "/api/about")


@cache
def targets() -> dict[str, Target]:
    """All targets by name."""
    return {
        **caption_targets(),
        **each_file("frames", FRAMES, read_frames),
        **npy_targets(),
        "shard": of_file(
            "it.tar",
            lambda path: read_shard(str(path), source="en", frames=2),
            shard(),
            pax_header(b"18 comment=a line\n") + shard(),
        ),
        **weight_targets(),
        **model_targets(),
        "bundle": of_folder(bundle(), MANIFEST, lambda folder: bundle_config(folder, read_manifest(folder))),
        "gallery": of_file("it.npz", load_gallery, gallery()),
        **each_file("vectors", vectors(), read_vectors),
        "results": of_folder({"results.json": results()}, "results.json", read_results),
        "picture": Target(read=read_picture, seeds=pictures),
        "upload": Target(read=lambda data, _: spoken(upload(data)), seeds=pictures),
        "http": Target(read=lambda data, _: spoken(data), seeds=requests),
    }
