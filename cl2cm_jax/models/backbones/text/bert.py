"""BERT and its variants (mBERT, XLM-R, MiniLM, multilingual E5) from a Hugging Face model folder or a hub id."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location, TextBackbone, TextSpec, TokenizerCode, check_divisible
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_VOCABULARY, Entries
from cl2cm_jax.models.credits import Credits, folder_credits
from cl2cm_jax.models.files.slow_tokenizer import tokenizer_json
from cl2cm_jax.models.files.tokenizer_file import read_tokenizer
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.layers.bert import ACTIVATIONS, BertShape, apply, init, tunable
from cl2cm_jax.models.pretrained import assign, shapes_of, write_safetensors
from cl2cm_jax.models.tokenizers import HubTokenizer

FIELD = "config.text.path"
# Source: config.json of google-bert/bert-base-multilingual-cased.
MBERT = BertShape(119547, 768, 12, 12, 3072, 512, 0, 2, 1e-12, "gelu", "mean")
_CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
}
_SPECIAL_TOKENS = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token", "bos_token", "eos_token")
_PREFIXES = ("bert.", "roberta.")  # of a model with a head
_POOLINGS = {"cls_token": "cls", "mean_tokens": "mean"}
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
class Bert(TextBackbone):
    """A BERT with its weights.

    Attributes:
      shape: of the model.
      source: the model folder that it was read from.
    """

    shape: BertShape
    source: Path

    def write(self, path: Path, *, max_tokens: int) -> None:
        """Writes a model folder as transformers does, with its tokenizer, and pooling as sentence-transformers."""
        self._write_weights(path, read_pooler(self.source))
        shutil.copyfile(tokenizer_json(self.source), path / hub_folder.TOKENIZER)
        self._write_configs(path, self.source, max_tokens=max_tokens)

    def _write_weights(self, path: Path, pooler: dict[str, np.ndarray]) -> None:
        write_safetensors(path / hub_folder.WEIGHTS, stored(self.params) | pooler)

    def _write_configs(self, path: Path, source: Path, *, max_tokens: int) -> None:
        content = hub_folder.read_json(source)
        architecture = {"architectures": [_CLASSES[content["model_type"]]]}
        hub_folder.write_json(path / hub_folder.CONFIG, hub_folder.portable_config(content) | architecture)
        limit = {"model_max_length": max_tokens, "tokenizer_class": "PreTrainedTokenizerFast"}
        hub_folder.write_json(path / "tokenizer_config.json", _special_tokens(source, content) | limit)
        pooling: dict[str, Any] = {"word_embedding_dimension": self.dim}
        pooling |= {f"pooling_mode_{name}": pool == self.shape.pool for name, pool in _POOLINGS.items()}
        hub_folder.write_json(path / "1_Pooling" / "config.json", pooling)


def read_bert(folder: Path) -> Bert:
    """Reads a model folder; raises UserError if it is damaged or of another family."""
    shape = read_shape(folder)
    tokenizer = functools.partial(HubTokenizer, path=folder, vocabulary=shape.vocabulary)
    return Bert(**fields(shape), params=load(folder, shape), tokenizer=tokenizer, source=folder)


def fields(shape: BertShape) -> dict[str, Any]:
    """Fields of `Bert` that follow from its shape."""
    return {
        "dim": shape.hidden,
        "apply": functools.partial(apply, shape=shape),
        "max_tokens": shape.max_tokens,
        "tunable": tunable(shape),
        "shape": shape,
    }


class BertSpec(TextSpec):
    """A BERT from a model folder, a hub id ("owner/name[@revision]"), or of mBERT's sizes where it is not there."""

    model_folder = has_layers = True
    sizes = ("vocabulary", "hidden", "layers", "heads", "intermediate", "positions")
    requirement = "tokenizers"

    def load(self, path: Location) -> TextBackbone:
        return read_bert(hub_folder.locate(path, field=FIELD))

    def folder(self, path: Location) -> Path:
        return hub_folder.locate(path, field=FIELD)

    def fingerprint(self, path: Location) -> str:
        return hub_folder.fingerprint(self.folder(path))

    def credits(self, path: Location) -> Credits:
        return folder_credits(path or "", hub_folder.locate(path, field=FIELD))

    def abstract(self, path: Location, sizes: Mapping[str, int]) -> tuple[TextBackbone, str]:
        shape, origin = self._shape(path)
        shape = shape._replace(**sizes)
        check_divisible(shape, "hidden", "heads")
        params = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
        note = " ".join([f"{origin},", *(f"{name} {getattr(shape, name)}" for name in self.sizes)])
        source = Path(path or ".")
        tokenizer = functools.partial(HubTokenizer, path=source, vocabulary=shape.vocabulary)
        return Bert(**fields(shape), params=params, tokenizer=tokenizer, source=source), note

    def _shape(self, path: Location) -> tuple[BertShape, str]:
        """The shape, and where it comes from."""
        if path and Path(path).is_dir():
            return read_shape(Path(path)), str(path)
        return MBERT, f"mBERT-base's sizes ({path or 'no path'} is not a folder here)"

    def tokenizer_code(self, path: Path, *, max_tokens: int) -> TokenizerCode:
        file = (path / "tokenizer.json").as_posix()
        lines = f'tokenizer = tokenizers.Tokenizer.from_file("{file}")', f"tokenizer.enable_truncation({max_tokens})"
        return TokenizerCode("tokenizers", lines, "tokenizer.encode(text).ids")


SPEC = BertSpec()


def read_shape(folder: Path) -> BertShape:
    """Reads config.json, and the pooling of sentence-transformers where the folder states it.

    Raises:
      UserError: the model is of another family, has a part that is not supported, or an entry is missing or invalid;
        names the entry.
    """
    c = Entries(content=hub_folder.read_json(folder), folder=folder, missing="; get a fresh copy, of a BERT")
    family = c.one_of("model_type", _CLASSES)
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
        pool=_read_pool(folder),
    )


def _read_pool(folder: Path) -> Literal["mean", "cls"]:
    """The pooling of a sentence-transformers folder; "mean" where none is named."""
    if (folder / "2_Dense").exists():
        raise UserError(f"model folder {folder} has a dense layer after the pooling (2_Dense), which is not supported")
    if not (folder / "1_Pooling" / "config.json").is_file():
        return "mean"
    pooling = hub_folder.read_json(folder, "1_Pooling/config.json")
    chosen = pooling.get("pooling_mode")  # since sentence-transformers 6; older versions write a flag for each mode
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
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=source))


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
