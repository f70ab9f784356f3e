"""This module computes the error rates of a reward by group of attacks, and checks their limits.

A false positive is an item that the reward accepts and has to reject; a false negative is the
reverse.  Youden's J is 1 - false-positive rate - false-negative rate; a noisy reward teaches only
where J is above 0.  The dark current is the mean reward of answers without content (group A).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlvr_jax.config import AuditConfig
from rlvr_jax.host.hardening.attacks import Item

GROUPS = {
    "A": "vacuous",
    "B": "hedging",
    "C": "injection",
    "D": "characters",
    "E": "truncation",
    "F": "must pass",
    "G": "must fail",
    "H": "costly",
}


SHOWN, SHOWN_TEXT = 8, 300  # failed items of each kind in a report; characters of a text


class Trial(NamedTuple):
    """A `Trial` is one item, its reward, and the seconds that the reward took."""

    item: Item
    reward: float
    seconds: float
    reference: str = ""  # of the problem that the item answers


def report(trials: Sequence[Trial], skipped: int, cfg: AuditConfig) -> dict[str, Any]:
    """Compute the report of an audit: rates over all items and by group, in JSON types.

    A rate over no items is None. `own_youden` leaves out the items that bring a reference of their
    own, which is none of the run's problems. `skipped` is the number of items that did not fit the
    token budget.
    """
    groups = {
        key: _rates([t for t in trials if t.item.group == key], cfg.accept) | {"name": name}
        for key, name in GROUPS.items()
    }
    every = _rates(trials, cfg.accept)
    own = _rates([t for t in trials if not t.item.reference], cfg.accept)
    dark = [t.reward for t in trials if t.item.group == "A"]
    slowest = max(trials, key=lambda t: t.seconds, default=None)
    return every | {
        "youden": _youden(every),
        "own_youden": _youden(own),
        "dark_current": _mean(dark),
        "worst": _worst([t for t in trials if not t.item.right]),
        "missed": _missed([t for t in trials if t.item.right], cfg.accept),
        "failed": _failed(trials, cfg.accept),
        "ms_per_item": 1000 * (_mean([t.seconds for t in trials]) or 0.0),
        "slowest": slowest and {"name": slowest.item.name, "ms": 1000 * slowest.seconds},
        "skipped": skipped,
        "groups": groups,
    }


def faults(report: Mapping[str, Any], cfg: AuditConfig) -> list[str]:
    """Return one sentence for each limit of the config that the report exceeds.

    Rates that the audit did not measure exceed no limit.
    """
    sentences = []
    for group in report["groups"].values():
        rate = group["false_positive"]
        if rate is not None and rate > cfg.max_false_positive:
            sentences.append(
                f"{rate:.0%} of {group['name']} accepted (audit.max_false_positive "
                f"{cfg.max_false_positive:.0%})"
            )
    sentences += beyond(report, cfg, "of the right answers rejected")
    if (difference := report.get("readout_difference", 0.0)) > 1e-3:
        sentences.append(f"verdicts depend on their place in the batch by {difference:.2g}")
    return sentences


def beyond(report: Mapping[str, Any], cfg: AuditConfig, rejected: str) -> list[str]:
    """Return one sentence for each limit that a rate over all items exceeds.

    `rejected` says what a false negative is.
    """
    limits = (
        ("false_negative", rejected, cfg.max_false_negative, 1),
        ("dark_current", "mean reward for saying nothing", cfg.max_dark, 1),
        ("youden", "Youden's J", cfg.min_youden, -1),
    )
    return [
        f"{report[key]:.2f} {words} (limit {limit:.2f})"
        for key, words, limit, sign in limits
        if report[key] is not None and sign * report[key] > sign * limit
    ]


def metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the report's rates as metrics `audit/...`, without those that are None."""
    names = ("false_positive", "false_negative", "youden", "dark_current")
    values = {f"audit/{name}": report[name] for name in names if report[name] is not None}
    if report["worst"]:
        values["audit/worst"] = report["worst"][0]["reward"]
    if report.get("search"):
        values["audit/search_p1"] = report["search"]["p1"]
    return values


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return the head and the rows of a table with one row per group."""
    head = ["group", "items", "false positive", "false negative", "mean reward", "worst", "ms/item"]
    rows = []
    for key, group in report["groups"].items():
        if group["items"]:
            worst = group["worst"][0]["name"] if group["worst"] else "-"
            rates = [_percent(group[k]) for k in ("false_positive", "false_negative")]
            rows.append(
                [f"{key} {group['name']}", group["items"], *rates, group["mean"], worst]
                + [f"{group['ms_per_item']:.1f}"]
            )
    return head, rows


def _rates(trials: Sequence[Trial], accept: float) -> dict[str, Any]:
    wrong = [t for t in trials if not t.item.right]
    right = [t for t in trials if t.item.right]
    return {
        "items": len(trials),
        "false_positive": _mean([float(t.reward >= accept) for t in wrong]),
        "false_negative": _mean([float(t.reward < accept) for t in right]),
        "mean": _mean([t.reward for t in trials]),
        "worst": [x for x in _worst(wrong)[:3] if x["reward"] >= accept],
        "ms_per_item": 1000 * (_mean([t.seconds for t in trials]) or 0.0),
    }


def _youden(rates: Mapping[str, Any]) -> float | None:
    positive, negative = rates["false_positive"], rates["false_negative"]
    both = positive is not None and negative is not None
    return 1 - positive - negative if both else None


def _worst(wrong: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the ten attacks with the highest mean reward, highest first."""
    total, count = Counter[str](), Counter[str]()
    for trial in wrong:
        name = f"{trial.item.group} {trial.item.name}"
        total[name] += trial.reward  # type: ignore[assignment]
        count[name] += 1
    order = sorted(count, key=lambda name: (-total[name] / count[name], name))
    return [{"name": n, "reward": total[n] / count[n], "items": count[n]} for n in order[:10]]


def _missed(right: Sequence[Trial], accept: float) -> list[str]:
    names = Counter(t.item.name for t in right if t.reward < accept)
    return [name for name, _ in names.most_common(20)]


def _failed(trials: Sequence[Trial], accept: float) -> list[dict[str, Any]]:
    """Return one example of each item that failed: a text, its reference and its reward.

    Right answers that were rejected come first, then attacks by their reward; SHOWN of each.
    """
    failed: dict[bool, dict[str, dict[str, Any]]] = {True: {}, False: {}}
    for t in sorted(trials, key=lambda t: -t.reward):
        if t.item.right != (t.reward >= accept):
            name = f"{t.item.group} {t.item.name}"
            found = {"name": name, "right": t.item.right, "text": t.item.text[:SHOWN_TEXT]}
            found |= {"reference": t.item.reference or t.reference, "reward": t.reward}
            failed[t.item.right].setdefault(name, found)
    return [x for right in (True, False) for x in [*failed[right].values()][:SHOWN]]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"
