"""Build, update, search, export and import a search index of pictures.

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

from ml_collections import ConfigDict

import cl2cm_jax
from cl2cm_jax.data.media.images import MAX_PIXELS
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.command_line import PLACE, Arguments, add_model_option
from cl2cm_jax.runtime.progress import CountReport
from cl2cm_jax.search.entry import Filters, Found, day
from cl2cm_jax.search.folder import add_exclude_option, own_gallery
from cl2cm_jax.search.incremental import Outcome, from_gallery, is_drawn, read_captions, root_of, update
from cl2cm_jax.search.query import (
    add_query_options,
    answer,
    encode_queries,
    given_queries,
    nothing_selected,
    print_answers,
    warn_of_missing,
    warn_of_unread,
)
from cl2cm_jax.search.recall import QUERIES, TOP, recall
from cl2cm_jax.search.stores.milvus import MAX_RESULTS, Manifest, Store, is_local
from cl2cm_jax.search.vector_files import MANIFEST_FILE, read_manifest, read_vectors, write_vectors
from cl2cm_jax.text.terminal import log_to_stderr
from cl2cm_jax.trained.model import TrainedModel
from cl2cm_jax.training.workdir import read_config

PROGRAM = "cl2cm index"
EPILOG = f"""\
Running the command again embeds only new and changed pictures, and resumes an interrupted run.
Other verbs: {PROGRAM} search|export|import --help
"""
log = logging.getLogger(__name__)
CHECKED = 100_000  # the recall of larger indexes is measured only with --recall


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; raises a UserError where it is wrong."""
    verb, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in _VERBS else ("build", arguments)
    program = PROGRAM if verb == "build" else f"{PROGRAM} {verb}"
    run, add_options = _VERBS[verb]
    parser = Arguments(prog=program, description=run.__doc__, epilog=EPILOG if verb == "build" else None)
    add_index_options(parser)
    if verb != "export":
        add_model_option(parser)
    add_options(parser)
    options = parser.parse_intermixed_args(rest)
    options.run = run
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the verb of the command line."""
    log_to_stderr()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    options.run(options)


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """Adds --index and --collection."""
    help = "a file that ends in .db, or http://host:19530 of a Milvus server"
    parser.add_argument("--index", required=True, type=PLACE, metavar="URI", help=help)
    parser.add_argument("--collection", default="pictures", help="its name in the database (default: %(default)s)")


def open_store(options: argparse.Namespace, *, must_exist: bool) -> Store:
    """Opens the index of --index, --collection and MILVUS_TOKEN.

    Raises:
      UserError: it cannot be opened, or `must_exist` and it does not.
    """
    if must_exist and is_local(options.index) and not Path(options.index).exists():
        raise UserError(f"--index={options.index} does not exist; make it with {PROGRAM} --model=... --images=...")
    store = Store(options.index, token=os.environ.get("MILVUS_TOKEN", ""), collection=options.collection)
    if must_exist and store.manifest is None:
        store.close()
        raise UserError(f"--index={options.index} has no collection {options.collection!r}; make it with {PROGRAM}")
    return store


def _build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures; default: those of the training run")
    parser.add_argument("--captions", type=Path, metavar="FILE", help="CSV, TSV or JSONL: image, language, caption")
    parser.add_argument("--moved", action="store_true", help="the folder was renamed or moved; keep its vectors")
    add_exclude_option(parser)
    help = "remove the pictures that are not there, also where their disk may be away"
    parser.add_argument("--prune", action="store_true", help=help)
    help = "skip pictures of more pixels, and JPEGs of four times as many (default: %(default)s)"
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help=help)
    parser.add_argument("--recall", action="store_true", help=f"measure recall even above {CHECKED:,} pictures")


def _build(options: argparse.Namespace) -> None:
    """Brings the index up to date with a folder of pictures."""
    start = time.perf_counter()
    images: Path | None = options.images
    if images is None and options.captions is not None:
        raise UserError("--captions needs --images; the pictures of the training run have their own captions")
    if images is None and (options.exclude or options.prune):
        raise UserError("--exclude and --prune need --images, the folder of pictures")
    if images is not None and not images.is_dir():
        raise UserError(f"--images={images}: no such folder; give a folder of pictures")
    if options.max_pixels < 1:
        raise UserError(f"--max_pixels={options.max_pixels} must be 1 or more")
    captions = read_captions(options.captions, images) if options.captions else None
    gallery, data, root = None, None, str((images or Path()).resolve())
    if images is None:
        gallery, data = own_gallery(options.model), read_config(Path(options.model)).data
        root = root_of(gallery, within=[folder for folder in (data.images, data.root, data.dir) if folder])
    with open_store(options, must_exist=False) as store:
        model = cl2cm_jax.load(options.model)
        if gallery is not None:
            gallery.check(weights=model.weights, dim=model.dim)
        named = root if data is None or not root else _shown(store, root, data, model=options.model)
        _claim(store, model, named, moved=options.moved, instead=", or --moved if the folder was only renamed or moved")
        if gallery is not None:
            outcome = from_gallery(store, gallery, root, source=model.languages[0], dated=bool(named))
        else:
            assert images is not None
            with CountReport("embedded") as report:
                encoder = replace(model.encoder, max_pixels=options.max_pixels)
                outcome = update(
                    store,
                    encoder,
                    images,
                    captions=captions,
                    exclude=options.exclude,
                    prune=options.prune,
                    on_progress=report,
                )
        _print(store, outcome, seconds=time.perf_counter() - start, measure=options.recall)


def _shown(store: Store, root: str, data: ConfigDict, *, model: str) -> str:
    """The folder of a run's pictures if it may be shown, else "": a workdir may come from anyone.

    It may if the package has drawn the pictures, or if the index is of that folder already.
    """
    if is_drawn(root, data) or (store.manifest is not None and store.manifest.images == root):
        return root
    log.warning(
        "%s names %s as the folder of its pictures; if they are yours, show them with: cl2cm serve --images=%s",
        model,
        root,
        root,
    )
    return ""


def _claim(store: Store, model: TrainedModel, root: str, *, moved: bool = False, instead: str = "") -> None:
    """Creates an index for vectors of `model` and paths relative to `root`; refuses one of another model or folder.

    With `moved` another folder is accepted as the same one, renamed. `instead` is a further remedy for the error.
    """
    old = store.manifest
    if old is None:
        store.create(Manifest(weights=model.weights, model=model.name, dim=model.dim, images=root))
        return
    old.check(weights=model.weights, model=model.name, uri=store.uri)
    if old.images == root:
        return
    if len(store) and not moved:
        raise UserError(
            f"--index={store.uri} is of {_folder(old.images)}, not of {_folder(root)}; give another --index for this "
            f"one{instead}"
        )
    store.set_manifest(replace(old, images=root))


def _folder(root: str) -> str:
    return f"the folder {root}" if root else "vectors whose folder is unknown"


def _print(store: Store, outcome: Outcome, *, seconds: float, measure: bool) -> None:
    count = len(store)
    print(
        f"{store.uri}: {count:,} pictures; {outcome.embedded:,} embedded, {outcome.moved:,} taken over, "
        f"{outcome.recaptioned:,} with new captions, {outcome.unchanged:,} unchanged, {outcome.removed:,} removed, "
        f"{len(outcome.skipped):,} skipped, {outcome.away:,} away; {seconds:.1f} s"
    )
    if count and (count <= CHECKED or measure):
        print(f"recall@{min(TOP, count)} against exact search: {recall(store):.3f} ({min(QUERIES, count)} queries)")


def _search_options(parser: argparse.ArgumentParser) -> None:
    add_query_options(parser)
    parser.add_argument("--language", default="", help="only pictures with a caption in this language, e.g. de")
    parser.add_argument("--path", default="", help="only pictures whose path begins with this, e.g. beach/")
    parser.add_argument("--since", default="", help="only pictures of that day or later: 2024, 2024-05, 2024-05-31")
    parser.add_argument("--until", default="", help="only pictures of that day or earlier")


def _search(options: argparse.Namespace) -> None:
    """Searches an index with text in any of the model's languages."""
    queries = given_queries(options)
    if options.top > MAX_RESULTS:
        raise UserError(f"--top={options.top} is more than an index gives; use {MAX_RESULTS:,} or less")
    since, until = day(options.since, name="--since"), day(options.until, name="--until", after=True)
    filters = Filters(language=options.language, path=options.path, since=since, until=until)
    with open_store(options, must_exist=True) as store:
        assert store.manifest is not None
        model = cl2cm_jax.load(options.model)
        store.manifest.check(weights=model.weights, model=model.name, uri=store.uri)
        warn_of_unread(model.encoder, queries)
        vectors = encode_queries(model.encoder, queries)
        start = time.perf_counter()
        found = store.search(vectors, top=options.top, filters=filters)
        seconds, count, root = time.perf_counter() - start, len(store), store.manifest.images
        note = "" if any(found) else nothing_selected(store, filters, flag="--")

    def shown(one: Found) -> tuple[float, str, str, str]:
        caption = one.entry.caption(options.language, model.languages[0])[1]
        return one.score, one.entry.path, caption, os.path.join(root, one.entry.path) if root else ""

    answers = [answer(query, map(shown, best)) for query, best in zip(queries, found, strict=True)]
    if note:
        log.warning("%s", note)
    warn_of_missing(answers, fix="is a disk away? An update with --prune removes them")
    print_answers(answers, as_json=options.json, pictures=count, seconds=seconds)


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for img_emb/ and metadata/")


