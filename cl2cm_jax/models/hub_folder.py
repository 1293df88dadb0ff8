"""A model folder in the layout of the Hugging Face hub: config.json and safetensors, read without torch.

Only safetensors are read: a `pytorch_model.bin` is a pickle, which can run any code.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.models.pretrained import check_names, check_shapes, check_tensors, weights_hash
from cl2cm_jax.runtime.checksums import LIST_NAME
from cl2cm_jax.text import json_file
from cl2cm_jax.text.regular_file import open_regular

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# of OpenCLIP; in a folder that has the weights of transformers too, those are read
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
FILES = ("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt", "README.md", "LICENSE*", "NOTICE*")
TOKENIZER = "tokenizer.json"
# what a tokenizer is made of where there is no tokenizer.json: its pieces, and what else is said of it
PIECES = (
    "sentencepiece.bpe.model", "spiece.model", "sentencepiece.model", "spm.model", "tokenizer.model", "vocab.txt",
    "vocab.json", "merges.txt",
)  # fmt: skip
TOKENIZER_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_READ = (CONFIG, "1_Pooling/config.json", "preprocessor_config.json")  # beside weights and tokenizer
_COMMIT = re.compile("[0-9a-f]{40}")
_LONGEST_NAME = 255  # bytes that file systems take
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def locate(
    path: str | Path | None, *, field: str, files: Sequence[str] = FILES, holds: str = f"{CONFIG} and {WEIGHTS}"
) -> Path:
    """Returns the folder of a path, or of a hub id ("owner/name[@revision]") after downloading it.

    Args:
      path: a folder or a hub id.
      field: the configuration field, for messages.
      files: patterns of the files that are downloaded.
      holds: the files that such a folder has, for messages.

    Raises:
      UserError: the path is empty, it is neither a folder nor a hub id, or the download fails.
    """
    if not path:
        raise UserError(f"{field}='' is empty; set it to a model folder of the Hugging Face layout, or to a hub id")
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(str(path)) or folder.is_file():
        raise UserError(f"{field}={str(path)!r} is not a folder; name one with {holds} in it")
    return _download(str(path), field=field, files=files)


def is_hub_id(path: str) -> bool:
    """Whether it is a hub id, and no path on disk."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def _download(hub_id: str, *, field: str, files: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{field}={hub_id!r} is not a folder; to read it from the hub, run: pip install huggingface_hub"
        ) from error
    name, _, revision = hub_id.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:  # no network, no such model, no access: each client version has its own exceptions
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{field}={hub_id!r} is not a folder, and its download failed ({first.rstrip('.')}); check the name and "
            "the network, log in with `hf auth login` if it is private, or name a folder on disk"
        ) from error


