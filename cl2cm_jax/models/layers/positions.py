"""Position tables of vision transformers, interpolated to other resolutions."""

from __future__ import annotations

import math

import numpy as np


def interpolated(positions: np.ndarray, *, grid: int, tokens: int, antialias: bool = False) -> np.ndarray:
    """A position table for another grid: bicubic between the rows of the old one.

    Args:
      positions: (tokens + n * n, d); returned unchanged if the grid is not square.
      grid: rows and columns of the new grid.
      tokens: rows before those of the grid, which are kept.
      antialias: whether the filter widens where the grid becomes smaller.

    Returns:
      (tokens + grid * grid, d) float32.
    """
    if positions.ndim != 2 or len(positions) <= tokens:
        return positions
    side = math.isqrt(len(positions) - tokens)
    if side == grid or tokens + side**2 != len(positions):
        return positions
    weights = _antialiased(side, grid) if antialias else _bicubic(side, grid)
    cells = positions[tokens:].reshape(side, side, -1)
    resized = np.einsum("ai,bj,ijd->abd", weights, weights, cells.astype(np.float64))
    return np.concatenate([positions[:tokens], resized.reshape(grid**2, -1)]).astype(np.float32)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Weights (new, old) of cubic convolution (a = -0.75, edges repeated, no antialiasing), as torch interpolates."""
    a = -0.75
    weights = np.zeros((new, old))
    for row in range(new):
        place = (row + 0.5) * old / new - 0.5
        for column in range(math.floor(place) - 1, math.floor(place) + 3):
            t = abs(place - column)
            near = ((a + 2) * t - (a + 3)) * t * t + 1
            far = a * (((t - 5) * t + 8) * t - 4)
            weights[row, min(max(column, 0), old - 1)] += near if t <= 1 else far
    return weights


def _antialiased(old: int, new: int) -> np.ndarray:
    """Weights (new, old) of the cubic filter (a = -0.5, cut at the edges), as torch interpolates with antialiasing."""
    a, scale = -0.5, max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new
    t = np.abs(np.arange(old) + 0.5 - centres[:, None]) / scale
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, a * (((t - 5) * t + 8) * t - 4)
    weights = np.where(t <= 1, near, np.where(t < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)