def _export(options: argparse.Namespace) -> None:
    """Writes the vectors as .npy shards with parquet metadata, in clip-retrieval's layout."""
    with open_store(options, must_exist=True) as store:
        print(f"{options.out}: {write_vectors(store, options.out):,} vectors")


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vectors", type=Path, required=True, metavar="DIR", help="folder with img_emb/ and metadata/")
    help = "folder that the metadata's paths are relative to"
    parser.add_argument("--images", type=Path, metavar="DIR", help=help)


def _import(options: argparse.Namespace) -> None:
    """Adds vectors written by export or clip-retrieval; pictures of the same path are replaced."""
    manifest, model = read_manifest(options.vectors), cl2cm_jax.load(options.model)
    if manifest is None:
        text = "--vectors=%s has no %s: neither the model that made them nor their checksums can be compared"
        log.warning(text, options.vectors, MANIFEST_FILE)
    else:
        manifest.check(weights=model.weights, model=model.name, uri=str(options.vectors))
    shards = read_vectors(options.vectors, dim=model.dim)
    first = next(shards)
    with open_store(options, must_exist=False) as store:
        known, theirs = store.manifest.images if store.manifest else "", manifest.images if manifest else ""
        root = str(options.images.resolve()) if options.images else known if theirs == known else ""
        if theirs and not root:  # a stranger's file may name any folder, and the service shows what is in it
            log.warning("--vectors are of pictures in %s; show them with: cl2cm serve --images=%s", theirs, theirs)
        instead = f", or --images={known} if the paths of --vectors are relative to it" if known else ""
        _claim(store, model, root, instead=instead)
        for entries, vectors in itertools.chain([first], shards):
            store.put(entries, vectors)
        store.flush()
        print(f"{store.uri}: {len(store):,} pictures")


_VERBS = {
    "build": (_build, _build_options),
    "search": (_search, _search_options),
    "export": (_export, _export_options),
    "import": (_import, _import_options),
}


if __name__ == "__main__":
    exit_cleanly(main)
