"""BERT and its variants (mBERT, XLM-R, MiniLM, multilingual E5) from a Hugging Face model folder or a hub id."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import check_divisible
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_VOCABULARY
from cl2cm_jax.models.files.pooling_file import read_pool
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.layers.bert import BertShape, apply, init, tunable
from cl2cm_jax.models.layers.transformer import ACTIVATIONS
from cl2cm_jax.models.pretrained import assign, shapes_of
from cl2cm_jax.models.text_folder import FolderSpec, FolderText, read_entries, tokenizer_of

# Source: config.json of google-bert/bert-base-multilingual-cased.
MBERT = BertShape(119547, 768, 12, 12, 3072, 512, 0, 2, 1e-12, "gelu", "mean")
_CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
}
_PREFIXES = ("bert.", "roberta.")  # of a model with a head
_UNUSED = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids")
_LAYERS = "encoder.layer."
# our names -> torch's, of the embeddings and of a layer
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


@dataclass(frozen=True, kw_only=True)
class Bert(FolderText[BertShape]):
    """A BERT with its weights."""

    families = _CLASSES

    def stored(self) -> dict[str, np.ndarray]:
        return stored(self.params) | read_pooler(self.source)


def fields(shape: BertShape) -> dict[str, Any]:
    """Fields of `Bert` that follow from its shape."""
    return {
        "dim": shape.hidden,
        "apply": functools.partial(apply, shape=shape),
        "max_tokens": shape.max_tokens,
        "tunable": tunable(shape),
        "shape": shape,
    }


class BertSpec(FolderSpec[BertShape]):
    """A BERT from a model folder, a hub id ("owner/name[@revision]"), or of mBERT's sizes where it is not there."""

    families = _CLASSES
    sizes = ("vocabulary", "hidden", "layers", "heads", "intermediate", "positions")
    usual = MBERT, "mBERT-base"

    def read_shape(self, folder: Path) -> BertShape:
        return read_shape(folder)

    def read_params(self, folder: Path, shape: BertShape) -> Params:
        return load(folder, shape)

    def resized(self, shape: BertShape, sizes: Mapping[str, int]) -> BertShape:
        shape = shape._replace(**sizes)
        check_divisible(shape, "hidden", "heads")
        return shape

    def abstract_of(self, shape: BertShape, source: Path) -> Bert:
        params = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
        return Bert(**fields(shape), params=params, tokenizer=tokenizer_of(source, shape.vocabulary), source=source)


SPEC = BertSpec()


def read_shape(folder: Path) -> BertShape:
    """Reads config.json, and the pooling of sentence-transformers where the folder states it.

    Raises:
      UserError: the model is of another family, has a part that is not supported, or an entry is missing or invalid;
        names the entry.
    """
    c, family = read_entries(folder, _CLASSES)
    c.one_of("position_embedding_type", ("absolute",), default="absolute")
    hidden, heads = c.width_and_heads()
    after_padding = family != "bert"
    positions = c.whole("max_position_embeddings", minimum=1 + after_padding)
    return BertShape(
        vocabulary=c.whole("vocab_size", maximum=MAX_VOCABULARY),
        hidden=hidden,
        layers=c.whole("num_hidden_layers", maximum=MAX_LAYERS),
        heads=heads,
        intermediate=c.whole("intermediate_size"),
        positions=positions,
        first_position=c.whole("pad_token_id", minimum=0, maximum=positions - 2, default=1) + 1 if after_padding else 0,
        types=c.whole("type_vocab_size"),
        epsilon=c.epsilon("layer_norm_eps", default=1e-12),
        activation=c.one_of("hidden_act", ACTIVATIONS),
        pool=read_pool(folder, default="mean"),
    )


def load(folder: Path, shape: BertShape) -> Params:
    """Reads the weights into nested float32 parameters; pooler and language-model head are left out.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape; names each.
    """
    leave_out = tuple(f"{prefix}{name}" for prefix in ("", *_PREFIXES) for name in _UNUSED)
    found = hub_folder.read_tensors(folder, leave_out=leave_out)
    tensors, named = hub_folder.renamed(found, _plain_name, source=folder)
    return stack(tensors, EMBEDDINGS, LAYER, prefix=_LAYERS, shape=shape, source=folder, named=named)


def stack(
    tensors: Mapping[str, np.ndarray],
    embeddings: Mapping[str, str],
    layer: Mapping[str, str],
    *,
    prefix: str,
    shape: BertShape,
    source: Path,
    named: Mapping[str, str],
) -> Params:
    """Parameters of a model of this shape from torch's tensors; see `hub_folder.arranged`."""
    abstract = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
    arrays = hub_folder.arranged(
        tensors, once=embeddings, layer=layer, prefix=prefix, shapes=shapes_of(abstract), source=source, named=named
    )
    return jax.device_put(assign(abstract, arrays, source=source))


def stored(params: Params) -> dict[str, np.ndarray]:
    """The tensors of the whole model in the names and layout of transformers' `BertModel`, without its pooler."""
    arrays = {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    return hub_folder.unarranged(arrays, once=EMBEDDINGS, layer=LAYER, prefix=_LAYERS, unrelay=hub_folder.relaid)


def read_pooler(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the folder's pooler, {} without one. This package does not use them; transformers expects them."""
    names = tuple(f"{prefix}pooler." for prefix in ("", *_PREFIXES))
    return {_plain_name(name): array for name, array in hub_folder.read_tensors(folder, only=names).items()}


def _plain_name(name: str) -> str:
    """Without the prefix of a model with a head, and with today's names of a layer norm's parts."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
