"""Files of a bundle, and the manifest with the SHA-256 of each that affects its vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax import __version__
from cl2cm_jax.config import FIELDS, flatten, from_flat, has_vision_backbone
from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.configured import text_spec, vision_spec
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.runtime.checksums import read_checked_json, write_checked

_MOST_FILES = 1000  # of a bundle; each is read for its hash
FORMAT = 1  # raise it when an older version of this package would misread a bundle
MANIFEST = "cl2cm_config.json"
HEADS = "cl2cm_heads.safetensors"
CARD = "README.md"
DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "LICENSE", CARD)  # files that `from_pretrained` downloads

# paths on the machine of the training run, of which the last part is kept
_PATHS = ("data.root", "data.images", "data.captions", "data.features", "data.feature_ids", "data.shards")
_BACKBONES = ("text.backbone", "vision.backbone")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of cl2cm_config.json.

    Attributes:
      weights: identifies the weights: a hash over `files`.
      shape: sizes of the inputs of the student's heads.
      files: SHA-256 of every file that affects a vector, by its path inside the bundle.
      config: the flattened configuration of the training run.
      library: package and version that wrote it.
    """

    weights: str
    shape: FeatureShape
    files: Mapping[str, str]
    config: Mapping[str, Any]
    library: str = f"cl2cm_jax {__version__}"


def stock_obstacles(config: ConfigDict) -> list[str]:
    """The parts of a text tower that the classes of sentence-transformers cannot express; none: it is stock."""
    spec = text_spec(config.text.backbone)
    if not (spec.model_folder and spec.traced and spec.pools_plainly):
        return [f"the text backbone, config.text.backbone={config.text.backbone!r}"]
    found = []
    if config.student.text_tower != "linear":
        found.append(f"the attention over words, config.student.text_tower={config.student.text_tower!r}")
    elif config.student.text_pool != "backbone":
        pool = config.student.text_pool
        found.append(f"the mean of words without special tokens, config.student.text_pool={pool!r}")
    if config.text.lowercase:
        found.append("the removal of case and accents, config.text.lowercase=True")
    return found


def text_place(config: ConfigDict) -> str:
    """Path of the text backbone inside a bundle; "." for a stock tower, where other libraries look for it."""
    if text_spec(config.text.backbone).model_folder:
        return "text" if stock_obstacles(config) else "."
    return f"text/{config.text.backbone}.safetensors"


def vision_place(config: ConfigDict) -> str:
    """Path of the vision backbone inside a bundle; "" with precomputed features."""
    if not has_vision_backbone(config):
        return ""
    model_folder = vision_spec(config.vision.backbone).model_folder
    return "vision" if model_folder else f"vision/{config.vision.backbone}.safetensors"


