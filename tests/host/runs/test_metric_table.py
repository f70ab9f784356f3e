"""Every metric has a note: that each note is logged, and that a stage logs no metric without one.

The names that the code makes are collected from its source: keys of dictionaries and of assignments
that are texts. A key with holes in it is listed here, with the names that it takes.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlvr_jax import routing
from rlvr_jax.config import BANDS
from rlvr_jax.config.sampling_stages import REWARD_METRICS
from rlvr_jax.host.hardening import alarms, preferences, trials
from rlvr_jax.host.report import findings
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.runs import metric_table
from rlvr_jax.host.runs.metric_table import METRICS, Metric
from rlvr_jax.stages import loop, verifier

CODE = Path(metric_table.__file__).parents[2]
GROUPS = {name.partition("/")[0] for name in METRICS} | {"loss"}
INTERNAL = {"mismatch/ratio_square"}  # a sum, of which another metric is made
READERS = ("metric_table.py", "sinks.py")


def _audited():
    report = defaultdict(float, worst=[{"reward": 1.0}], search={"p1": 0.5})
    return {*trials.metrics(report), *preferences.metrics(report)}


def _measured():
    rows = [{"verdict": verdict, "domain": "x"} for verdict in (0, 1)]
    result = verifier.measure(lambda rows: np.zeros(len(rows)), rows, {"x": rows}, rows)
    return {f"verifier/{name}" for name in verifier._flat(result)}


def _routed():
    sums = {routing.BALANCE: 1.0, routing.ROWS: 1.0, routing.COUNT: np.ones(2)}
    return {f"prm/{name}" for name in routing.metrics(sums)}


def holes():
    """Keys with holes -> the names that they take."""
    return {
        "audit/{}": _audited(),
        "baseline/{}": {"baseline/x"},
        "difficulty/drawn_{}": {f"difficulty/drawn_{band}" for band in BANDS},
        "difficulty/{}": {f"difficulty/{band}" for band in BANDS},
        "eval/accuracy/{}": {"eval/accuracy/x"},
        "gate/{}": {"gate/x"},
        "hack/alarm_{}": {f"hack/alarm_{name}" for name in alarms.ALARMS},
        "prm/{}": _routed(),
        "reward/{}": {"reward/x"},
        "rule/{}": set(jobs.status_metrics([])),
        "verifier/{}": _measured(),
        "{}/disagree_frac": {"grm/disagree_frac", "verifier/disagree_frac"},
    }


def keys(text):
    """The texts in the keys of dictionaries and of assignments, with {} for what is not written."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            found += [key for key in node.keys if key]
        elif isinstance(node, ast.DictComp):
            found.append(node.key)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            found.append(node.slice)
    return {text for key in found for text in _texts(key)}


def _texts(node):
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.JoinedStr):
        return {"".join(x.value if isinstance(x, ast.Constant) else "{}" for x in node.values)}
    return {text for part in ast.iter_child_nodes(node) for text in _texts(part)}


