"""Makes dinov2/, dinov2_registers/ and dinov3/: small random image towers of the reference, with what they say.

How the committed files were made, in an environment of its own (the tests need no torch):

    pip install torch==2.13.0 transformers==5.24.0
    python tests/golden/make_dino.py

Each folder holds config.json, model.safetensors, preprocessor_config.json and outputs.npz with
  images: (2, 24, 24, 3) float32, random; the first two models are of 40 pixels, so their positions are interpolated.
  grid: (2, 9, 16) float32, the reference's last hidden state of the patches.
  pooled: (2, 16) float32, that of the class token.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TOKENS = {"dinov2": 1, "dinov2_registers": 3, "dinov3": 3}


def main() -> None:
    """Runs the reference towers and writes the golden files beside this script."""
    import torch
    import transformers as t

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    registers = {"num_register_tokens": 2}
    models = {
        "dinov2": t.Dinov2Model(t.Dinov2Config(**sizes, image_size=40, mlp_ratio=2, use_swiglu_ffn=True)),
        "dinov2_registers": t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**sizes, **registers, image_size=40, mlp_ratio=2)
        ),
        "dinov3": t.DINOv3ViTModel(t.DINOv3ViTConfig(**sizes, **registers, image_size=24, intermediate_size=24)),
    }
    images = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    for name, model in models.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        torch.manual_seed(0)
        for parameter in model.eval().parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(HERE / name)
        crop = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}, "resample": 3}
        square = {"size": {"height": 24, "width": 24}, "do_center_crop": False, "resample": 2}
        usual = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        kind = "DINOv3ViTImageProcessorFast" if name == "dinov3" else "BitImageProcessor"
        content = {"image_processor_type": kind} | (square if name == "dinov3" else crop) | usual
        (HERE / name / "preprocessor_config.json").write_text(json.dumps(content, indent=2) + "\n")
        with torch.no_grad():
            output = model(torch.tensor(images.transpose(0, 3, 1, 2)))
        grid = output.last_hidden_state.numpy()[:, TOKENS[name] :]
        np.savez(HERE / name / "outputs.npz", images=images, grid=grid, pooled=output.pooler_output.numpy())


if __name__ == "__main__":
    main()
