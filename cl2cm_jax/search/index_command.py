"""Keeps a search index of a folder of pictures, searches it, and moves its vectors in and out.

cl2cm index --model=runs/emoji --images=photos --index=photos.db [--captions=captions.csv]
cl2cm index search --model=runs/emoji --index=photos.db "ein roter Apfel" --top=5 [--json]
cl2cm index export --index=photos.db --out=vectors
cl2cm index import --model=runs/emoji --index=photos.db --vectors=vectors
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments

if TYPE_CHECKING:
    from cl2cm_jax.search.incremental import Outcome
    from cl2cm_jax.search.stores.milvus import Store
    from cl2cm_jax.trained.load import Model

PROGRAM = "cl2cm index"
EPILOG = f"""\
The same command again embeds only what is new or changed, and goes on where a killed one was.
Other verbs: {PROGRAM} search|export|import --help
"""
CHECKED = 100_000  # the recall of larger indexes is measured where it is asked for


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; raises a UserError where it makes no sense."""
    verb, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in _VERBS else ("build", arguments)
    program = PROGRAM if verb == "build" else f"{PROGRAM} {verb}"
    parser = Arguments(prog=program, description=_VERBS[verb].__doc__, epilog=EPILOG if verb == "build" else None)
    parser.add_argument(
        "--index", required=True, metavar="URI", help="a file that ends in .db, or http://host:19530 of a Milvus server"
    )
    parser.add_argument("--collection", default="pictures", help="its name in the database (default: %(default)s)")
    if verb != "export":
        parser.add_argument(
            "--model", type=Path, required=True, metavar="DIR", help="the workdir of a finished run, or a bundle"
        )
    _OPTIONS[verb](parser)
    options = parser.parse_intermixed_args(rest)
    options.run = _VERBS[verb]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = parse(sys.argv[1:] if arguments is None else arguments)
    options.run(options)


def _build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures; without it those of the training run")
    parser.add_argument("--captions", type=Path, metavar="FILE", help="CSV, TSV or JSONL: image, language, caption")
    parser.add_argument("--moved", action="store_true", help="the folder is the one of before under another name")
    parser.add_argument("--recall", action="store_true", help=f"measure recall also of more than {CHECKED:,} pictures")


def _search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="- reads lines from standard input")
    parser.add_argument("--top", type=int, default=5, help="results a query (default: %(default)s)")
    parser.add_argument("--language", default="", help="only pictures with a caption in it, as in de")
    parser.add_argument("--path", default="", help="only pictures whose path begins so, as in beach/")
    parser.add_argument("--since", default="", help="only pictures of that day or later: 2024, 2024-05, 2024-05-31")
    parser.add_argument("--until", default="", help="only pictures of that day or earlier")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets img_emb/ and metadata/")


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vectors", type=Path, required=True, metavar="DIR", help="holds img_emb/ and metadata/")
    parser.add_argument("--images", type=Path, metavar="DIR", help="what the paths in the metadata start from")


def _open(options: argparse.Namespace, *, must_be: bool) -> Store:
    from cl2cm_jax.search.stores.milvus import Store, is_local

    if must_be and is_local(options.index) and not Path(options.index).exists():
        raise UserError(f"--index={options.index} is not there; make it with {PROGRAM} --model=... --images=...")
    store = Store(options.index, token=os.environ.get("MILVUS_TOKEN", ""), collection=options.collection)
    if must_be and store.manifest is None:
        store.close()
        raise UserError(f"--index={options.index} has no collection {options.collection!r}; make it with {PROGRAM}")
    return store


def _build(options: argparse.Namespace) -> None:
    """Brings the index up to date with a folder of pictures."""
    from cl2cm_jax.evaluation.gallery import training_gallery
    from cl2cm_jax.runtime.progress import CountReport
    from cl2cm_jax.search.incremental import from_gallery, read_captions, root_of, update
    from cl2cm_jax.trained.load import open_model
    from cl2cm_jax.training.workdir import read_config

    start = time.perf_counter()
    images: Path | None = options.images
    if images is None and options.captions is not None:
        raise UserError("--captions needs --images; the pictures of the training run have theirs")
    if images is not None and not images.is_dir():
        raise UserError(f"--images={images}: no such folder; give a folder of pictures")
    captions = read_captions(options.captions) if options.captions else None
    gallery = training_gallery(options.model) if images is None else None
    if gallery is not None:
        data = read_config(options.model).data
        root = root_of(gallery, within=[folder for folder in (data.images, data.root, data.dir) if folder])
    else:
        root = str((images or Path()).resolve())
    with _open(options, must_be=False) as store:
        model = open_model(options.model)
        if gallery is not None:
            gallery.check(weights=model.encoder.weights, dim=model.dim)
        _claim(store, model, root, moved=options.moved, instead=", or --moved if it is the same folder elsewhere")
        if gallery is not None:
            outcome = from_gallery(store, gallery, root, source=model.languages[0])
        else:
            assert images is not None
            with CountReport("embedded") as told:
                outcome = update(store, model.encoder, images, captions=captions, told=told)
        _print(store, outcome, seconds=time.perf_counter() - start, measure=options.recall)


