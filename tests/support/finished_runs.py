"""Workdirs of finished runs without the training: random students on tiny or real backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from cl2cm_jax.config import cut_layer, defaults, flatten, from_flat, vision_first
from cl2cm_jax.evaluation.report import Group, Protocol, Results, to_json, write_results
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.models.trained_layers import vision_layers
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.training.workdir import CONFIG_FILE, save_student

GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = ["red car", "rotes Auto blau weiß noir rouge dog dog dog dog", "", "grün Haus"]
WORDS = {  # fields of a student that reads words and patches
    "student__text_tower": "attention",
    "student__text_pool": "mean",
    "student__vision_tower": "attention",
    "vision__pool": "tokens",
    "student__heads": 2,
    "student__hidden": 8,
}
METRICS = {"SumR": 260.0, "mR": 43.3} | {
    f"{direction}/{name}": 40.0
    for direction in ("text_to_vision", "vision_to_text")
    for name in ("R@1", "R@5", "R@10", "median_rank", "mean_rank", "mAP")
}


def write_finished_run(workdir: Path, *, seed: int = 0, **fields: Any) -> Path:
    """Writes config.json, model.safetensors and results.json of a student whose parameters are all random.

    Args:
      workdir: is made.
      seed: of the parameters.
      fields: of the configuration, "__" for ".".
    """
    config = from_flat(flatten(defaults()) | {name.replace("__", "."): value for name, value in fields.items()})
    text = text_backbone(config.text.backbone, config.text.path or None)
    vision = vision_backbone(config.vision.backbone, config.vision.path or None, image_size=config.vision.image_size)
    pooled = config.vision.pool == "backbone"
    frames = config.data.frames if pooled else vision.frames
    dim = vision.pooled if pooled else vision.dim
    words = text.dim if text.dim != text.sentence_size else 0
    shape = FeatureShape(text.sentence_size, dim, config.text.max_tokens, frames, words)
    first = cut_layer(config)
    tail = text.tunable.cut(text.params, first)[1] if first is not None and text.tunable else None
    layers = vision_layers(config)[1] if vision_first(config) is not None else None
    networks = Networks(config, shape, tunable=text.tunable)
    own = None if layers is None else layers["own"]
    student = networks.init(jax.random.key(seed), tail=tail, vision=own)
    keys = iter(jax.random.split(jax.random.key(seed + 1), 1000))
    student = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), student["student"])
    workdir.mkdir(parents=True)
    write_checked(workdir / CONFIG_FILE, to_json(flatten(config)))
    save_student(workdir, jax.tree.map(np.asarray, student))
    languages = (config.data.source, *config.data.targets)
    groups = {}
    if reported := config.data.reported:  # and a group of pictures with other numbers
        groups["hard pictures"] = Group(
            dict.fromkeys((*languages, *reported), METRICS | {"SumR": 10.0}), Protocol("test", 2, {})
        )
        groups["languages"] = Group(
            dict.fromkeys(reported, METRICS | {"SumR": 90.0}), Protocol("test", 8, dict.fromkeys(reported, 8))
        )
    results = Results(
        source=config.data.source,
        targets=config.data.targets,
        protocol=Protocol("test", 8, dict.fromkeys(languages, 8)),
        test=dict.fromkeys(languages, METRICS),
        validation=dict.fromkeys(languages, METRICS),
        config=flatten(config) | {"selected_step": 4},
        seconds={"train": 1.0},
        groups=groups,
    )
    write_results(workdir, results)
    return workdir
