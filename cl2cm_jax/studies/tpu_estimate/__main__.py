"""Estimates memory and time of the training step on TPUs by compiling it for them; no TPU is needed.

cl2cm estimate --config=configs/multi30k.py --topology=v5e:4x4 [--json] [--config.text.remat=True ...]

Neither data nor weights are read: the sizes are those of the model folder that the config names, or if it does not
exist, of mBERT-base and CLIP ViT-B/32. Exits with code 2 if the configuration does not fit.
Needs the extra `tpu` (libtpu). Compiling takes seconds for small models and minutes for large ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from cl2cm_jax.config import effective, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.parallel.mesh import batch_shards, make_mesh
from cl2cm_jax.runtime.command_line import PLACE, Arguments, positive, split_flags
from cl2cm_jax.studies.tpu_estimate import program, report
from cl2cm_jax.studies.tpu_estimate.chips import chip, human
from cl2cm_jax.studies.tpu_estimate.cost import events
from cl2cm_jax.studies.tpu_estimate.hlo import parse as parse_hlo
from cl2cm_jax.studies.tpu_estimate.largest import largest
from cl2cm_jax.studies.tpu_estimate.models import Models, models
from cl2cm_jax.text.terminal import log_to_stderr

_MANY = 8192  # images, from which score matrices of all pairs take GiB
UNIT = 8  # images per chip: resolution of the search for the largest batch


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it overrides."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm estimate", description=__doc__)
    add = parser.add_argument
    add("--config", type=PLACE, required=True, help="a file in configs/; FILE:ARGUMENT passes it an argument")
    topologies = "v5e:2x4 ... v5e:16x16, v6e:2x4 ... v6e:16x16, v5p:2x2x1 ... v5p:4x4x8"
    add("--topology", required=True, help=f"libtpu's name of the chips: {topologies}")
    add("--batch", type=positive, help="images per chip (default: train.batch_size over all chips)")
    stage = "stage to compile, if the teacher is trained first (default: %(default)s)"
    add("--stage", choices=("student", "teacher"), default="student", help=stage)
    add("--tokens", type=int, help="caption length (default: text.max_tokens)")
    text = "vocabulary, hidden, layers, heads, intermediate, positions"
    add("--text", type=sizes, default={}, metavar="SIZES", help=f"text backbone: {text}, e.g. layers=12,hidden=768")
    vision = "image_size, patch, hidden, layers, heads, intermediate, projection; of precomputed features: dim, frames"
    add("--vision", type=sizes, default={}, metavar="SIZES", help=f"vision backbone: {vision}")
    add("--largest", action="store_true", help="search the largest batch that fits (compiles several times)")
    add("--json", action="store_true", help="print JSON")
    return parser.parse_args(rest), overrides


def sizes(text: str) -> dict[str, int]:
    """The `type` of an option such as "layers=12,hidden=768"."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if not value.isdecimal() or int(value) < 1:
            raise argparse.ArgumentTypeError(f"{part!r} is not a size; write e.g. layers=12,hidden=768")
        found[name.strip()] = int(value)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimates one configuration on one topology."""
    log_to_stderr(level=logging.INFO, format="%(message)s")
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = effective(read(options.config, overrides))
    jax.config.update("jax_platforms", "cpu")  # for the constants of the step
    result = estimate(config, options)
    print(json.dumps(report.numbers(result), indent=1) if options.json else report.text(result))


def estimate(config: ConfigDict, options: argparse.Namespace) -> report.Estimate:
    """Compiles the step, and with --largest searches the largest batch.

    Raises:
      UserError: an option or the configuration is wrong, or the step does not fit.
    """
    tokens = config.text.max_tokens if options.tokens is None else options.tokens
    if not 1 <= tokens <= config.text.max_tokens:
        raise UserError(f"--tokens={tokens} must be from 1 to config.text.max_tokens={config.text.max_tokens}")
    shapes = models(config, text=options.text, vision=options.vision)
    estimator = _Estimator(config, options.stage, tokens, shapes, program.topology(options.topology))
    chips = estimator.mesh.size
    images = config.train.batch_size if options.batch is None else options.batch * chips
    try:
        result = estimator.estimate(images)
    except program.OutOfMemory as error:
        limit = estimator.largest(max(1, images // chips)) if options.largest else None
        raise UserError(refusal(config, error, images=images, chips=chips, limit=limit)) from error
    return result._replace(largest=estimator.largest(images // chips)) if options.largest else result


class _Estimator:
    """Compiles one configuration for one topology at several batch sizes."""

    def __init__(self, config: ConfigDict, stage: str, tokens: int, shapes: Models, topology: program.Topology):
        self._config, self._tokens, self._models, self._topology = config, tokens, shapes, topology
        self._stage = "joint" if config.teacher.schedule == "joint" else stage
        self._chip = chip(topology.generation)
        self.mesh = make_mesh(**config.mesh, devices=topology.devices)
        self._needed: dict[int, int] = {}  # images -> bytes per chip

    def estimate(self, images: int) -> report.Estimate:
        """The estimate for a batch of `images` over all chips.

        Raises:
          UserError: the mesh cannot split the batch.
          OutOfMemory: it does not fit.
        """
        config = self._config.copy_and_resolve_references()
        config.train.batch_size = images
        stage = "student" if self._stage == "joint" else self._stage
        if stage == "teacher" and config.teacher.head == "none":
            raise UserError("--stage=teacher: config.teacher.head='none' has no teacher stage; use --stage=student")
        lowered = program.lowered(config, self._models, self.mesh, tokens=self._tokens, stage=stage)
        logging.info("compiling for %s, %s images", self._topology.name, f"{images:,}")
        try:
            compiled = program.compiled(lowered)
        except program.OutOfMemory as error:
            self._needed[images] = max(error.needed, self._chip.hbm + 1)
            raise
        memory = report.Memory.of(compiled.memory_analysis())
        self._needed[images] = memory.total
        return report.Estimate(
            topology=self._topology,
            chip=self._chip,
            mesh=dict(self.mesh.shape),
            batch=images,
            stage=self._stage,
            tokens=self._tokens,
            memory=memory,
            schedule=events(parse_hlo(compiled.as_text() or "")),
            notes=self._models.notes,
        )

    def largest(self, start: int) -> int:
        """The largest batch that fits, in images per chip."""
        accumulation, chips = self._config.train.accumulation, self.mesh.size
        unit = UNIT if UNIT * chips % (batch_shards(self.mesh) * accumulation) == 0 else accumulation

        def needed(each: int) -> int:
            if each * chips not in self._needed:
                with contextlib.suppress(program.OutOfMemory):
                    self.estimate(each * chips)
            return self._needed[each * chips]

        return largest(needed, capacity=self._chip.hbm, start=start, unit=unit)


def refusal(config: ConfigDict, error: program.OutOfMemory, *, images: int, chips: int, limit: int | None) -> str:
    """One line: the memory that is needed, that there is, and what to change; `limit` is the largest batch per chip."""
    fixes = {
        "text.remat=True": not config.text.remat and (config.student.text.trainable or config.teacher.text.trainable),
        "vision.remat=True": not config.vision.remat and config.student.vision.trainable,
        "train.compute=bfloat16": config.train.compute == "float32",
        "contrastive.form=blockwise": config.contrastive.form == "dense" and images >= _MANY,
        f"train.accumulation={2 * config.train.accumulation}": True,
        f"mesh.fsdp={chips}": config.mesh.fsdp == 1 and chips > 1,
    }
    smaller = f"--batch={limit}, the largest that fits" if limit else "a smaller --batch (--largest searches it)"
    return (
        f"{images:,} images, {images / chips:g} per chip, need {human(error.needed)} of HBM and a chip has "
        f"{human(error.available)}; use {', '.join(f'--config.{fix}' for fix, helps in fixes.items() if helps)}, "
        f"or {smaller if limit != 0 else 'more chips'}"
    )


if __name__ == "__main__":
    exit_cleanly(main)
