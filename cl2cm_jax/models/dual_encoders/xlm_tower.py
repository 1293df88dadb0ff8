"""OpenCLIP's text towers with a network of transformers in it: XLM-R, RoBERTa or BERT, its pooling and a projection."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from cl2cm_jax.errors import UserError
from cl2cm_jax.maths.masking import masked_mean
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import TailOptions, TextBackbone, TextOutput, Tunable
from cl2cm_jax.models.backbones.text import bert as bert_folder
from cl2cm_jax.models.dual_encoders import open_clip, text_tokenizer
from cl2cm_jax.models.dual_encoders.open_clip import HfTower, hf_tower
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers import bert
from cl2cm_jax.models.layers.bert import BertShape
from cl2cm_jax.models.layers.packing import Packing
from cl2cm_jax.models.layers.transformer import PRETRAINED, cut_layers, join_layers
from cl2cm_jax.models.pretrained import assign, check_names, check_shapes, shapes_of, write_safetensors

_INSIDE = "transformer."
_UNUSED = ("transformer.pooler.", "transformer.embeddings.position_ids")
# Source: config.json of these models, which OpenCLIP's folders name and do not hold.
_KNOWN = {
    "xlm-roberta-base": BertShape(250002, 768, 12, 12, 3072, 514, 2, 1, 1e-5, "gelu", "mean"),
    "xlm-roberta-large": BertShape(250002, 1024, 24, 16, 4096, 514, 2, 1, 1e-5, "gelu", "mean"),
    "roberta-base": BertShape(50265, 768, 12, 12, 3072, 514, 2, 1, 1e-5, "gelu", "mean"),
    "roberta-large": BertShape(50265, 1024, 24, 16, 4096, 514, 2, 1, 1e-5, "gelu", "mean"),
}


class XlmShape(NamedTuple):
    """The network inside, and what is made of its states."""

    network: BertShape
    tower: HfTower


class Pool(nnx.Module):
    """The pooled state (B, d) -> the sentence vector (B, p)."""

    def __init__(self, shape: XlmShape, *, rngs: nnx.Rngs):
        hidden, size = shape.network.hidden, shape.tower.size
        between = (hidden + size) // 2
        plain = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.dense = nnx.Linear(hidden, hidden, rngs=rngs) if shape.tower.pooler == "cls_pooler" else None
        self.project = plain(hidden, size) if shape.tower.projection == "linear" else None
        self.up = plain(hidden, between) if shape.tower.projection == "mlp" else None
        self.down = plain(between, size) if shape.tower.projection == "mlp" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x if self.dense is None else jnp.tanh(self.dense(x))
        if self.up is not None and self.down is not None:
            return self.down(jax.nn.gelu(self.up(x), approximate=False))
        return x if self.project is None else self.project(x)


@functools.cache
def _pool(shape: XlmShape) -> Functional[Pool]:
    return Functional(lambda rngs: Pool(shape, rngs=rngs))


def _names(shape: XlmShape) -> dict[str, str]:
    """Our names of the pool's parameters -> OpenCLIP's, without their prefix."""
    kernels = {"linear": {"project/kernel": "proj.weight"}, "": {}}
    kernels["mlp"] = {"up/kernel": "proj.0.weight", "down/kernel": "proj.2.weight"}
    dense = hub_folder.linear("dense", "transformer.pooler.dense") if shape.tower.pooler == "cls_pooler" else {}
    return kernels[shape.tower.projection] | dense


def apply(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: XlmShape) -> TextOutput:
    """Encodes padded token ids; pure. See `layers.bert.apply`."""
    return tail(params, token_ids[..., None], token_mask, shape=shape)


def tail(
    params: Params,
    states: jax.Array,
    token_mask: jax.Array,
    *,
    shape: XlmShape,
    packing: Packing | None = None,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> TextOutput:
    """Runs the trained upper part; pure. See `layers.bert.tail`; the sentence vector's length is the model's own."""
    output = bert.tail(params, states, token_mask, shape=shape.network, packing=packing, key=key, options=options)
    whole = shape.tower.pooler == "mean"
    pooled = masked_mean(output.words, token_mask) if whole else output.words[:, 0]
    return output._replace(sentence=_pool(shape).bind(params["pool"])(pooled) if params["pool"] else pooled)


def init(key: jax.Array, *, shape: XlmShape) -> Params:
    """Random parameters {"embeddings", "layers", "pool"}."""
    first, second = jax.random.split(key)
    return bert.init(first, shape=shape.network) | {"pool": _pool(shape).init(second)}


@dataclass(frozen=True, kw_only=True)
class XlmTower(TextBackbone):
    """Such a text tower with its weights.

    Attributes:
      shape: of the model.
      source: the model folder that it was read from.
    """

    shape: XlmShape
    source: Path

    def write(self, path: Path, *, max_tokens: int) -> None:
        """Writes the text tower in OpenCLIP's naming, which alone has such towers, with the sizes of what is inside."""
        write_safetensors(path / hub_folder.OPEN_CLIP_WEIGHTS[0], stored(self.params, self.shape))
        model = hub_folder.read_json(self.source, open_clip.CONFIG)["model_cfg"]
        kept = {"embed_dim": model["embed_dim"], "text_cfg": model["text_cfg"]}
        hub_folder.write_json(path / open_clip.CONFIG, {"model_cfg": kept})
        hub_folder.write_json(path / hub_folder.CONFIG, _content(self.shape.network))
        text_tokenizer.write(self.source, path, max_tokens=max_tokens)


