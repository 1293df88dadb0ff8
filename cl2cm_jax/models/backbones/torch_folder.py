"""Model folders that are run by their own library in PyTorch, frozen: which are taken, and how they are read.

No code of a folder is run: weights are safetensors, and its classes are those of transformers and sentence-transformers
themselves (`trust_remote_code` stays off). How much time and memory a model takes is up to its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import reprlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location
from cl2cm_jax.models.credits import Credits, folder_credits
from cl2cm_jax.models.dual_encoders.folder import check_fixed
from cl2cm_jax.models.files.hub_library import model_types, transformers_library
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.text.json_file import read_json

T = TypeVar("T")

NEEDED = "torch transformers sentence-transformers"
MODULES = "modules.json"  # of sentence-transformers
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")  # of its modules
_PLACE = re.compile(r"(?!\.)[\w.-]*")  # of a module
_READ = ("*.json", "*.model", "*.txt")  # beside the weights
_ABOUT = ("README.md", "LICENSE*", "NOTICE*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def check_folder(folder: Path) -> list[Path]:
    """The files of a model folder that its library reads.

    Raises:
      UserError: there are no safetensors, a part of it has its weights in a pickle, a module is of a class that is not
        taken, or it is an adapter of another model.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"model folder {folder}: adapter_config.json is of an adapter, not a model; merge it into one")
    parts = list(dict.fromkeys([folder, *module_folders(folder)]))
    files = [file for part in parts for pattern in _READ for file in sorted(part.glob(pattern))]
    weights = [file for part in parts if any(part.glob("*.safetensors")) for file in hub_folder.weights_files(part)]
    for part in parts:
        pickles = [file for pattern in _PICKLES for file in sorted(part.glob(pattern))]
        if pickles and not any(file.parent == part for file in weights):
            raise UserError(
                f"model folder {folder}: {pickles[0].relative_to(folder)} is a pickle, which can run any program, and "
                "is not read; save the model with safe_serialization=True"
            )
    return [*files, *(weights or hub_folder.weights_files(folder))]


def check_family(folder: Path, kind: Literal["text", "vision"]) -> None:
    """Refuses a model that transformers does not have, or that is of the other kind.

    Raises:
      UserError: it is one, or config.json is damaged; names model_type.
    """
    content = hub_folder.read_json(next(iter(module_folders(folder)), folder))
    found, library = content.get("model_type"), transformers_library(run=f"pip install {NEEDED}")
    problem = f"model folder {folder}: model_type={reprlib.repr(found)}"
    if not isinstance(found, str) or found not in library.CONFIG_MAPPING:
        if content.get("auto_map"):
            raise UserError(f"{problem} needs code of its own folder (auto_map), which is never run; use another model")
        raise UserError(
            f"{problem} is unknown to transformers {library.__version__}; install a newer one, or use another model"
        )
    if kind == "vision":
        check_fixed(folder, found)
    other: Literal["text", "vision"] = "vision" if kind == "text" else "text"
    if found not in model_types(kind) and found in model_types(other):
        inputs = {"text": "texts", "vision": "pictures"}
        raise UserError(
            f"{problem} is of a model of {inputs[other]}, not of {inputs[kind]}; name another folder as "
            f"config.{kind}.path"
        )


def module_folders(folder: Path) -> list[Path]:
    """The folders of the modules of sentence-transformers, [] of a plain model; raises UserError as `check_folder`."""
    if not (folder / MODULES).is_file():
        return []
    problem, places = f"model folder {folder}: {MODULES}", []
    try:
        modules = read_json(folder / MODULES)
    except (OSError, ValueError) as error:
        raise UserError(f"{problem} cannot be read ({error}); get a fresh copy") from error
    for module in modules if isinstance(modules, list) else [modules]:
        kind, place = (module.get(name) for name in ("type", "path")) if isinstance(module, dict) else ("", "")
        library, _, name = str(kind).rpartition(".")
        if not library.startswith("sentence_transformers.") or name not in _KINDS:
            raise UserError(
                f"{problem} has the module {str(kind)[:80]!r}; those that are run are {', '.join(_KINDS)} of "
                "sentence_transformers"
            )
        if not isinstance(place, str) or not _PLACE.fullmatch(place):
            raise UserError(f"{problem} has the path {str(place)[:80]!r}, not a folder in it; get a fresh copy")
        places.append(folder / place)
    return places


