"""ModernBERT and mmBERT (1,800 languages) from a Hugging Face model folder or a hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cl2cm_jax.models.backbone import check_divisible
from cl2cm_jax.models.backbones.text._rotary import Names, RotarySpec, RotaryText
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, Entries
from cl2cm_jax.models.files.pooling_file import read_pool
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.layers.rotary import RotaryShape
from cl2cm_jax.models.layers.transformer import ACTIVATIONS
from cl2cm_jax.models.text_folder import read_entries

_FULL, _SLIDING = "full_attention", "sliding_attention"
_EVERY, _WINDOW = 3, 128  # transformers' own where config.json does not say
_THETAS = {_FULL: ("global_rope_theta", 160_000.0), _SLIDING: ("local_rope_theta", 10_000.0)}
# Source: config.json of jhu-clsp/mmBERT-base.
MMBERT = RotaryShape(
    family="modernbert",
    vocabulary=256_000,
    hidden=768,
    layers=22,
    heads=12,
    key_heads=12,
    head=64,
    intermediate=1152,
    max_tokens=8192,
    epsilon=1e-5,
    activation="gelu",
    biases=(),
    causal=False,
    theta=160_000.0,
    local_theta=160_000.0,
    window=64,
    local=tuple(layer % _EVERY > 0 for layer in range(22)),
    pool="mean",
    marks=(1, 1),
)


class ModernBert(RotaryText):
    """A ModernBERT with its weights."""

    families = {"modernbert": "ModernBertModel"}
    names = Names(
        once={
            "embeddings/word/embedding": "embeddings.tok_embeddings.weight",
            **norm("embeddings/norm", "embeddings.norm"),
            **norm("norm", "final_norm"),
        },
        layer={
            **norm("attention_norm", "attn_norm"),
            **linear("query", "attn.Wqkv"),
            **linear("key", "attn.Wqkv"),
            **linear("value", "attn.Wqkv"),
            **linear("attended", "attn.Wo"),
            **norm("mlp_norm", "mlp_norm"),
            **linear("mlp/gate", "mlp.Wi"),
            **linear("mlp/up", "mlp.Wi"),
            **linear("mlp/down", "mlp.Wo"),
        },
        heads=("head.", "decoder.", "classifier."),
        absent=("layers.0.attn_norm.weight", "layers.0.attn_norm.bias"),
    )


class ModernBertSpec(RotarySpec):
    """A ModernBERT from a model folder or a hub id, or of mmBERT's sizes where it is not there."""

    text = ModernBert
    families = ModernBert.families
    sizes = ("vocabulary", "hidden", "layers", "heads", "intermediate")
    usual = MMBERT, "mmBERT-base"

    def resized(self, shape: RotaryShape, sizes: Mapping[str, int]) -> RotaryShape:
        shape = shape._replace(**sizes)
        check_divisible(shape, "hidden", "heads")
        return shape._replace(key_heads=shape.heads, head=shape.hidden // shape.heads)

    def read_shape(self, folder: Path) -> RotaryShape:
        c, family = read_entries(folder, self.families)
        hidden, heads = c.width_and_heads()
        layers = c.whole("num_hidden_layers", maximum=MAX_LAYERS)
        parts = {"norm": "norm_bias", "attention": "attention_bias", "mlp": "mlp_bias"}
        return RotaryShape(
            family=family,
            vocabulary=c.whole("vocab_size", maximum=MAX_VOCABULARY),
            hidden=hidden,
            layers=layers,
            heads=heads,
            key_heads=heads,
            head=c.even("hidden_size", hidden // heads),
            intermediate=c.whole("intermediate_size"),
            max_tokens=c.whole("max_position_embeddings"),
            epsilon=c.epsilon("norm_eps", default=1e-5),
            activation=c.one_of("hidden_activation", ACTIVATIONS, default="gelu"),
            biases=tuple(part for part, name in parts.items() if c.flag(name, default=False)),
            causal=False,
            theta=_theta(c, _FULL),
            local_theta=_theta(c, _SLIDING),
            window=c.whole("local_attention", maximum=MAX_WIDTH, default=_WINDOW) // 2,
            local=_local(c, layers),
            pool=read_pool(folder, default="mean"),
            marks=(1, 1),
        )


SPEC = ModernBertSpec()


def _local(c: Entries, layers: int) -> tuple[bool, ...]:
    """Which layers have a window: listed since transformers 5, before all but each n-th."""
    if c.has("layer_types"):
        return tuple(kind == _SLIDING for kind in c.each_of("layer_types", (_FULL, _SLIDING), count=layers))
    every = c.whole("global_attn_every_n_layers", default=_EVERY)
    return tuple(layer % every > 0 for layer in range(layers))


def _theta(c: Entries, kind: str) -> float:
    """The base of the rotary angles in layers of this kind: by kind since transformers 5, before by two entries."""
    rope = c.part("rope_parameters").part(kind)
    for entries in (rope, c.part("rope_scaling")):
        entries.rotary_kind()
    old, default = _THETAS[kind]
    return rope.positive("rope_theta") if rope.has("rope_theta") else c.positive(old, default=default)