def of_rows(text):
    """The names of calls of `step_metrics.of_rows`."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if called == "of_rows" and isinstance(node.args[0], ast.Constant):
            by = {word.arg: word.value.value for word in node.keywords}.get("separator", "/")
            names |= {f"{node.args[0].value}{by}{end}" for end in ("mean", "min", "max")}
    return names


def is_metric(key):
    return "/" in key and key.partition("/")[0] in GROUPS | {"{}"}


@pytest.fixture(scope="module")
def made():
    """The names that the code makes: those that it writes out, and its keys with holes."""
    whole, open_ = set(), set()
    for path in sorted(CODE.rglob("*.py")):
        if CODE / "host" / "report" in path.parents or path.name in READERS:
            continue
        text = path.read_text(encoding="utf-8")
        found = {key for key in keys(text) if is_metric(key)}
        if path.name in ("supervised.py", "scalar_rm.py"):
            found |= {"loss"} & keys(text)
        open_ |= {key for key in found if "{}" in key}
        whole |= {key for key in found if "{}" not in key} | of_rows(text)
    return whole - INTERNAL, open_


def test_the_search_sees_names_in_every_form():
    text = 'x = {"a/b": 1, f"c/{n}": 2}; x["d/e"] = x["f/g"]; {("h" if y else "i/j"): 3}; "k/l"'
    assert keys(text) == {"a/b", "c/{}", "d/e", "h", "i/j"}
    assert of_rows('of_rows("a", x); of_rows("b/c", x, separator="_")') == {
        *("a/mean", "a/min", "a/max", "b/c_mean", "b/c_min", "b/c_max")
    }


def test_every_metric_that_the_code_writes_out_has_a_note_of_its_own(made):
    assert made[0] - set(METRICS) == set()
    assert len(made[0]) > 80


def test_every_metric_whose_name_is_put_together_has_a_note(made):
    assert made[1] == set(holes())
    for names in holes().values():
        for name in names:
            assert metric_table.find(name), name


def test_every_note_is_that_of_a_metric_that_the_code_makes(made):
    names = made[0].union(*holes().values())
    assert set(METRICS) - {metric_table.find(name) for name in names} == set()


@pytest.mark.parametrize("name", METRICS)
def test_a_note_is_one_plain_sentence_and_its_limits_are_a_range(name):
    metric = METRICS[name]
    assert re.fullmatch(r"[A-Z01<][^\n]{15,130}\.", metric.note)
    if metric.low is not None and metric.high is not None:
        assert metric.low < metric.high


def test_a_name_belongs_to_its_own_entry_or_to_a_family():
    assert metric_table.find("eval/accuracy") == "eval/accuracy"
    assert metric_table.find("eval/accuracy/gsm/easy") == "eval/accuracy/DOMAIN"
    assert metric_table.find("verifier/fooled_by_keys") == "verifier/fooled_by_KIND"
    assert metric_table.find("reward/short") == "reward/NAME"
    for name in ("", "eval/accuracy/", "policy/no_such", "reward/NAME", "my/reward/short"):
        assert metric_table.find(name) is None, name


def test_notes_come_in_the_order_of_the_table_and_unknown_metrics_have_none():
    found = metric_table.about(["time/step", "made/up", "gate/short", "loss"])
    assert list(found) == ["loss", "gate/short", "time/step"]
    assert found["loss"] is METRICS["loss"]


def test_a_metric_is_outside_of_its_range(monkeypatch):
    monkeypatch.setitem(METRICS, "loss", Metric("x", low=1.0, high=2.0))
    values = (None, 0.5, 1.0, 2.0, 2.5)
    assert [findings.outside("loss", x) for x in values] == [False, True, False, False, True]
    assert not findings.outside("made/up", 5.0) and not findings.outside("time/step", 5.0)
    assert findings.notes(["loss", "time/step", "made/up"]) == {
        "notes": {"loss": "x", "time/step": METRICS["time/step"].note},
        "healthy": {"loss": (1.0, 2.0)},
    }


def test_a_stage_of_a_test_that_logs_a_metric_without_a_note_fails():
    stage = SimpleNamespace(name="rl")
    with pytest.raises(ValueError, match="the metric made/up has no entry in METRICS of rlvr_jax"):
        loop._tell(None, stage, 2, {"loss": 1.0, "made/up": 1.0})


def test_outside_of_tests_such_a_stage_goes_on(monkeypatch):
    monkeypatch.setattr(metric_table, "_STRICT", False)
    assert metric_table.find("made/up") is None
    assert metric_table.refuse_unknown(["made/up"]) is None


def test_no_further_reward_takes_the_name_of_a_metric() -> None:
    named = {name.removeprefix("reward/") for name in METRICS if name.startswith("reward/")}
    assert named - {"NAME"} == REWARD_METRICS
