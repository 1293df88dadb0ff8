"""Times the paper's training step, and the same step in PyTorch.

python -m benchmarks.train_step [--batch=128 --tokens=48] [--dtype=float32] [--peer=torch] [--captions=FOLDER] [...]
python -m benchmarks.train_step --dtype=bfloat16 --attention=cudnn    # on an NVIDIA GPU

The step: two mBERT-base text towers (student and teacher, layers 3-11 trained in each), one source and one target
caption per image, CLIP features, every loss term, AdamW. Needs neither TensorFlow nor data. Rows:

whole step      from token ids, all captions `--tokens` long, including the frozen layers of both networks: the same
                work as the PyTorch step
cached prefix   from the cached states of the frozen layers, as in training
forward, forward + losses, + backward   (--parts) nested parts of the step
real captions   end to end over captions of a folder with train.en.gz and train.de.gz (Multi30K): ours reads cached
                states and packs short captions into shared rows; PyTorch reads ids padded to `--tokens`, or (longest)
                to the longest caption of the batch

Each measurement is one step; ours and PyTorch's alternate. The median over `--repeats` is printed.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.paper_step import VISION, Captions, Sizes, Step, batch_of, cached, made_up, make_step
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, positive

# Peak bf16 FLOPs per second (dense) of one chip, by a part of JAX's device kind.
# Sources: NVIDIA's data sheets of A100, H100 SXM and H200; Google's of TPU v4, v5e, v5p and v6e.
PEAKS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}
MULTIPLE = 8  # of padded lengths
NETWORKS = ("student", "teacher")


class Row(NamedTuple):
    """One line of the table."""

    what: str
    dtype: str
    tokens: str
    seconds: float
    examples: float  # per second
    flops: float  # per second
    share: float | None = None  # of the chip's bf16 peak, if known
    note: str = ""


def main() -> None:
    """Measures and prints."""
    options = parse()
    use_attention(options)
    sizes = Sizes(options.batch, options.tokens, options.layers, options.first, vocabulary=options.vocabulary)
    step = make_step(sizes, dtype=options.dtype, remat=options.remat, scan=not options.unroll)
    peer = _peer(options, step)
    rows = whole_step(options, step, peer)
    if options.captions:
        rows += real_captions(options, step, peer)
    report(options, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    parser.add_argument("--batch", type=positive, default=128)
    parser.add_argument("--tokens", type=positive, default=48)
    parser.add_argument("--layers", type=positive, default=12)
    parser.add_argument("--first", type=int, default=3, help="first trained layer")
    parser.add_argument("--vocabulary", type=positive, default=119547)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="cudnn: bfloat16, NVIDIA GPU")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--unroll", action="store_true", help="no scan over layers")
    parser.add_argument("--parts", action="store_true", help="time the step's parts too")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--peer", choices=("torch",))
    parser.add_argument("--captions", type=Path, help="folder with train.en.gz and train.de.gz")
    parser.add_argument("--batches", type=positive, default=4, help="batches of real captions")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def use_attention(options: argparse.Namespace) -> None:
    """With --attention=cudnn, makes `jax.nn.dot_product_attention` use cuDNN in this process."""
    if options.attention == "xla":
        return
    if options.dtype != "bfloat16" or jax.default_backend() != "gpu":
        sys.exit("error: --attention=cudnn needs --dtype=bfloat16 and an NVIDIA GPU")
    jax.nn.dot_product_attention = functools.partial(cudnn_attention, jax.nn.dot_product_attention)


def cudnn_attention(attend: Callable[..., Any], q: Any, k: Any, v: Any, *, mask: Any = None) -> Any:
    """Attention by cuDNN, which needs half precision and full masks (B, 1, L, L); other precisions use the default."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return attend(q, k, v, mask=mask)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (len(q), 1, q.shape[1], k.shape[1]))
    return attend(q, k, v, mask=mask, implementation="cudnn")


def _peer(options: argparse.Namespace, step: Step) -> Any:
    if options.peer is None:
        return None
    if options.dtype != "float32":
        sys.exit("error: --peer=torch compares in float32; remove --dtype")
    from benchmarks.torch_peer import TorchStep

    return TorchStep(step, threads=os.cpu_count() or 1)


def whole_step(options: argparse.Namespace, step: Step, peer: Any) -> list[Row]:
    """The step with all captions at full length."""
    sizes, captions = step.sizes, made_up(step.sizes, options.batch)
    rows = np.arange(options.batch)
    batch = step.put(batch_of(cached(step, captions), captions, rows, tokens=sizes.tokens, multiple=0))
    state = step.train.init()
    began = time.perf_counter()
    state, terms = step.train.step(state, batch, 0)
    loss = float(terms["total"])
    first_call = time.perf_counter() - began
    print(f"compile and first step: {first_call:.1f} s; loss {loss:.6f}; peak memory {peak_memory():.2f} GB")
    flat = (captions.ids.reshape(-1, sizes.tokens), captions.mask.reshape(-1, sizes.tokens))

    def ours(with_prefix: bool) -> None:
        nonlocal state
        for _ in NETWORKS if with_prefix else ():  # in PyTorch each network runs it
            step.prefix(*flat)
        state, terms = step.train.step(state, batch, 1)
        jax.block_until_ready(terms)

    runs: dict[str, Callable[[], Any]] = {"whole step": lambda: ours(True), "cached prefix": lambda: ours(False)}
    if options.parts:
        parts = step.parts(jax.device_get(state["params"]), batch)
        for part in parts.values():
            part()  # compiles
        runs |= parts
    if peer is not None:
        reference = peer(captions.ids, captions.mask, captions.vision)
        print(f"loss of the first step: ours {loss:.6f}, PyTorch {reference:.6f}")
        if abs(reference - loss) > 1e-3 * abs(loss):
            sys.exit("error: the losses of ours and PyTorch differ")
        runs["whole step, torch"] = lambda: peer(captions.ids, captions.mask, captions.vision)
    times = _seconds(runs, options.repeats)
    flops = {name: sizes.flops(sizes.tokens, with_prefix=name.startswith("whole")) for name in runs}
    flops |= dict.fromkeys(["forward", "forward + losses"], flops["cached prefix"] / 3)
    table = [
        Row(name, options.dtype, str(sizes.tokens), t, options.batch / t, flops[name] / t) for name, t in times.items()
    ]
    if peer is not None:
        ratio = times["whole step, torch"] / times["whole step"]
        table[0] = table[0]._replace(note=f"{ratio:.2f} x torch")
    return table


