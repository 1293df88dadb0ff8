"""Tokenizers of model folders without a tokenizer.json: transformers makes one of their other files.

It is given copies of these files alone, checked for their size first. What it makes is kept in the user's cache by
their content, and read as any other tokenizer.json (`tokenizer_file`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.files.hub_library import transformers_library
from cl2cm_jax.models.files.tokenizer_file import LONGEST_PIECE, MOST_PIECES, is_panic
from cl2cm_jax.models.hub_folder import PIECES, TOKENIZER, TOKENIZER_CONFIGS, tokenizer_files
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.runtime.file_hashes import user_cache

_INSTALL = "pip install transformers sentencepiece protobuf"
_LARGEST = 30_000_000  # bytes of a file of pieces; XLM-R's has 5 MB
_LEFT_OUT = ("auto_map", "chat_template", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "backend")


def tokenizer_json(folder: Path) -> Path:
    """The tokenizer.json of a model folder, or the one that transformers makes of its other files.

    Raises:
      UserError: there are no such files, one is damaged or has too many or too long pieces, transformers is not
        installed, or it cannot make one.
    """
    files = tokenizer_files(folder)
    if not files:
        raise UserError(
            f"model folder {folder} has no {TOKENIZER}, and none of {', '.join(PIECES)}; save the model's "
            "tokenizer there"
        )
    if files[0].name == TOKENIZER:
        return files[0]
    content = hub_folder.read_json(folder) if (folder / hub_folder.CONFIG).is_file() else {}
    model = str(content.get("model_type"))[:80]
    key = json.dumps([model, _version(), *([file.name, weights_hash(file)] for file in files)])
    place = (user_cache() or Path(tempfile.gettempdir())) / "tokenizers" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not (place / TOKENIZER).is_file():
        for file in files:
            _check(file)
        made = _made(folder, files, model=model)
        with replacing(place / TOKENIZER) as temporary:
            temporary.write_text(made, encoding="utf-8")
    return place / TOKENIZER


def _version() -> str:
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise not_installed("transformers", run=_INSTALL) from error


def _made(folder: Path, files: Iterable[Path], *, model: str) -> str:
    """The content of the tokenizer.json that transformers makes."""
    with tempfile.TemporaryDirectory() as copies:
        for file in files:
            if file.name == TOKENIZER_CONFIGS[0]:
                about = hub_folder.read_json(folder, file.name)
                kept = {name: value for name, value in about.items() if name not in _LEFT_OUT}
                hub_folder.write_json(Path(copies, file.name), kept)
            else:
                shutil.copyfile(file, Path(copies, file.name))
        hub_folder.write_json(Path(copies, hub_folder.CONFIG), {"model_type": model})
        try:
            transformers = transformers_library(run=_INSTALL)
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = transformers.AutoTokenizer.from_pretrained(copies, **options)
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if backend is None:
                raise ValueError(f"{type(tokenizer).__name__} has no fast form")
            return backend.to_str()
        except UserError:
            raise
        except ImportError as error:
            raise not_installed(error.name or one_line(error), run=_INSTALL) from error
        except BaseException as error:  # whatever the library raises for a damaged file
            if isinstance(error, Exception) or is_panic(error):
                raise UserError(
                    f"model folder {folder}: transformers makes no {TOKENIZER} of its tokenizer ({one_line(error)}); "
                    f"save the model's fast tokenizer there"
                ) from error
            raise


def _check(file: Path) -> None:
    """Refuses a file that would take long to read; raises UserError."""
    problem = f"model folder {file.parent}: {file.name}"
    if file.stat().st_size > _LARGEST:
        raise UserError(f"{problem} has {file.stat().st_size:,} bytes, and {_LARGEST:,} are read; get a fresh copy")
    try:
        if file.suffix == ".json":
            pieces = hub_folder.read_json(file.parent, file.name) if file.name in PIECES else {}
        elif file.suffix == ".model":
            pieces = _sentence_pieces(file)
        else:
            pieces = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{problem} cannot be read ({one_line(error)}); get a fresh copy") from error
    longest = LONGEST_PIECE * (2 if file.name == "merges.txt" else 1)
    if len(pieces) > MOST_PIECES or any(len(piece) > longest for piece in pieces):
        found = f"{len(pieces):,} pieces, the longest of {max(map(len, pieces)):,} characters"
        raise UserError(f"{problem} has {found}; {MOST_PIECES:,} of {longest} are read; get a fresh copy")


def _sentence_pieces(file: Path) -> list[str]:
    """The pieces of a SentencePiece model."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise not_installed("sentencepiece", run=_INSTALL) from error
    model: Any = sentencepiece_model_pb2
    found = model.ModelProto()
    try:
        found.ParseFromString(file.read_bytes())
    except Exception as error:  # of protobuf, whose exceptions depend on its implementation
        raise UserError(
            f"model folder {file.parent}: {file.name} is not a SentencePiece model; get a fresh copy"
        ) from error
    return [piece.piece for piece in found.pieces]
