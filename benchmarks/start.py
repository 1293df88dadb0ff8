"""Start-up time with a cold and a warm compilation cache: seconds until the second training step is done.

python -m benchmarks.start [--config=configs/emoji.py] [--json=FILE] [--config.data.dir=...]

Data and features are built before timing starts. The first start compiles into a temporary cache folder, the second
reads from it; the cache in the data folder is not used. Each start is a separate process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record
from cl2cm_jax.config import read
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, split_flags

SHORT = ("train.steps=2", "train.evaluate_every=1", "train.checkpoint_every=2", "train.log_every=1", "teacher.steps=2")


def main() -> None:
    """Times the same short training twice."""
    rest, overrides = split_flags(sys.argv[1:])
    parser = Arguments(description=__doc__)
    parser.add_argument("--config", default="configs/emoji.py")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(rest)
    read(options.config, overrides)  # reports mistakes before the slow part
    flags = [f"--config.{name}={value}" for name, value in overrides.items()]
    command = [sys.executable, "-m", "cl2cm_jax.main", f"--config={options.config}", *flags]
    with tempfile.TemporaryDirectory() as temporary:
        _run([*command, "--mode=check", f"--workdir={temporary}/check"], cache=Path(temporary, "other"))
        short = [f"--config.{field}" for field in SHORT]
        first, second = (
            _run([*command, *short, f"--workdir={temporary}/{name}"], cache=Path(temporary, "compiled"))
            for name in ("first", "second")
        )
    print(f"{options.config}: first start {first:.1f} s, second {second:.1f} s, {second / first:.2f} of the first")
    row = {"what": Path(options.config).stem, "first": first, "second": second, "ratio": second / first}
    record.write(options.json, [row])


def _run(command: list[str], *, cache: Path) -> float:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        # the defaults of start_jax
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    began = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    if finished.returncode:
        sys.exit(finished.stderr)
    return time.perf_counter() - began


if __name__ == "__main__":
    exit_cleanly(main)
