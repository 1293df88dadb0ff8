"""Search for the largest batch whose program fits: memory is almost linear in the batch, so few are compiled."""

from __future__ import annotations

from collections.abc import Callable

LIMIT = 65_536  # images per chip


def largest(needed: Callable[[int], int], *, capacity: int, start: int, unit: int) -> int:
    """The largest multiple of `unit` that fits, by the secant method with occasional bisection.

    Args:
      needed: batch -> bytes of its program, more than `capacity` if it does not fit.
      capacity: bytes.
      start: first guess, rounded up to a multiple of `unit`.
      unit: resolution of the search.

    Returns:
      The batch; 0 if even `unit` does not fit.
    """
    tried: dict[int, int] = {}
    low, high = 0, LIMIT // unit + 1  # in units: known to fit, known not to fit
    guess = max(1, -(-start // unit))
    while high - low > 1:
        tried[guess] = needed(guess * unit)
        low, high = (guess, high) if tried[guess] <= capacity else (low, guess)
        bisects = len(tried) % 3 == 0 and high <= LIMIT // unit  # bounds the number of steps if memory is not linear
        guess = (low + high) // 2 if bisects else _secant(tried, capacity, low=low, high=high)
    return low * unit


def _secant(tried: dict[int, int], capacity: int, *, low: int, high: int) -> int:
    """The line through the two points nearest to the capacity, solved for it, between `low` and `high`."""
    (x, fx), *rest = sorted(tried.items(), key=lambda point: abs(point[1] - capacity))
    if rest:
        y, fy = rest[0]
        slope = (fx - fy) / (x - y)
        guess = int(x + (capacity - fx) / slope) if slope > 0 else (low + high) // 2
    else:
        guess = 2 * x if fx <= capacity else x // 2
    return min(max(guess, low + 1), high - 1)
