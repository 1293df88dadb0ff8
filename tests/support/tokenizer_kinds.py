"""Small tokenizers of the kinds that real models have, built with the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tokenizers as library

from cl2cm_jax.models.tokenizers import precompiled

tokenizers: Any = library
MARKS = ["<pad>", "<s>", "</s>", "<unk>"]


def bert() -> Any:
    words = [*MARKS, "a", "red", "car", "app", "##el", "12", ",", "##s", "birn", "##en"]
    model = tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    found = tokenizers.Tokenizer(model)
    found.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    found.post_processor = tokenizers.processors.BertProcessing(("</s>", 2), ("<s>", 1))
    found.decoder = tokenizers.decoders.WordPiece()
    return found


def xlm_roberta() -> Any:
    pieces = [*MARKS, "\u2581", "\u2581a", "r", "e", "d", "\u2581red", "\u2581car", "f", "i", "n", "1", "2", "\u2581fi"]
    found = tokenizers.Tokenizer(tokenizers.models.Unigram([(p, -i / 7) for i, p in enumerate(pieces)], 3, False))
    mapped = precompiled({0xFB01: "fi", 0xBD: "1\u20442"})
    parts = [tokenizers.normalizers.Precompiled(mapped), tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    found.normalizer = tokenizers.normalizers.Sequence(parts)
    both = [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    found.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(both)
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    found.add_special_tokens([*MARKS, tokenizers.AddedToken("<mask>", lstrip=True)])
    return found


def byte_level(pattern: str | None) -> Any:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*MARKS, *alphabet, "re", "red", "\u0120a", "bi", "bir"]
    merges = [("r", "e"), ("re", "d"), ("\u0120", "a"), ("b", "i"), ("bi", "r")]
    model = tokenizers.models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>")
    found = tokenizers.Tokenizer(model)
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    pieces = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")] if pattern else []
    found.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*pieces, level])
    found.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return found


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
KINDS: dict[str, Callable[[], Any]] = {
    "bert": bert,
    "xlm-roberta": xlm_roberta,
    "roberta": lambda: byte_level(None),
    "llama": lambda: byte_level(LLAMA),
    "clip": lambda: byte_level(CLIP),
}
