"""Runs on one page: groups of seeds, intervals, paired answers, what differs in the configs."""

import csv
import json

import pytest
from make_report import Page

from rlvr_jax.host.report import command, comparison

PROBLEMS = [f"p{i}" for i in range(40)]


def small_run(folder, seed=0, rate="0.001", right=20, reward=0.5, answers=True):
    """A run with one stage, one evaluation, and the answers to PROBLEMS, `right` of them right."""
    (folder / "eval").mkdir(parents=True)
    (folder / "config.resolved.yaml").write_text(
        f"name: {folder.name}\nseed: {seed}\nruns: x\nmodel: {{width: 8}}\n"
        f"stages:\n- {{stage: rl, name: rl, optim: {{lr: {rate}}}}}\n"
    )
    rows = [{"stage": "rl", "step": i, "reward/mean": reward + i / 100} for i in range(1, 11)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = right / len(PROBLEMS)
    result = {"name": "after", "step": 10, "n": len(PROBLEMS), "greedy": {"all": share}}
    (folder / "eval" / "after.json").write_text(json.dumps(result))
    if answers:
        rows = [
            {"problem": p, "text": "x", "score": float(i < right), "greedy": True}
            for i, p in enumerate(PROBLEMS)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "eval" / "after.jsonl").write_text(text)
    return folder


def test_seeds_are_one_group(tmp_path):
    runs = [small_run(tmp_path / f"a_s{i}", seed=i, reward=0.5 + i / 10) for i in range(3)]
    runs.append(small_run(tmp_path / "b", rate="0.0001", right=30))
    data, rows = comparison.compare(runs)
    assert [g["label"] for g in data["groups"]] == ["a (3 seeds)", "b"]
    assert data["groups"][0]["seeds"] == ["0", "1", "2"]
    assert data["settings"] == [{"key": "stages.rl.optim.lr", "values": ["0.001", "0.0001"]}]
    (stage,) = data["curves"]
    (plot,) = stage["plots"]
    first, second = plot["lines"]
    assert first["column"][0] == pytest.approx(0.61) and "band" not in second
    # deviation 0.1 over three runs
    assert first["band"]["high"][0] - 0.61 == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-4)
    final = next(row for row in data["finals"] if row["metric"] == "reward/mean")
    assert final["groups"][0] == {"mean": 0.7, "half": pytest.approx(0.248434, abs=1e-5), "runs": 3}
    assert final["groups"][1]["half"] is None
    assert {row["run"] for row in rows} == {"a_s0", "a_s1", "a_s2", "b"}


def test_single_runs_are_compared_by_mcnemar(tmp_path):
    runs = [small_run(tmp_path / "a", right=20), small_run(tmp_path / "b", "1", "1", right=30)]
    data, _ = comparison.compare(runs)
    (test,) = data["tests"]
    assert (test["test"], test["problems"]) == ("McNemar", 40)
    assert test["p"] == pytest.approx(2 / 2**10, rel=1e-2)  # ten problems that only b solves
    assert (test["first"], test["second"]) == (0.5, 0.75)
    assert 0 < test["low"] < 0.25 < test["high"]
    assert data["learned"][0].startswith("after, greedy answers: 75.0 % right in b, 50.0 % in a")


def test_answers_that_were_not_kept_are_compared_unpaired(tmp_path):
    first = small_run(tmp_path / "a", right=20)
    second = small_run(tmp_path / "b", rate="1", right=30, answers=False)
    (test,) = comparison.compare([first, second])[0]["tests"]
    assert (test["test"], test["p"]) == ("not paired", None)
    half = 1.96 * (0.5 * 0.5 / 40 + 0.75 * 0.25 / 40) ** 0.5
    assert test["low"] == pytest.approx(0.25 - half, rel=1e-4)


def test_only_common_problems_count(tmp_path):
    first, second = small_run(tmp_path / "a"), small_run(tmp_path / "b", rate="1", right=30)
    path = second / "eval" / "after.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:25]) + "{damaged\n")
    (test,) = comparison.compare([first, second])[0]["tests"]
    assert (test["problems"], test["first"], test["second"]) == (25, 0.8, 1)


def test_mean_scores_of_several_answers(tmp_path):
    rows = [{"problem": "p", "score": x, "greedy": False} for x in (0, 1, 1, 1)] + [{"score": "x"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert comparison.load_scores(tmp_path / "x.jsonl") == {"accuracy": {"p": 0.75}}


def test_command_writes_page_and_table(tmp_path, capsys):
    runs = [small_run(tmp_path / "a"), small_run(tmp_path / "b", rate="1", right=30)]
    assert command.main([str(run) for run in runs]) == 0
    page = tmp_path / "comparison.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert Page(page).data["kind"] == "comparison"
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"group": "b", "run": "b", "seed": "0", "where": "after", "metric": "eval greedy",
            "value": "0.75"} in rows  # fmt: skip
    assert command.main([str(runs[0]), str(tmp_path / "no")]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_damaged_configs_are_compared(tmp_path):
    runs = [small_run(tmp_path / "a"), small_run(tmp_path / "b")]
    for run, text in zip(runs, ("a: [", "- 1"), strict=True):
        (run / "config.resolved.yaml").write_text(text)
    data, _ = comparison.compare(runs)
    assert [g["label"] for g in data["groups"]] == ["a (2 seeds)"]
