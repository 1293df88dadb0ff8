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
    tried = {0: 0}
    low, high = 0, LIMIT // unit + 1  # in units: known to fit, known not to fit
    guess = max(1, -(-start // unit))
    while high - low > 1:
        tried[guess] = needed(guess * unit)
        low, high = (guess, high) if tried[guess] <= capacity else (low, guess)
        (x, fx), (y, fy) = sorted(tried.items(), key=lambda point: abs(point[1] - capacity))[:2]
        slope = (fx - fy) / (x - y)
        bisects = slope <= 0 or (len(tried) % 3 == 0 and high <= LIMIT // unit)  # memory need not be linear
        guess = (low + high) // 2 if bisects else int(x + (capacity - fx) / slope)
        guess = min(max(guess, low + 1), high - 1)
    return low * unit
