"""The largest batch that fits, by compiling: memory grows almost in a line, so few programs are tried."""

from __future__ import annotations

from collections.abc import Callable

MOST = 65_536  # images a chip; no more are tried


def largest(needed: Callable[[int], int], *, capacity: int, start: int, unit: int) -> int:
    """The largest multiple of `unit` whose program fits.

    Args:
      needed: batch -> bytes that its program takes, more than `capacity` where it does not fit.
      capacity: bytes.
      start: where to begin; rounded up to a multiple of `unit`.
      unit: how exact.

    Returns:
      The batch; 0 where not even `unit` fits.

    Source: ours; the secant method, and bisection where it does not halve what is left.
    """
    tried: dict[int, int] = {}
    low, high = 0, MOST // unit + 1  # in units: what is known to fit, and not to
    guess = max(1, -(-start // unit))
    while high - low > 1:
        tried[guess] = needed(guess * unit)
        low, high = (guess, high) if tried[guess] <= capacity else (low, guess)
        bisected = len(tried) % 3 == 0  # now and then, so that a crooked line cannot make it slow
        guess = (low + high) // 2 if bisected and high <= MOST // unit else _secant(tried, capacity, low=low, high=high)
    return low * unit


def _secant(tried: dict[int, int], capacity: int, *, low: int, high: int) -> int:
    """Where the line through the two points nearest to the capacity reaches it, between `low` and `high`."""
    (x, fx), *rest = sorted(tried.items(), key=lambda point: abs(point[1] - capacity))
    if not rest:
        guess = 2 * x if fx <= capacity else x // 2
    else:
        y, fy = rest[0]
        slope = (fx - fy) / (x - y)
        guess = int(x + (capacity - fx) / slope) if slope > 0 else (low + high) // 2
    return min(max(guess, low + 1), high - 1)
