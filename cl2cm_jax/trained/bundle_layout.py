"""What lies where in a bundle, and the manifest that names the files which decide its vectors.

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from cl2cm_jax import __version__
from cl2cm_jax.config import BERTS, flatten, from_flat
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.report import to_json
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.pretrained import weights_hash

FORMAT = 1  # raise it when an older reader would get a bundle wrong
MANIFEST = "cl2cm_config.json"
HEADS = "cl2cm_heads.safetensors"
CARD = "README.md"
VISION_FOLDER = "vision"
DOWNLOADED = ("*.json", "*.safetensors", "*.model", "LICENSE", CARD)  # what `from_pretrained` needs of a hub's copy

# fields that name places on the machine of the training run; of each the last part is kept
_PLACES = ("data.root", "data.images", "data.captions", "data.features", "data.feature_ids", "data.shards")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What cl2cm_config.json says.

    Attributes:
      weights: names the weights: a hash over `files`.
      shape: sizes of what the student's heads read.
      files: SHA-256 of every file that decides a vector, by its path inside the bundle.
      config: the flattened configuration of the training run.
      library: who wrote it.
    """

    weights: str
    shape: FeatureShape
    files: Mapping[str, str]
    config: Mapping[str, Any]
    library: str = f"cl2cm_jax {__version__}"


def stock_obstacles(config: ConfigDict) -> list[str]:
    """The parts of a text tower that the classes of sentence-transformers cannot express; none: it is stock."""
    if config.text.backbone not in BERTS:
        return [f"the text backbone, config.text.backbone={config.text.backbone!r}"]
    found = []
    if config.student.text_tower != "linear":
        found.append(f"the attention over words, config.student.text_tower={config.student.text_tower!r}")
    elif config.student.text_pool != "backbone":
        found.append(f"the mean of words without marks, config.student.text_pool={config.student.text_pool!r}")
    if config.text.lowercase:
        found.append("the removal of case and accents, config.text.lowercase=True")
    if config.text.prefix:
        found.append(f"what stands before every text, config.text.prefix={config.text.prefix!r}")
    return found


def text_place(config: ConfigDict) -> str:
    """Where the text backbone lies in a bundle; "." for a stock tower, which other libraries find at the top."""
    if config.text.backbone in BERTS:
        return "text" if stock_obstacles(config) else "."
    return f"text/{config.text.backbone}.safetensors"


def vision_place(config: ConfigDict) -> str:
    """Where the vision backbone lies in a bundle; "" where the model reads features on disk."""
    if config.vision.backbone == "precomputed":
        return ""
    file = "" if config.vision.backbone == "clip_vit" else f"/{config.vision.backbone}.safetensors"
    return f"{VISION_FOLDER}{file}"


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened configuration without the folders of the machine that it was made on."""
    public = dict(config)
    for name in _PLACES:
        public[name] = Path(str(config[name])).name
    public |= {"data.dir": "data", "data.beam_runner": "", "data.beam_options": ()}
    public["evaluation.evaluators"] = ("retrieval",)  # a module of one's own is not part of a bundle
    for name in ("text.path", "vision.path"):
        if not hub_folder.is_hub_id(str(config[name])):
            public[name] = Path(str(config[name])).name
    return public


def save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes a safetensors file, marked as torch's layout where transformers reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # the raw buffers are written
    save_file(arrays, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library writes for the owner alone


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(content), encoding="utf-8")


def write_manifest(folder: Path, config: ConfigDict, shape: FeatureShape, files: list[Path]) -> Manifest:
    """Writes cl2cm_config.json over `files`, which are in the folder."""
    sums = {file.relative_to(folder).as_posix(): weights_hash(file) for file in sorted(files)}
    weights = hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]
    manifest = Manifest(weights=weights, shape=shape, files=sums, config=public_config(flatten(config)))
    content = {"format": FORMAT, **asdict(manifest), "shape": shape._asdict()}
    write_json(folder / MANIFEST, content)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Reads cl2cm_config.json and checks that the files which it names are there, unchanged.

    Raises:
      UserError: it is missing, damaged or of another format, or a file is missing, changed or elsewhere; names it.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
        if version != FORMAT:
            raise UserError(
                f"bundle {folder}: {MANIFEST} has format={version!r}, and this version of cl2cm_jax reads {FORMAT}; "
                "export the run again, or install the version that wrote it"
            )
        names = ("weights", "files", "config", "library")
        manifest = Manifest(shape=_shape(content["shape"]), **{name: content[name] for name in names})
        files = {str(name): str(value) for name, value in manifest.files.items()}
    except FileNotFoundError as error:
        raise UserError(f"bundle {folder} has no {MANIFEST}; give a folder that cl2cm export has written") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"bundle {folder}: {MANIFEST} cannot be read ({type(error).__name__}: {error}); get a fresh copy"
        ) from error
    _check_files(folder, files)
    return manifest


def bundle_config(folder: Path, manifest: Manifest) -> ConfigDict:
    """The configuration of a bundle, its backbones those in the folder.

    Raises:
      UserError: a field is unknown or wrong.
    """
    try:
        config = from_flat(manifest.config, own_modules=False)
    except UserError as error:
        raise UserError(f"bundle {folder}: {MANIFEST}: {error}") from error
    config.text.path = str(folder / text_place(config))
    place = vision_place(config)
    config.vision.path = str(folder / place) if place else ""
    return config


def _shape(content: Mapping[str, Any]) -> FeatureShape:
    shape = FeatureShape(**content)
    if not all(isinstance(size, int) and 0 < size < 1_000_000 for size in shape):
        raise ValueError(f"shape={content} is of no use")
    return shape


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    if HEADS not in files:
        raise UserError(f"bundle {folder}: {MANIFEST} does not list {HEADS}; get a fresh copy")
    for name, expected in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\0" in name:
            raise UserError(f"bundle {folder}: {MANIFEST} lists {name!r}, which is outside of it; get a fresh copy")
        if not (folder / inside).is_file():
            raise UserError(f"bundle {folder} has no {name}, which {MANIFEST} lists; get a fresh copy")
        if weights_hash(folder / inside) != expected:
            raise UserError(f"bundle {folder}: {name} is damaged or changed, by its SHA-256; get a fresh copy")
