"""BERT and its relatives (mBERT, XLM-R, MiniLM, multilingual E5): a post-norm transformer over word pieces.

Read from a model folder of the Hugging Face layout. The layers' parameters are stacked along a leading axis and run by
`lax.scan`: one layer is compiled, whatever their number. The model can be cut behind any layer: what lies below stays
frozen and is run once (`prefix`), what lies above is trained (`tail`).

Source: Devlin et al. 2019 (arXiv 1810.04805), Conneau et al. 2020 (arXiv 1911.02116); this implementation is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.typing import DTypeLike

from cl2cm_jax.errors import UserError
from cl2cm_jax.maths.masking import masked_mean
from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones.outputs import AS_STORED, TailOptions, TextOutput, run_layers
from cl2cm_jax.models.backbones.packing import Packing, Rows, one_a_row, pack, packed_rows, unpack
from cl2cm_jax.models.config_entries import MOST_LAYERS, MOST_VOCABULARY, Entries
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.hub_folder import linear, norm, relaid
from cl2cm_jax.models.pretrained import assign, shapes_of

_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


class BertShape(NamedTuple):
    """What config.json says.

    Attributes:
      vocabulary: word pieces.
      hidden: d.
      layers: transformer layers.
      heads: attention heads.
      intermediate: width of the MLP.
      positions: rows of the position table.
      first_position: row of the first piece: 0, and behind the padding's row in the RoBERTa family.
      types: rows of the segment table, of which the first is used.
      epsilon: of the layer norms.
      activation: of the MLP.
      pool: the sentence vector: "mean" of all pieces with their marks, or the state of the first one ("cls").
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    first_position: int
    types: int
    epsilon: float
    activation: str
    pool: Literal["mean", "cls"]

    @property
    def max_tokens(self) -> int:
        """Most pieces a text, begin and end included."""
        return self.positions - self.first_position


class Embeddings(nnx.Module):
    """Ids (R, W) and their positions (R, W) -> states (R, W, d)."""

    def __init__(self, shape: BertShape, *, rngs: nnx.Rngs):
        self.word = nnx.Embed(shape.vocabulary, shape.hidden, rngs=rngs)
        self.position = nnx.Embed(shape.positions, shape.hidden, rngs=rngs)
        self.type = nnx.Embed(shape.types, shape.hidden, rngs=rngs)
        self.norm = _layer_norm(shape, rngs)
        self.first_position = shape.first_position

    def __call__(self, token_ids: jax.Array, positions: jax.Array) -> jax.Array:
        places = self.first_position + positions  # padding may lie beyond the table: its last row
        position = self.position(jnp.minimum(places, self.position.num_embeddings - 1))
        return self.norm(self.word(token_ids) + position + self.type.embedding[...][0])


class Layer(nnx.Module):
    """Self-attention and MLP, each added to its input and then normalised."""

    def __init__(self, shape: BertShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
        hidden = shape.hidden
        self.heads, self.activation = shape.heads, shape.activation
        self.query, self.key, self.value, self.attended = (
            nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs) for _ in range(4)
        )
        self.attention_norm = _layer_norm(shape, rngs, dtype)
        self.up = nnx.Linear(hidden, shape.intermediate, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(shape.intermediate, hidden, dtype=dtype, rngs=rngs)
        self.mlp_norm = _layer_norm(shape, rngs, dtype)

    def __call__(self, x: jax.Array, rows: Rows, *, dropout: float = 0.0, key: jax.Array | None = None) -> jax.Array:
        """Maps x (R, W, d) to (R, W, d); `key` turns dropout on, behind both parts."""
        drop = functools.partial(_drop, rate=dropout, token=rows.token)
        keys = (None, None) if key is None else jax.random.split(key)
        split = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        q, k, v = (project(x).reshape(split) for project in (self.query, self.key, self.value))
        attended = jax.nn.dot_product_attention(q, k, v, mask=rows.visible)
        x = self.attention_norm(x + drop(self.attended(attended.reshape(x.shape)), key=keys[0]))
        return self.mlp_norm(x + drop(self.down(_ACTIVATIONS[self.activation](self.up(x))), key=keys[1]))


def _drop(x: jax.Array, *, rate: float, token: jax.Array, key: jax.Array | None) -> jax.Array:
    """Dropout of x (R, W, d) whose mask belongs to a token (R, W): it is the same in whichever row that lies."""
    if key is None or rate == 0.0:
        return x

    def keep(token: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, token), 1 - rate, x.shape[-1:])

    return jnp.where(jax.vmap(jax.vmap(keep))(token), x / (1 - rate), 0)


