"""Each tower of a bundle as one pure function of arrays, in float32: the input of the converters.

Training keeps words and states of a frozen backbone as float16; see docs/export.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, student_first
from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbone import TailOptions, TextOutput, VisionOutput
from cl2cm_jax.models.configured import text_prompt
from cl2cm_jax.models.networks import Networks, heads_of
from cl2cm_jax.models.tokenizers import prepared
from cl2cm_jax.models.towers import Text
from cl2cm_jax.models.trained_layers import in_two_parts
from cl2cm_jax.trained.bundle import Parts

Shape = tuple[int | str, ...]  # a name is an axis of any length
Inputs = dict[str, tuple[Shape, str]]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A tower as a function.

    Attributes:
      name: "text" or "vision".
      apply: (parameters, *inputs) -> unit vectors (B, D) float32; pure.
      params: nested dict of arrays.
      inputs: name -> (shape, dtype); names in shapes are axes of any length.
      output: name of the vectors.
      limits: the longest that a named axis may be.
      metadata: what a program needs to know to make the inputs.
    """

    name: str
    apply: Callable[..., jax.Array]
    params: dict
    inputs: Inputs
    output: str
    limits: dict[str, int]
    metadata: Mapping[str, str] = field(default_factory=dict)


def check_agrees(
    tower: Tower, example: dict[str, np.ndarray], found: np.ndarray, *, tolerance: float, flag: str
) -> float:
    """The largest difference of a converted tower's vectors from the tower's own.

    Args:
      tower: the original.
      example: inputs by name.
      found: the converted tower's vectors of them.
      tolerance: of the difference.
      flag: of the conversion, for messages.

    Raises:
      UserError: they differ by more.
    """
    expected = np.asarray(jax.jit(tower.apply)(tower.params, *(example[name] for name in tower.inputs)))
    worst = float(np.abs(found - expected).max())
    if not worst <= tolerance:
        raise UserError(
            f"{flag}: the {tower.name} tower differs from JAX by {worst:.1e}, more than {tolerance:.0e}; report it"
        )
    return worst


def text_tower(parts: Parts) -> Tower:
    """Token ids and mask (B, L) -> vectors. L is up to `text.max_tokens`, special tokens included."""
    config, backbone = _in_fp32(parts), parts.text
    networks = Networks(config, parts.manifest.shape, tunable=backbone.tunable)
    marked = cut_layer(config) is not None  # words include special tokens, see `TextEncoder`
    own = student_first(config) is not None

    def run(params: dict, ids: jax.Array, mask: jax.Array) -> TextOutput:
        if backbone.tunable is None:
            return backbone.apply(params["backbone"], ids, mask)
        options = TailOptions(scan=False)  # unrolled for converters
        return backbone.tunable.tail(params["backbone"], ids[..., None], mask, options=options)

    def apply(params: dict, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        output = run(params, input_ids.astype(jnp.int32), attention_mask.astype(bool))
        first = 0 if marked else backbone.marks[0]
        text = Text(output.sentence)
        if networks.reads_words or own:
            text = text._replace(words=output.words[:, first:], mask=output.mask[:, first:])
        return networks.encode_text(params["student"], text)

    ids: tuple[Shape, str] = (("B", "L"), "int32")
    return Tower(
        name="text",
        apply=apply,
        params={"backbone": backbone.params, "student": heads_of(parts.student)},
        inputs={"input_ids": ids, "attention_mask": ids},
        output="sentence_embedding",
        limits={"L": config.text.max_tokens},
        metadata={
            "prompt": text_prompt(config),
            "lowercase": str(config.text.lowercase).lower(),
            "max_tokens": str(config.text.max_tokens),
        },
    )


def vision_tower(parts: Parts) -> Tower:
    """Preprocessed images (B, 3, S, S), or clips (B, F, 3, S, S) with their mask (B, F), -> vectors."""
    config, vision = _in_fp32(parts), parts.vision
    networks = Networks(config, parts.manifest.shape)
    params = {"student": heads_of(parts.student)}
    if vision is None:
        frames, dim = parts.manifest.shape.max_frames, parts.manifest.shape.vision
        given: Inputs = {"features": (("B", frames, dim), "float32"), "frame_mask": (("B", frames), "int32")}

        def of_features(params: dict, features: jax.Array, frame_mask: jax.Array) -> jax.Array:
            return networks.encode_vision(params["student"], features, frame_mask.astype(bool))

        return Tower(name="vision", apply=of_features, params=params, inputs=given, output="image_embedding", limits={})
    encode, params["backbone"] = _encode_images(parts)
    size, clips, shape = vision.preprocess.image_size, config.data.frames > 1, parts.manifest.shape

    def of_images(params: dict, pixel_values: jax.Array) -> jax.Array:
        features = encode(params["backbone"], pixel_values.transpose(0, 2, 3, 1))
        return networks.encode_vision(params["student"], features, jnp.ones_like(features[..., 0], bool))

    def of_clips(params: dict, pixel_values: jax.Array, frame_mask: jax.Array) -> jax.Array:
        frames = pixel_values.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)
        features = encode(params["backbone"], frames).reshape(-1, shape.max_frames, shape.vision)
        return networks.encode_vision(params["student"], features, frame_mask.astype(bool))

    image: tuple[Shape, str] = (("B", 3, size, size), "float32")
    inputs: Inputs = {"pixel_values": image}
    if clips:
        inputs = {
            "pixel_values": (("B", shape.max_frames, 3, size, size), "float32"),
            "frame_mask": (("B", shape.max_frames), "int32"),
        }
    apply = of_clips if clips else of_images
    return Tower(name="vision", apply=apply, params=params, inputs=inputs, output="image_embedding", limits={})


