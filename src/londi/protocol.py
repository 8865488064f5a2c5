"""Statistics over tasks and training seeds, as reinforcement learning should report them.

Agarwal et al. 2021 (arXiv 2108.13264): the interquartile mean instead of the mean, intervals from a bootstrap that
draws the seeds of each task anew (stratified by task), and the probability of improvement. scipy does the sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from londi.errors import ConfigError, MissingExtraError

FloatArray = NDArray[np.float64]
Scores = Sequence[Sequence[float]]
"""A task a row, its training seeds the columns; rows may differ in length."""
Rows = Sequence[FloatArray]
"""An array a task: its seeds are the last axis, and draws, if there are any, those before."""
REPEATS = 5_000
"""Draws of the bootstrap."""


def iqm(scores: Scores) -> float:
    """Return the interquartile mean: the mean of what is left without the lowest and the highest quarter of all runs.

    A quarter that is no whole number of runs is rounded down. Raises `ConfigError` without a score.
    """
    return float(_iqm(_rows(scores)))


def interval(scores: Scores, seed: int = 0, repeats: int = REPEATS) -> tuple[float, float]:
    """Return the stratified-bootstrap 95 % interval (percentiles) of `iqm`: the seeds of each task drawn anew.

    With one seed in every task there is nothing to draw: the interval is the point. Raises `ConfigError` without a
    score.
    """
    return _bootstrap(_iqm, _rows(scores), seed, repeats)


def improvement(ours: Scores, theirs: Scores) -> float:
    """Return the probability that a run of ours beats one of theirs on the same task, mean over tasks; ties count half.

    The statistic of Mann and Whitney over n m (Agarwal et al. 2021, sec. 4.2). Raises `ConfigError` where the two
    have not the same number of tasks, or no scores.
    """
    return float(_improvement(_both(ours, theirs)))


def improvement_interval(ours: Scores, theirs: Scores, seed: int = 0, repeats: int = REPEATS) -> tuple[float, float]:
    """Return the stratified-bootstrap 95 % interval of `improvement`; ours and theirs are drawn apart."""
    return _bootstrap(_improvement, _both(ours, theirs), seed, repeats)


def kept_interval(
    solved: NDArray[np.bool_], reference: NDArray[np.bool_], seed: int = 0, repeats: int = REPEATS
) -> tuple[float, float]:
    """Return the 95 % interval (percentiles) of the success kept: mean of `solved` (S, E) over that of `reference`.

    S training seeds played the same E episodes as the reference (E,). A bootstrap that draws both anew, each drawn
    episode for all seeds and the reference at once: what is easy for one and the other is not taken for chance.
    Raises `ConfigError` where the reference solved nothing.
    """
    if not reference.any():
        raise ConfigError("the reference solved no episode: there is no share of it")
    rng = np.random.default_rng(seed)
    rows, columns = solved.shape
    seeds = rng.multinomial(rows, np.full(rows, 1 / rows), repeats) / rows  # (B, S)
    episodes = rng.multinomial(columns, np.full(columns, 1 / columns), repeats)  # (B, E)
    found = np.einsum("bs,se,be->b", seeds, solved.astype(float), episodes, optimize=True)
    low, high = np.percentile(found / np.maximum(episodes @ reference, 1), (2.5, 97.5))
    return float(low), float(high)


def _iqm(rows: Rows) -> FloatArray:
    return np.asarray(_stats().trim_mean(np.concatenate(rows, -1), 0.25, axis=-1))


def _improvement(rows: Rows) -> FloatArray:
    """Of the first half of the rows over the second."""
    pairs = zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)
    gaps = [np.sign(one[..., :, None] - other[..., None, :]) for one, other in pairs]
    return np.asarray(np.mean([(gap.mean((-2, -1)) + 1) / 2 for gap in gaps], axis=0))


def _bootstrap(statistic: Callable[[Rows], FloatArray], rows: Rows, seed: int, repeats: int) -> tuple[float, float]:
    """The 95 % interval of a statistic of rows (..., S): it gets all draws at once."""
    if all(len(set(row)) == 1 for row in rows):
        found = float(statistic(rows))
        return found, found
    lengths = [len(row) for row in rows]
    result = _stats().bootstrap(
        tuple(np.resize(row, max(2, len(row))) for row in rows),  # scipy wants two of each
        lambda *drawn, axis: statistic([row[..., :length] for row, length in zip(drawn, lengths, strict=True)]),
        n_resamples=repeats,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _both(ours: Scores, theirs: Scores) -> list[FloatArray]:
    if len(ours) != len(theirs):
        raise ConfigError(f"these are scores of {len(ours)} and {len(theirs)} tasks: compare the same ones")
    return [*_rows(ours), *_rows(theirs)]


def _rows(scores: Scores) -> list[FloatArray]:
    if not any(len(row) for row in scores):
        raise ConfigError("there are no scores")
    return [np.asarray(row, float) for row in scores]


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError("scipy", "stats") from error
    return stats
