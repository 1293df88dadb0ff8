"""What the compilation cache saves: seconds from the command to the end of its second step, first and second time.

python -m benchmarks.start [--config=configs/emoji.py] [--config.data.dir=...]

Data and features are there in both cases (they are made before the clock starts); the programs are compiled the first
time and read from `<data.dir>/compiled` the second. Each start is a process of its own.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cl2cm_jax.command_line import split_flags
from cl2cm_jax.config import read

SHORT = ("train.steps=2", "train.evaluate_every=1", "train.checkpoint_every=2", "train.log_every=1", "teacher.steps=2")


def main() -> None:
    """Starts the same short training twice."""
    rest, overrides = split_flags(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/emoji.py")
    options = parser.parse_args(rest)
    config = read(options.config, overrides)
    flags = [f"--config.{name}={value}" for name, value in overrides.items()]
    command = [sys.executable, "-m", "cl2cm_jax.main", f"--config={options.config}", *flags]
    with tempfile.TemporaryDirectory() as temporary:
        _run([*command, "--mode=check", f"--workdir={temporary}/check"])
        shutil.rmtree(Path(config.data.dir, "compiled"), ignore_errors=True)
        short = [f"--config.{field}" for field in SHORT]
        first, second = (_run([*command, *short, f"--workdir={temporary}/{name}"]) for name in ("first", "second"))
    print(f"{options.config}: first start {first:.1f} s, second {second:.1f} s, {second / first:.2f} of the first")


def _run(command: list[str]) -> float:
    began = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(finished.stderr)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
