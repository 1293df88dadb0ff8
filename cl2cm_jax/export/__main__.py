"""Writes the model of a finished run as a self-contained folder, a bundle, or uploads a bundle to the hub.

cl2cm export --model=runs/emoji --out=bundle [--onnx] [--stablehlo] [--languages=en,de] [--license=NAME]
cl2cm export push --bundle=bundle --repo=org/name [--private] [--yes]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, add_model_option
from cl2cm_jax.text.terminal import log_to_stderr

PROGRAM = "cl2cm export"
EPILOG = f"To upload the folder to the Hugging Face hub, see {PROGRAM} push --help."


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; raises UserError if it is invalid."""
    if list(arguments[:1]) == ["push"]:
        return _parse_push(arguments[1:])
    parser = Arguments(
        prog=PROGRAM,
        description="Writes the model of a finished run as a self-contained bundle.",
        epilog=EPILOG,
    )
    add_model_option(parser, help="the workdir of a finished training run", old_name="--workdir")
    parser.add_argument("--out", type=Path, required=True, help="the folder: new, empty, or a bundle to replace")
    parser.add_argument("--onnx", action="store_true", help="also write each tower in ONNX, fp32 and int8")
    parser.add_argument("--stablehlo", action="store_true", help="also write each tower as StableHLO (jax.export)")
    parser.add_argument(
        "--languages",
        metavar="CODES",
        help="cut the vocabulary of the text backbone to what captions in these languages use, such as en,de,fa",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --languages: keep the word pieces of this text too, one sentence in a line; may be repeated",
    )
    parser.add_argument("--license", default="", help="licence on the card, as the hub names it: cc-by-sa-4.0, ...")
    options = parser.parse_args(arguments)
    if options.corpus and not options.languages:
        parser.error("--corpus needs --languages=CODES, the languages of the text")
    return options


def _parse_push(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(
        prog=f"{PROGRAM} push", description="Shows what would be uploaded to the Hugging Face hub; --yes uploads it."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="the folder to upload")
    parser.add_argument("--repo", required=True, help="org/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", default="main", help="branch to write to (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="upload; without it nothing is sent")
    options = parser.parse_args(arguments)
    options.push = True
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes or uploads a bundle."""
    log_to_stderr()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing here needs an accelerator
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if hasattr(options, "push"):
        from cl2cm_jax.export.push import push

        push(options.bundle, repo=options.repo, revision=options.revision, private=options.private, yes=options.yes)
        return
    _export(options)


def _export(options: argparse.Namespace) -> None:
    from cl2cm_jax.export.bundle import Addition, check_place, read_trained, write_bundle
    from cl2cm_jax.export.conversions import add_onnx, add_stablehlo, add_vocabulary
    from cl2cm_jax.export.vocabulary import count_pieces

    start = time.perf_counter()
    check_place(options.out)
    trained = read_trained(Path(options.model))
    served = None
    if options.languages:
        languages = [code.strip() for code in options.languages.split(",") if code.strip()]
        served = count_pieces(
            trained.config, trained.text, languages=languages, files=options.corpus, data=trained.data
        )
    additions: list[Addition] = [add_vocabulary(trained, served)] if served else []
    additions += [add_onnx(trained, served)] if options.onnx else []
    additions += [add_stablehlo(trained, served)] if options.stablehlo else []
    manifest = write_bundle(trained, options.out, licence=options.license, served=served, additions=additions)
    files = [file for file in options.out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"bundle:    {options.out}/ ({len(files)} files, {size / 1e6:.1f} MB), weights {manifest.weights}")
    if served:
        print(f"languages: {', '.join(served.languages)}; the card says what the cut vocabulary costs")
    print(f'load it:   cl2cm_jax.load("{options.out}")')
    print(f"upload it: {PROGRAM} push --bundle={options.out} --repo=org/name")
    print(f"seconds:   {time.perf_counter() - start:.0f}")


if __name__ == "__main__":
    exit_cleanly(main)