def real_captions(options: argparse.Namespace, step: Step, peer: Any) -> list[Row]:
    """End to end over several batches, from captions in memory to updated parameters."""
    sizes = step.sizes
    captions = read_captions(options.captions, sizes, count=options.batch * options.batches)
    lengths = captions.mask.sum(-1)
    print(f"real captions: {lengths.mean():.1f} tokens on average, the longest {lengths.max()}")
    began = time.perf_counter()
    text = cached(step, captions)
    caching = time.perf_counter() - began
    batches = np.split(np.random.default_rng(0).permutation(len(captions.vision)), options.batches)
    state = step.train.init()

    def ours() -> None:
        nonlocal state
        terms = {}
        for rows in batches:
            batch = batch_of(text, captions, rows, tokens=sizes.tokens, multiple=MULTIPLE)
            state, terms = step.train.step(state, step.put(batch), 0)
        jax.block_until_ready(terms)

    def run_peer(length: Callable[[np.ndarray], int]) -> None:
        for rows in batches:
            cut = length(rows)
            peer(captions.ids[:, rows, :cut], captions.mask[:, rows, :cut], captions.vision[rows])

    ours()  # compiles
    runs: dict[str, Callable[[], Any]] = {"real captions": ours}
    if peer is not None:
        runs["real captions, torch"] = lambda: run_peer(lambda _: sizes.tokens)
        runs["real captions, torch (longest)"] = lambda: run_peer(lambda rows: int(lengths[:, rows].max()))
    times = _seconds(runs, max(1, options.repeats // 2))
    count = options.batch * options.batches
    table = [Row(name, options.dtype, "real", t / options.batches, count / t, 0.0) for name, t in times.items()]
    note = f"cached once: {caching / count * 1000:.1f} ms per image"
    if peer is not None:
        others = [times[name] / times["real captions"] for name in list(runs)[1:]]
        note += f"; {others[0]:.2f} x torch, {others[1]:.2f} x torch (longest)"
    table[0] = table[0]._replace(note=note)
    return table


def read_captions(folder: Path, sizes: Sizes, *, count: int) -> Captions:
    """The first captions of Multi30K's text, in word pieces of a multilingual vocabulary."""
    from cl2cm_jax.models.tokenizers import SentencePieceTokenizer

    tokenize = SentencePieceTokenizer(max_tokens=sizes.tokens)
    ids, mask = np.zeros((2, 2, count, sizes.tokens), np.int32)
    for side, language in enumerate(("en", "de")):
        lines = gzip.decompress((folder / f"train.{language}.gz").read_bytes()).decode().splitlines()[:count]
        if len(lines) < count:
            sys.exit(f"error: --captions={folder} has {len(lines)} captions; {count} are needed")
        tokens = tokenize(lines)
        length = tokens.ids.shape[1]
        ids[side, :, :length], mask[side, :, :length] = tokens.ids % sizes.vocabulary, tokens.mask
    vision = np.random.default_rng(0).normal(size=(count, VISION)).astype(np.float32)
    return Captions(ids, mask.astype(bool), vision)


def _seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    return {name: taken.seconds for name, taken in record.alternate(runs, repeats).items()}


def peak_memory() -> float:
    """Peak memory in GB, of the device if it reports it, otherwise of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def report(options: argparse.Namespace, rows: list[Row]) -> None:
    """Prints the table and writes it with --json."""
    device = jax.local_devices()[0]
    peak = next((value for name, value in PEAKS.items() if name in device.device_kind), None)
    if peak:
        rows = [row._replace(share=row.flops / peak if row.dtype == "bfloat16" and row.flops else None) for row in rows]
    sizes = f"batch {options.batch}, {options.layers} x 768, layers {options.first}-{options.layers - 1} trained"
    print(f"{device.device_kind} ({platform.machine()}, {os.cpu_count()} cores), jax {jax.__version__}; {sizes}")
    print(f"{'':32}{'dtype':>9}{'tokens':>8}{'s/step':>9}{'examples/s':>12}{'GFLOP/s':>10}  share of peak")
    for row in rows:
        share = f"{row.share:.1%}" if row.share else "-"
        rate = f"{row.flops / 1e9:10.0f}" if row.flops else f"{'-':>10}"
        numbers = f"{row.dtype:>9}{row.tokens:>8}{row.seconds:9.2f}{row.examples:12.2f}{rate}"
        print(f"{row.what:32}{numbers}  {share:<8}{row.note}")
    about = {"device": device.device_kind, "options": {name: str(value) for name, value in vars(options).items()}}
    record.write(options.json, [row._asdict() for row in rows], **about)


if __name__ == "__main__":
    exit_cleanly(main)
