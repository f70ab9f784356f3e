"""Sum the votes on preference items, and compare them with the truth.

Arrays have the dimensions I items, k votes and N responses of the largest item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Z95 = 1.959964  # half width of a 95 % interval, in standard errors


@dataclass(frozen=True)
class Ballots:
    """Ballots hold k votes on each of I items, with the responses in the order of the items."""

    score_IkN: Any  # float, 0 in an invalid vote
    valid_Ik: Any  # bool
    sound_Ik: Any  # the meta RM's probability that a vote is sound; zeros without a meta RM
    count_I: Any  # int, responses of each item
    best_I: Any  # int, index of the best; of a single response: 1 if it is right

    def first(self, votes: int) -> Ballots:
        """Return the ballots with the first `votes` votes of each item."""
        return Ballots(
            self.score_IkN[:, :votes],
            self.valid_Ik[:, :votes],
            self.sound_Ik[:, :votes],
            self.count_I,
            self.best_I,
        )


def keep_best(ballots: Ballots, keep: float) -> Any:
    """Return bool [I, k]: the valid votes that a meta RM keeps, as `rlvr_jax.grm.keep_best`."""
    sound_Ik = np.where(ballots.valid_Ik, ballots.sound_Ik, -np.inf)
    rank_Ik = np.argsort(np.argsort(-sound_Ik, axis=1, kind="stable"), axis=1)
    most = int(np.ceil(ballots.valid_Ik.shape[1] * keep))
    return ballots.valid_Ik & (rank_Ik < most)


def outcomes(ballots: Ballots, kept_Ik: Any) -> dict[str, Any]:
    """Return, for each item, how the sum of its kept votes compares with the truth.

    `strict` is 1 if the best response is alone at the top; `expected` gives 1/m to the best among m
    at the top, as a draw among them would on average; `tied` and `unjudged` are 1 for an item with
    several responses at the top and for one without a vote.  A single response is right if more
    than half of its votes say so; without votes on several responses, all of them are at the top.
    """
    total_IN = (ballots.score_IkN * kept_Ik[:, :, None]).sum(1)
    votes_I = kept_Ik.sum(1)
    exists_IN = np.arange(total_IN.shape[1]) < ballots.count_I[:, None]
    total_IN = np.where(exists_IN, total_IN, -np.inf)
    top_IN = total_IN == total_IN.max(1, keepdims=True)
    ties_I = top_IN.sum(1)
    best_I = np.minimum(ballots.best_I, ballots.count_I - 1)
    hit_I = np.take_along_axis(top_IN, best_I[:, None], 1)[:, 0]
    share_I = np.where(hit_I, 1 / ties_I, 0.0)
    alone_I = ballots.count_I == 1
    yes_I = np.where(alone_I, total_IN[:, 0] * 2 - votes_I, 0)
    agrees_I = (yes_I > 0) == (ballots.best_I == 1)
    share_I = np.where(alone_I, np.where(yes_I == 0, 0.5, agrees_I), share_I)
    tied_I = np.where(alone_I, yes_I == 0, ties_I > 1)
    return {
        "strict": (share_I == 1).astype(float),
        "expected": share_I.astype(float),
        "tied": (tied_I & (votes_I > 0)).astype(float),
        "unjudged": (votes_I == 0).astype(float),
    }


def summarise(found: dict[str, Any], domains: list[str]) -> dict[str, dict[str, float]]:
    """Return the mean of each outcome over all items and by domain, with half a 95 % interval.

    The interval is that of a mean over independent items; its key ends in `_pm`.
    """
    names = np.array(domains)
    groups = {"all": np.ones(len(names), bool)} | {d: names == d for d in sorted({*domains})}
    report: dict[str, dict[str, float]] = {}
    for group, of_group in groups.items():
        report[group] = {"items": int(of_group.sum())}
        for name, value_I in found.items():
            values = value_I[of_group]
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            report[group][name] = float(values.mean())
            report[group][f"{name}_pm"] = float(Z95 * spread / np.sqrt(len(values)))
    return report
