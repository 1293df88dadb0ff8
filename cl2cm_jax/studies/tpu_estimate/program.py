"""The training step lowered and compiled for TPUs from shapes alone, without arrays or devices."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import ShapeDtypeStruct as Shape
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer
from cl2cm_jax.errors import UserError, not_installed
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.parallel.mesh import batch_shards, check_batch_size
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import train_program
from cl2cm_jax.studies.tpu_estimate.models import Models

_STEPS = 10_000  # of a stage; the schedules need a length, which does not change the cost of a step


class Topology(NamedTuple):
    """TPU chips that need not exist."""

    name: str  # e.g. "v5e:4x4"
    sides: tuple[int, ...]  # of the torus or mesh, e.g. (4, 4)
    devices: tuple[Any, ...]  # one per chip

    @property
    def generation(self) -> str:
        return self.name.partition(":")[0]


# Without a TPU host, libtpu must neither query its metadata server nor lock its chips.
_NO_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology(name: str) -> Topology:
    """The chips of a topology by libtpu's name.

    Raises:
      UserError: libtpu is not installed, or does not know the topology.
    """
    sides = name.partition(":")[2].split("x")
    example = "name one such as v5e:4x4 or v5p:2x2x1"
    if not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"--topology={name!r} is not a chip and its sides; {example}")
    if importlib.util.find_spec("libtpu") is None:
        raise not_installed("libtpu", run="in a checkout pip install -e '.[tpu]'")
    for variable, value in _NO_HOST.items():
        os.environ.setdefault(variable, value)
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={name} is not known ({reason}); {example}") from error
    return Topology(name, tuple(map(int, sides)), tuple(devices))


def batch_shapes(config: ConfigDict, networks: Networks, models: Models, mesh: Mesh, *, tokens: int) -> dict[str, Any]:
    """Shapes of a batch of `data.pipeline.batches` whose captions all have `tokens` tokens.

    Captions are not packed, which is the worst case and that of long captions.
    """
    targets = len((*config.data.targets, *config.data.reported))
    images = config.train.batch_size
    captions = targets if config.train.targets_per_image == -1 else config.train.targets_per_image
    width, first = models.features.words or models.features.text, cut_layer(config)

    def side(*rows: int) -> dict[str, Shape]:
        shapes = {"sentence": Shape((*rows, models.features.text), np.float32)}
        if networks.reads_words:
            shapes["words"] = Shape((*rows, tokens, width), np.float32)
            shapes["mask"] = Shape((*rows, tokens), bool)
        if first is not None:
            states, dtype = (1, np.int32) if first == -1 else (width, np.float16)
            shapes["states"] = Shape((*rows, tokens, states), dtype)
            shapes |= {name: Shape((*rows, tokens), bool) for name in ("tokens", "mask")}
        return shapes

    frames, dim = models.features.max_frames, models.features.vision
    if models.vision is not None:
        pixels = models.vision.preprocess.image_size
        vision = {"pixels": Shape((images, pixels, pixels, 3), np.uint8)}
    else:
        features = Shape((images, frames, dim), np.float32)
        vision = {"features": features, "mask": Shape((images, frames), bool)}
    packing = {}
    if config.text.pack and first is not None:
        groups = batch_shards(mesh) * config.train.accumulation
        packing["packing"] = {
            "take": Shape((groups, 0, tokens), np.int32),
            "put": Shape((images, 1 + captions, tokens), np.int32),
        }
    return {
        "vision": vision,
        "source": side(images),
        "target": side(images, captions),
        **packing,
        "target_language": Shape((images, captions), np.int32),
        "target_is_valid": Shape((images, captions), bool),
        "source_caption": Shape((images,), np.int32),
        "target_caption": Shape((images, captions), np.int32),
        "image_id": Shape((images,), np.int32),
        "is_valid": Shape((images,), bool),
    }


def lowered(config: ConfigDict, models: Models, mesh: Mesh, *, tokens: int, stage: str) -> jax.stages.Lowered:
    """The training step, ready to be compiled for the devices of `mesh`, which need not exist.

    `config.train.batch_size` is that of all devices, `tokens` the caption length; `stage` is "teacher" (trained alone)
    or "student".

    Raises:
      UserError: the mesh cannot split the batch.
    """
    check_batch_size(config.train.batch_size, mesh, accumulation=config.train.accumulation)
    networks = Networks(config, models.features, tunable=models.tunable, vision=models.vision)
    stages = Stages(_STEPS if stage == "teacher" else 0, _STEPS)
    program = train_program(
        config,
        networks,
        make_optimizers(config, stages, warmup=0),
        mesh=mesh,
        stages=stages,
        languages=1 + len((*config.data.targets, *config.data.reported)),
        tail=models.tail,
        vision=models.vision_params,
    )
    batch = batch_shapes(config, networks, models, mesh, tokens=tokens)
    return program.step.lower(program.state, batch, program.pretrained, Shape((), np.uint32), stage)


class OutOfMemory(Exception):
    """A program needs `needed` bytes per chip, more than the `available` HBM."""

    def __init__(self, needed: int, available: int):
        super().__init__(f"{needed} of {available} bytes")
        self.needed, self.available = needed, available


def compiled(program: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles; takes minutes for a large model.

    Raises:
      OutOfMemory: the program does not fit.
    """
    try:
        return program.compile()
    except jax.errors.JaxRuntimeError as error:
        if full := out_of_memory(str(error)):
            raise full from error
        raise


def out_of_memory(message: str) -> OutOfMemory | None:
    """Reads the compiler's error message; None if it is about something else."""
    size = r"\(?([\d.]+)([KMGT]?)(?:i?B)?\)?"
    match = re.search(rf"{size} exceeds available HBM {size}", message)
    match = match or re.search(rf"Used {size} of {size} hbm", message, flags=re.IGNORECASE)
    if match is None:
        return None
    needed, available = (int(float(match[i]) * 1024 ** " KMGT".index(match[i + 1] or " ")) for i in (1, 3))
    return OutOfMemory(needed, available)
