"""What a pretrained backbone offers, with its weights (`TextBackbone`, `VisionBackbone`) and before they are read.

A module of `models/backbones/text` or `models/backbones/vision` is one backbone, chosen by its name in the
configuration. It defines `SPEC`, a `TextSpec` or `VisionSpec`, which answers everything that the rest of the package
asks about it: `models.configured` loads it by name, and no other code knows a backbone by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.credits import UNKNOWN, Credits
from cl2cm_jax.models.files.prompts import Prompts, read_prompts
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.preprocess import Preprocess
from cl2cm_jax.models.pretrained import write_safetensors
from cl2cm_jax.models.tokenizers import Tokenizer

B = TypeVar("B")
Location = str | Path | None  # of weights; None: those of an installed package


class TextOutput(NamedTuple):
    """Text features.

    Attributes:
      words: (B, L, d) float32, one state per token; 0 at padding.
      mask: (B, L) bool, True at word pieces: neither padding nor special tokens.
      sentence: (B, s) float32, the backbone's own sentence vector.
    """

    words: jax.Array
    mask: jax.Array
    sentence: jax.Array


class VisionOutput(NamedTuple):
    """Vision features.

    Attributes:
      features: (B, F, d) float32 of F frames or grid cells.
      mask: (B, F) bool.
      pooled: (B, p) float32, the backbone's own global vector; None where it was not computed.
    """

    features: jax.Array
    mask: jax.Array
    pooled: jax.Array | None = None


Output = TypeVar("Output", TextOutput, VisionOutput)


class TailOptions(NamedTuple):
    """How the trained layers of a backbone are run.

    Attributes:
      dropout: rate after attention and MLP, in training.
      remat: recompute a layer's activations in the backward pass instead of storing them.
      scan: compile one layer and loop over it; otherwise unroll, which compiles longer and may run faster.
      dtype: of matrix products and activations; parameters stay fp32.
    """

    dropout: float = 0.0
    remat: bool = False
    scan: bool = True
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Tunable(Generic[Output]):
    """An encoder that can be cut at any layer: frozen below, trained above.

    Attributes:
      layers: number of layers.
      cut: (params, first) -> (params below layer `first`, params from it on); -1: everything is above. Of vision with
        pooled=: parameters of the global vector alone are in neither part unless it is True.
      join: (params, above, first) -> params with the upper part replaced.
      prefix: (params below, token_ids (B, L), token_mask (B, L)) -> states (B, L, d); of vision (params below,
        preprocessed images (B, H, W, 3), options=) -> states (B, N, d); pure.
      tail: (params above, states (B, L, d), or ids (B, L, 1) if first is -1, token_mask (B, L), packing=, key=,
        options=) -> TextOutput; of vision (params above, states, or images if first is -1, pooled=, options=) ->
        VisionOutput; pure.
    """

    layers: int
    cut: Callable[..., tuple[Params, Params]]
    join: Callable[[Params, Params, int], Params]
    prefix: Callable[..., jax.Array]
    tail: Callable[..., Output]


@dataclass(frozen=True, kw_only=True)
class TextBackbone:
    """A text encoder with its weights.

    Attributes:
      dim: d of words, and of the sentence where `sentence_dim` is 0.
      params: nested dict of arrays. Pass it to a jitted `apply` as an argument: closed over, it is compiled in.
      apply: (params, token_ids (B, L) int32, token_mask (B, L) bool) -> TextOutput; pure.
      tokenizer: (max_tokens=) -> a tokenizer whose rows have at most that many ids.
      max_tokens: the longest row that the encoder takes; None: no limit.
      marks: numbers of special tokens that the tokenizer puts before and behind every text.
      sentence_dim: size of the sentence vector; 0: d.
      fixed_tokens: length at which every text is computed, its padding included, so that states of a layer have it;
        0: that of the text.
      tunable: how its layers are trained; None where they cannot be.
      look_up: ids (n,) -> their rows (n, d) float32 of the table of word pieces, where `params` lack that table; see
        `with_rows`. None: they have it.
      traced: whether `apply` is a function of JAX; otherwise it is called with arrays of numpy, outside of `jax.jit`.
    """

    traced: ClassVar[bool] = True
    dim: int
    params: Params
    apply: Callable[[Params, jax.Array, jax.Array], TextOutput]
    tokenizer: Callable[..., Tokenizer]
    max_tokens: int | None = None
    marks: tuple[int, int] = (1, 1)
    sentence_dim: int = 0
    fixed_tokens: int = 0
    tunable: Tunable[TextOutput] | None = None
    look_up: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def sentence_size(self) -> int:
        """Size of the sentence vector."""
        return self.sentence_dim or self.dim

    def write(self, path: Path, *, max_tokens: int) -> None:
        """Writes weights and tokenizer where `TextSpec.load` finds them: a file, or a folder for a `model_folder`."""
        write_safetensors(path, flatten_dict(self.params, sep="/"))


def with_rows(params: Params, rows: np.ndarray) -> Params:
    """Parameters of a text encoder with `rows` as their table of word pieces; id i is then row i."""
    return {**params, "embeddings": {**params["embeddings"], "word": {"embedding": rows}}}


@dataclass(frozen=True, kw_only=True)
class VisionBackbone:
    """A vision encoder with its weights.

    Attributes:
      frames: F, grid cells of an image.
      dim: d of a grid cell.
      pooled: size of the backbone's own global vector; 0 where there is none.
      params: nested dict of float32 arrays.
      apply: (params, images (B, H, W, 3) float32) -> VisionOutput; pure.
      preprocess: how an image is resized and normalised for `apply`.
      batch_size: a batch that is fast on this process's devices; any other one works.
      tunable: how its layers are trained; None where they cannot be.
      portable_apply: `apply` in the operations that converters to ONNX know; None: `apply` itself.
      hub_class: the class of transformers that reads what `write` writes; "" where there is none.
      resize: picture (H, W, 3) uint8 of any size -> what `preprocess` takes; None: as the latter says.
      traced: as of `TextBackbone`.
    """

    traced: ClassVar[bool] = True
    frames: int
    dim: int
    pooled: int
    params: Params
    apply: Callable[[Params, jax.Array], VisionOutput]
    preprocess: Preprocess
    batch_size: int
    tunable: Tunable[VisionOutput] | None = None
    portable_apply: Callable[[Params, jax.Array], VisionOutput] | None = None
    hub_class: str = ""
    resize: Callable[[np.ndarray], np.ndarray] | None = None

    def write(self, path: Path) -> None:
        """Writes the weights where `VisionSpec.load` finds them: a file, or a folder for a `model_folder`."""
        write_safetensors(path, flatten_dict(self.params, sep="/"))


class TokenizerCode(NamedTuple):
    """Python lines of the model card that tokenise `text` without this package.

    Attributes:
      module: what they import.
      lines: statements.
      ids: an expression for the ids.
    """

    module: str
    lines: tuple[str, ...]
    ids: str


class _Spec(ABC, Generic[B]):
    """What a backbone says of itself without its weights.

    Attributes:
      model_folder: written and read as a Hugging Face model folder, which other libraries open; otherwise one file.
      has_layers: whether layers can be trained (`tunable`).
      traced: whether the backbone is computed by JAX, so that it can be converted; see `TextBackbone`.
      sizes: names of sizes that `abstract` takes.
      requirement: packages that it needs beside this one's own, for the model card.
      families: model_type in config.json of the model folders that it reads.
    """

    model_folder: ClassVar[bool] = False
    traced: ClassVar[bool] = True
    requirement: ClassVar[str] = ""
    has_layers: ClassVar[bool] = False
    sizes: ClassVar[tuple[str, ...]] = ()
    families: ClassVar[Collection[str]] = ()

    @abstractmethod
    def fingerprint(self, path: Location) -> str:
        """A hash of the weights, part of the key of cached features; raises UserError if they are missing."""

    def load_library(self) -> None:
        """Imports what runs the backbone, where it is no part of JAX; raises UserError if it is not installed."""

    def folder(self, path: Location) -> Path | None:
        """The model folder of a path, downloaded first if it is a hub id; None where the weights are one file."""
        return None

    def hashes(self, path: Location) -> dict[str, str]:
        """SHA-256 of each file that the outputs depend on, by name; raises UserError if one is missing."""
        folder = self.folder(path)
        return {"weights file": self.fingerprint(path)} if folder is None else hub_folder.hashes(folder)

    def credits(self, path: Location) -> Credits:
        """Name, licence and publisher of the weights."""
        return Credits(name=f"weights of {path}", licence=UNKNOWN, publisher="see its source")


class TextSpec(_Spec[TextBackbone]):
    """What a text backbone says of itself without its weights; see `_Spec`.

    Attributes:
      pools_plainly: whether the pooling of sentence-transformers makes the sentence vector of a model folder's states.
    """

    pools_plainly: ClassVar[bool] = True

    @abstractmethod
    def load(self, path: Location) -> TextBackbone:
        """Reads the weights; raises UserError if they are missing or damaged."""

    def load_frozen(self, path: Location) -> TextBackbone:
        """As `load`, to encode texts and for nothing else; a large table of word pieces may stay as it is stored."""
        return self.load(path)

    def abstract(self, path: Location, sizes: Mapping[str, int]) -> tuple[TextBackbone, str]:
        """The backbone with shapes in place of arrays, and where its sizes come from.

        Args:
          path: of the weights, which need not exist.
          sizes: replace the model's own; names are among `self.sizes`.
        """
        backbone = self.load(path)
        return replace(backbone, params=jax.eval_shape(lambda: backbone.params)), f"{path}, d {backbone.dim}"

    def prompts(self, path: Location) -> Prompts:
        """What the model folder, or its authors, say of prompts; raises UserError if the folder's file is damaged."""
        folder = self.folder(path)
        return Prompts() if folder is None else read_prompts(path or "", folder)

    def tokenizer_code(self, path: Path, *, max_tokens: int) -> TokenizerCode | None:
        """How a program without this package tokenises; `path` is that of `TextBackbone.write`."""
        return None


class VisionSpec(_Spec[VisionBackbone]):
    """What a vision backbone says of itself without its weights; see `_Spec`."""

    @abstractmethod
    def load(self, path: Location, *, image_size: int = 0) -> VisionBackbone:
        """Reads the weights; raises UserError if they are missing or damaged.

        Args:
          path: of the weights.
          image_size: side of an image in pixels; 0: the model's own.
        """

    def abstract(self, path: Location, sizes: Mapping[str, int], *, image_size: int = 0) -> tuple[VisionBackbone, str]:
        """The backbone with shapes in place of arrays, and where its sizes come from; see `TextSpec.abstract`."""
        backbone = self.load(path, image_size=image_size)
        return replace(backbone, params=jax.eval_shape(lambda: backbone.params)), f"{path}, d {backbone.dim}"


def check_divisible(sizes: Any, whole: str, part: str) -> None:
    """Refuses sizes of which one does not divide the other; raises UserError."""
    if getattr(sizes, whole) % getattr(sizes, part):
        found = f"{whole}={getattr(sizes, whole)} is not divisible by {part}={getattr(sizes, part)}"
        raise UserError(f"sizes of the backbone: {found}; give others")
