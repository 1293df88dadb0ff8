"""Text backbones that are read from a Hugging Face model folder or a hub id, and written as one.

A family of models is a module of `models/backbones/text`: it reads the sizes in config.json and the weights, and names
the tensors. What all families share is here: the tokenizer, the pooling, and the files beside the weights.
"""

from __future__ import annotations

import functools
import shutil
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location, TextBackbone, TextSpec, TokenizerCode
from cl2cm_jax.models.config_entries import Entries
from cl2cm_jax.models.configured import other_backbone
from cl2cm_jax.models.credits import Credits, folder_credits
from cl2cm_jax.models.files.pooling_file import write_pool
from cl2cm_jax.models.files.slow_tokenizer import tokenizer_json
from cl2cm_jax.models.files.tokenizer_file import read_tokenizer
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.pretrained import write_safetensors
from cl2cm_jax.models.tokenizers import HubTokenizer

FIELD = "config.text.path"
_SPECIAL_TOKENS = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token", "bos_token", "eos_token")

S = TypeVar("S", bound=Any)  # a NamedTuple of sizes; with `vocabulary` and `pool`


@dataclass(frozen=True, kw_only=True)
class FolderText(TextBackbone, Generic[S]):
    """A text encoder of a model folder.

    Attributes:
      shape: of the model.
      source: the model folder that it was read from.
      families: model_type in config.json -> the class of transformers that reads what `write` writes.
    """

    shape: S
    source: Path
    families: ClassVar[Mapping[str, str]]

    @abstractmethod
    def stored(self) -> dict[str, np.ndarray]:
        """The tensors of the whole model in the names and layout of transformers."""

    def write(self, path: Path, *, max_tokens: int) -> None:
        """Writes a model folder as transformers does, with its tokenizer, and pooling as sentence-transformers."""
        write_safetensors(path / hub_folder.WEIGHTS, self.stored())
        shutil.copyfile(tokenizer_json(self.source), path / hub_folder.TOKENIZER)
        self._write_configs(path, self.source, max_tokens=max_tokens)

    def _write_configs(self, path: Path, source: Path, *, max_tokens: int) -> None:
        content = hub_folder.read_json(source)
        architecture = {"architectures": [self.families[content["model_type"]]]}
        hub_folder.write_json(path / hub_folder.CONFIG, hub_folder.portable_config(content) | architecture)
        tokenizer = {
            **_special_tokens(source, content),
            "model_max_length": max_tokens,
            "model_input_names": ["input_ids", "attention_mask"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        hub_folder.write_json(path / "tokenizer_config.json", tokenizer)
        write_pool(path, self.shape.pool, dim=self.dim)


class FolderSpec(TextSpec, Generic[S]):
    """Text backbones of a family of model folders.

    Attributes:
      usual: a shape of this family and the model's name, where the model is not there.
    """

    model_folder = has_layers = True
    requirement = "tokenizers"
    usual: ClassVar[tuple[Any, str]]

    @abstractmethod
    def read_shape(self, folder: Path) -> S:
        """Reads config.json and what else says how the model computes.

        Raises:
          UserError: the model is of another family, has a part that is not supported, or an entry is missing or
            invalid; names the entry.
        """

    @abstractmethod
    def read_params(self, folder: Path, shape: S) -> Params:
        """Reads the weights into nested float32 parameters; heads for other tasks are left out.

        Raises:
          UserError: tensors are missing, unknown or of a wrong shape; names each.
        """

    @abstractmethod
    def abstract_of(self, shape: S, source: Path) -> FolderText[S]:
        """A backbone of this shape, with shapes in place of arrays."""

    def resized(self, shape: S, sizes: Mapping[str, int]) -> S:
        """The shape with other sizes; raises UserError if they do not fit."""
        return shape._replace(**sizes)

    def read(self, folder: Path) -> FolderText[S]:
        """Reads a model folder; raises UserError if it is damaged or of another family."""
        shape = self.read_shape(folder)
        return replace(self.abstract_of(shape, folder), params=self.read_params(folder, shape))

    def load(self, path: Location) -> TextBackbone:
        return self.read(hub_folder.locate(path, field=FIELD))

    def folder(self, path: Location) -> Path | None:
        return hub_folder.locate(path, field=FIELD)

    def fingerprint(self, path: Location) -> str:
        return hub_folder.fingerprint(hub_folder.locate(path, field=FIELD))

    def credits(self, path: Location) -> Credits:
        return folder_credits(path or "", hub_folder.locate(path, field=FIELD))

    def abstract(self, path: Location, sizes: Mapping[str, int]) -> tuple[TextBackbone, str]:
        shape, origin = self._shape(path)
        shape = self.resized(shape, sizes)
        note = " ".join([f"{origin},", *(f"{name} {getattr(shape, name)}" for name in self.sizes)])
        return self.abstract_of(shape, Path(path or ".")), note

    def _shape(self, path: Location) -> tuple[S, str]:
        """The shape, and where it comes from."""
        if path and Path(path).is_dir():
            return self.read_shape(Path(path)), str(path)
        shape, name = self.usual
        return shape, f"{name}'s sizes ({path or 'no path'} is not a folder here)"

    def tokenizer_code(self, path: Path, *, max_tokens: int) -> TokenizerCode | None:
        file = (path / hub_folder.TOKENIZER).as_posix()
        lines = f'tokenizer = tokenizers.Tokenizer.from_file("{file}")', f"tokenizer.enable_truncation({max_tokens})"
        return TokenizerCode("tokenizers", lines, "tokenizer.encode(text).ids")


def read_entries(folder: Path, families: Collection[str]) -> tuple[Entries, str]:
    """The entries of config.json and its model_type.

    Raises:
      UserError: it is not one of `families`; names the backbone that reads it.
    """
    entries = Entries(content=hub_folder.read_json(folder), folder=folder, missing="; get a fresh copy")
    found = entries.content.get("model_type")
    otherwise = "" if found in tuple(families) else other_backbone("text", found)
    return entries, entries.one_of("model_type", families, otherwise=otherwise)


def tokenizer_of(folder: Path, vocabulary: int, *, marks: tuple[int, int] = (1, 1)) -> functools.partial[HubTokenizer]:
    """The tokenizer of a model folder, without its number of tokens."""
    return functools.partial(HubTokenizer, path=folder, vocabulary=vocabulary, marks=marks)


def _special_tokens(source: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens by their names; that of padding is looked up by its id where no file names it."""
    known: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (source / name).is_file():
            known |= hub_folder.read_json(source, name)
    tokens = {name: known[name] for name in _SPECIAL_TOKENS if known.get(name)}
    if "pad_token" not in tokens:
        tokenizer = read_tokenizer(tokenizer_json(source), vocabulary=content["vocab_size"])
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        by_id = {i: token for token, i in vocabulary.items()}
        tokens["pad_token"] = by_id.get(content.get("pad_token_id") or 0, "[PAD]")
    return {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
