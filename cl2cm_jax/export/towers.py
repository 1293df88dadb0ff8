"""Each tower of a bundle as one pure function of arrays: what the converters take.

All in float32. (Training keeps words and states of a frozen backbone as float16; see docs/export.md.)

Source: ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, student_first
from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.data.media.tokenise import prepared, tokenizer
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import TailOptions, TextOutput, VisionOutput, efficientnet_lite
from cl2cm_jax.models.networks import Networks, heads_of
from cl2cm_jax.models.towers import Text
from cl2cm_jax.models.trained_layers import in_two_parts
from cl2cm_jax.trained.bundle import Parts

Shape = tuple[int | str, ...]  # a name stands for any number
Inputs = dict[str, tuple[Shape, str]]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A tower as a function.

    Attributes:
      name: "text" or "vision".
      apply: (parameters, *inputs) -> unit vectors (B, D) float32; pure.
      params: nested dict of arrays.
      inputs: name -> (shape, dtype); names in shapes are those of axes of any length.
      output: name of the vectors.
      most: the longest that a named axis may be.
    """

    name: str
    apply: Callable[..., jax.Array]
    params: dict
    inputs: Inputs
    output: str
    most: dict[str, int]


def check_agrees(tower: Tower, example: dict[str, np.ndarray], found: np.ndarray, *, most: float, flag: str) -> float:
    """The largest difference of a converted tower's vectors from the tower's own.

    Args:
      tower: what was converted.
      example: inputs by name.
      found: the converted tower's vectors of them.
      most: that they may differ by.
      flag: that asked for the conversion, for messages.

    Raises:
      UserError: they differ by more.
    """
    expected = np.asarray(jax.jit(tower.apply)(tower.params, *(example[name] for name in tower.inputs)))
    worst = float(np.abs(found - expected).max())
    if not worst <= most:
        raise UserError(
            f"{flag}: the {tower.name} tower differs from JAX by {worst:.1e}, more than {most:.0e}; report it"
        )
    return worst


def text_tower(parts: Parts) -> Tower:
    """Token ids and mask (B, L) -> vectors. L is up to `text.max_tokens`, begin and end included."""
    config, backbone = _in_fp32(parts), parts.text
    networks = Networks(config, parts.manifest.shape, tunable=backbone.tunable)
    marked = cut_layer(config) is not None  # words come with the marks of begin and end, see `TextEncoder`
    own = student_first(config) is not None

    def run(params: dict, ids: jax.Array, mask: jax.Array) -> TextOutput:
        if backbone.tunable is None:
            return backbone.apply(params["backbone"], ids, mask)
        options = TailOptions(scan=False)  # converters see every layer
        return backbone.tunable.tail(params["backbone"], ids[..., None], mask, options=options)

    def apply(params: dict, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        output = run(params, input_ids.astype(jnp.int32), attention_mask.astype(bool))
        first = 0 if marked else 1
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
        most={"L": config.text.max_tokens},
    )


def vision_tower(parts: Parts) -> Tower:
    """Prepared pictures (B, 3, S, S), or clips (B, F, 3, S, S) with their mask (B, F), -> vectors."""
    config, vision = _in_fp32(parts), parts.vision
    networks = Networks(config, parts.manifest.shape)
    params = {"student": heads_of(parts.student)}
    if vision is None:
        frames, dim = parts.manifest.shape.max_frames, parts.manifest.shape.vision
        given: Inputs = {"features": (("B", frames, dim), "float32"), "frame_mask": (("B", frames), "int32")}

        def of_features(params: dict, features: jax.Array, frame_mask: jax.Array) -> jax.Array:
            return networks.encode_vision(params["student"], features, frame_mask.astype(bool))

        return Tower(name="vision", apply=of_features, params=params, inputs=given, output="image_embedding", most={})
    see, params["backbone"] = _seeing(parts)
    size, clips, shape = vision.preprocess.image_size, config.data.frames > 1, parts.manifest.shape

    def of_pictures(params: dict, pixel_values: jax.Array) -> jax.Array:
        features = see(params["backbone"], pixel_values.transpose(0, 2, 3, 1))
        return networks.encode_vision(params["student"], features, jnp.ones_like(features[..., 0], bool))

    def of_clips(params: dict, pixel_values: jax.Array, frame_mask: jax.Array) -> jax.Array:
        frames = pixel_values.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)
        features = see(params["backbone"], frames).reshape(-1, shape.max_frames, shape.vision)
        return networks.encode_vision(params["student"], features, frame_mask.astype(bool))

    picture: tuple[Shape, str] = (("B", 3, size, size), "float32")
    inputs: Inputs = {"pixel_values": picture}
    if clips:
        inputs = {
            "pixel_values": (("B", shape.max_frames, 3, size, size), "float32"),
            "frame_mask": (("B", shape.max_frames), "int32"),
        }
    apply = of_clips if clips else of_pictures
    return Tower(name="vision", apply=apply, params=params, inputs=inputs, output="image_embedding", most={})


def _seeing(parts: Parts) -> tuple[Callable[[dict, jax.Array], jax.Array], dict]:
    """(parameters, pictures (B, S, S, 3)) -> features (B, F, d), and the parameters."""
    config, vision = _in_fp32(parts), parts.vision
    assert vision is not None
    if vision.name == "efficientnet_lite0":  # the form that converters and accelerators know
        vision = replace(vision, apply=functools.partial(efficientnet_lite.apply, depthwise="conv"))
    vision = in_two_parts(config, vision)
    tunable, whole = vision.tunable, config.vision.pool == "tokens" or not vision.pooled

    def see(params: dict, pictures: jax.Array) -> jax.Array:
        if tunable is not None:
            output: VisionOutput = tunable.tail(params, pictures, pooled=True, options=TailOptions(scan=False))
        else:
            output = vision.apply(params, pictures)
        return output.features if whole or output.pooled is None else output.pooled[:, None]

    return see, vision.params


def _in_fp32(parts: Parts) -> ConfigDict:
    """The bundle's configuration, its products in fp32 and its layers one after the other."""
    config = parts.config.copy_and_resolve_references()
    config.train.compute, config.vision.scan, config.vision.remat = "float32", False, False
    return config


def text_inputs(parts: Parts, texts: list[str]) -> dict[str, np.ndarray]:
    """Texts as the text tower's inputs, (N, L) int32 each.

    Raises:
      UserError: the tokenizer's package is not installed.
    """
    text, config = parts.text, parts.config
    tokenize = tokenizer(
        text.tokenizer, max_tokens=config.text.max_tokens, path=text.tokenizer_path, vocabulary=text.vocabulary
    )
    tokens = tokenize([prepared(one, prefix=config.text.prefix, lowercase=config.text.lowercase) for one in texts])
    return {"input_ids": tokens.ids, "attention_mask": tokens.mask.astype(np.int32)}


def picture_inputs(parts: Parts, images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 of any sizes as the vision tower's inputs, (N, 3, S, S) float32; not of clips."""
    assert parts.vision is not None
    p = parts.vision.preprocess
    sized = [scaled(one, p.image_size, shorter_side=p.shorter_side, filter=p.filter) for one in images]
    return {"pixel_values": np.ascontiguousarray(p(np.stack(sized)).transpose(0, 3, 1, 2))}
