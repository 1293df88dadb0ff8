"""The library transformers, imported where a model folder needs it: without torch, and without its own messages."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, Literal

from cl2cm_jax.errors import not_installed

_QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # such as that PyTorch was not found


def transformers_library(*, needed_for: str = "", run: str = "") -> Any:
    """The module transformers; the arguments are those of `not_installed`.

    A program that has imported it before keeps its messages.

    Raises:
      UserError: it is not installed.
    """
    is_first, before = "transformers" not in sys.modules, os.environ.get(_QUIET)
    os.environ[_QUIET] = "1"
    try:
        import transformers
    except ImportError as error:
        raise not_installed("transformers", run=run, needed_for=needed_for) from error
    finally:
        if before is None:
            del os.environ[_QUIET]
        else:
            os.environ[_QUIET] = before
    if is_first:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    return transformers


@functools.cache
def model_types(kind: Literal["text", "vision"]) -> frozenset[str]:
    """The model_type of models that transformers has with a tokenizer, or with an image processor.

    Raises:
      UserError: it is not installed.
    """
    transformers_library()
    from transformers.models.auto import image_processing_auto
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    processors = vars(image_processing_auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
    return frozenset(TOKENIZER_MAPPING_NAMES if kind == "text" else processors).intersection(MODEL_MAPPING_NAMES)
