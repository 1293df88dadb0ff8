"""Any text encoder of transformers or sentence-transformers, frozen, run by sentence-transformers in PyTorch.

A folder without `modules.json` is pooled as sentence-transformers does then: the mean of its tokens. Modules after the
pooling are applied to the sentence alone, so that words and sentences may differ in size.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cl2cm_jax.config.plugins import ANY
from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location, TextBackbone, TextOutput, TextSpec
from cl2cm_jax.models.backbones import torch_folder
from cl2cm_jax.models.configured import other_backbone
from cl2cm_jax.models.files.tokenizer_file import check_pair
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.tokenizers import TokenBatch, check_room, padded, taken

FIELD = "config.text.path"
_UNLIMITED = 1_000_000  # tokenizers without a limit have a number over it


@dataclass(frozen=True, kw_only=True)
class AnyText(TextBackbone):
    """An encoder from a model folder, `source`."""

    traced = False
    source: Path

    def write(self, path: Path, *, max_tokens: int) -> None:
        """Copies the model folder, with its licence."""
        torch_folder.copy_folder(self.source, path)


class LibraryTokenizer:
    """The tokenizer of a model folder, as its library reads it; `marks` as of `TextBackbone`."""

    def __init__(self, tokenizer: Any, lowercase: bool, marks: tuple[int, int], *, max_tokens: int):
        check_room(max_tokens)
        self._tokenizer, self._lowercase, self._marks, self._limit = tokenizer, lowercase, marks, max_tokens
        self.unknown: int | None = tokenizer.unk_token_id

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenises texts, padded to the longest."""
        return padded(self._rows(texts))

    def words(self, text: str) -> list[str]:
        """The pieces between the special tokens, as text."""
        (row,), (before, behind) = self._rows([text]), self._marks
        return self._tokenizer.convert_ids_to_tokens(row[before : len(row) - behind])

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        read = [taken(text, self._limit) for text in texts]
        read = [text.lower() for text in read] if self._lowercase else read
        with _LOCK:  # the library changes its tokenizer for every limit
            return self._tokenizer(read, truncation=True, max_length=self._limit, return_attention_mask=False).input_ids


_LOCK = threading.Lock()


class AnySpec(torch_folder.TorchSpec, TextSpec):
    """A model folder or a hub id, of whatever transformers reads with its own classes; extra `torch`."""

    field = FIELD

    def load(self, path: Location) -> TextBackbone:
        folder = self.folder(path)
        return torch_folder.reading(functools.partial(_load, folder), folder, "text")


SPEC = AnySpec()


def _load(folder: Path) -> AnyText:
    import sentence_transformers  # pyright: ignore[reportMissingImports]

    options = {"use_safetensors": True, "dtype": "float32"}
    model: Any = sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
    ).eval()
    encoder, *modules = model
    if not hasattr(encoder, "auto_model") or not callable(getattr(encoder, "tokenizer", None)):
        raise UserError(f"model folder {folder} has no transformer with a tokenizer as its first module; use another")
    if not all(getattr(module, "include_prompt", True) for module in modules):
        raise UserError(f"model folder {folder}: its pooling leaves the prompt out (include_prompt=false); use another")
    # read again: sentence-transformers does not say which weights were missing
    place = next(iter(torch_folder.module_folders(folder)), folder)
    encoder.model = torch_folder.read_model(type(encoder.auto_model), place, config=encoder.auto_model.config)
    model = model.to(torch_folder.device())
    if not any(type(module).__name__ == "Pooling" for module in modules):
        raise UserError(f"model folder {folder} has no pooling of the states of its tokens; {_instead(place)}")
    _check_vocabulary(folder, encoder)
    limit, marks = model.max_seq_length, _marks(encoder.tokenizer)
    apply: Any = functools.partial(_apply, folder=folder, model=model, marks=marks)
    lowercase = bool(getattr(encoder, "do_lower_case", False))
    backbone = AnyText(
        dim=0,
        params=torch_folder.as_params(folder),
        apply=apply,
        tokenizer=functools.partial(LibraryTokenizer, encoder.tokenizer, lowercase, marks),
        max_tokens=limit if limit and limit < _UNLIMITED else None,
        marks=marks,
        source=folder,
    )
    output = apply(backbone.params, *backbone.tokenizer(max_tokens=8)(["a"]))
    sizes = output.words.shape[-1], output.sentence.shape[-1]
    return replace(backbone, dim=sizes[0], sentence_dim=sizes[1], apply=functools.partial(apply, sizes=sizes))


def _instead(folder: Path) -> str:
    """What to do about a model that is not run here, such as one with two towers."""
    fix = other_backbone("text", hub_folder.read_json(folder).get("model_type"))
    return "use another" if repr(ANY) in fix else fix


def _check_vocabulary(folder: Path, encoder: Any) -> None:
    """Refuses a tokenizer of another model; raises UserError. Tokens that were added later may have no embedding."""
    try:
        table = encoder.auto_model.get_input_embeddings()
    except NotImplementedError:  # a model without a table
        return
    rows = getattr(table, "num_embeddings", None)
    if rows is not None:
        tokenizer = encoder.tokenizer
        highest = max(tokenizer.get_vocab().values(), default=-1)
        check_pair(folder, max(tokenizer.vocab_size - 1, min(highest, rows - 1)), rows)


def _marks(tokenizer: Any) -> tuple[int, int]:
    """Numbers of special tokens that the library puts before and behind a text."""
    is_mark = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return is_mark.index(0), is_mark[::-1].index(0)


def _apply(
    params: Params,
    token_ids: Any,
    token_mask: Any,
    *,
    folder: Path,
    model: Any,
    marks: tuple[int, int],
    sizes: tuple[int, int] = (1, 1),
) -> TextOutput:
    """States (B, L, d) and sentence vectors (B, s) of padded ids, without gradients and outside of JAX.

    `sizes`: d and s, where nothing is read.
    """
    torch = torch_folder.torch_library()
    place, length = np.arange(token_mask.shape[1]), token_mask.sum(1, keepdims=True)
    is_word, rows = (place >= marks[0]) & (place < length - marks[1]), token_mask.any(1)
    if not rows.any():  # padding, or texts of which nothing is left
        words, sentence = (
            np.zeros((*token_mask.shape, sizes[0]), np.float32),
            np.zeros((len(rows), sizes[1]), np.float32),
        )
        return TextOutput(words=words, mask=is_word, sentence=sentence)  # pyright: ignore
    features = {
        "input_ids": torch.from_numpy(np.where(token_mask, token_ids, 0)[rows].astype(np.int64)),
        "attention_mask": torch.from_numpy(token_mask[rows].astype(np.int64)),
    }
    with torch_folder.running(folder), torch.inference_mode():
        output = model({name: values.to(torch_folder.device()) for name, values in features.items()})
        states, pooled = output["token_embeddings"], output["sentence_embedding"]
    words = np.zeros((*token_mask.shape, states.shape[-1]), np.float32)
    words[rows] = states.float().cpu().numpy() * token_mask[rows, :, None]
    sentence = np.zeros((len(rows), pooled.shape[-1]), np.float32)
    sentence[rows] = torch.nn.functional.normalize(pooled.float()).cpu().numpy()
    return TextOutput(words=words, mask=is_word, sentence=sentence)  # pyright: ignore