def _layer_norm(shape: BertShape, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32) -> nnx.LayerNorm:
    return nnx.LayerNorm(shape.hidden, epsilon=shape.epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


@functools.cache
def _functionals(shape: BertShape, dtype: str = "float32") -> tuple[Functional[Embeddings], Functional[Layer]]:
    return (
        Functional(lambda rngs: Embeddings(shape, rngs=rngs)),
        Functional(lambda rngs: Layer(shape, dtype=dtype, rngs=rngs)),
    )


def init(key: jax.Array, *, shape: BertShape) -> Params:
    """Fresh parameters {"embeddings": ..., "layers": ... with a leading axis of the layers}."""
    embeddings, layer = _functionals(shape)
    first, second = jax.random.split(key)
    return {
        "embeddings": embeddings.init(first),
        "layers": jax.vmap(layer.init)(jax.random.split(second, shape.layers)),
    }


def apply(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: BertShape) -> TextOutput:
    """Encodes padded token ids; pure.

    Args:
      params: from `load` or `init`.
      token_ids: (B, L) int32, each row: begin, pieces, end, padding (any id).
      token_mask: (B, L) bool, False at padding only, which is at the end.
      shape: from `read_shape`.

    Returns:
      The last layer's states as words, their mask (begin and end excluded), and the unit sentence vector.
    """
    return tail(params, token_ids[..., None], token_mask, shape=shape)


def cut(params: Params, first: int) -> tuple[Params, Params]:
    """The parameters below and from layer `first` on, counted from 0; -1 leaves nothing below, not even the table."""
    if first < 0:
        return {}, params
    below = {"embeddings": params["embeddings"], "layers": jax.tree.map(lambda x: x[:first], params["layers"])}
    return below, {"layers": jax.tree.map(lambda x: x[first:], params["layers"])}


def prefix(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: BertShape) -> jax.Array:
    """The states that layer `first` reads, (B, L, d) float32: runs what `cut` has put below. Pure."""
    rows = one_a_row(token_mask)
    states = _functionals(shape)[0].bind(params["embeddings"])(token_ids, rows.position)
    return _layers(params["layers"], states, rows, shape=shape)


def tail(
    params: Params,
    states: jax.Array,
    token_mask: jax.Array,
    *,
    shape: BertShape,
    packing: Packing | None = None,
    key: jax.Array | None = None,
    options: TailOptions = AS_STORED,
) -> TextOutput:
    """Runs what `cut` has put above; pure.

    Args:
      params: the upper part; the whole model if it was cut at -1.
      states: (B, L, d) from `prefix`; token ids (B, L, 1) for the whole model.
      token_mask: (B, L) bool, False at padding only, which is at the end.
      shape: from `read_shape`.
      packing: rows that the captions share in the layers; None: one caption a row.
      key: turns dropout on.
      options: how the layers are run.

    Returns:
      See `apply`.
    """
    rows = one_a_row(token_mask) if packing is None else packed_rows(packing)
    states = states if packing is None else pack(states, packing)
    if "embeddings" in params:
        states = _functionals(shape)[0].bind(params["embeddings"])(states[..., 0], rows.position)
    states = _layers(params["layers"], states, rows, shape=shape, key=key, options=options).astype(jnp.float32)
    states = states if packing is None else unpack(states, packing, token_mask)
    pooled = states[:, 0] if shape.pool == "cls" else masked_mean(states, token_mask)
    place = jax.lax.broadcasted_iota(jnp.int32, token_mask.shape, 1)
    length = token_mask.sum(axis=1, keepdims=True)
    is_mark = (place == 0) | (place == length - 1)
    words = states * token_mask[..., None]
    return TextOutput(words=words, mask=token_mask & ~is_mark, sentence=normalize(pooled))


def _layers(
    params: Params,
    states: jax.Array,
    rows: Rows,
    *,
    shape: BertShape,
    key: jax.Array | None = None,
    options: TailOptions = AS_STORED,
) -> jax.Array:
    layer = _functionals(shape, options.dtype)[1]
    count = len(jax.tree.leaves(params)[0])
    keys = None if key is None or not options.dropout else jax.random.split(key, count)

    def run(one: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        return layer.bind(one)(x, rows, dropout=options.dropout, key=key)

    return run_layers(run, params, states, keys=keys, options=options)


def read_shape(folder: Path) -> BertShape:
    """Reads config.json, and how sentence-transformers pools the states where the folder says it.

    Raises:
      UserError: the model is of another family, has a part that is not supported, or an entry is missing or of no
        use (a size that is no whole number, say); names the entry.
    """
    c = Entries(content=hub_folder.read_json(folder), folder=folder, missing="; get a fresh copy, of a BERT")
    family = c.one_of("model_type", _FAMILIES)
    c.one_of("position_embedding_type", ("absolute",), default="absolute")
    hidden, heads = c.width_and_heads()
    behind_padding = family != "bert"
    positions = c.whole("max_position_embeddings", least=1 + behind_padding)
    return BertShape(
        vocabulary=c.whole("vocab_size", most=MOST_VOCABULARY),
        hidden=hidden,
        layers=c.whole("num_hidden_layers", most=MOST_LAYERS),
        heads=heads,
        intermediate=c.whole("intermediate_size"),
        positions=positions,
        first_position=c.whole("pad_token_id", least=0, most=positions - 2, default=1) + 1 if behind_padding else 0,
        types=c.whole("type_vocab_size"),
        epsilon=c.epsilon("layer_norm_eps", default=1e-12),
        activation=c.one_of("hidden_act", _ACTIVATIONS),
        pool=_read_pool(folder),
    )


def _read_pool(folder: Path) -> Literal["mean", "cls"]:
    """The pooling of a sentence-transformers folder; "mean" where none is named."""
    if (folder / "2_Dense").exists():
        raise UserError(f"model folder {folder} has a dense layer behind the pooling (2_Dense), which is not supported")
    if not (folder / "1_Pooling" / "config.json").is_file():
        return "mean"
    pooling = hub_folder.read_json(folder, "1_Pooling/config.json")
    chosen = pooling.get("pooling_mode")  # as sentence-transformers 6 writes it; before, a flag for each mode
    if chosen is None:
        flags = (name.removeprefix("pooling_mode_") for name, on in pooling.items() if on)
        chosen = sorted(_POOLINGS.get(name, name) for name in flags if f"pooling_mode_{name}" in pooling)
    modes = chosen if isinstance(chosen, list) else [chosen]
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    named = " and ".join(map(str, modes)) or "none"
    raise UserError(
        f"model folder {folder}: 1_Pooling/config.json pools by {named}, which is not supported; mean and cls are"
    )


def load(folder: Path, shape: BertShape) -> Params:
    """Reads the weights into nested float32 parameters; pooler and language-model head are left out.

    Raises:
      UserError: tensors are missing, left over or of a wrong shape; names each.
    """
    leave_out = tuple(f"{prefix}{name}" for prefix in ("", *_PREFIXES) for name in _UNUSED)
    found = hub_folder.read_tensors(folder, leave_out=leave_out)
    tensors, named = hub_folder.renamed(found, _plain_name, source=folder)
    abstract = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
    arrays = hub_folder.arranged(
        tensors,
        once=EMBEDDINGS,
        layer=LAYER,
        prefix="encoder.layer.",
        shapes=shapes_of(abstract),
        source=folder,
        named=named,
    )
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=folder))


