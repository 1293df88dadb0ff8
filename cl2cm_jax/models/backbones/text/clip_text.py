"""The text towers of CLIP, MetaCLIP 2, SigLIP and SigLIP 2 from a model folder or a hub id.

Folders are those of transformers, with both towers or the text tower alone, or those of OpenCLIP, XLM-R in a text tower
included. The sentence vector is the tower's own embedding in the space of both, not normalised.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location, TextBackbone, TextSpec, check_divisible
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_VOCABULARY
from cl2cm_jax.models.credits import Credits, folder_credits
from cl2cm_jax.models.dual_encoders import folder as dual
from cl2cm_jax.models.dual_encoders import open_clip, text_tokenizer
from cl2cm_jax.models.dual_encoders.xlm_tower import read_xlm_tower
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.layers.clip_text import ClipTextShape, apply, init, tunable
from cl2cm_jax.models.layers.transformer import ACTIVATIONS
from cl2cm_jax.models.pretrained import assign, shapes_of, weights_hash, write_safetensors
from cl2cm_jax.models.text_folder import FIELD, FolderSpec, FolderText

# Source: config.json of openai/clip-vit-base-patch32, its text tower.
CLIP_B32 = ClipTextShape(
    49408,
    512,
    12,
    8,
    2048,
    77,
    1e-5,
    "quick_gelu",
    pool="argmax",
    eos=2,
    padding=1,
    marks=(1, 1),
    projection=512,
    bias=False,
)
_CLASSES = {
    "clip": "CLIPTextModel",
    "metaclip_2": "MetaClip2TextModel",
    "siglip": "SiglipTextModel",
    "siglip2": "SiglipTextModel",
}
_OLD_EOS = 2  # in CLIP's first configurations, which meant the highest id
_LAYERS = "encoder.layers."
_LAYER = {
    **norm("attention_norm", "layer_norm1"),
    **linear("query", "self_attn.q_proj"),
    **linear("key", "self_attn.k_proj"),
    **linear("value", "self_attn.v_proj"),
    **linear("attended", "self_attn.out_proj"),
    **norm("mlp_norm", "layer_norm2"),
    **linear("mlp/up", "mlp.fc1"),
    **linear("mlp/down", "mlp.fc2"),
}
_ONCE = {
    "embeddings/word/embedding": "embeddings.token_embedding.weight",
    "embeddings/position/embedding": "embeddings.position_embedding.weight",
    **norm("pool/norm", "final_layer_norm"),
}
_PROJECTION = {"pool/project/kernel": "text_projection.weight"}


@dataclass(frozen=True, kw_only=True)
class ClipText(FolderText[ClipTextShape]):
    """A text tower with its weights."""

    families = {f"{name}_text_model": kind for name, kind in _CLASSES.items()}

    def stored(self) -> dict[str, np.ndarray]:
        return stored(self.params, self.shape)

    def write(self, path: Path, *, max_tokens: int) -> None:
        """Writes the text tower and its tokenizer as transformers does, whatever folder it was read from."""
        write_safetensors(path / hub_folder.WEIGHTS, self.stored())
        hub_folder.write_json(path / hub_folder.CONFIG, _content(self.source, self.shape))
        longest = self.fixed_tokens or max_tokens
        text_tokenizer.write(self.source, path, max_tokens=longest, sees_padding=bool(self.fixed_tokens))


class ClipTextSpec(FolderSpec[ClipTextShape]):
    """A text tower from a model folder or a hub id, or of CLIP ViT-B/32's sizes where it is not there."""

    families = dual.families("text")
    sizes = ("vocabulary", "hidden", "layers", "heads", "intermediate", "positions", "projection")
    usual = CLIP_B32, "CLIP ViT-B/32"
    pools_plainly = False

    def load(self, path: Location) -> TextBackbone:
        folder = self.folder(path)
        return read_xlm_tower(folder) or self.read(folder)

    def folder(self, path: Location) -> Path:
        return hub_folder.locate(path, field=FIELD)

    def fingerprint(self, path: Location) -> str:
        folder = self.folder(path)
        beside = [weights_hash(folder / name) for name in (text_tokenizer.SPIECE,) if (folder / name).is_file()]
        return hashlib.sha256(json.dumps([hub_folder.fingerprint(folder), *beside]).encode()).hexdigest()

    def hashes(self, path: Location) -> dict[str, str]:
        return hub_folder.hashes(self.folder(path), also=(open_clip.CONFIG, *text_tokenizer.FILES))

    def credits(self, path: Location) -> Credits:
        return folder_credits(path or "", self.folder(path))

    def abstract(self, path: Location, sizes: Mapping[str, int]) -> tuple[TextBackbone, str]:
        if path and Path(path).is_dir() and open_clip.hf_tower(Path(path)) is not None:
            return TextSpec.abstract(self, path, sizes)
        return super().abstract(path, sizes)

    def read_shape(self, folder: Path) -> ClipTextShape:
        return read_shape(folder)

    def read_params(self, folder: Path, shape: ClipTextShape) -> Params:
        return load(folder, shape)

    def resized(self, shape: ClipTextShape, sizes: Mapping[str, int]) -> ClipTextShape:
        shape = shape._replace(**sizes)
        check_divisible(shape, "hidden", "heads")
        return shape

    def abstract_of(self, shape: ClipTextShape, source: Path) -> ClipText:
        texts = text_tokenizer.Texts(source, shape.vocabulary, shape.marks, shape.pool, shape.eos)
        return ClipText(
            dim=shape.hidden,
            sentence_dim=shape.sentence,
            params=jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0)),
            apply=functools.partial(apply, shape=shape),
            tokenizer=functools.partial(text_tokenizer.DualTokenizer, texts=texts),
            max_tokens=shape.positions,
            fixed_tokens=0 if shape.causal else shape.positions,
            marks=shape.marks,
            tunable=tunable(shape),
            shape=shape,
            source=source,
        )