def read_json(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Reads a JSON object of the folder; raises UserError if the file is missing or damaged."""
    try:
        content = json_file.read_json(folder / name, strict=False)  # other programs write infinite limits
    except (OSError, ValueError) as error:
        raise UserError(f"model folder {folder}: {name} cannot be read ({error}); get a fresh copy") from error
    if not isinstance(content, dict):
        raise UserError(f"model folder {folder}: {name} must be a JSON object; get a fresh copy")
    return content


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def portable_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config.json without entries about its old files; the weights are written as float32."""
    old = ("_name_or_path", "auto_map", "quantization_config", "torch_dtype", "transformers_version")
    return {name: value for name, value in content.items() if name not in old} | {"dtype": "float32"}


def has_tensor(folder: Path, name: str) -> bool:
    """Whether the folder's weights have a tensor of this name.

    Raises:
      UserError: there are no safetensors, or a file is missing or damaged.
    """
    return any(name in stored.keys() for stored in _opened(folder))  # noqa: SIM118


def read_tensors(
    folder: Path, *, leave_out: tuple[str, ...] = (), only: tuple[str, ...] = ("",)
) -> dict[str, np.ndarray]:
    """Reads the tensors of the folder, in one file or in several with an index, as float32.

    Args:
      folder: the model folder.
      leave_out: prefixes of names that are not read.
      only: prefixes of names that are.

    Raises:
      UserError: there are no safetensors, a file is missing or damaged, or a tensor has integers, NaN or infinity.
    """
    tensors: dict[str, np.ndarray] = {}
    for stored in _opened(folder):
        for name in stored.keys():  # noqa: SIM118  (no dict: it has keys() and no iterator)
            if name.startswith(only) and not name.startswith(leave_out):
                tensors[name] = _floats(stored.get_tensor(name), name=name, folder=folder)
    return tensors


def renamed(
    tensors: Mapping[str, np.ndarray], plain: Callable[[str], str], *, source: Path
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors by their plain names, and a map from these to the names in the file.

    Args:
      tensors: by the names in the file.
      plain: name in the file -> plain name.
      source: the folder, for messages.

    Raises:
      UserError: two tensors have the same plain name.
    """
    named: dict[str, str] = {}
    for name in tensors:
        if named.setdefault(plain(name), name) != name:
            both = f"{named[plain(name)]} and {name}"
            raise UserError(f"weights {source}: {both} are one tensor of the model; get a fresh copy")
    return {short: tensors[name] for short, name in named.items()}, named


def _floats(array: jax.Array, *, name: str, folder: Path) -> np.ndarray:
    """The tensor as float32; raises UserError if it has other values than finite floats."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(
            f"model folder {folder}: tensor {name} holds {array.dtype}, not floats; get a copy that is not quantised"
        )
    values = np.asarray(array, np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        first = values[~finite][0]
        raise UserError(f"model folder {folder}: tensor {name} holds {first} among its values; get a fresh copy")
    return values


def _opened(folder: Path) -> Iterator[Any]:
    for file in weights_files(folder):
        try:
            with open_regular(file) as opened:
                check_tensors(opened)
            with safe_open(file, framework="flax") as stored:
                yield stored
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(
                f"weights file {file} is not a readable safetensors file ({one_line(error)}); get a fresh copy"
            ) from error


def norm(ours: str, torch: str) -> dict[str, str]:
    """Our names of a layer norm's parameters -> torch's."""
    return {f"{ours}/scale": f"{torch}.weight", f"{ours}/bias": f"{torch}.bias"}


def linear(ours: str, torch: str) -> dict[str, str]:
    """Our names of a linear map's parameters -> torch's."""
    return {f"{ours}/kernel": f"{torch}.weight", f"{ours}/bias": f"{torch}.bias"}


def relaid(ours: str, array: np.ndarray) -> np.ndarray:
    """Transposes torch's kernels of linear maps, (out, in), to (in, out); other tensors are returned as they are."""
    return array.T if ours.endswith("kernel") else array


def stored_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch's layout of a tensor with this shape after `relaid`."""
    return shape[::-1] if ours.endswith("kernel") else shape


def arranged(
    stored: Mapping[str, np.ndarray],
    *,
    once: Mapping[str, str],
    layer: Mapping[str, str],
    prefix: str,
    shapes: Mapping[str, tuple[int, ...]],
    source: Path,
    named: Mapping[str, str],
    relay: Callable[[str, np.ndarray], np.ndarray] = relaid,
    unrelaid: Callable[[str, tuple[int, ...]], tuple[int, ...]] = stored_shape,
) -> dict[str, np.ndarray]:
    """The tensors of a transformer by our names, those of its layers stacked under "layers/".

    Several of our names may have one of torch's: its rows are theirs, in this order.

    Args:
      stored: torch's tensors.
      once: our name -> torch's, outside the layers.
      layer: the same of one layer; torch's name follows `prefix` and the layer's number.
      prefix: e.g. "encoder.layer.".
      shapes: our name -> the model's shape, in layers with their number in front.
      source: the folder, for messages.
      named: torch's name -> the file's, for messages; see `renamed`.
      relay: (our name, tensor) -> the tensor in our layout.
      unrelaid: (our name, shape in our layout) -> the shape in torch's layout.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape; names each as the file does.
    """
    layers = next(shapes[f"layers/{ours}"][0] for ours in layer)
    each = {ours: unrelaid(ours, shapes[ours]) for ours in once}
    each |= {ours: unrelaid(ours, shapes[f"layers/{ours}"][1:]) for ours in layer}
    # before they are transposed or stacked: numpy's errors would not name them
    expected = {name: _together([each[ours] for ours in parts]) for name, parts in _parts(once).items()}
    for name, parts in _parts(layer).items():
        expected |= {f"{prefix}{i}.{name}": _together([each[ours] for ours in parts]) for i in range(layers)}
    check_names(stored, list(expected), source=source, named=named)
    check_shapes(stored, expected, source=source, named=named)
    arrays: dict[str, np.ndarray] = {}
    for name, parts in _parts(once).items():
        for ours, rows in zip(parts, _rows([each[ours] for ours in parts]), strict=True):
            arrays[ours] = relay(ours, stored[name][rows])
    for name, parts in _parts(layer).items():
        for ours, rows in zip(parts, _rows([each[ours] for ours in parts]), strict=True):
            one_by_one = [relay(ours, stored[f"{prefix}{i}.{name}"][rows]) for i in range(layers)]
            arrays[f"layers/{ours}"] = np.stack(one_by_one)
    return arrays


def _parts(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Torch's names -> ours, of a map the other way."""
    parts: dict[str, list[str]] = {}
    for ours, name in names.items():
        parts.setdefault(name, []).append(ours)
    return parts


def _together(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of arrays of these shapes, one below the other."""
    return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if len(shapes) > 1 else shapes[0]


def _rows(shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Where in that array each of them is."""
    if len(shapes) == 1:
        return [...]
    ends = np.cumsum([shape[0] for shape in shapes]).tolist()
    return [slice(end - shape[0], end) for end, shape in zip(ends, shapes, strict=True)]


def unarranged(
    arrays: Mapping[str, np.ndarray],
    *,
    once: Mapping[str, str],
    layer: Mapping[str, str],
    prefix: str,
    unrelay: Callable[[str, np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """The inverse of `arranged`; `unrelay`: (our name, tensor in our layout) -> the tensor in torch's."""
    stored = {name: _joined(parts, [arrays[ours] for ours in parts], unrelay) for name, parts in _parts(once).items()}
    for name, parts in _parts(layer).items():
        for i, each in enumerate(zip(*(arrays[f"layers/{ours}"] for ours in parts), strict=True)):
            stored[f"{prefix}{i}.{name}"] = _joined(parts, each, unrelay)
    return stored


def _joined(
    parts: Sequence[str], arrays: Sequence[np.ndarray], unrelay: Callable[[str, np.ndarray], np.ndarray]
) -> np.ndarray:
    rows = [unrelay(ours, array) for ours, array in zip(parts, arrays, strict=True)]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that a folder's tokenizer is read from: tokenizer.json, or its pieces; [] if it has none."""
    if (folder / TOKENIZER).is_file():
        return [folder / TOKENIZER]
    pieces = [folder / name for name in PIECES if (folder / name).is_file()]
    return [*pieces, *(folder / name for name in TOKENIZER_CONFIGS if (folder / name).is_file())] if pieces else []


def fingerprint(folder: Path) -> str:
    """SHA-256 over the files that affect a model's outputs: weights, configurations and tokenizer, by name and content.

    Raises:
      UserError: a file cannot be read, or there are no safetensors.
    """
    files = {*weights_files(folder), *folder.glob("*.json"), *folder.glob("1_Pooling/config.json")}
    files |= set(tokenizer_files(folder))
    files.discard(folder / LIST_NAME)  # which a bundle gets when it is opened
    both = [[str(file.relative_to(folder)), weights_hash(file)] for file in sorted(files)]
    return hashlib.sha256(json.dumps(both).encode()).hexdigest()


def hashes(folder: Path, *, also: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 of the weights and of each other file of the folder that is read, by name; a model is known by them.

    `also` are names of more files, of which those that are there are read.

    Raises:
      UserError: a file cannot be read, or there are no safetensors.
    """
    read = [folder / name for name in (*_READ, *also) if (folder / name).is_file()]
    if (folder / "processor_config.json").is_file() and "image_processor" in read_json(folder, "processor_config.json"):
        read.append(folder / "processor_config.json")
    files = dict.fromkeys([*weights_files(folder), *read, *tokenizer_files(folder)])
    return {file.relative_to(folder).as_posix(): weights_hash(file) for file in files}


def revision_of(folder: Path) -> str:
    """The commit of a folder in the cache of the hub; "" of any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else ""


def at_revision(path: str, revision: str) -> str:
    """A hub id without a commit at this one; any other path, or without a revision, as it is."""
    name, _, asked = path.partition("@")
    return f"{name}@{revision}" if revision and is_hub_id(path) and not _COMMIT.fullmatch(asked) else path


def weights_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, one file or those of an index; raises UserError if there are none."""
    open_clip = [folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()]
    stock = (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (WEIGHTS, INDEX))
    if open_clip and not stock:
        return open_clip[:1]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = [file.name for file in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))]
    found = f"; {pickles[0]} is a pickle, which can run any program, and is not read" if pickles else ""
    raise UserError(f"model folder {folder} has no {WEIGHTS}{found}; save the model with safe_serialization=True")


def _shards(folder: Path) -> list[Path]:
    """The files that the index names, which all must be in the folder."""
    places = read_json(folder, INDEX).get("weight_map")
    problem = f"model folder {folder}: {INDEX}"
    if not isinstance(places, dict) or not places:
        found = reprlib.repr(places)
        raise UserError(f"{problem}: weight_map={found} is not an object of tensor -> file; get a fresh copy")
    for tensor, name in places.items():
        if not _is_file_name(name):
            found = f"{reprlib.repr(tensor)}: {reprlib.repr(name)}"
            raise UserError(
                f"{problem}: weight_map has {found}, which is not the name of a file in the folder; get a fresh copy"
            )
    files = [folder / name for name in sorted(set(places.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{problem} names {missing[0]!r}, which is missing; put it there, or get a fresh copy")
    return files


def _is_file_name(name: Any) -> bool:
    """Whether it is a plain file name: no path, no NUL and no lone surrogate (neither is printable)."""
    if not isinstance(name, str) or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        return False
    return name not in ("", "..") and Path(name).name == name