def joined(below: Params, above: Params) -> Params:
    """The whole model from the two parts that `cut` makes of it."""
    if not below:
        return above
    layers = jax.tree.map(lambda *parts: jnp.concatenate(parts), below["layers"], above["layers"])
    return {"embeddings": below["embeddings"], "layers": layers}


def stored(params: Params) -> dict[str, np.ndarray]:
    """The tensors of the whole model as transformers' `BertModel` names and lays them out, without its pooler."""
    arrays = {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    return hub_folder.unarranged(arrays, once=EMBEDDINGS, layer=LAYER, prefix="encoder.layer.", unrelay=relaid)


def read_pooler(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the folder's pooler, {} without one: nothing here reads them, and transformers misses them."""
    names = tuple(f"{prefix}pooler." for prefix in ("", *_PREFIXES))
    return {_plain_name(name): array for name, array in hub_folder.read_tensors(folder, only=names).items()}


def _plain_name(name: str) -> str:
    """Without the prefix of a model with a head, and with today's names of a layer norm's parts."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


_PREFIXES = ("bert.", "roberta.")  # of a model with a head
_POOLINGS = {"mean_tokens": "mean", "cls_token": "cls"}
_UNUSED = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids")
# our names -> torch's, of what is there once and of a layer
EMBEDDINGS = {
    "embeddings/word/embedding": "embeddings.word_embeddings.weight",
    "embeddings/position/embedding": "embeddings.position_embeddings.weight",
    "embeddings/type/embedding": "embeddings.token_type_embeddings.weight",
    **norm("embeddings/norm", "embeddings.LayerNorm"),
}
LAYER = {
    **linear("query", "attention.self.query"),
    **linear("key", "attention.self.key"),
    **linear("value", "attention.self.value"),
    **linear("attended", "attention.output.dense"),
    **norm("attention_norm", "attention.output.LayerNorm"),
    **linear("up", "intermediate.dense"),
    **linear("down", "output.dense"),
    **norm("mlp_norm", "output.LayerNorm"),
}
