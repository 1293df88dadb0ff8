"""A random BERT of three small layers, with a tokenizer for the words of the tiny set."""

from __future__ import annotations

import shutil
from pathlib import Path

import tokenizers
from support.tiny_set import COLOURS, THINGS
from tokenizers import models, pre_tokenizers, processors

_GOLDEN = Path(__file__).parents[1] / "golden" / "bert"
_MARKS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def write_tiny_bert(folder: Path) -> Path:
    """Writes config.json, model.safetensors and tokenizer.json; returns the folder."""
    shutil.copytree(_GOLDEN, folder)
    pairs = [(name, *others) for table in (COLOURS, THINGS) for name, others in table.items()]
    words = [*_MARKS, *sorted({word for pair in pairs for word in pair})]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
