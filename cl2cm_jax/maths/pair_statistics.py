"""Mergeable statistics of rows and columns: of one pair, of a tile of pairs, or of all pairs.

Of single pairs the arrays are (..., C); `reduce` removes axes, `merge` joins two parts. `pull` is the gradient of any
part, given the merged total and its gradient, so a backward pass needs only the totals of the forward one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths.masking import MASKED, divide

Axes = int | tuple[int, ...]


class Sum(NamedTuple):
    """A sum. value: (...) fp32."""

    value: Array

    @classmethod
    def identity(cls, like: Sum) -> Sum:
        """The neutral element of `merge`, in the shape of another."""
        return cls(jnp.zeros_like(like.value))

    def reduce(self, axes: Axes) -> Sum:
        return Sum(jnp.sum(self.value, axis=axes))

    def merge(self, other: Sum) -> Sum:
        return Sum(self.value + other.value)

    def pull(self, total: Sum, gradient: Sum) -> Sum:
        return gradient


class LogSumExp(NamedTuple):
    """The logarithm of a sum of exponentials. value: (...) fp32, of a pair its logit."""

    value: Array

    @classmethod
    def identity(cls, like: LogSumExp) -> LogSumExp:
        return cls(jnp.full_like(like.value, MASKED))

    def reduce(self, axes: Axes) -> LogSumExp:
        top = jnp.max(self.value, axis=axes, keepdims=True)
        return LogSumExp(jnp.squeeze(top, axes) + jnp.log(jnp.sum(jnp.exp(self.value - top), axis=axes)))

    def merge(self, other: LogSumExp) -> LogSumExp:
        return LogSumExp(jnp.logaddexp(self.value, other.value))

    def pull(self, total: LogSumExp, gradient: LogSumExp) -> LogSumExp:
        return LogSumExp(gradient.value * jnp.exp(self.value - total.value))


class SoftMean(NamedTuple):
    """A mean weighted by a softmax that gets no gradient, such as the teacher's.

    log_total: (...) fp32, log-sum-exp of the softmax's logits, of a pair its logit; mean: (...) fp32.
    """

    log_total: Array
    mean: Array

    @classmethod
    def identity(cls, like: SoftMean) -> SoftMean:
        return cls(jnp.full_like(like.log_total, MASKED), jnp.zeros_like(like.mean))

    def reduce(self, axes: Axes) -> SoftMean:
        top = jnp.max(self.log_total, axis=axes, keepdims=True)
        share = jnp.exp(self.log_total - top)
        total = jnp.sum(share, axis=axes)
        return SoftMean(jnp.squeeze(top, axes) + jnp.log(total), jnp.sum(share * self.mean, axis=axes) / total)

    def merge(self, other: SoftMean) -> SoftMean:
        log_total = jnp.logaddexp(self.log_total, other.log_total)
        share, rest = jnp.exp(self.log_total - log_total), jnp.exp(other.log_total - log_total)
        return SoftMean(log_total, share * self.mean + rest * other.mean)

    def pull(self, total: SoftMean, gradient: SoftMean) -> SoftMean:
        share = jnp.exp(self.log_total - total.log_total)
        return SoftMean(jnp.zeros_like(share), gradient.mean * share)


class ArgMax(NamedTuple):
    """A maximum and where it is, the lowest index among equals; that one alone gets the gradient.

    value: (...) fp32, MASKED where there is none; index: (...) fp32, exact below 2^24.
    """

    value: Array
    index: Array

    @classmethod
    def identity(cls, like: ArgMax) -> ArgMax:
        return cls(jnp.full_like(like.value, MASKED), jnp.zeros_like(like.index))

    def reduce(self, axes: Axes) -> ArgMax:
        best = jnp.max(self.value, axis=axes, keepdims=True)
        index = jnp.min(jnp.where(self.value == best, self.index, jnp.inf), axis=axes)
        return ArgMax(jnp.squeeze(best, axes), index)

    def merge(self, other: ArgMax) -> ArgMax:
        better = (other.value > self.value) | ((other.value == self.value) & (other.index < self.index))
        return ArgMax(jnp.where(better, other.value, self.value), jnp.where(better, other.index, self.index))

    def pull(self, total: ArgMax, gradient: ArgMax) -> ArgMax:
        here = self.index == total.index
        return ArgMax(jnp.where(here, gradient.value, 0), jnp.zeros_like(self.index))


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations, which unlike a sum of squares do not cancel; gets no gradient.

    Of a pair: 1 where it counts and else 0, its value, 0. All (...) fp32.
    """

    count: Array
    mean: Array
    squares: Array

    @classmethod
    def identity(cls, like: Moments) -> Moments:
        return cls(*(jnp.zeros_like(part) for part in like))

    def reduce(self, axes: Axes) -> Moments:
        count = jnp.sum(self.count, axis=axes, keepdims=True)
        mean = divide(jnp.sum(self.count * self.mean, axis=axes, keepdims=True), count)
        squares = jnp.sum(self.squares + self.count * (self.mean - mean) ** 2, axis=axes)
        return Moments(jnp.squeeze(count, axes), jnp.squeeze(mean, axes), squares)

    def merge(self, other: Moments) -> Moments:
        count, apart = self.count + other.count, other.mean - self.mean
        share = divide(other.count, count)
        squares = self.squares + other.squares + apart**2 * self.count * share
        return Moments(count, self.mean + apart * share, squares)

    def pull(self, total: Moments, gradient: Moments) -> Moments:
        return Moments.identity(self)


Statistic = Sum | LogSumExp | SoftMean | ArgMax | Moments
