"""Search works without what only POSIX systems have, as far as that can be tried on one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

CODE = """
import os, sys
sys.modules |= dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios"))
for name in ("O_NONBLOCK", "nice", "fork", "getuid", "mkfifo", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
import cl2cm_jax.__main__, cl2cm_jax.search.query, cl2cm_jax.trained.model
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.serve.workers import Workers
print(decode(sys.argv[1]).shape, Workers(1).pixels(open(sys.argv[1], "rb").read()).shape)
"""


def test_pictures_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    command = [sys.executable, "-c", CODE, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "(4, 5, 3) (4, 5, 3)\n", done.stderr
