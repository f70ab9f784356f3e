"""A difficulty stream draws problems by how often the policy solves them.

    prioritised sampling          Kimi k1.5, 2501.12599, section 2.3.4: in proportion to 1 - rate
    online difficulty filtering   2504.03380: only problems of a middle rate
    dynamic sampling              DAPO, 2503.14476, section 3.2, drops groups after they were
                                  written (`rlvr_jax/prompt_filter.py`); a draw costs nothing

Here a pass rate is the decayed mean of the outcomes in [0, 1] of a problem's answers, and a weight
for each band of pass rates says how often the problems in it are drawn.
"""

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.config import BANDS, DifficultyConfig
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.decayed import DecayedMeans

# Pass rates at which the bands after `unsolved` begin.  Of eight answers one is hard, seven easy.
EDGES = (0.05, 1 / 3, 2 / 3, 0.95)
UNSEEN = BANDS.index("unseen")


def band_of(rate: float | None) -> int:
    """Return the number, in `BANDS`, of the band of a pass rate; None is one of no answer yet."""
    return UNSEEN if rate is None else 1 + bisect.bisect(EDGES, rate)


class DifficultyStream:
    """A `DifficultyStream` hands out records by the pass rates of earlier steps.

    Each place takes a band in proportion to weight * number of its problems, then any problem of
    that band with the same chance.  No problem occurs twice in a round, nor in a step while enough
    others are left.  Where fewer problems than a round needs have a weight, those of weight 0 fill
    the rest, and `difficulty/forced` counts them.

    The draws of a step depend on the seed, the number of the step and the pass rates only.
    """

    def __init__(
        self, source: dataset.RandomAccessSource, batch: int, seed: int, cfg: DifficultyConfig
    ):
        """Draw rounds of `batch` problems from `source`.

        Raises:
          ValueError: there are too few problems for one round.
        """
        if len(source) < batch:
            raise ValueError(
                f"there are {len(source)} records, too few for one batch of {batch}: take a "
                "smaller batch or more data."
            )
        self._source, self._batch, self._seed = source, batch, seed
        self._weights = [cfg.weights.get(band, 1.0) for band in BANDS]
        self._rates = DecayedMeans(cfg.decay)
        self._numbers: dict[str, list[int]] = {}  # key -> numbers of the problems that have it
        for number, record in enumerate(dataset.each(source)):
            self._numbers.setdefault(record["key"], []).append(number)
        self._band = np.full(len(source), UNSEEN)
        self._draws = self._forced = 0

    def __len__(self) -> int:
        """Return 0: no problem waits, all are drawn by their newest pass rates."""
        return 0

    def take(self, count: int) -> list[Record]:
        """Draw the `count` problems of a step, a multiple of those of a round."""
        dice = _Dice(self._seed, self._draws)
        self._draws, self._forced = self._draws + 1, 0
        left, drawn = self._by_band(), list[int]()
        while len(drawn) < count:
            weighted = [w > 0 for w in self._weights]
            if sum(len(m) for m, w in zip(left, weighted, strict=True) if w) < self._batch:
                left = self._by_band()
            drawn += [self._draw_one(left, dice) for _ in range(self._batch)]
        return [self._source[i] for i in drawn[:count]]

    def _by_band(self) -> list[list[int]]:
        return [np.flatnonzero(self._band == i).tolist() for i in range(len(BANDS))]

    def _draw_one(self, left: list[list[int]], dice: "_Dice") -> int:
        """Remove one problem from those that are left in each band, and return its number."""
        shares = [w * len(members) for w, members in zip(self._weights, left, strict=True)]
        if not any(shares):
            self._forced += 1
            shares = [float(len(members)) for members in left]
        point, chosen = dice.fraction() * sum(shares), -1
        for band, share in enumerate(shares):
            if share:  # rounding may leave a rest behind the last share: it belongs to that one
                chosen = band
                if point < share:
                    break
                point -= share
        members = left[chosen]
        place = dice.below(len(members))
        members[place], members[-1] = members[-1], members[place]
        return members.pop()

    def give_back(self, records: list[Record]) -> None:
        """Do nothing: a problem that was drawn and not tried may be drawn again, as any other."""

    def learn(self, records: Sequence[Record], rates: Sequence[float]) -> dict[str, float]:
        """Add the mean outcome of each problem's newest answers to its pass rate.

        Returns the metrics of the step: the share of its problems that each band gave, and the
        share of all problems that are in each band afterwards.
        """
        keys = [record["key"] for record in records]
        before = self._band[[self._numbers[key][0] for key in keys]]
        drawn = np.bincount(before, minlength=len(BANDS)) / max(len(keys), 1)
        for key, rate in zip(keys, rates, strict=True):
            mean = self._rates.add(key, min(max(float(rate), 0.0), 1.0))
            self._band[self._numbers[key]] = band_of(mean)
        pool = np.bincount(self._band, minlength=len(BANDS)) / len(self._band)
        metrics = {f"difficulty/drawn_{band}": float(drawn[i]) for i, band in enumerate(BANDS)}
        metrics |= {f"difficulty/{band}": float(pool[i]) for i, band in enumerate(BANDS)}
        return metrics | {"difficulty/forced": float(self._forced)}

    def get_state(self) -> dict[str, Any]:
        """Return the number of draws and all pass rates, as JSON values."""
        return {"draws": self._draws, "rates": self._rates.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_state`."""
        self._draws = state["draws"]
        self._rates.set_state(state["rates"])
        for key, numbers in self._numbers.items():
            self._band[numbers] = band_of(self._rates.get(key))


class _Dice:
    """Random numbers of one step; only the raw bits of numpy's generator never change."""

    def __init__(self, seed: int, step: int):
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, step]))

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def below(self, count: int) -> int:
        """Return an integer from 0 to `count` - 1; the bias is below count * 2^-64."""
        return int(self._bits.random_raw()) * count >> 64
