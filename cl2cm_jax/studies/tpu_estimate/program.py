"""The real training step for a topology, from shapes alone: what `compile` takes and no machine has to hold."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import ShapeDtypeStruct
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.parallel.mesh import batch_shards, check_batch_size, make_mesh
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import train_program
from cl2cm_jax.studies.tpu_estimate.models import Models

_STEPS = 10_000  # of a stage: schedules need a length, and no product of the step depends on it


class Topology(NamedTuple):
    """Chips that are not there.

    Attributes:
      name: e.g. "v5e:4x4".
      sides: of the torus or mesh, e.g. (4, 4).
      devices: one a chip.
    """

    name: str
    sides: tuple[int, ...]
    devices: tuple[Any, ...]

    @property
    def generation(self) -> str:
        return self.name.partition(":")[0]


# This machine is no TPU host: libtpu is not to ask for its metadata, nor to guard chips that it has not.
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
    if not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"--topology={name!r} is no chip with its sides; name one such as v5e:4x4 or v5p:2x2x1")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU's compiler, libtpu, is not installed; run: pip install -e '.[tpu]'")
    for variable, value in _NO_HOST.items():
        os.environ.setdefault(variable, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={name} is not known ({reason}); name one such as v5e:4x4 or v5p:2x2x1") from error
    return Topology(name, tuple(map(int, sides)), tuple(found.devices))


class OutOfMemory(Exception):
    """The compiler says that a program does not fit a chip's HBM.

    Attributes:
      needed, available: bytes of a chip.
    """

    def __init__(self, needed: int, available: int):
        super().__init__(f"{needed} of {available} bytes")
        self.needed, self.available = needed, available


def batch_shapes(config: ConfigDict, networks: Networks, models: Models, mesh: Mesh, *, tokens: int) -> dict[str, Any]:
    """Shapes of a batch as `data.pipeline.batches` yields it, of captions that fill all `tokens` places.

    No two captions share a row: it is what a batch of long captions is, and the most that there can be.
    """
    c = config.train
    targets = len((*config.data.targets, *config.data.reported))
    images, captions = c.batch_size, targets if c.targets_per_image == -1 else c.targets_per_image

    def side(*rows: int) -> dict[str, ShapeDtypeStruct]:
        found = {"sentence": ShapeDtypeStruct((*rows, models.features.text), np.float32)}
        if networks.reads_words:
            found["words"] = ShapeDtypeStruct((*rows, tokens, models.features.text), np.float32)
            found["mask"] = ShapeDtypeStruct((*rows, tokens), bool)
        first = cut_layer(config)
        if first is not None:
            width, dtype = (1, np.int32) if first == -1 else (models.features.text, np.float16)
            found["states"] = ShapeDtypeStruct((*rows, tokens, width), dtype)
            found |= {name: ShapeDtypeStruct((*rows, tokens), bool) for name in ("tokens", "mask")}
        return found

    if models.vision is None:
        frames, dim = models.features.max_frames, models.features.vision
        vision = {
            "features": ShapeDtypeStruct((images, frames, dim), np.float32),
            "mask": ShapeDtypeStruct((images, frames), bool),
        }
    else:
        pixels = models.vision.preprocess.image_size
        vision = {"pixels": ShapeDtypeStruct((images, pixels, pixels, 3), np.uint8)}
    packing = {}
    if config.text.pack and cut_layer(config) is not None:
        groups = batch_shards(mesh) * c.accumulation
        packing["packing"] = {
            "take": ShapeDtypeStruct((groups, 0, tokens), np.int32),
            "put": ShapeDtypeStruct((images, 1 + captions, tokens), np.int32),
        }
    return {
        "vision": vision,
        "source": side(images),
        "target": side(images, captions),
        **packing,
        "target_language": ShapeDtypeStruct((images, captions), np.int32),
        "target_is_valid": ShapeDtypeStruct((images, captions), bool),
        "source_caption": ShapeDtypeStruct((images,), np.int32),
        "target_caption": ShapeDtypeStruct((images, captions), np.int32),
        "image_id": ShapeDtypeStruct((images,), np.int32),
        "is_valid": ShapeDtypeStruct((images,), bool),
    }


def lowered(config: ConfigDict, models: Models, mesh: Mesh, *, tokens: int, first: bool) -> jax.stages.Lowered:
    """The step of this configuration, ready to be compiled for the devices of `mesh`.

    Args:
      config: the configuration; `train.batch_size` is that of all devices.
      models: the backbones by their sizes.
      mesh: over devices that need not be there.
      tokens: places of a caption.
      first: the stage of the teacher alone.

    Raises:
      UserError: the mesh cannot split the batch.
    """
    check_batch_size(config.train.batch_size, mesh, accumulation=config.train.accumulation)
    networks = Networks(config, models.features, tunable=models.tunable, vision=models.vision)
    stages = Stages(_STEPS if first else 0, _STEPS)
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
    frozen = models.vision_params["frozen"] if models.vision_params else {}
    stage = "teacher" if first else "student"
    return program.step.lower(program.state, batch, frozen, ShapeDtypeStruct((), np.uint32), stage)


def compiled(program: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles; takes minutes for a large model.

    Raises:
      OutOfMemory: the program does not fit.
    """
    try:
        return program.compile()
    except jax.errors.JaxRuntimeError as error:
        full = out_of_memory(str(error))
        if full is None:
            raise
        raise full from error


def out_of_memory(message: str) -> OutOfMemory | None:
    """Reads the compiler's message; None where it is about something else."""
    size = r"\(?([\d.]+)([KMGT]?)(?:i?B)?\)?"
    match = re.search(rf"{size} exceeds available HBM {size}", message) or re.search(
        rf"Used {size} of {size} hbm", message, flags=re.IGNORECASE
    )
    if match is None:
        return None
    scale = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    needed, available = (int(float(match[i]) * 1024 ** scale[match[i + 1]]) for i in (1, 3))
    return OutOfMemory(needed, available)


def mesh_of(config: ConfigDict, found: Topology) -> Mesh:
    """The configured mesh over the topology's chips.

    Raises:
      UserError: its sizes do not multiply to their number.
    """
    return make_mesh(**config.mesh, devices=found.devices)