def _encode_images(parts: Parts) -> tuple[Callable[[dict, jax.Array], jax.Array], dict]:
    """(parameters, images (B, S, S, 3)) -> features (B, F, d), and the parameters."""
    config, vision = _in_fp32(parts), parts.vision
    assert vision is not None
    vision = in_two_parts(config, replace(vision, apply=vision.portable_apply or vision.apply))
    tunable, whole = vision.tunable, config.vision.pool == "tokens" or not vision.pooled

    def encode(params: dict, images: jax.Array) -> jax.Array:
        if tunable is not None:
            output: VisionOutput = tunable.tail(params, images, pooled=True, options=TailOptions(scan=False))
        else:
            output = vision.apply(params, images)
        return output.features if whole or output.pooled is None else output.pooled[:, None]

    return encode, vision.params


def _in_fp32(parts: Parts) -> ConfigDict:
    """The bundle's configuration, with fp32 matrix products and unrolled layers."""
    config = parts.config.copy_and_resolve_references()
    config.train.compute, config.vision.scan, config.vision.remat = "float32", False, False
    return config


def text_inputs(parts: Parts, texts: list[str]) -> dict[str, np.ndarray]:
    """Texts as the text tower's inputs, (N, L) int32 each.

    Raises:
      UserError: the tokenizer's package is not installed.
    """
    text, config = parts.text, parts.config
    tokenize = text.tokenizer(max_tokens=config.text.max_tokens)
    tokens = tokenize([prepared(one, prompt=text_prompt(config), lowercase=config.text.lowercase) for one in texts])
    return {"input_ids": tokens.ids, "attention_mask": tokens.mask.astype(np.int32)}


def image_inputs(parts: Parts, images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Images (H, W, 3) uint8 of any sizes as the vision tower's inputs, (N, 3, S, S) float32; no clips."""
    assert parts.vision is not None
    p = parts.vision.preprocess
    sized = [scaled(one, p.image_size, shorter_side=p.shorter_side, filter=p.filter, even=p.even) for one in images]
    return {"pixel_values": np.ascontiguousarray(p(np.stack(sized)).transpose(0, 3, 1, 2))}
