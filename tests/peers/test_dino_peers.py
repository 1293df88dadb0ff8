"""DINOv2's and DINOv3's image towers compared with transformers (`make test-peers` installs it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cl2cm_jax.models.backbones.vision import dino
from cl2cm_jax.models.configured import vision_backbone
from cl2cm_jax.models.layers.dino import tail

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

KINDS = ("Dinov2", "Dinov2 gated", "Dinov2WithRegisters", "DINOv3ViT", "DINOv3ViT gated")


def random_model(kind: str, seed: int, folder: Path, *, side: int = 0) -> tuple[Any, int]:
    """A random small model in a folder, and the side of its pictures."""
    random, (name, _, gated) = np.random.default_rng(seed), kind.partition(" ")
    heads, patch = int(random.integers(1, 4)), int(random.integers(2, 7))
    own = patch * int(random.integers(2, 6))
    options: dict[str, Any] = {
        "hidden_size": heads * 4 * int(random.integers(1, 5)),
        "num_attention_heads": heads,
        "num_hidden_layers": int(random.integers(1, 4)),
        "image_size": own,
        "patch_size": patch,
        "layer_norm_eps": float(random.choice([1e-5, 1e-6])),
        "hidden_act": str(random.choice(["gelu", "silu"])),
    }
    if name == "DINOv3ViT":
        flags = ("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias")
        options |= {flag: bool(random.integers(0, 2)) for flag in flags}
        options |= {"intermediate_size": int(random.integers(5, 40)), "use_gated_mlp": bool(gated)}
        options |= {
            "num_register_tokens": int(random.integers(0, 4)),
            "rope_theta": float(random.choice([50.0, 100.0])),
        }
    else:
        options |= {"mlp_ratio": int(random.integers(1, 4)), "use_swiglu_ffn": bool(gated)}
        options |= {"qkv_bias": bool(random.integers(0, 2))}
        options |= {"num_register_tokens": 3} if name == "Dinov2WithRegisters" else {}
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options)).eval()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    side = side or own
    square = {"height": side, "width": side}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "BitImageProcessor", "size": square, "do_center_crop": False})
    )
    return model, side


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_transformers(kind: str, seed: int, tmp_path: Path) -> None:
    model, side = random_model(kind, seed, tmp_path)
    backbone = vision_backbone("dino", tmp_path)
    assert isinstance(backbone, dino.Dino)
    random = np.random.default_rng(seed)
    images = random.normal(size=(3, side, side, 3)).astype(np.float32)
    given = torch.tensor(images.transpose(0, 3, 1, 2))
    theirs = model(given)
    weights = random.normal(size=tuple(theirs.last_hidden_state.shape)).astype(np.float32)
    weights[:, 1 : backbone.shape.tokens] = 0  # registers are no output of ours
    (theirs.last_hidden_state * torch.tensor(weights)).sum().backward()
    shape, tokens = backbone.shape, backbone.shape.tokens

    @jax.jit
    def run(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            output = tail(params, images, shape=shape)
            assert output.pooled is not None
            total = (output.features * weights[:, tokens:]).sum() + (output.pooled * weights[:, 0]).sum()
            return total, output

        return jax.grad(loss, has_aux=True)(params)

    gradients, ours = run(backbone.params)
    states = theirs.last_hidden_state.detach().numpy()
    np.testing.assert_allclose(ours.features, states[:, tokens:], atol=1e-5)
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.detach().numpy(), atol=1e-5)
    for parameter in model.parameters():  # saved by the model itself, so that the names are those of the files
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    model.save_pretrained(tmp_path / "gradients")
    (tmp_path / "gradients" / "preprocessor_config.json").write_text(
        (tmp_path / "preprocessor_config.json").read_text()
    )
    expected = vision_backbone("dino", tmp_path / "gradients").params

    def close(found: Any, wanted: Any) -> None:
        np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1, float(np.abs(wanted).max(initial=0))))

    jax.tree.map(close, gradients, expected)


@pytest.mark.parametrize("grid", [2, 3, 5, 9])
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
def test_other_resolutions_equal_transformers(kind: str, grid: int, tmp_path: Path) -> None:
    model, _ = random_model(kind, 4, tmp_path)
    side = grid * model.config.patch_size
    backbone = vision_backbone("dino", tmp_path, image_size=side)
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    ours = jax.jit(backbone.apply)(backbone.params, images)
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_by_transformers(kind: str, tmp_path: Path) -> None:
    model, side = random_model(kind, 1, tmp_path / "model")
    backbone = vision_backbone("dino", tmp_path / "model")
    backbone.write(tmp_path / "written")
    again, info = getattr(transformers, backbone.hub_class).from_pretrained(
        tmp_path / "written", output_loading_info=True
    )
    assert not any(info[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images).pooler_output, model(images).pooler_output)
