"""Write the model of a finished run as a bundle: to a temporary folder, checked against the run, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cl2cm_jax.config import flatten, student_first, vision_first
from cl2cm_jax.errors import UserError, no_room
from cl2cm_jax.evaluation.report import Results, read_results, write_results_json
from cl2cm_jax.export import licences
from cl2cm_jax.export.card import Facts, card
from cl2cm_jax.export.render import check_installed
from cl2cm_jax.export.sentence_transformers import write_modules
from cl2cm_jax.export.vocabulary import Served, cut_vocabulary
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.configured import configured_text, configured_vision, settled
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import TAIL, VISION_TAIL, heads_of
from cl2cm_jax.models.pretrained import write_safetensors
from cl2cm_jax.runtime.checksums import write_checksums
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.bundle_layout import (
    CARD,
    HEADS,
    MANIFEST,
    Manifest,
    own_modules,
    public_config,
    stock_obstacles,
    text_place,
    vision_place,
    write_manifest,
)
from cl2cm_jax.trained.student import student_encoder
from cl2cm_jax.training.identity import as_trained, read_record
from cl2cm_jax.training.workdir import feature_shape, load_student, read_config

AGREES = 1e-6  # largest difference of the bundle's vectors from the run's
_UNIT = 1e-4
PROBES = ("a red apple", "zwei Hunde am Strand", "犬")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model of a finished run.

    Attributes:
      config, student, results: of the run.
      text, vision: the backbones as they were before training; no vision with precomputed features.
      weights: identifies the student's weights.
      data: fingerprint of the data that it was trained on; "" in runs of earlier versions.
    """

    config: ConfigDict
    student: Params
    results: Results
    text: TextBackbone
    vision: VisionBackbone | None
    weights: str
    data: str

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it was trained on or measured in, the source first."""
        data = self.config.data
        return (data.source, *data.targets, *data.reported)


Addition = Callable[[Path, Parts], str]  # writes more files into the bundle; returns a section of the card


def read_trained(workdir: Path) -> Trained:
    """Reads a finished run.

    Raises:
      UserError: the run is not finished, a file is damaged, a backbone is missing, or one is a module outside this
        package, which a bundle does not hold.
    """
    if not workdir.is_dir():
        raise UserError(f"--model={workdir}: no such folder; give the workdir of a finished training run")
    results, config = read_results(workdir), read_config(workdir)
    if own := own_modules(flatten(config)):
        raise UserError(f"--workdir={workdir}: {own[0]} is a module outside this package, which no bundle can hold")
    config = settled(as_trained(config, workdir))
    text, vision = configured_text(config), configured_vision(config)
    student, weights = load_student(workdir, config, text=text, vision=vision)
    data = str(read_record(workdir).get("data", ""))
    return Trained(
        config=config, student=student, results=results, text=text, vision=vision, weights=weights, data=data
    )


def write_bundle(
    trained: Trained, out: Path, *, licence: str = "", served: Served | None = None, additions: Sequence[Addition] = ()
) -> Manifest:
    """Writes a bundle atomically; an existing one is replaced.

    Args:
      trained: the run.
      out: the folder: new, empty, or a bundle.
      licence: of the bundle, as the hub names it, for the card; "" takes that of code and backbones.
      served: the languages to which the vocabulary of the text backbone is cut; None: it stays whole.
      additions: write further files.

    Raises:
      UserError: `out` holds something else, the bundle's vectors are not the run's, or a package is missing.
    """
    check_installed()
    check_place(out)
    with exclusive(out.with_name(f".{out.name}.lock"), busy=f"--out={out}: another process is writing it; wait for it"):
        temporary = out.with_name(f".{out.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        if _replaced(out).exists() and not out.exists():  # it was killed between two renames
            _replaced(out).rename(out)
        temporary.mkdir(parents=True)
        try:
            manifest = _fill(
                temporary, trained, name=out.resolve().name, licence=licence, served=served, additions=additions
            )
            _put(temporary, out)
        except Exception as error:
            if not (reason := no_room(error)):
                raise
            raise UserError(
                f"--out={out} cannot be written ({reason}); free disk space, or name another place",
                id="no-disk-space",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def check_place(out: Path) -> None:
    """Refuses to overwrite anything but a bundle.

    Raises:
      UserError: `out` is a file, or a folder with other things in it, or without a name, which a bundle replaces.
    """
    if out.name in ("", ".."):
        raise UserError(f"--out={out}: name a folder in it, such as {out / 'bundle'}")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; name a folder, which is created if it does not exist")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UserError(f"--out={out} is not empty and has no {MANIFEST}, so it is not a bundle; name another folder")


def _put(temporary: Path, out: Path) -> None:
    """Renames the finished folder; deletes the bundle that it replaces afterwards."""
    old = _replaced(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _replaced(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _fill(
    folder: Path, trained: Trained, *, name: str, licence: str, served: Served | None, additions: Sequence[Addition]
) -> Manifest:
    config = trained.config
    vision_class = _write_backbones(folder, trained)
    if served is not None:
        cut_vocabulary(folder / text_place(config), served)
    if not stock_obstacles(config):
        write_modules(folder, config, trained.student)
    heads = flatten_dict(heads_of(trained.student), sep="/")
    write_safetensors(folder / HEADS, heads)
    shape = feature_shape(config, trained.student, trained.text)
    manifest = write_manifest(folder, config, shape, [file for file in folder.rglob("*") if file.is_file()])
    results = replace(trained.results, config=public_config(trained.results.config))
    write_results_json(folder, results)  # the card has its tables
    credits = licences.backbone_credits(config)
    licences.write_licences(folder, config, credits)
    parts = Parts(folder)
    check_agreement(trained, parts, texts=PROBES if served is None else served.probes)
    facts = Facts(
        config=config,
        results=results,
        credits=credits,
        licence=licence,
        name=name,
        languages=served.languages if served is not None else trained.languages,
        vision_class=vision_class,
        notes=[add(folder, parts) for add in additions],
    )
    write_checksums(folder)
    (folder / CARD).write_text(card(facts), encoding="utf-8")  # without a checksum: its owner may edit it
    return manifest


def _write_backbones(folder: Path, trained: Trained) -> str:
    """Writes the backbones with their trained layers; returns the class of transformers that reads the vision one."""
    config, student = trained.config, trained.student
    text, vision = trained.text, trained.vision
    if (first := student_first(config)) is not None and text.tunable is not None:
        text = replace(text, params=text.tunable.join(text.params, student[TAIL], first))
    text.write(folder / text_place(config), max_tokens=config.text.max_tokens)
    if vision is None:
        return ""
    if (first := vision_first(config)) is not None and vision.tunable is not None:
        vision = replace(vision, params=vision.tunable.join(vision.params, student[VISION_TAIL], first))
    vision.write(folder / vision_place(config))
    return vision.hub_class


def check_agreement(trained: Trained, parts: Parts, *, texts: Sequence[str] = PROBES) -> None:
    """Compares the bundle's vectors with the run's, of these texts and of images.

    Raises:
      UserError: they differ by more than `AGREES`, or are not unit vectors.
    """
    run = student_encoder(
        trained.config, trained.student, weights=trained.weights, text=trained.text, vision=trained.vision
    )
    bundle = parts.encoder()
    pairs = [("text", run.text(texts), bundle.text(texts))]
    if trained.vision is not None:
        images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 96, 3), np.uint8)
        pairs.append(("vision", run.images(images), bundle.images(images)))
    for tower, expected, found in pairs:
        lengths = np.linalg.norm(found, axis=1)
        if not np.abs(lengths - 1).max() <= _UNIT:  # not finite, the vectors come out as 0
            raise UserError(
                f"the {tower} vectors of the run have lengths from {lengths.min():.3g} to {lengths.max():.3g} instead "
                "of 1: its parameters are not finite; train again, with a lower config.optimizer.learning_rate"
            )
        worst = float(np.abs(expected - found).max())
        if not worst <= AGREES:
            raise UserError(
                f"the bundle's {tower} vectors differ by {worst:.1e} from the run's, more than {AGREES:.0e}; "
                "has a backbone changed since the training? run --mode=evaluate on the workdir"
            )