def _claim(store: Store, model: Model, root: str, *, moved: bool = False, instead: str = "") -> None:
    """Makes an index that is not there yet; refuses one of another model or folder.

    Args:
      store: the index.
      model: whose vectors are to come.
      root: the folder that their paths start from; "" if nobody knows it.
      moved: whether the user says that it is the folder of before, elsewhere.
      instead: what else there is to do about another folder.
    """
    from cl2cm_jax.search.stores.milvus import Manifest

    weights, old = model.encoder.weights, store.manifest
    if old is None:
        store.create(Manifest(weights=weights, model=model.name, dim=model.dim, images=root))
        return
    old.check(weights=weights, model=model.name, uri=store.uri)
    same_folder, is_empty = old.images == root, len(store) == 0
    if same_folder:
        return
    if not is_empty and not moved:
        raise UserError(
            f"--index={store.uri} is of {_folder(old.images)}, not of {_folder(root)}; give another --index for this "
            f"one{instead}"
        )
    store.remember(replace(old, images=root))


def _folder(root: str) -> str:
    return f"the folder {root}" if root else "vectors whose folder is not known"


def _print(store: Store, outcome: Outcome, *, seconds: float, measure: bool) -> None:
    from cl2cm_jax.search.recall import QUERIES, TOP, recall

    count = len(store)
    print(
        f"{store.uri}: {count:,} pictures; {outcome.embedded:,} embedded, {outcome.moved:,} taken over, "
        f"{outcome.recaptioned:,} with new captions, {outcome.unchanged:,} unchanged, {outcome.removed:,} removed, "
        f"{len(outcome.skipped):,} skipped; {seconds:.1f} s"
    )
    if count and (count <= CHECKED or measure):
        asked = min(QUERIES, count)
        print(f"recall@{min(TOP, count)} against exact search: {recall(store):.3f} ({asked} queries)")


def _search(options: argparse.Namespace) -> None:
    """Searches an index with text in any of the model's languages."""
    from cl2cm_jax.search.entry import Filters, day
    from cl2cm_jax.search.query import Answer, Result, check_queries, check_top
    from cl2cm_jax.search.stores.milvus import MOST_RESULTS
    from cl2cm_jax.search.table import print_answers, standard_input
    from cl2cm_jax.trained.load import open_model

    queries = [query for given in options.queries for query in (standard_input() if given == "-" else [given])]
    check_queries(queries)
    check_top(options.top)
    if options.top > MOST_RESULTS:
        raise UserError(f"--top={options.top} is more than an index gives; use {MOST_RESULTS:,} or less")
    since, until = day(options.since, name="--since"), day(options.until, name="--until", after=True)
    filters = Filters(language=options.language, path=options.path, since=since, until=until)
    with _open(options, must_be=True) as store:
        assert store.manifest is not None
        model = open_model(options.model)
        store.manifest.check(weights=model.encoder.weights, model=model.name, uri=store.uri)
        vectors = model.encoder.text(queries)
        start = time.perf_counter()
        answers = store.search(vectors, top=options.top, filters=filters)
        seconds, count, root = time.perf_counter() - start, len(store), store.manifest.images
    shown: list[Answer] = []
    for query, found in zip(queries, answers, strict=True):
        results = tuple(
            Result(
                rank=rank,
                id=one.entry.path,
                score=round(one.score, 6),
                caption=one.entry.caption(options.language, model.languages[0])[1],
                path=os.path.join(root, one.entry.path) if root else "",
            )
            for rank, one in enumerate(found, start=1)
        )
        shown.append(Answer(query, results))
    print_answers(shown, as_json=options.json)
    if not options.json:
        print(f"{len(queries)} quer{'y' if len(queries) == 1 else 'ies'} over {count:,} pictures: {seconds:.2f} s")


def _export(options: argparse.Namespace) -> None:
    """Writes the vectors as .npy shards with parquet beside them, in clip-retrieval's layout."""
    from cl2cm_jax.search.vector_files import write_portable

    with _open(options, must_be=True) as store:
        print(f"{options.out}: {write_portable(store, options.out):,} vectors")


def _import(options: argparse.Namespace) -> None:
    """Adds vectors that export, or clip-retrieval, has written; pictures of the same path are replaced."""
    from cl2cm_jax.search.vector_files import read_manifest, read_portable
    from cl2cm_jax.trained.load import open_model

    theirs = read_manifest(options.vectors)
    shards = read_portable(options.vectors)
    first = next(shards)
    with _open(options, must_be=False) as store:
        model = open_model(options.model)
        if theirs is not None:
            theirs.check(weights=model.encoder.weights, model=model.name, uri=str(options.vectors))
        root = str(options.images.resolve()) if options.images else theirs.images if theirs else ""
        for entries, vectors in itertools.chain([first], shards):
            if vectors.shape[1] != model.dim:
                raise UserError(
                    f"--vectors={options.vectors} has vectors of {vectors.shape[1]} numbers, the model {model.dim}"
                )
            if store.manifest is None or entries is first[0]:
                _claim(store, model, root, instead=_start(store))
            store.put(entries, vectors)
        store.flush()
        print(f"{store.uri}: {len(store):,} pictures")


def _start(store: Store) -> str:
    """What an import can do where the index has a folder of its own."""
    root = store.manifest.images if store.manifest else ""
    return f", or --images={root} if the paths of --vectors start from there" if root else ""


_VERBS = {"build": _build, "search": _search, "export": _export, "import": _import}
_OPTIONS = {"build": _build_options, "search": _search_options, "export": _export_options, "import": _import_options}


if __name__ == "__main__":
    exit_cleanly(main)
