"""From a finished run's workdir to a bundle: written beside its place, checked against the run, then renamed.

Source: ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.report import Results, read_results, write_results
from cl2cm_jax.export import licences
from cl2cm_jax.export.backbones import VISION_CLASS, Backbones, write_text_backbone, write_vision_backbone
from cl2cm_jax.export.card import Facts, card
from cl2cm_jax.export.sentence_transformers import write_modules
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones import clip_vit
from cl2cm_jax.models.configured import configured_text, configured_vision
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import heads_of
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.bundle_layout import (
    CARD,
    HEADS,
    MANIFEST,
    Manifest,
    public_config,
    save_tensors,
    stock_obstacles,
    write_manifest,
)
from cl2cm_jax.trained.student import student_encoder
from cl2cm_jax.training.workdir import feature_shape, load_student, read_config

AGREES = 1e-6  # the bundle's vectors differ by no more from the run's
_UNIT = 1e-4
PROBES = ("a red apple", "zwei Hunde am Strand", "犬")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a finished run left behind.

    Attributes:
      config, student, results: its own.
      backbones: as they were before training.
      weights: the name of the student's weights.
    """

    config: ConfigDict
    student: Params
    results: Results
    backbones: Backbones
    weights: str


Addition = Callable[[Path, Parts], str]  # writes more files into the bundle; returns a section of the card


def read_trained(workdir: Path) -> Trained:
    """Reads a finished run.

    Raises:
      UserError: the run is not finished, a file is damaged, or a backbone is not there.
    """
    if not workdir.is_dir():
        raise UserError(f"--model={workdir}: no such folder; give the workdir of a finished training run")
    results, config = read_results(workdir), read_config(workdir)
    vision = None
    if config.vision.backbone == "clip_vit":
        vision = hub_folder.locate(config.vision.path, field="config.vision.path")
    text = configured_text(config)
    folder = text.tokenizer_path if text.tokenizer == "hub_folder" else None
    own = configured_vision(config)
    student, weights = load_student(workdir, config, text=text, vision=own)
    backbones = Backbones(text=text, vision=own, text_folder=folder, vision_folder=vision)
    return Trained(config=config, student=student, results=results, backbones=backbones, weights=weights)


def write_bundle(trained: Trained, out: Path, *, licence: str = "", additions: Sequence[Addition] = ()) -> Manifest:
    """Writes a bundle, whole or not at all; one that is there already is replaced.

    Args:
      trained: the run.
      out: the folder: new, empty, or a bundle.
      licence: the hub's name of the bundle's licence, for the card; "" where code and backbones say it.
      additions: what is written beside the bundle's own files.

    Raises:
      UserError: `out` holds something else, or the bundle does not give the run's vectors.
    """
    check_place(out)
    with exclusive(out.with_name(f".{out.name}.lock"), busy=f"--out={out}: another process is writing it; wait for it"):
        temporary = out.with_name(f".{out.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        temporary.mkdir(parents=True)
        try:
            manifest = _fill(temporary, trained, name=out.resolve().name, licence=licence, additions=additions)
            _put(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def check_place(out: Path) -> None:
    """Refuses to write over what is no bundle.

    Raises:
      UserError: `out` is a file, or a folder with other things in it.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; name a folder, which is made if it is not there")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UserError(f"--out={out} is not empty and holds no {MANIFEST}, so it is no bundle; name another folder")


def _put(temporary: Path, out: Path) -> None:
    """Gives the finished folder its name; the bundle that had it goes only then."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, trained: Trained, *, name: str, licence: str, additions: Sequence[Addition]) -> Manifest:
    config, backbones = trained.config, trained.backbones
    write_text_backbone(folder, config, backbones, trained.student)
    write_vision_backbone(folder, config, backbones, trained.student)
    if not stock_obstacles(config):
        write_modules(folder, config, trained.student)
    shape = feature_shape(config, trained.student, backbones.text)
    save_tensors(folder / HEADS, _heads(trained))
    manifest = write_manifest(folder, config, shape, [file for file in folder.rglob("*") if file.is_file()])
    results = replace(trained.results, config=public_config(trained.results.config))
    write_results(folder, results)
    (folder / "results.md").unlink()  # the card has its tables
    found = licences.components(config, text_folder=backbones.text_folder, vision_folder=backbones.vision_folder)
    licences.write_licences(folder, config, found)
    parts = Parts(folder)
    check_agreement(trained, parts)
    notes = [add(folder, parts) for add in additions]
    vision_class = ""
    if backbones.vision_folder is not None:
        vision_class = VISION_CLASS[clip_vit.read_shape(backbones.vision_folder).family]
    facts = Facts(
        config=config,
        results=results,
        components=found,
        licence=licence,
        name=name,
        vision_class=vision_class,
        notes=notes,
    )
    (folder / CARD).write_text(card(facts), encoding="utf-8")
    return manifest


def _heads(trained: Trained) -> dict[str, np.ndarray]:
    """The student without its layers of the backbones."""
    return {name: np.asarray(array) for name, array in flatten_dict(heads_of(trained.student), sep="/").items()}


def check_agreement(trained: Trained, parts: Parts) -> None:
    """Compares the bundle with the run, text and pictures.

    Raises:
      UserError: their vectors differ by more than `AGREES`, or have not length 1.
    """
    b = trained.backbones
    theirs = student_encoder(trained.config, trained.student, weights=trained.weights, text=b.text, vision=b.vision)
    ours = parts.encoder()
    pairs = [("text", theirs.text(PROBES), ours.text(PROBES))]
    if b.vision is not None:
        pictures = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 96, 3), np.uint8)
        pairs.append(("vision", theirs.images(pictures), ours.images(pictures)))
    for tower, expected, found in pairs:
        lengths = np.linalg.norm(found, axis=1)
        if not np.abs(lengths - 1).max() <= _UNIT:  # not finite, the vectors come out as 0
            raise UserError(
                f"the {tower} vectors of the run have lengths from {lengths.min():.3g} to {lengths.max():.3g} in place "
                "of 1: its parameters are not finite; train again, with a lower config.optimizer.learning_rate"
            )
        worst = float(np.abs(expected - found).max())
        if not worst <= AGREES:
            raise UserError(
                f"the bundle's {tower} vectors differ by {worst:.1e} from the run's, more than {AGREES:.0e}; "
                "has a backbone changed since the training? run --mode=evaluate on the workdir"
            )