def own_modules(config: Mapping[str, Any], fields: Sequence[str] = _BACKBONES) -> list[str]:
    """Backbones of a flattened configuration that are modules outside this package, which a bundle does not hold."""
    named = {name: value for name in fields if isinstance(value := config.get(name), str)}
    return [f"config.{name}={value!r}" for name, value in named.items() if "." in value]


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened configuration without the folders of the machine that it was made on."""
    public = dict(config)
    for name in _PATHS:
        public[name] = Path(str(config[name])).name
    public |= {"data.dir": "data", "data.beam_runner": "", "data.beam_options": ()}
    # modules outside this package are not part of a bundle, and a trained model needs none of these
    public |= {"evaluation.evaluators": ("retrieval",), "terms": ()}
    public = {name: value for name, value in public.items() if name in FIELDS}  # without the weights of added terms
    for name in ("text.path", "vision.path"):
        if not hub_folder.is_hub_id(str(config[name])):
            public[name] = Path(str(config[name])).name
    if "." in str(config["data.name"]):  # a data set outside this package; a bundle does not read it
        public |= {"data.name": "captions", "data.captions": str(config["data.name"])}
    return public


def write_manifest(folder: Path, config: ConfigDict, shape: FeatureShape, files: list[Path]) -> Manifest:
    """Writes cl2cm_config.json with the hashes of `files`, which are in the folder."""
    sums = {file.relative_to(folder).as_posix(): weights_hash(file) for file in sorted(files)}
    weights = hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]
    manifest = Manifest(weights=weights, shape=shape, files=sums, config=public_config(flatten(config)))
    sizes = {name: size for name, size in shape._asdict().items() if size}
    content = {"format": FORMAT, **asdict(manifest), "shape": sizes}
    write_checked(folder / MANIFEST, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Reads cl2cm_config.json and checks the files that it lists.

    Raises:
      UserError: it is missing, damaged or of another format, or a file is missing, changed or outside; names it.
    """
    path = folder / MANIFEST
    try:
        content = read_checked_json(path, fix="get a fresh copy of the bundle")
        version = content["format"]
        if version != FORMAT:
            raise UserError(
                f"bundle {folder}: {MANIFEST} has format={version!r}, and this version of cl2cm_jax reads {FORMAT}; "
                "export the run again, or install the version that wrote it"
            )
        names, config = ("weights", "files", "library"), dict(content["config"])
        manifest = Manifest(shape=_shape(content["shape"]), config=config, **{name: content[name] for name in names})
        files = {str(name): str(value) for name, value in manifest.files.items()}
        if not isinstance(manifest.weights, str) or not isinstance(manifest.library, str):
            raise ValueError("weights and library are not both text")
    except FileNotFoundError as error:
        raise UserError(f"bundle {folder} has no {MANIFEST}; give a folder written by cl2cm export") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"bundle {folder}: {MANIFEST} cannot be read ({type(error).__name__}: {error}); get a fresh copy"
        ) from error
    _check_files(folder, files)
    return manifest


def bundle_config(folder: Path, manifest: Manifest) -> ConfigDict:
    """The configuration of a bundle, with the paths of the backbones in its folder.

    Raises:
      UserError: a field is unknown or wrong, or names a module outside this package: a bundle may come from anyone.
    """
    if own := own_modules(manifest.config, (*_BACKBONES, "data.name")):
        raise UserError(f"bundle {folder}: {MANIFEST} names a module outside this package, {own[0]}; do not use it")
    try:
        config = from_flat(manifest.config, own_modules=False)
    except UserError as error:
        raise UserError(f"bundle {folder}: {MANIFEST}: {error}") from error
    for name in _PATHS:  # a bundle reads no data, and may come from anyone
        config.data[name.removeprefix("data.")] = ""
    config.text.path = str(folder / text_place(config))
    place = vision_place(config)
    config.vision.path = str(folder / place) if place else ""
    return config


def _shape(content: Mapping[str, Any]) -> FeatureShape:
    shape = FeatureShape(**content)
    if not all(isinstance(size, int) and 0 < size < 1_000_000 for size in content.values()):
        raise ValueError(f"shape={content} has a size that is not an integer from 1 to 999,999")
    return shape


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    if len(files) > _MOST_FILES:
        raise UserError(f"bundle {folder}: {MANIFEST} lists {len(files):,} files; use at most {_MOST_FILES:,}")
    if HEADS not in files:
        raise UserError(f"bundle {folder}: {MANIFEST} does not list {HEADS}; get a fresh copy")
    for name, expected in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\0" in name or str(inside) != name:  # one name for a file
            raise UserError(f"bundle {folder}: {MANIFEST} lists {name!r}, which is outside; get a fresh copy")
        if not _is_file(folder / inside):
            raise UserError(f"bundle {folder} has no {name}, which {MANIFEST} lists; get a fresh copy")
        if weights_hash(folder / inside) != expected:
            raise UserError(f"bundle {folder}: {name} is damaged or changed, by its SHA-256; get a fresh copy")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is longer than the file system takes
        return False
