"""What a run learned, whether to trust it, and what is worth a look, in plain words."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from rlvr_jax.host.report import words
from rlvr_jax.host.report.curves import ends, late_mean
from rlvr_jax.host.report.evaluations import accuracy
from rlvr_jax.host.report.records import Json
from rlvr_jax.host.runs import metric_table

FEW = 200  # held-out problems, below which an accuracy says little
GAP = 0.05  # of the mean reward above the mean score of the oracle
ALARM = "hack/alarm_"
GOOD, CARE, BAD, UNKNOWN = "good", "care", "bad", "unknown"


class Change(NamedTuple):
    """A Change is what a stage did to the accuracy on held-out problems."""

    stage: str
    before: float
    after: float
    margin: float  # half of the 95 % interval of the difference; 0 where it is not known
    problems: int
    steps: int

    @property
    def gain(self) -> float:
        """Return the difference of the accuracies."""
        return self.after - self.before


def margin(share: float, problems: float | None) -> float:
    """Return half of the 95 % interval of a share, by the normal approximation.

    Only the number of problems counts: answers to one problem are not independent.
    """
    return 1.96 * math.sqrt(share * (1 - share) / problems) if problems else 0.0


def changes(stages: list[Json], evaluations: list[Json], starts: dict[str, str]) -> list[Change]:
    """Return what each rl stage changed, where its policy and an earlier one were evaluated.

    `starts` maps an rl stage to the policy that it begins with.
    """
    found = []
    scored = [entry for entry in evaluations if accuracy(entry) is not None]
    for stage in (s for s in stages if s["type"] == "rl"):
        own = [e for e in scored if e["policy"].partition("@")[0] == stage["name"]]
        before = [e for e in scored if e["policy"] == starts.get(stage["name"], "")]
        before = before or [e for e in scored if not e["step"] and e not in own]
        if not own or not before:
            continue
        first, last = before[0], own[-1]
        old, new = accuracy(first) or 0.0, accuracy(last) or 0.0
        spread = math.hypot(margin(old, first["n"]), margin(new, last["n"]))
        number = int(min(e["n"] or 0 for e in (first, last)))
        found.append(Change(stage["name"], old, new, spread, number, int(last["step"] or 0)))
    return found


def learned(stages: list[Json], evaluations: list[Json], found: list[Change]) -> list[str]:
    """Say in one sentence for each stage of reinforcement learning what it learned."""
    said = [_sentence(change) for change in found]
    told = {change.stage for change in found}
    for stage in stages:
        if stage["name"] in told or stage["type"] not in ("rl", "prm"):
            continue
        held_out = ends(stage, "eval/accuracy") or ends(stage, "eval/greedy")
        steps = [stage["step"][0], stage["step"][-1]]
        if held_out:
            said.append(
                f"{stage['name']}: held-out accuracy went from {words.percent(held_out[0])} to "
                f"{words.percent(held_out[1])} by step {steps[1]:,.0f}."
            )
        elif stage["type"] == "prm" and (right := ends(stage, "prm/acc")):  # its policy stays
            said.append(
                f"{stage['name']}: the PRM tells right from wrong in {words.percent(right[0])} of "
                f"the answers at first, and in {words.percent(right[1])} after "
                f"{words.count(steps[1], 'step')}."
            )
        elif reward := ends(stage, "reward/mean"):
            said.append(
                f"{stage['name']}: the mean reward went from {words.amount(reward[0])} to "
                f"{words.amount(reward[1])} in {words.count(steps[1], 'step')}; nothing was "
                "measured on held-out problems."
            )
    scored = [entry for entry in evaluations if accuracy(entry) is not None]
    if not said and scored:
        last = scored[-1]
        said.append(
            f"{last['name']}: {words.percent(accuracy(last) or 0)} of the answers to held-out "
            "problems are right."
        )
    if not said and stages:
        stage = stages[-1]
        key = next((k for k in ("loss", "accuracy") if ends(stage, k)), "")
        if pair := ends(stage, key):
            said.append(
                f"{stage['name']}: the {key} went from {words.amount(pair[0])} to "
                f"{words.amount(pair[1])}."
            )
    return said


def _sentence(change: Change) -> str:
    interval = ""
    if change.margin:
        low, high = change.gain - change.margin, change.gain + change.margin
        interval = f" (95 % interval {words.points(low)} to {words.points(high)})"
    return (
        f"{change.stage}: {words.percent(change.after)} of the answers to held-out problems are "
        f"right after {words.count(change.steps, 'step')}, and {words.percent(change.before)} were "
        f"before: {words.points(change.gain)} points{interval}."
    )


def trust(stages: list[Json], evaluations: list[Json], found: list[Change]) -> Json:
    """Judge how far the numbers can be trusted: a level, and the reasons for it."""
    reasons = [reason for change in found for reason in _of_change(change)]
    learning = [stage for stage in stages if stage["type"] in ("rl", "prm")]
    for stage in learning:
        reasons += _of_stage(stage, measured=any(c.stage == stage["name"] for c in found))
    measured = any(ends(stage, "eval/accuracy") for stage in learning) or evaluations
    if learning and not found and not measured:
        reasons.append(
            (UNKNOWN, "Nothing was measured on held-out problems, so it is not known whether the "
             "policy answers better; a reward alone can be fooled.")
        )  # fmt: skip
    for entry in evaluations:
        false = entry["verifier"].get("false_positive")
        if false is not None and false > 0.05:
            reasons.append(
                (CARE, f"The verifier accepts {words.percent(false)} of the wrong answers in "
                 f"{entry['name']}.")
            )  # fmt: skip
    order = [BAD, UNKNOWN, CARE]
    level = next((level for level in order if any(r[0] == level for r in reasons)), GOOD)
    if not learning and not evaluations:
        level = UNKNOWN
    reasons.sort(key=lambda reason: order.index(reason[0]))
    return {"level": level, "why": list(dict.fromkeys(text for _, text in reasons))}


def _of_change(change: Change) -> list[tuple[str, str]]:
    reasons = []
    if change.margin and abs(change.gain) <= change.margin:
        reasons.append((CARE, f"The change by {change.stage} is within what chance explains."))
    elif change.gain < 0:
        reasons.append((BAD, f"{change.stage} made the policy worse on held-out problems."))
    if 0 < change.problems < FEW:
        reasons.append((CARE, f"Only {change.problems} held-out problems were asked."))
    return reasons


def _of_stage(stage: Json, measured: bool) -> list[tuple[str, str]]:
    name, reasons = stage["name"], []
    gap = late_mean(stage["series"].get("oracle/gap", []))
    if gap is not None and gap > GAP:
        level = CARE if measured else BAD  # the oracle graded the held-out answers
        said = "The reward of {} is {} points above the score of the oracle: wrong answers earn it."
        reasons.append((level, said.format(name, f"{100 * gap:.1f}")))
    for key, column in stage["series"].items():
        if key.startswith(ALARM) and any(v and v >= 1 for v in column):
            step = next(s for s, v in zip(stage["step"], column, strict=True) if v and v >= 1)
            reasons.append((CARE, f"{name}: alarm {key[len(ALARM) :]} from step {step:,.0f} on."))
    cut = late_mean(stage["series"].get("completion/truncated_frac", []))
    if cut is not None and cut > 0.1:
        said = "{} of the answers of {} were cut off at the token limit."
        reasons.append((CARE, said.format(words.percent(cut, 0), name)))
    return reasons


def outside(key: str, value: float | None) -> bool:
    """Return whether a metric is outside of its healthy range."""
    known = metric_table.about([key]).get(key)
    if value is None or known is None:
        return False
    below = known.low is not None and value < known.low
    return below or (known.high is not None and value > known.high)


def notes(keys: Iterable[str]) -> Json:
    """Return the notes and the limits of metrics, in the order in which these are shown."""
    known = metric_table.about(keys)
    healthy = {key: (m.low, m.high) for key, m in known.items() if (m.low, m.high) != (None, None)}
    return {"notes": {key: m.note for key, m in known.items()}, "healthy": healthy}


def attention(data: Json) -> list[Json]:
    """List what is worth a look: remarks of the run, metrics outside their range, damage."""
    found: list[Json] = [{"text": remark} for remark in data["remarks"]]
    for stage in data["stages"]:
        for key, column in stage["series"].items():
            value = late_mean(column)
            if outside(key, value):
                place = {"stage": stage["name"], "key": key, "value": value}
                found.append(place | {"text": metric_table.about([key])[key].note})
        for key, number in stage["nonfinite"].items():
            where = f"in {words.count(number, 'step')} of {stage['name']}"
            found.append({"text": f"{key} was not finite {where}."})
    if data["damaged"]:
        found.append({"text": f"{words.count(data['damaged'], 'line')} of metrics.jsonl could not "
                      "be read."})  # fmt: skip
    return found