def read_xlm_tower(folder: Path) -> XlmTower | None:
    """Reads such a text tower; None of a folder with another one.

    Raises:
      UserError: it is a network that is not supported, an entry is invalid, or the weights do not fit.
    """
    tower = hf_tower(folder)
    if tower is None:
        return None
    shape = XlmShape(_network(folder, tower.name), tower)
    if not tower.projection and shape.network.hidden != tower.size:
        found = f"hf_proj_type=null with embed_dim={tower.size}"
        raise UserError(
            f"model folder {folder}: {open_clip.CONFIG}: {found}, but {shape.network.hidden} are made; correct one"
        )
    marks = text_tokenizer.marks(folder, siglip=False)
    texts = text_tokenizer.Texts(folder, shape.network.vocabulary, marks, "last", 0)
    return XlmTower(
        dim=shape.network.hidden,
        sentence_dim=tower.size,
        params=load(folder, shape),
        apply=functools.partial(apply, shape=shape),
        tokenizer=functools.partial(text_tokenizer.DualTokenizer, texts=texts),
        max_tokens=shape.network.max_tokens,
        marks=marks,
        tunable=tunable(shape),
        shape=shape,
        source=folder,
    )


def tunable(shape: XlmShape) -> Tunable[TextOutput]:
    """How such a tower is trained."""
    return Tunable(
        layers=shape.network.layers,
        cut=lambda params, first: cut_layers(params, first, pool=params["pool"]),
        join=lambda params, above, first: join_layers(cut_layers(params, first)[0], above) | {"pool": above["pool"]},
        prefix=functools.partial(bert.prefix, shape=shape.network),
        tail=functools.partial(tail, shape=shape),
    )


def load(folder: Path, shape: XlmShape) -> Params:
    """Reads the weights into nested float32 parameters.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape; names each.
    """
    found = hub_folder.read_tensors(folder, leave_out=("visual.", "logit_"))
    short = {name.removeprefix("text."): name for name in found}
    names = _names(shape)
    head = {ours: found[short[name]] for ours, name in names.items() if name in short}
    unused = tuple(names.values())
    inside = {
        name.removeprefix(_INSIDE): found[whole]
        for name, whole in short.items()
        if name not in unused and not name.startswith(_UNUSED)
    }
    abstract = jax.eval_shape(_pool(shape).init, jax.random.key(0))
    expected = {names[ours]: hub_folder.stored_shape(ours, size) for ours, size in shapes_of(abstract).items()}
    given = {names[ours]: array for ours, array in head.items()}
    check_names(given, list(expected), source=folder, named=short)
    check_shapes(given, expected, source=folder, named=short)
    pool = {ours: hub_folder.relaid(ours, array) for ours, array in head.items()}
    network = bert_folder.stack(
        inside,
        bert_folder.EMBEDDINGS,
        bert_folder.LAYER,
        prefix="encoder.layer.",
        shape=shape.network,
        source=folder,
        named={name.removeprefix(_INSIDE): whole for name, whole in short.items()},
    )
    return network | {"pool": jax.tree.map(jnp.asarray, assign(abstract, pool, source=folder))}


def stored(params: Params, shape: XlmShape) -> dict[str, np.ndarray]:
    """The tensors of the whole tower in OpenCLIP's names and layout."""
    network = bert_folder.stored({name: part for name, part in params.items() if name != "pool"})
    pool = {name: np.asarray(array) for name, array in flatten_dict(params["pool"], sep="/").items()}
    inside = {f"text.{_INSIDE}{name}": array for name, array in network.items()}
    return inside | {f"text.{name}": hub_folder.relaid(ours, pool[ours]) for ours, name in _names(shape).items()}


def _network(folder: Path, name: str) -> BertShape:
    """The sizes of the network inside: of config.json in the folder or in one of its name, or known by its name."""
    for place in (folder, Path(name), folder / name):
        if (place / hub_folder.CONFIG).is_file():
            return bert_folder.read_shape(place)
    short = name.rpartition("/")[2]
    if short in _KNOWN:
        return _KNOWN[short]
    raise UserError(
        f"model folder {folder}: {open_clip.CONFIG}: text_cfg.hf_model_name={name!r} is not supported; "
        f"{', '.join(_KNOWN)} are, and other BERTs whose config.json is put into the folder"
    )


def _content(network: BertShape) -> dict[str, Any]:
    """config.json of the network inside."""
    after_padding = network.first_position > 0
    return {
        "model_type": "xlm-roberta" if after_padding else "bert",
        "hidden_act": network.activation,
        "hidden_size": network.hidden,
        "intermediate_size": network.intermediate,
        "layer_norm_eps": network.epsilon,
        "max_position_embeddings": network.positions,
        "num_attention_heads": network.heads,
        "num_hidden_layers": network.layers,
        "pad_token_id": network.first_position - 1 if after_padding else 0,
        "type_vocab_size": network.types,
        "vocab_size": network.vocabulary,
    }
