"""Fuzz the file readers with atheris.

make fuzz [SECONDS=60] [TARGET=npy]              all targets whose name starts with TARGET, for SECONDS in total
make fuzz RUNS=300                               RUNS inputs for each target, deterministic from an empty build/fuzz
make fuzz TARGET=npy INPUT=build/fuzz/npy/...    run one input again, with its traceback
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

FOUND = Path("build/fuzz")
LONGEST = 100_000  # bytes of an input
MEMORY_MB, SLOWEST = 4096, 20  # limits of libFuzzer, above those of attempt.py

# Sequences that mutations of single bytes rarely produce.
WORDS = [
    b"../", b"/etc/passwd", b"\x00", b"\r\n", b"\\ud800", b"\xed\xa0\x80", b"NaN", b"1e999", b"-1", b"9" * 5000,
    b"[" * 3000, b"{\"a\":" * 1500, b"(" * 150, b"-" * 3000, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\xef\xbb\xbf",
    b"\x93NUMPY", b"PK\x03\x04", b"cos\nsystem\n", b"|O", b"%0d%0aX: y",
]  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="in total, over all targets")
    parser.add_argument("--runs", type=int, default=0, help="inputs for each target, with a fixed seed")
    parser.add_argument("--target", default="", help="prefix of the names of targets")
    parser.add_argument("--input", type=Path, help="a file to run once, with one target")
    return parser.parse_args()


def main() -> int:
    """Fuzzes the chosen targets, each in a process of its own; returns 1 if there is a finding."""
    options = parse()
    if options.input is None:
        try:
            import atheris
        except ImportError:
            print("error: atheris is not installed; it has wheels for Linux on x86-64 only", file=sys.stderr)
            return 2

        with contextlib.redirect_stderr(io.StringIO()):  # one line for each module
            with atheris.instrument_imports(include=["cl2cm_jax", "PIL"], enable_loader_override=False):  # pyright: ignore[reportAttributeAccessIssue]
                from fuzz.targets import targets
    else:
        from fuzz.targets import targets
    chosen = {name: target for name, target in targets().items() if name.startswith(options.target)}
    if not chosen:
        print(f"error: TARGET={options.target}: no such target; there are {', '.join(targets())}", file=sys.stderr)
        return 2
    if options.input is not None:
        from fuzz.attempt import attempt

        name = options.target if options.target in chosen else next(iter(chosen))
        print(f"{name}: {'taken' if attempt(chosen[name], options.input.read_bytes()) else 'refused'}")
        return 0
    seconds = max(1, options.seconds // len(chosen))
    bound = ["-seed=1", f"-runs={options.runs}"] if options.runs else [f"-max_total_time={seconds}"]
    each = f"{options.runs} inputs" if options.runs else f"{seconds} s"
    failed = [name for name in chosen if not search(name, bound)]
    print(f"{len(chosen)} targets, {each} each: " + (f"findings in {', '.join(failed)}" if failed else "no finding"))
    return int(bool(failed))


def search(name: str, bound: list[str]) -> bool:
    """Fuzzes one target and returns whether there was no finding; prints the command that reproduces each finding."""
    found = FOUND / name
    known = set(found.glob("*-*"))
    found.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if not process:
        _fuzz(name, bound, found)
    _, status, used = os.wait4(process, 0)
    print(f"{name}: {used.ru_utime + used.ru_stime:.0f} s of CPU", flush=True)
    for path in sorted(set(found.glob("*-*")) - known):
        print(
            f"finding: {path}; to reproduce: make fuzz TARGET={shlex.quote(name)} INPUT={shlex.quote(str(path))}",
            flush=True,
        )
    return status == 0


def _fuzz(name: str, bound: list[str], found: Path) -> None:
    """Runs libFuzzer, which ends this process."""
    import atheris

    from fuzz.attempt import attempt
    from fuzz.targets import targets

    target = targets()[name]
    corpus = found / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    words = found / "words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    print(f"--- {name}: {' '.join(bound)}", flush=True)
    atheris.Setup(
        [sys.argv[0], *bound, f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY_MB}",
         f"-timeout={SLOWEST}", f"-artifact_prefix={found}/", f"-dict={words}", "-verbosity=0",
         "-print_final_stats=1", str(corpus)],
        lambda data: attempt(target, data),
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