SPEC = ClipTextSpec()


def read_shape(folder: Path) -> ClipTextShape:
    """Reads the configuration of the text tower, alone or of a model with both towers.

    Raises:
      UserError: the model is of another family, or an entry is missing or invalid; names it.
    """
    family, model_type, c = dual.read_tower(folder, "text")
    siglip, projects = family == "siglip", dual.projects(folder, "text")
    hidden, heads = c.width_and_heads()
    projection = c.whole("projection_size", default=hidden) if siglip else c.whole("projection_dim", default=hidden)
    eos = 0 if siglip else c.whole("eos_token_id", minimum=0, maximum=MAX_VOCABULARY)
    highest = eos == _OLD_EOS and not model_type.startswith("metaclip")
    shape = ClipTextShape(
        vocabulary=c.whole("vocab_size", maximum=MAX_VOCABULARY),
        hidden=hidden,
        layers=c.whole("num_hidden_layers", maximum=MAX_LAYERS),
        heads=heads,
        intermediate=c.whole("intermediate_size"),
        positions=c.whole("max_position_embeddings"),
        epsilon=c.epsilon("layer_norm_eps", default=1e-5),
        activation=c.one_of("hidden_act", ACTIVATIONS),
        pool="last" if siglip else "argmax" if highest else "eos",
        eos=eos,
        padding=0,
        marks=text_tokenizer.marks(folder, siglip=siglip),
        projection=projection if siglip or projects else 0,
        bias=siglip,
    )
    if siglip:
        default = c.whole("pad_token_id", minimum=0, maximum=MAX_VOCABULARY)
        shape = shape._replace(padding=text_tokenizer.padding(folder, default=default))
    return shape


def _content(source: Path, shape: ClipTextShape) -> dict[str, Any]:
    """config.json of the text tower alone."""
    _, model_type, entries = dual.read_tower(source, "text")
    content = entries.content
    name = model_type.removesuffix("_text_model")
    kept = {key: value for key, value in hub_folder.portable_config(content).items() if not key.endswith("_config")}
    own: dict[str, Any] = {"model_type": "siglip_text_model" if shape.bias else model_type}
    own["architectures"] = [_CLASSES[name] + ("WithProjection" if shape.projection and not shape.bias else "")]
    if shape.causal:
        return kept | own | ({"projection_dim": shape.projection} if shape.projection else {})
    return kept | own | {"projection_size": shape.projection, "pad_token_id": shape.padding}


def load(folder: Path, shape: ClipTextShape) -> Params:
    """Reads the weights into nested float32 parameters.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape; names each.
    """
    tensors, named = dual.read_tensors(folder, "text")
    abstract = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
    arrays = hub_folder.arranged(
        tensors,
        once=_once(shape),
        layer=_LAYER,
        prefix=_LAYERS,
        shapes=shapes_of(abstract),
        source=folder,
        named=named,
    )
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=folder))


def stored(params: Params, shape: ClipTextShape) -> dict[str, np.ndarray]:
    """The tensors of the whole tower in the names and layout of transformers."""
    arrays = {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    tensors = hub_folder.unarranged(arrays, once=_once(shape), layer=_LAYER, prefix=_LAYERS, unrelay=hub_folder.relaid)
    kept = tuple(_PROJECTION.values())
    return {name if name in kept else f"text_model.{name}": array for name, array in tensors.items()}


def _once(shape: ClipTextShape) -> dict[str, str]:
    """Our names -> those of transformers, outside the layers."""
    if shape.bias:
        return _ONCE | linear("pool/project", "head")
    return _ONCE | (_PROJECTION if shape.projection else {})
