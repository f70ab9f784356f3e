"""The tables of an evaluation: every measure has its place, and names suit its scores."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rlvr_jax.config import EvaluateStage
from rlvr_jax.host.runs import evaluation_table
from rlvr_jax.stages import evaluate


def answers(scores, domains, reward=(), least=()) -> dict:
    """What `collect` returns, of answers that all vote for their score."""
    zeros = np.zeros(len(scores), np.float32)
    return {
        **{"oracle": np.array(scores, np.float32), "exact": zeros, "cut": zeros, "crashed": zeros},
        **{"reward": np.array(reward), "least": np.array(least), "sum": np.array(least)},
        **{"ballot": [str(x) for x in scores], "domain": domains},
    }


def result(scores, **more) -> dict:
    greedy = answers(scores[::2], ["a", "b|c"])
    sampled = answers(scores, ["a", "a", "b|c", "b|c"], **more)
    stage = EvaluateStage(samples=2)
    return {"name": "x", "model": "m", "rule": ""} | evaluate.summary(stage, sampled, greedy)


def test_right_and_wrong_are_accuracy() -> None:
    told = result([1, 0, 0, 0], reward=[0.1, 0.9, 0.6, 0.2], least=[-1, 2, 0, 0])
    head, rows = evaluation_table.overview(told)
    assert head == ["2 problems", "accuracy", "95 % interval"]
    shown = {name: (share, edges) for name, share, edges in rows}
    assert shown["avg@2 = pass@1"][0] == "25.0%" and shown["pass@2"][0] == "50.0%"
    assert shown["maj@2"] == ("50.0%", "[0.0%, 100.0%]")
    assert shown["best of 2 by the verifier"][0] == "0.0%"
    assert shown["votes weighted by the PRM, 2"][0] == "0.0%"
    assert shown["verifier accepts wrong answers"] == ("66.7%", "")
    told_names = set(evaluation_table.WAYS) & set(told)
    assert told_names == set(evaluation_table.WAYS), "every way to choose is told"


def test_other_scores_are_a_mean_score() -> None:
    _, rows = evaluation_table.overview(result([0.5, 0.25, 0, 1]))
    assert [rows[0][:2], rows[1][:2]] == [
        ["mean score of 2", "43.8%"],
        ["best score of 2", "75.0%"],
    ]
    assert not any("pass@" in name for name, *_ in rows)


def test_domains_have_a_row_each_and_one_domain_has_none() -> None:
    told = result([1, 0, 0, 0])
    head, rows = evaluation_table.of_domains(told)
    assert [row[:2] for row in rows] == [["a", "1"], ["b|c", "1"]]
    assert rows[0][head.index("pass@2")] == "100.0% [100.0%, 100.0%]"
    short, few = evaluation_table.of_domains(told, short=True)
    assert short == ["domain", "n", "avg@2 = pass@1", "pass@2", "maj@2", "greedy answer", "cut off"]
    assert few[0][3] == "100.0%"
    alone = evaluate.summary(EvaluateStage(samples=0), *[answers([1, 0], ["a", "a"])] * 2)
    assert evaluation_table.of_domains(alone)[1] == []


def test_the_page_is_a_table_in_markdown() -> None:
    page = evaluation_table.markdown(result([1, 0, 0, 0]))
    assert page.startswith("# x\n\n- model: m\n\n| 2 problems | accuracy |")
    assert "| b\\|c | 1 |" in page and "rule" not in page
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line[:1] == "|"}
    assert len(widths) == 2


@pytest.mark.parametrize("samples", [0, 1])
def test_one_answer_has_no_majority(samples) -> None:
    told = evaluate.summary(EvaluateStage(samples=samples), *[answers([1, 0], ["a", "b"])] * 2)
    names = [row[0] for row in evaluation_table.overview(told)[1]]
    assert names[0] == "avg@1 = pass@1" and not any("maj@" in name for name in names)


@pytest.mark.parametrize(
    ("samples", "names"),
    [
        (0, ["greedy accuracy, all", "95 % interval", "exact match, all"]),
        (1, ["accuracy, all", "95 % interval", "accuracy, all, greedy", "exact match, all"]),
    ],
)
def test_the_last_table_of_a_run_calls_greedy_answers_greedy(
    samples, names, tmp_path, monkeypatch
) -> None:
    told = evaluate.summary(EvaluateStage(samples=samples), *[answers([1, 0], ["a", "a"])] * 2)
    (tmp_path / "x.json").write_text(json.dumps(told))
    shown: list[list] = []
    monkeypatch.setattr(evaluate.log, "table", lambda title, head, rows: shown.extend(rows))
    run = SimpleNamespace(evaluation=lambda name: tmp_path / f"{name}.json")
    cfg = SimpleNamespace(evaluations=[EvaluateStage(name="x")], rl_stages=[])
    evaluate.summarise(SimpleNamespace(run=run, cfg=cfg))
    assert [row[0] for row in shown][: len(names)] == names
    assert any("majority" in row[0] for row in shown) == bool(samples)
