"""External evaluation: an exported model evaluated by mteb and clip-benchmark on local images and captions.

cl2cm external-eval --model=bundle --captions=captions.csv --images=photos
cl2cm external-eval --model=bundle --workdir=runs/emoji [--libraries=mteb] [--languages=en,de] [--markdown]

Prints our metrics beside those of the libraries. Exit code 0: they agree wherever the protocol is the same; 1: they do
not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cl2cm_jax
from cl2cm_jax.config import nearest
from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, add_model_option
from cl2cm_jax.studies.rows import separated
from cl2cm_jax.text.languages import canonical_all
from cl2cm_jax.text.terminal import log_to_stderr

if TYPE_CHECKING:
    from cl2cm_jax.studies.external_eval.captioned import Captioned

LIBRARIES = ("mteb", "clip_benchmark")
EXIT_DISAGREEMENT = 1
ENVIRONMENT = {  # read when the libraries are imported: no network access and no progress bars
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, with `libraries` and `languages` as lists; raises UserError."""
    parser = Arguments(prog="cl2cm external-eval", description=__doc__)
    add_model_option(parser)
    parser.add_argument("--captions", type=Path, help="CSV, TSV or JSONL with the columns image, language and caption")
    parser.add_argument("--images", type=Path, help="folder of the images that the captions name")
    parser.add_argument("--split", default="test", choices=SPLITS, help="of captions with a split (default: test)")
    parser.add_argument("--workdir", type=Path, help="instead of --captions: a finished run, whose test split is used")
    libraries = parser.add_argument(
        "--libraries",
        "--judges",  # the old name, accepted for one release
        type=separated,
        default=",".join(LIBRARIES),
        help="evaluation libraries, separated by commas (default: %(default)s)",
    )
    libraries.option_strings = ["--libraries"]  # what help and errors show
    parser.add_argument(
        "--languages", type=separated, default="", help="separated by commas (default: all languages of the data)"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain text")
    options = parser.parse_args(list(arguments))
    for name in options.libraries:
        if name not in LIBRARIES:
            raise UserError(f"--libraries={name!r} is unknown{nearest(name, LIBRARIES)}")
    if not options.libraries:
        raise UserError(f"--libraries= is empty; name some of {', '.join(LIBRARIES)}")
    if (options.workdir is None) == (options.captions is None):
        raise UserError("no data, or two sources of data; give either --captions with --images, or --workdir")
    if (options.images is None) != (options.captions is None):
        raise UserError("--captions and --images go together; give both")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; exits with code 1 if a metric of a library differs from ours."""
    log_to_stderr()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ |= ENVIRONMENT

    from cl2cm_jax.studies.external_eval.agreement import compare, table

    data = _data(options)
    model = cl2cm_jax.load(options.model)
    scores = compare(model, data.of(canonical_all(options.languages) or list(data.captions)), options.libraries)
    printed = table(scores, images=len(data.images))
    print(printed.markdown() if options.markdown else printed.text())
    if not all(score.agrees for score in scores):
        sys.exit(EXIT_DISAGREEMENT)


def _data(options: argparse.Namespace) -> Captioned:
    from cl2cm_jax.data.readers.caption_file import read_rows
    from cl2cm_jax.studies.external_eval.captioned import from_corpus, from_rows

    if options.captions is not None:
        rows = read_rows(str(options.captions), flag="--captions")
        return from_rows(rows, images=options.images, split=options.split)

    from cl2cm_jax.evaluation import evaluate
    from cl2cm_jax.features import cache
    from cl2cm_jax.training.identity import check_recorded_data, read_record
    from cl2cm_jax.training.workdir import read_config

    config = read_config(options.workdir)
    corpora = cache.corpora(config)
    check_recorded_data(read_record(options.workdir).get("data"), corpora, name=f"--workdir={options.workdir}")
    corpus = evaluate.headline(corpora.test)
    return from_corpus(corpus, languages=(config.data.source, *config.data.targets, *config.data.reported))


if __name__ == "__main__":
    exit_cleanly(main)
