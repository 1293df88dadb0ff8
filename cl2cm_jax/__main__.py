"""`cl2cm VERB ...` and `python -m cl2cm_jax VERB ...`: every command of the package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from cl2cm_jax import __version__
from cl2cm_jax.config import nearest
from cl2cm_jax.errors import UserError, exit_cleanly


class Verb(NamedTuple):
    """A command: the module with its `main(arguments)`, and one line of help."""

    module: str
    help: str


VERBS = {
    "demo": Verb("demo", "train on emoji drawings and search them in three languages (minutes on a laptop)"),
    "train": Verb("main", "train a model from a config, evaluate it and write its results"),
    "features": Verb("features.__main__", "compute the frozen features of a config in advance"),
    "search": Verb("search.__main__", "rank pictures for text queries"),
    "index": Verb("search.index_command", "build, update and query an index of a picture folder"),
    "serve": Verb("serve.__main__", "serve an index as a web page and a JSON API"),
    "draw": Verb("search.draw_queries", "draw queries and the pictures found for them"),
    "export": Verb("export.__main__", "write a trained model as a folder that other tools load; push it to the hub"),
    "translate": Verb("translation.__main__", "translate a caption file"),
    "stamps": Verb("data.sets.pictograms.stamp_captions", "write English captions of the stamps set, to be translated"),
    "compare": Verb("studies.comparison.__main__", "compare finished runs with each other and with published numbers"),
    "ablate": Verb("studies.ablation.__main__", "measure what each part of the method is worth"),
    "noise-curve": Verb("studies.noise_curve", "measure recall over the share of wrong translations"),
    "tune": Verb("studies.tuning.__main__", "search for better hyperparameters on validation data"),
    "external-eval": Verb("studies.external_eval.__main__", "evaluate a model with mteb and clip-benchmark"),
    "align-words": Verb("studies.word_alignment.__main__", "measure the word-level teacher loss on parallel text"),
    "estimate": Verb("studies.tpu_estimate.__main__", "estimate memory and time of a training step on TPUs"),
}


def usage() -> str:
    """The list of the verbs, one line each."""
    lines = [f"  {name:<14} {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(["usage: cl2cm VERB [options]; cl2cm VERB --help shows the options of a verb", "", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the verb that the command line names."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if words[0] in ("-V", "--version"):
        print(f"cl2cm_jax {__version__}")
        return
    verb = VERBS.get(words[0])
    if verb is None:
        near = nearest(words[0], list(VERBS))
        raise UserError(f"{words[0]!r} is not a verb of cl2cm{near}; the verbs are {', '.join(VERBS)}")
    importlib.import_module(f"cl2cm_jax.{verb.module}").main(words[1:])


def run() -> None:
    """The console script."""
    exit_cleanly(main)


if __name__ == "__main__":
    run()