def fingerprint(folder: Path) -> str:
    """SHA-256 over all files that affect the outputs, by name and content; raises UserError as `check_folder`."""
    return hashlib.sha256(json.dumps(sorted(hashes(folder).items())).encode()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that affects the outputs, by its path in the folder; raises UserError as `check_folder`."""
    return {file.relative_to(folder).as_posix(): weights_hash(file) for file in check_folder(folder)}


def as_params(folder: Path) -> Params:
    """What tells the weights apart, where a backbone of JAX has them: {"fingerprint": (32,) uint8}."""
    return {"fingerprint": np.frombuffer(bytes.fromhex(fingerprint(folder)), np.uint8)}


def copy_folder(source: Path, target: Path) -> None:
    """Copies the files that the library reads, with the model's card and licence, without links."""
    about = [file for pattern in _ABOUT for file in sorted(source.glob(pattern))]
    for file in (*check_folder(source), *about):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def torch_library() -> Any:
    """PyTorch; raises UserError if it is not installed, or TensorFlow was imported before it.

    In that order torch 2.13 and TensorFlow 2.21 end the process; in the other they work together.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise not_installed("torch", run=f"pip install {NEEDED}", needed_for="backbone='transformers'") from error
    if "tensorflow" in sys.modules and "torch._dynamo" not in sys.modules:
        raise UserError("backbone='transformers': TensorFlow was imported before PyTorch; first: import torch._dynamo")
    import torch._dynamo  # pyright: ignore[reportMissingImports]

    return torch


def device() -> str:
    """Where models are run: the first GPU, else the CPU."""
    return "cuda" if torch_library().cuda.is_available() else "cpu"


def read_model(kind: Any, folder: Path, **options: Any) -> Any:
    """Reads the weights into a model of the class `kind` of transformers, in float32.

    Raises:
      UserError: weights are missing; random ones would take their place. Those of a pooler are not needed.
    """
    model, info = kind.from_pretrained(
        folder,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype="float32",
        **options,
    )
    missing = sorted(name for name in info["missing_keys"] if "pooler." not in name)
    wrong = missing or sorted(str(one) for one in info.get("mismatched_keys") or ())
    if wrong:
        raise UserError(
            f"weights {folder}: {', '.join(wrong[:5])} missing or of another shape; get a fresh copy, "
            "whose config.json is of these weights"
        )
    model.has_pooler = not info["missing_keys"]
    return model.eval().to(device())


@contextlib.contextmanager
def running(folder: Path) -> Iterator[None]:
    """Where the model is run; raises UserError for an input that it does not take, or that needs too much memory."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        raise UserError(
            f"model folder {folder} fails on a batch ({one_line(error)}); use shorter texts (config.text.max_tokens), "
            "a device with more memory, or a fresh copy"
        ) from error


def reading(what: Callable[[], T], folder: Path, kind: Literal["text", "vision"]) -> T:
    """Calls `what`, which reads the folder by its library; raises UserError for whatever goes wrong there."""
    check_folder(folder)
    torch_library()
    check_family(folder, kind)
    try:
        return what()
    except UserError:
        raise
    except ImportError as error:
        raise not_installed(error.name or one_line(error), run=f"pip install {NEEDED}") from error
    except Exception as error:  # libraries raise whatever they like for a damaged or unknown model
        raise UserError(
            f"model folder {folder} cannot be read by transformers ({one_line(error)}); get a fresh copy, or a newer "
            "transformers"
        ) from error


class TorchSpec:
    """What the text and vision backbones of such folders share; `field` is their field of the configuration."""

    model_folder, traced, requirement = True, False, NEEDED
    field: ClassVar[str]

    def load_library(self) -> None:
        torch_library()

    def folder(self, path: Location) -> Path:
        return hub_folder.locate(path, field=self.field)

    def fingerprint(self, path: Location) -> str:
        return fingerprint(self.folder(path))

    def hashes(self, path: Location) -> dict[str, str]:
        return hashes(self.folder(path))

    def credits(self, path: Location) -> Credits:
        return folder_credits(path or "", self.folder(path))
