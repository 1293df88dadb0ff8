"""Makes clip/ and siglip/: two small random image towers of the reference implementation, with what they say.

How the committed files were made, in an environment of its own (the tests need no torch):

    pip install torch==2.13.0 transformers==5.23.0
    python tests/golden/make_clip_vit.py

Each folder holds config.json, model.safetensors, preprocessor_config.json and outputs.npz with
  images: (2, 24, 24, 3) float32, random.
  grid: (2, 9, 16) float32, the reference's last hidden state, the class token left out.
  pooled: (2, p) float32, its global vector.
  picture: (40, 31, 3) uint8; prepared: (24, 24, 3) float32, what the model's own preprocessing makes of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    """Runs the reference towers and writes the golden files beside this script."""
    import torch
    import transformers as t

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"image_size": 24, "patch_size": 8}
    crop = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    kinds = {
        "clip": (
            t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**sizes, projection_dim=12)),
            t.CLIPImageProcessorPil(**crop),
        ),
        "siglip": (
            t.SiglipVisionModel(t.SiglipVisionConfig(**sizes)),
            t.SiglipImageProcessorPil(size={"height": 24, "width": 24}),
        ),
    }
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 24, 24, 3)).astype(np.float32)
    picture = random.integers(0, 256, (40, 31, 3)).astype(np.uint8)
    for name, (model, processor) in kinds.items():
        torch.manual_seed(0)
        for parameter in model.eval().parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(HERE / name)
        processor.save_pretrained(HERE / name)
        with torch.no_grad():
            output = model(torch.tensor(images.transpose(0, 3, 1, 2)))
        prepared = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        is_clip = name == "clip"
        np.savez(
            HERE / name / "outputs.npz",
            images=images,
            grid=output.last_hidden_state.numpy()[:, is_clip:],
            pooled=(output.image_embeds if is_clip else output.pooler_output).numpy(),
            picture=picture,
            prepared=prepared.astype(np.float32),
        )


if __name__ == "__main__":
    main()
