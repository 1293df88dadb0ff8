"""A bundle gives the vectors of the run that it was written from, alone and without TensorFlow; damage has a name."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from support.command import call
from support.finished_runs import GOLDEN, TEXTS, WORDS, write_finished_run
from support.flipped_bits import flipped_bits
from support.small_files import no_file_larger_than

import cl2cm_jax
from cl2cm_jax.errors import UserError
from cl2cm_jax.export import __main__ as export
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.trained.bundle_layout import HEADS, MANIFEST, read_manifest
from cl2cm_jax.trained.student import load_encoder

CLIP_TEXT = {"text__backbone": "clip_text", "text__max_tokens": 12}
VARIANTS = {
    "frozen": {},
    "text tuned as a whole": {"student__text__trainable": "all"},
    "upper layers tuned": {"student__text__trainable": "layers 1-2", "student__vision__trainable": "layers 1-1"},
    "only the teacher's tuned": {
        "teacher__text__trainable": "layers 1-2",
        "teacher__head": "linear",
        "student__text_pool": "both",
    },
    "attention and tokens": WORDS,
    "siglip tuned, no case": {
        "vision__path": str(GOLDEN / "siglip"),
        "student__vision__trainable": "all",
        "text__lowercase": True,
    },
    "larger pictures": {"vision__image_size": 32},
    "both towers of OpenCLIP": {
        **CLIP_TEXT,
        "text__path": str(GOLDEN / "open_clip"),
        "vision__path": str(GOLDEN / "open_clip"),
        "student__text_pool": "both",
    },
    "XLM-R in OpenCLIP tuned": {
        **CLIP_TEXT,
        "text__path": str(GOLDEN / "open_clip_xlm"),
        "student__text__trainable": "all",
    },
    "both towers of SigLIP tuned": {
        **CLIP_TEXT,
        "text__path": str(GOLDEN / "dual_siglip"),
        "vision__path": str(GOLDEN / "dual_siglip"),
        "student__text__trainable": "layers 1-1",
        "student__text_pool": "both",
        "student__vision__trainable": "layers 1-1",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_vectors_are_those_of_the_run(
    name: str, fields: dict[str, Any], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    run = write_finished_run(tmp_path / "run", **fields | VARIANTS[name])
    write_bundle(read_trained(run), tmp_path / "bundle")
    theirs = load_encoder(run)
    model = cl2cm_jax.from_pretrained(tmp_path / "bundle")
    text, image = model.encode_text(TEXTS), model.encode_image(pictures)
    assert text.dtype == image.dtype == np.float32
    np.testing.assert_allclose(text, theirs.text(TEXTS), atol=1e-6)
    np.testing.assert_allclose(image, theirs.images([[np.asarray(one)] for one in pictures]), atol=1e-6)
    has_words = [bool(one) for one in TEXTS]
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([text[has_words], image]), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.similarity(text, image), text @ image.T, atol=1e-6)


def test_a_bundle_is_self_contained_and_needs_no_tensorflow(bundle: Path, bert: Path, tmp_path: Path) -> None:
    alone = tmp_path / "moved"
    shutil.copytree(bundle, alone)
    told = "\n".join(file.read_text() for file in alone.rglob("*.json") if file.name != "tokenizer.json")
    assert str(bert.parent) not in told + (alone / "README.md").read_text()
    assert [file for file in alone.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl", ".npz")] == []
    code = (
        f"import sys, cl2cm_jax; m = cl2cm_jax.from_pretrained({str(alone)!r});"
        "print(m.encode_text(['red car']).shape);"
        "print([name for name in ('tensorflow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["(1, 12)", "[]"], done.stderr


def test_images_are_paths_or_pillow_images(bundle: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    model = cl2cm_jax.from_pretrained(bundle)
    pictures[0].save(tmp_path / "one.png")
    vectors = model.encode_image([pictures[0], tmp_path / "one.png", str(tmp_path / "one.png")])
    np.testing.assert_array_equal(vectors, vectors[[0, 0, 0]])
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, 12)
    np.testing.assert_array_equal(model.encode_image(one for one in pictures[:2]), model.encode_image(pictures[:2]))
    np.testing.assert_array_equal(model.encode_text(map(str, TEXTS)), model.encode_text(TEXTS))
    assert model.languages == ("en", "de") and model.frames == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda m: m.encode_text("red"), r"texts='red' is one string; give a list"),
        (lambda m: m.encode_text([3]), r"texts\[0\] is int"),
        (lambda m: m.encode_text(["a"], language="xx"), r"language='xx' is not one that .* trained in .en, de"),
        (lambda m: m.encode_image("a.png"), "images is one picture"),
        (lambda m: m.encode_image([7]), "a picture is int"),
        (lambda m: m.encode_image(["nowhere.png"]), "nowhere.png does not exist"),
        (lambda m: m.encode_video(["a.gif"]), r"trained on pictures \(config.data.frames=1\); use encode_image"),
        (lambda m: m.similarity(np.ones((2, 3)), np.ones((2, 12))), r"queries has shape \(2, 3\)"),
        (lambda m: m.similarity(np.ones((2, 12), object), np.ones((2, 12))), "queries has .* dtype object"),
        (lambda m: m.encode_text(None), "texts is NoneType; give a list"),
        (lambda m: m.encode_text({"a": 1}), "texts is dict; give a list"),
        (lambda m: m.encode_image({"a.png"}), "images is set; give a list"),
        (lambda m: m.encode_image(7), "images is int; give a list"),
    ],
)
def test_a_wrong_call_is_one_line(asked: Callable, message: str, bundle: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        asked(cl2cm_jax.from_pretrained(bundle))
    assert "\n" not in str(error.value)


def test_clips_are_files_folders_or_lists(fields: dict[str, Any], tmp_path: Path, pictures: list[Image.Image]) -> None:
    changes = {"data__name": "captions", "data__captions": "captions.csv", "data__frames": 3}
    run = write_finished_run(tmp_path / "run", **fields | changes | {"student__vision_tower": "attention"})
    write_bundle(read_trained(run), tmp_path / "bundle")
    model = cl2cm_jax.from_pretrained(tmp_path / "bundle")
    frames = [pictures[0], pictures[0].rotate(180), pictures[0].rotate(90)]
    (tmp_path / "clip").mkdir()
    for place, frame in enumerate(frames):
        frame.save(tmp_path / "clip" / f"{place}.png")
    vectors = model.encode_video([frames, tmp_path / "clip", frames[::-1]])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3  # order counts
    with pytest.raises(UserError, match="a clip has no frame"):
        model.encode_video([[]])


def refreshed(folder: Path) -> None:
    """Makes the manifest's sums right again: damage that only a reader of the file itself can find."""
    content = json.loads((folder / MANIFEST).read_text())
    content["files"] = {name: weights_hash(folder / name) for name in content["files"]}
    write_checked(folder / MANIFEST, json.dumps(content))


