"""The pod before the pod: compiles the training step for TPUs that are not there and says what it needs and takes.

cl2cm estimate --config=configs/multi30k.py --topology=v5e:4x4 [--json] [--config.text.remat=True ...]

--topology  chips by libtpu's name: v5e:2x4 ... v5e:16x16, v6e:2x4 ... v6e:16x16, v5p:2x2x1 ... v5p:4x4x8
--batch     images a chip; without it the config's train.batch_size is shared by all chips, as training does it
--stage     which of the two programs, where the teacher learns alone first: student (default) or teacher
--tokens    places of a caption; without it the config's text.max_tokens, the most that there can be
--text      sizes of the text backbone: vocabulary, hidden, layers, heads, intermediate, positions
--vision    sizes of the vision backbone: image_size, patch, hidden, layers, heads, intermediate, projection;
            of precomputed features: dim, frames
--largest   also searches the largest batch a chip; it compiles several times
--json      prints JSON

Neither data nor weights are read: sizes are those of the model folder that the config names, if it is there, and else
those of mBERT-base and CLIP ViT-B/32. A configuration that does not fit is refused, exit code 2.
Needs the extra `tpu` (libtpu), and no TPU. Compiling takes seconds for small models and minutes for large ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from cl2cm_jax.config import effective, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.parallel.mesh import batch_shards
from cl2cm_jax.runtime.command_line import Arguments, split_flags
from cl2cm_jax.studies.tpu_estimate import program, report
from cl2cm_jax.studies.tpu_estimate.chips import Chip, chip, human
from cl2cm_jax.studies.tpu_estimate.cost import events
from cl2cm_jax.studies.tpu_estimate.hlo import parse as parse_hlo
from cl2cm_jax.studies.tpu_estimate.largest import largest
from cl2cm_jax.studies.tpu_estimate.models import Models, models

_MANY = 8192  # images, from where matrices of all pairs take GiB
UNIT = 8  # images a chip, to which the largest batch is found


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm estimate", description=__doc__)
    parser.add_argument("--config", required=True, help="a file in configs/; FILE:ARGUMENT passes it an argument")
    parser.add_argument("--topology", required=True, help="e.g. v5e:4x4")
    parser.add_argument("--batch", type=int, help="images a chip")
    parser.add_argument("--stage", choices=("student", "teacher"), default="student")
    parser.add_argument("--tokens", type=int, help="places of a caption")
    parser.add_argument("--text", default="", metavar="SIZES", help="e.g. layers=12,hidden=768")
    parser.add_argument("--vision", default="", metavar="SIZES", help="e.g. dim=2048,frames=64")
    parser.add_argument("--largest", action="store_true", help="search the largest batch that fits")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(rest), overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Plans one configuration on one topology."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for noisy in ("absl", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = effective(read(options.config, overrides))
    jax.config.update("jax_platforms", "cpu")  # the few constants of a step need a device, and no TPU
    found = plan(config, options)
    print(json.dumps(report.numbers(found), indent=1) if options.json else report.text(found))


def plan(config: ConfigDict, options: argparse.Namespace) -> report.Plan:
    """Compiles, and searches the largest batch if that is asked for.

    Raises:
      UserError: something in the command line or the configuration is wrong, or it does not fit.
    """
    tokens = config.text.max_tokens if options.tokens is None else options.tokens
    if not 1 <= tokens <= config.text.max_tokens:
        raise UserError(f"--tokens={tokens} must be from 1 to config.text.max_tokens={config.text.max_tokens}")
    if options.batch is not None and options.batch < 1:
        raise UserError(f"--batch={options.batch} must be 1 image a chip or more")
    sizes = models(
        config, text=read_sizes(options.text, flag="--text"), vision=read_sizes(options.vision, flag="--vision")
    )
    made = _Made(config, options, program.topology(options.topology), sizes, tokens)
    images = config.train.batch_size if options.batch is None else options.batch * made.chips
    try:
        found = made.plan(images)
    except program.OutOfMemory as full:
        made.needed[images] = full.needed
        most = made.largest(max(1, images // made.chips)) if options.largest else None
        raise UserError(refusal(config, full, images=images, chips=made.chips, most=most)) from full
    return found._replace(largest=made.largest(images // made.chips)) if options.largest else found


class _Made:
    """Compiles one configuration for one topology at several batches."""

    def __init__(
        self,
        config: ConfigDict,
        options: argparse.Namespace,
        topology: program.Topology,
        sizes: Models,
        tokens: int,
    ):
        self._config, self._options, self._sizes, self._tokens = config, options, sizes, tokens
        self._topology = topology
        self.chip: Chip = chip(topology.generation)
        self.mesh = program.mesh_of(config, topology)
        self.chips = len(topology.devices)
        self.needed: dict[int, int] = {}  # images -> bytes of a chip

    def plan(self, images: int) -> report.Plan:
        """The plan of a batch of so many images, over all chips.

        Raises:
          UserError: the mesh cannot split it.
          OutOfMemory: it does not fit.
        """
        config = self._config.copy_and_resolve_references()
        config.train.batch_size = images
        joint = config.teacher.schedule == "joint"
        first = self._options.stage == "teacher" and not joint
        if first and config.teacher.head == "none":
            raise UserError("--stage=teacher: config.teacher.head='none' has no stage of its own; use student")
        lowered = program.lowered(config, self._sizes, self.mesh, tokens=self._tokens, first=first)
        logging.info("compiling for %s, %s images", self._topology.name, f"{images:,}")
        made = program.compiled(lowered)
        memory = report.Memory.of(made.memory_analysis())
        self.needed[images] = memory.total
        return report.Plan(
            topology=self._topology,
            chip=self.chip,
            mesh=dict(self.mesh.shape),
            batch=images,
            stage="joint" if joint else self._options.stage,
            tokens=self._tokens,
            memory=memory,
            schedule=events(parse_hlo(made.as_text() or "")),
            notes=self._sizes.notes,
        )

    def largest(self, start: int) -> int:
        """The largest batch a chip that fits."""
        shards = batch_shards(self.mesh) * self._config.train.accumulation
        unit = UNIT if UNIT * self.chips % shards == 0 else self._config.train.accumulation

        def needed(each: int) -> int:
            images = each * self.chips
            if images not in self.needed:
                try:
                    self.plan(images)
                except program.OutOfMemory as full:
                    self.needed[images] = max(full.needed, self.chip.hbm + 1)
            return self.needed[images]

        return largest(needed, capacity=self.chip.hbm, start=start, unit=unit)


def refusal(config: ConfigDict, full: program.OutOfMemory, *, images: int, chips: int, most: int | None) -> str:
    """One line: what is needed, what there is, and what to change."""
    ways = []
    if not config.text.remat and (config.student.text.trainable or config.teacher.text.trainable):
        ways.append("--config.text.remat=True")
    if not config.vision.remat and config.student.vision.trainable:
        ways.append("--config.vision.remat=True")
    if config.train.compute == "float32":
        ways.append("--config.train.compute=bfloat16")
    if config.contrastive.form == "dense" and images >= _MANY:
        ways.append("--config.contrastive.form=blockwise")
    ways.append(f"--config.train.accumulation={2 * config.train.accumulation}")
    if config.mesh.fsdp == 1 and chips > 1:
        ways.append(f"--config.mesh.fsdp={chips}")
    smaller = f"--batch={most}, the largest that fits" if most else "a smaller --batch (--largest searches it)"
    return (
        f"{images:,} images, {images / chips:g} a chip, need {human(full.needed)} of HBM and a chip has "
        f"{human(full.available)}; use {', '.join(ways)}, or {smaller if most != 0 else 'more chips'}"
    )


def read_sizes(given: str, *, flag: str) -> Mapping[str, int]:
    """Reads "layers=12,hidden=768".

    Raises:
      UserError: it is none.
    """
    sizes = {}
    for part in filter(None, given.split(",")):
        name, _, value = part.partition("=")
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"{flag}={given!r}: {part!r} is no size; write e.g. layers=12,hidden=768")
        sizes[name.strip()] = int(value)
    return sizes


if __name__ == "__main__":
    exit_cleanly(main)
