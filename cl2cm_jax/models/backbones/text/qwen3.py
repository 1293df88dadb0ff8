"""Qwen3 and Qwen3-Embedding from a Hugging Face model folder or a hub id: the last token's state is the sentence."""

from __future__ import annotations

from pathlib import Path

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones.text._rotary import Names, RotarySpec, RotaryText
from cl2cm_jax.models.config_entries import MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, Entries
from cl2cm_jax.models.files.pooling_file import read_pool
from cl2cm_jax.models.files.slow_tokenizer import tokenizer_json
from cl2cm_jax.models.files.tokenizer_file import marks_of
from cl2cm_jax.models.hub_folder import linear, norm, tokenizer_files
from cl2cm_jax.models.layers.rotary import RotaryShape
from cl2cm_jax.models.layers.transformer import ACTIVATIONS
from cl2cm_jax.models.text_folder import read_entries

_FULL, _SLIDING = "full_attention", "sliding_attention"
_HEAD, _HEADS, _WINDOW, _FULL_LAYERS, _THETA = 128, 32, 4096, 28, 10_000.0  # transformers' own, as above
_END = (0, 1)  # marks of Qwen3-Embedding: the end of the text alone
# Source: config.json of Qwen/Qwen3-Embedding-0.6B.
EMBEDDING = RotaryShape(
    family="qwen3",
    vocabulary=151_669,
    hidden=1024,
    layers=28,
    heads=16,
    key_heads=8,
    head=128,
    intermediate=3072,
    max_tokens=32_768,
    epsilon=1e-6,
    activation="silu",
    biases=(),
    causal=True,
    theta=1_000_000.0,
    local_theta=1_000_000.0,
    window=0,
    local=(False,),
    pool="lasttoken",
    marks=_END,
)


class Qwen3(RotaryText):
    """A Qwen3 with its weights."""

    families = {"qwen3": "Qwen3Model"}
    names = Names(
        once={"embeddings/word/embedding": "embed_tokens.weight", **norm("norm", "norm")},
        layer={
            **norm("attention_norm", "input_layernorm"),
            **linear("query", "self_attn.q_proj"),
            **linear("key", "self_attn.k_proj"),
            **linear("value", "self_attn.v_proj"),
            **linear("attended", "self_attn.o_proj"),
            **norm("query_norm", "self_attn.q_norm"),
            **norm("key_norm", "self_attn.k_norm"),
            **norm("mlp_norm", "post_attention_layernorm"),
            **linear("mlp/gate", "mlp.gate_proj"),
            **linear("mlp/up", "mlp.up_proj"),
            **linear("mlp/down", "mlp.down_proj"),
        },
        heads=("lm_head.", "score."),
    )


class Qwen3Spec(RotarySpec):
    """A Qwen3 from a model folder or a hub id, or of Qwen3-Embedding-0.6B's sizes where it is not there."""

    text = Qwen3
    families = Qwen3.families
    sizes = ("vocabulary", "hidden", "layers", "heads", "key_heads", "head", "intermediate")
    usual = EMBEDDING, "Qwen3-Embedding-0.6B"

    def read_shape(self, folder: Path) -> RotaryShape:
        c, family = read_entries(folder, self.families)
        layers = c.whole("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.whole("num_attention_heads", maximum=MAX_HEADS)
        local = _local(c, layers)
        causal = c.flag("is_causal", default=True)
        theta = _theta(c)
        window = c.whole("sliding_window", default=_WINDOW) - causal if any(local) else 0  # a causal one counts itself
        return RotaryShape(
            family=family,
            vocabulary=c.whole("vocab_size", maximum=MAX_VOCABULARY),
            hidden=c.whole("hidden_size"),
            layers=layers,
            heads=heads,
            key_heads=_key_heads(c, heads),
            head=c.even("head_dim", c.whole("head_dim", default=_HEAD)),
            intermediate=c.whole("intermediate_size"),
            max_tokens=c.whole("max_position_embeddings"),
            epsilon=c.epsilon("rms_norm_eps", default=1e-6),
            activation=c.one_of("hidden_act", ACTIVATIONS, default="silu"),
            biases=("attention",) if c.flag("attention_bias", default=False) else (),
            causal=causal,
            theta=theta,
            local_theta=theta,
            window=window,
            local=local,
            pool=read_pool(folder, default="lasttoken"),
            marks=marks_of(tokenizer_json(folder)) if tokenizer_files(folder) else _END,
        )


SPEC = Qwen3Spec()


def _key_heads(c: Entries, heads: int) -> int:
    """Heads of keys and values, each of which serves as many of the queries'."""
    named = "num_key_value_heads" in c.content
    found = heads if named and not c.has("num_key_value_heads") else c.whole("num_key_value_heads", default=_HEADS)
    if heads % found:
        raise UserError(
            f"model folder {c.folder}: config.json: num_attention_heads={heads} is not divisible by "
            f"num_key_value_heads={found}; correct one, or get a fresh copy"
        )
    return found


def _local(c: Entries, layers: int) -> tuple[bool, ...]:
    """Which layers have a window: none, or those listed, or those from `max_window_layers` on."""
    if not c.flag("use_sliding_window", default=False):
        if c.has("layer_types"):
            c.each_of("layer_types", (_FULL,), count=layers)
        return (False,)
    if c.has("layer_types"):
        return tuple(kind == _SLIDING for kind in c.each_of("layer_types", (_FULL, _SLIDING), count=layers))
    first = c.whole("max_window_layers", minimum=0, default=_FULL_LAYERS)
    return tuple(layer >= first for layer in range(layers))


def _theta(c: Entries) -> float:
    """The base of the rotary angles: in an object since transformers 5, before that an entry of its own."""
    rope = c.part("rope_scaling" if c.has("rope_scaling") else "rope_parameters")
    rope.rotary_kind()
    return rope.positive("rope_theta") if rope.has("rope_theta") else c.positive("rope_theta", default=_THETA)
