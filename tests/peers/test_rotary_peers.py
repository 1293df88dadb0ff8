"""ModernBERT and Qwen3 compared with transformers (`make test-peers` installs it); see `test_bundle_peers` too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cl2cm_jax.models.configured import text_backbone
from cl2cm_jax.models.text_folder import FolderText

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

LENGTH = 64


def modernbert(random: np.random.Generator, layers: int) -> Any:
    heads, full, sliding = int(random.integers(1, 5)), "full_attention", "sliding_attention"
    entries: dict[str, Any] = {"global_attn_every_n_layers": int(random.integers(1, 4))}
    if random.integers(2):
        entries["layer_types"] = [str(random.choice([full, sliding])) for _ in range(layers)]
    if random.integers(2):
        thetas = {full: float(random.integers(100, 200_000)), sliding: float(random.integers(100, 20_000))}
        entries["rope_parameters"] = {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        }
    return transformers.ModernBertConfig(
        hidden_size=heads * 2 * int(random.integers(1, 6)),
        num_attention_heads=heads,
        local_attention=int(random.integers(2, 20)),
        norm_bias=bool(random.integers(2)),
        attention_bias=bool(random.integers(2)),
        mlp_bias=bool(random.integers(2)),
        hidden_activation=str(random.choice(["gelu", "relu", "silu"])),
        **common(random, layers),
        **entries,
    )


def qwen3(random: np.random.Generator, layers: int) -> Any:
    key_heads = int(random.integers(1, 4))
    rope = {"rope_type": "default", "rope_theta": float(random.integers(100, 2_000_000))}
    return transformers.Qwen3Config(
        hidden_size=int(random.integers(5, 40)),
        num_attention_heads=key_heads * int(random.integers(1, 4)),
        num_key_value_heads=key_heads,
        head_dim=2 * int(random.integers(1, 8)),
        attention_bias=bool(random.integers(2)),
        use_sliding_window=bool(random.integers(2)),
        sliding_window=int(random.integers(1, 20)),
        max_window_layers=int(random.integers(0, layers + 1)),
        rope_parameters=rope if random.integers(2) else None,
        **common(random, layers),
    )


def common(random: np.random.Generator, layers: int) -> dict[str, int]:
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": int(random.integers(30, 90)), "intermediate_size": int(random.integers(5, 50))}
    return marks | sizes | {"num_hidden_layers": layers, "max_position_embeddings": LENGTH}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", [modernbert, qwen3])
def test_states_and_gradients_equal_transformers(family: Any, seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    config = family(random, int(random.integers(1, 7)))
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    backbone = text_backbone(family.__name__, tmp_path)
    assert isinstance(backbone, FolderText)
    mask = np.arange(LENGTH) < random.integers(1, LENGTH + 1, (5, 1))
    mask[0] = True  # beyond every window
    ids = np.where(mask, random.integers(3, config.vocab_size, mask.shape), 0).astype(np.int32)
    weights = random.normal(size=(*mask.shape, config.hidden_size)).astype(np.float32) * mask[..., None]
    model = model.double()  # torch's gradients in float32 are off by 1e-5, four times as much as ours
    theirs = model(torch.tensor(ids.astype(np.int64)), torch.tensor(mask.astype(np.int64))).last_hidden_state
    (theirs * torch.tensor(weights)).sum().backward()

    @jax.jit
    def run(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            words = backbone.apply(params, ids, mask).words
            return (words * weights).sum(), words

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, ours), gradients = run(backbone.params)
    np.testing.assert_allclose(ours, theirs.detach().numpy() * mask[..., None], atol=1e-5)
    stored = dataclasses.replace(backbone, params=gradients).stored()
    expected = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert set(stored) == set(expected)
    for name, gradient in expected.items():
        scale = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(stored[name] / scale, gradient / scale, atol=1e-5, err_msg=name)