def without(folder: Path, file: str, tensor: str, shape: tuple[int, ...] | None = None) -> None:
    tensors = load_file(folder / file)
    del tensors[tensor]
    save_file(tensors | ({} if shape is None else {tensor: np.zeros(shape, np.float32)}), folder / file)
    refreshed(folder)


def pickled(folder: Path, file: str) -> None:
    (folder / file).write_bytes(pickle.dumps(Payload()))
    refreshed(folder)


class Payload:
    """A pickle that leaves a trace where it is read."""

    def __reduce__(self) -> tuple:
        return (exec, ("import sys; sys.payload_has_run = True",))


def changed(folder: Path, **changes: Any) -> None:
    write_checked(folder / MANIFEST, json.dumps(json.loads((folder / MANIFEST).read_text()) | changes))


def configured(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / MANIFEST).read_text())["config"]
    changed(folder, config=config | {name.replace("__", "."): value for name, value in fields.items()})


DAMAGE = {
    "no manifest": (lambda b: (b / MANIFEST).unlink(), f"has no {MANIFEST}"),
    "manifest cut short": (lambda b: write_checked(b / MANIFEST, "{"), "cannot be read"),
    "manifest nested deeply": (lambda b: write_checked(b / MANIFEST, "[" * 200_000), "cannot be read"),
    "another format": (lambda b: changed(b, format=2), "has format=2, and this version of cl2cm_jax reads 1"),
    "another backbone": (
        lambda b: changed(b, shape={"text": 17, "vision": 12, "max_words": 8, "max_frames": 1}),
        r"its text backbone yields 16 features instead of shape.text=17",
    ),
    "file outside": (
        lambda b: changed(b, files={HEADS: "0", "../x": "0"}),
        r"'\.\./x', which is outside|damaged or changed",
    ),
    "a module of a stranger": (
        lambda b: configured(b, text__backbone="antigravity.backbone"),
        "names a module outside this package, config.text.backbone='antigravity.backbone'",
    ),
    "no heads listed": (lambda b: changed(b, files={}), f"does not list {HEADS}"),
    "file gone": (lambda b: (b / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "file changed": (lambda b: (b / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged or changed"),
    "tensor missing": (lambda b: without(b, HEADS, "vision/norm/scale"), "vision/norm/scale is missing"),
    "wrong shape": (lambda b: without(b, HEADS, "vision/norm/scale", (3,)), r"vision/norm/scale has shape \(3,\)"),
    "backbone's tensor missing": (
        lambda b: without(b, "model.safetensors", "encoder.layer.1.output.dense.bias"),
        r"encoder\.layer\.1\.output\.dense\.bias is missing",
    ),
    "pickled heads": (lambda b: pickled(b, HEADS), f"{HEADS} is not a readable safetensors file"),
    "pickled backbone": (lambda b: pickled(b, "vision/model.safetensors"), "not a readable safetensors file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_named(name: str, bundle: Path, tmp_path: Path) -> None:
    harm, message = DAMAGE[name]
    shutil.copytree(bundle, tmp_path / "bundle")
    harm(tmp_path / "bundle")
    with pytest.raises(UserError, match=message) as error:
        cl2cm_jax.from_pretrained(tmp_path / "bundle")
    assert "\n" not in str(error.value)
    assert not hasattr(sys, "payload_has_run")


def test_every_flipped_bit_of_the_manifest_is_seen(bundle: Path) -> None:
    for _ in flipped_bits(bundle / MANIFEST, count=60):
        with pytest.raises(UserError, match=f"{MANIFEST} changed after it was written"):
            read_manifest(bundle)
    assert read_manifest(bundle).shape


def test_only_a_bundle_is_overwritten(workdir: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    outcome = call(export.main, f"--workdir={workdir}", f"--out={mine}")
    assert outcome.code == 2 and "is not empty and has no cl2cm_config.json" in outcome.err
    assert [file.name for file in mine.iterdir()] == ["thesis.txt"]
    here = call(export.main, f"--workdir={workdir}", "--out=.")
    assert here.code == 2 and "--out=.: name a folder in it, such as bundle" in here.err
    for _ in range(2):  # a new one, then over it
        outcome = call(export.main, f"--workdir={workdir}", f"--out={tmp_path / 'new'}")
        assert outcome.code == 0 and "cl2cm_jax.load" in outcome.out, outcome.err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine", "new"]


@pytest.mark.parametrize("size", [1000, 10_000, 20_000])
def test_an_export_on_a_full_disk_is_one_line_and_leaves_the_old_bundle(
    workdir: Path, tmp_path: Path, size: int
) -> None:
    write_bundle(read_trained(workdir), tmp_path / "bundle")
    before = {file.name: file.read_bytes() for file in (tmp_path / "bundle").rglob("*") if file.is_file()}
    with no_file_larger_than(size), pytest.raises(UserError, match=r"cannot be written \(File too large\)") as error:
        write_bundle(read_trained(workdir), tmp_path / "bundle")
    assert str(tmp_path / "bundle") in str(error.value) and "\n" not in str(error.value)
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "bundle").rglob("*") if file.is_file()}
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("place", ["bundle", ".bundle.old"])  # the second: killed while it replaced the first
def test_a_failed_export_leaves_the_old_bundle(place: str, workdir: Path, tmp_path: Path) -> None:
    write_bundle(read_trained(workdir), tmp_path / "bundle")
    before = {file.name: file.read_bytes() for file in (tmp_path / "bundle").rglob("*") if file.is_file()}

    (tmp_path / "bundle").rename(tmp_path / place)

    def fail(*_: object) -> str:
        raise UserError("no room")

    with pytest.raises(UserError, match="no room"):
        write_bundle(read_trained(workdir), tmp_path / "bundle", additions=[fail])
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "bundle").rglob("*") if file.is_file()}
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_an_unfinished_run_is_refused(workdir: Path, tmp_path: Path) -> None:
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    outcome = call(export.main, f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    assert outcome.code == 2 and "holds no results.json; finish its training" in outcome.err


def test_a_student_that_diverged_is_not_exported(workdir: Path, tmp_path: Path) -> None:
    trained = read_trained(workdir)
    trained.student["text"]["project_sentence"]["bias"] = np.full(12, np.nan, np.float32)
    with pytest.raises(UserError, match="text vectors of the run have lengths from 0 to 0"):
        write_bundle(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
