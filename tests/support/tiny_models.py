"""Random text models of a few small layers, with a tokenizer for the words of the tiny set."""

from __future__ import annotations

import shutil
from pathlib import Path

import tokenizers
from support.tiny_set import COLOURS, THINGS
from tokenizers import models, pre_tokenizers, processors

_GOLDEN = Path(__file__).parents[1] / "golden"
_MARKS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def write_tiny_bert(folder: Path) -> Path:
    """Writes config.json, model.safetensors and tokenizer.json; returns the folder."""
    return write_tiny_text(folder, "bert", template="[CLS] $A [SEP]")


def write_tiny_text(folder: Path, family: str, *, template: str) -> Path:
    """The same for the golden model of a family, with marks around a text as in the template."""
    shutil.copytree(_GOLDEN / family, folder)
    (folder / "outputs.npz").unlink()
    pairs = [(name, *others) for table in (COLOURS, THINGS) for name, others in table.items()]
    words = [*_MARKS, *sorted({word for pair in pairs for word in pair})]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
