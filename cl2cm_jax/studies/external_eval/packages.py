"""Import of the evaluation libraries, which are optional and depend on PyTorch."""

from __future__ import annotations

import importlib
from typing import Any

from cl2cm_jax.errors import not_installed

INSTALL = "in a checkout pip install -e '.[judges]', then pip install --no-deps clip-benchmark==1.6.2"


def package(name: str) -> Any:
    """A module of an evaluation library; raises UserError if it, or a package that it needs, is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise not_installed(error.name, run=INSTALL) from error
