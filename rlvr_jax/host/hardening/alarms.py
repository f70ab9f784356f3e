"""Alarms detect signs of reward hacking in the metrics of an rl stage.

Each alarm is a pure function of the metrics of the past steps, so a resumed run raises the same
alarms.  docs/audit.md shows what each sign looked like in a published run.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlvr_jax.config import AlarmConfig

# The metrics of the past steps, one mapping per step.
History = Sequence[Mapping[str, float]]
LENGTH, REWARD, KL = "completion/length_mean", "reward/mean", "policy/kl"
SAME, STD, GAP = "completion/identical_frac", "reward/std", "oracle/gap"
PRM = "prm/reward_mean"
VALID, TIES = "grm/valid_frac", "grm/tie_frac"
KEYS = (LENGTH, REWARD, KL, SAME, STD, GAP, PRM, VALID, TIES)
ORACLE_GAPS = 3  # the alarm uses the mean of this many measurements of the oracle gap
LEAST_KL = 0.05  # smaller values are replaced by this: their jumps mean nothing
MEMORY = 50  # length of the history, in windows


def active_alarms(history: History, cfg: AlarmConfig) -> dict[str, str]:
    """Return the alarms that are on after the last step: name -> a sentence with the numbers."""
    history = history[-MEMORY * cfg.window :]
    sentences = {name: alarm(history, cfg) for name, alarm in ALARMS.items()}
    return {name: sentence for name, sentence in sentences.items() if sentence}


def alarm_metrics(values: Mapping[str, object]) -> dict[str, float]:
    """Select from the metrics of a step those that the alarms need."""
    return {k: v for k in KEYS if isinstance(v := values.get(k), int | float)}


def names(values: Mapping[str, object]) -> list[str]:
    """Return the names of the alarms that a stage with these metrics has."""
    return [name for name in ALARMS if OF_GRM.get(name) is None or OF_GRM[name] in values]


def length(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if responses became far shorter while the reward rose, else "".

    The sign is that of arXiv 2507.08794, figure 1.
    """
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
    """Return a sentence if one response makes up nearly all of the batches, else ""."""
    share = _mean(history, SAME, cfg.window)
    return "" if not share >= cfg.identical else f"{share:.0%} of the responses are the same one"


def reward_std(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if nearly all responses get the same reward, else "".

    The cause may be a policy that solves every problem or none, or one response that fools the
    reward everywhere.
    """
    std = _mean(history, STD, cfg.window)
    return "" if not std < cfg.reward_std else f"the reward's standard deviation is {std:.2g}"


def oracle_gap(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if the reward is too far above the oracle's score, else ""."""
    gap = _mean(history, GAP, min(ORACLE_GAPS, len(_series(history, GAP))))
    return "" if not gap > cfg.oracle_gap else f"the reward is {gap:.2f} above the oracle's"


def kl_jump(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if the KL to the reference policy jumped between two windows, else ""."""
    kl_N = np.abs(_windows(_series(history, KL), cfg.window))
    if len(kl_N) <= cfg.window:
        return ""
    now, before = kl_N[-1], max(kl_N[-1 - cfg.window], LEAST_KL)
    return "" if now <= cfg.kl_jump * before else f"KL went from {before:.3g} to {now:.3g}"


def prm_rise(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if the PRM's reward rose and the outcome reward did not, else ""."""
    prm_N, reward_N = (_windows(_series(history, key), cfg.window) for key in (PRM, REWARD))
    if min(len(prm_N), len(reward_N)) <= cfg.window:
        return ""
    before, now = prm_N[[-1 - cfg.window, -1]]
    reward_before, reward = reward_N[[-1 - cfg.window, -1]]
    if now - before < cfg.prm_rise or reward > reward_before:
        return ""
    return (
        f"the PRM's mean reward rose from {before:.2f} to {now:.2f} while that of the outcome "
        f"went from {reward_before:.2f} to {reward:.2f}"
    )


def valid_frac(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if too few judgements of a GRM have scores that can be read, else ""."""
    share = _mean(history, VALID, cfg.window)
    return "" if not share < cfg.valid_frac else f"only {share:.0%} of the judgements are votes"


def tie_frac(history: History, cfg: AlarmConfig) -> str:
    """Return a sentence if too many judgements of a GRM give their top score twice, else ""."""
    share = _mean(history, TIES, cfg.window)
    return "" if not share > cfg.tie_frac else f"{share:.0%} of the judgements tie at the top"


ALARMS: dict[str, Callable[[History, AlarmConfig], str]] = {
    "length": length,
    "identical": identical,
    "reward_std": reward_std,
    "oracle_gap": oracle_gap,
    "kl_jump": kl_jump,
    "prm_rise": prm_rise,
    "valid_frac": valid_frac,
    "tie_frac": tie_frac,
}
OF_GRM = {"valid_frac": VALID, "tie_frac": TIES}  # alarms of stages where a GRM judges


def _series(history: History, key: str) -> np.ndarray:
    return np.array([row[key] for row in history if key in row], np.float64)


def _windows(values_N: np.ndarray, window: int) -> np.ndarray:
    """Compute the means of all windows of adjacent values."""
    if len(values_N) < window:
        return np.zeros(0)
    total_N = np.concatenate([[0.0], np.cumsum(values_N)])
    return (total_N[window:] - total_N[:-window]) / window


def _mean(history: History, key: str, window: int) -> float:
    """Compute the mean of the last `window` values; NaN, which is no alarm, if there are fewer."""
    values_N = _series(history, key)
    return float(values_N[-window:].mean()) if 0 < window <= len(values_N) else float("nan")
