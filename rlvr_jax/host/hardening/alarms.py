"""Signs in the metrics of an rl stage that its reward is being gamed.

Pure functions of the history of metrics, one mapping a step: the same alarms after a resume.  What
each sign looked like in a published run is in docs/audit.md.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlvr_jax.config import AlarmConfig

History = Sequence[Mapping[str, float]]
LENGTH, REWARD, KL = "completion/length_mean", "reward/mean", "policy/kl"
SAME, STD, GAP = "completion/identical_frac", "reward/std", "oracle/gap"
PRM = "prm/reward_mean"
KEYS = (LENGTH, REWARD, KL, SAME, STD, GAP, PRM)
LOOKS = 3  # of the oracle, whose mean counts
LEAST_KL = 0.05  # what is below it may jump
MEMORY = 50  # windows that are remembered


def check(history: History, cfg: AlarmConfig) -> dict[str, str]:
    """The alarms that are on after the last step: name -> a sentence with its numbers."""
    history = history[-MEMORY * cfg.window :]
    found = {name: look(history, cfg) for name, look in LOOK.items()}
    return {name: sentence for name, sentence in found.items() if sentence}


def recent(values: Mapping[str, object]) -> dict[str, float]:
    """What `check` needs to remember of one step's metrics."""
    return {k: v for k in KEYS if isinstance(v := values.get(k), int | float)}


def length(history: History, cfg: AlarmConfig) -> str:
    """Responses became far shorter while the reward rose (arXiv 2507.08794, figure 1)."""
    length_N, reward_N = (_windows(_series(history, key), cfg.window) for key in (LENGTH, REWARD))
    count = min(len(length_N), len(reward_N))
    if count <= cfg.window:
        return ""
    peak = int(np.argmax(length_N[: count - cfg.window]))
    now, reward = length_N[count - 1], reward_N[count - 1]
    if now >= (1 - cfg.length_drop) * length_N[peak] or reward <= reward_N[peak]:
        return ""
    return (
        f"mean length fell from {length_N[peak]:.1f} to {now:.1f} tokens while the reward rose "
        f"from {reward_N[peak]:.2f} to {reward:.2f}"
    )


def identical(history: History, cfg: AlarmConfig) -> str:
    """Nearly all responses of a batch, to different prompts, are one and the same."""
    share = _mean(history, SAME, cfg.window)
    return "" if not share >= cfg.identical else f"{share:.0%} of the responses are the same one"


def reward_std(history: History, cfg: AlarmConfig) -> str:
    """All responses get the same reward: all is solved, nothing is, or a key opens everything."""
    std = _mean(history, STD, cfg.window)
    return "" if not std < cfg.reward_std else f"the reward's standard deviation is {std:.2g}"


def oracle_gap(history: History, cfg: AlarmConfig) -> str:
    """The reward is above what the oracle says of the same responses."""
    gap = _mean(history, GAP, min(LOOKS, len(_series(history, GAP))))
    return "" if not gap > cfg.oracle_gap else f"the reward is {gap:.2f} above the oracle's"


def kl_jump(history: History, cfg: AlarmConfig) -> str:
    """The policy left the reference within a window."""
    kl_N = np.abs(_windows(_series(history, KL), cfg.window))
    if len(kl_N) <= cfg.window:
        return ""
    now, before = kl_N[-1], max(kl_N[-1 - cfg.window], LEAST_KL)
    return "" if now <= cfg.kl_jump * before else f"KL went from {before:.3g} to {now:.3g}"


def prm_rise(history: History, cfg: AlarmConfig) -> str:
    """Responses please the PRM more and more, and the outcome does not follow."""
    prm_N, reward_N = (_windows(_series(history, key), cfg.window) for key in (PRM, REWARD))
    if min(len(prm_N), len(reward_N)) <= cfg.window:
        return ""
    (before, now), (worse, reward) = prm_N[[-1 - cfg.window, -1]], reward_N[[-1 - cfg.window, -1]]
    if now - before < cfg.prm_rise or reward > worse:
        return ""
    return (
        f"the PRM's mean reward rose from {before:.2f} to {now:.2f} while that of the outcome "
        f"went from {worse:.2f} to {reward:.2f}"
    )


LOOK: dict[str, Callable[[History, AlarmConfig], str]] = {
    "length": length,
    "identical": identical,
    "reward_std": reward_std,
    "oracle_gap": oracle_gap,
    "kl_jump": kl_jump,
    "prm_rise": prm_rise,
}


def _series(history: History, key: str) -> np.ndarray:
    return np.array([row[key] for row in history if key in row], np.float64)


def _windows(values_N: np.ndarray, window: int) -> np.ndarray:
    """The means of all windows of adjacent values."""
    if len(values_N) < window:
        return np.zeros(0)
    total_N = np.concatenate([[0.0], np.cumsum(values_N)])
    return (total_N[window:] - total_N[:-window]) / window


def _mean(history: History, key: str, window: int) -> float:
    """Mean of the last window; nan, which is no alarm, while there is less."""
    values_N = _series(history, key)
    return float(values_N[-window:].mean()) if 0 < window <= len(values_N) else float("nan")
