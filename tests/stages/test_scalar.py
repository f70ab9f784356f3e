"""Stage `scalar` and the vote stage that measures it, from the config to the tables."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rlvr_jax import sharding, train
from rlvr_jax.config import (
    Config,
    CritiqueConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PreferencesConfig,
    SampleConfig,
    ScalarStage,
    SftStage,
    VoteStage,
)
from rlvr_jax.host.critiques import votes
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.runs.folder import Interrupted, Run, RunError
from rlvr_jax.stages import scalar, vote
from rlvr_jax.stages.check import check_config
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import Workspace

SMALL = ModelConfig(
    layers=1, width=16, heads=2, kv_heads=1, head_size=8, feedforward=16, vocab=264, slots=2
)
FAST = OptimConfig(lr=2e-2)
SPLITS = {"sft": 4, "label": 4, "train": 16, "test": 7}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> Config:
    data = DataConfig(
        tasks=("sum",), **SPLITS, prompt_columns=72, response_columns=6, check_columns=32,
        preferences=PreferencesConfig(least=1, most=3),
    )  # fmt: skip
    return Config(
        name="run",
        runs=str(tmp_path_factory.mktemp("runs")),
        tokenizer="byte",
        model=SMALL,
        grm=SMALL,
        critique=CritiqueConfig(template="short", principles="none", most=3, data=data),
        stages=(
            SftStage(role="grm", steps=1, batch=4),
            ScalarStage(init="sft", steps=24, batch=8, save_every=20, optim=FAST),
            ScalarStage(name="semi", init="sft", critiques="sft", steps=3, batch=8, save_every=2),
            VoteStage(scalar="scalar", votes=(1,), batch=4),
            VoteStage(name="semi_vote", scalar="semi", votes=(1, 3), batch=4),
        ),
    )


def short_items(ws: GrmWorkspace, least: int) -> None:
    """Digits that answer nothing: in all items the larger digit is better; 5 and more are right."""
    splits, number = {}, 0
    for split, count in SPLITS.items():
        splits[split] = []
        for _ in range(count):
            number += 1
            first, second = number * 3 % 10, number * 7 % 10
            several = tuple(dict.fromkeys(map(str, (first, second, (first + 4) % 10))))
            texts = several if number % 4 and len(several) > 1 else (str(first),)
            texts = texts if len(texts) >= least else ("1", "2")
            quality = [int(text) for text in texts]
            best = quality.index(max(quality)) if len(texts) > 1 else int(first >= 5)
            said = rf"\boxed{{{best + 1}}}" if least > 1 else "ok"
            item = preference.Item(f"q{number}", texts, best, demonstration=said)
            splits[split].append(preference.build_record(item, "digits"))
    dataset.prepare(ws.data, splits, "problems")


def workspace(cfg: Config, least: int = 1) -> GrmWorkspace:
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    ws = GrmWorkspace(Workspace(Run(cfg), mesh))
    short_items(ws, least)
    return ws


@pytest.fixture(scope="module")
def done(cfg) -> GrmWorkspace:
    """A workspace whose stages have run; the sft stage leaves a random GRM."""
    check_config(cfg)
    ws = workspace(cfg)
    with jax.set_mesh(ws.mesh):
        for stage in cfg.stages:
            ws.run.metrics_start = ws.run.metrics.offset
            ws.run.finish(stage.name, train.STAGES[stage.stage](stage, ws))
    return ws


def logged(ws, stage: str) -> list[dict]:
    rows = map(json.loads, (ws.run.folder / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in row.items() if k[:5] not in ("time/", "perf/")}
        for row in rows
        if row["stage"] == stage
    ]


def told(ws, stage: str) -> dict:
    return json.loads(Path(ws.run.evaluation(stage)).read_text())


def test_it_learns_which_response_is_better(done) -> None:
    rows = logged(done, "scalar")
    assert len(rows) == 24 and rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert np.mean([row["loss"] for row in rows[-4:]]) < 0.45
    assert all(row["policy/skipped"] == 0 for row in rows)
    result = told(done, "vote")
    assert result["votes"]["1"]["plain"] == result["greedy"] and list(result["votes"]) == ["1"]
    assert result["greedy"]["all"]["items"] == SPLITS["test"]
    assert result["greedy"]["all"]["expected"] > 0.7
    assert result["length"] == result["invalid"] == 0 and result["policy"] == "scalar"


def test_a_semi_scalar_is_measured_by_the_number_of_critiques(done) -> None:
    assert len(logged(done, "semi")) == 3
    result = told(done, "semi_vote")
    assert list(result["votes"]) == ["1", "3"] and set(result["votes"]["3"]) == {"plain"}
    assert 0 < result["length"] <= 6 and result["invalid"] == 0
    assert {"strict", "expected", "tied", "unjudged"} <= set(result["greedy"]["digits"])


def test_values_do_not_depend_on_the_batch(done, cfg) -> None:
    """Neither on the items beside an item nor on its place; each vote has critiques of its own."""
    stage = cfg.stages[-1]
    items = [preference.parse_item(row) for row in dataset.each(done.problems("test"))][:4]
    with jax.set_mesh(done.mesh):
        ask = scalar.Scorer(stage, done, done.problems("test"))
        key, sample = done.key("vote"), SampleConfig()
        (scores, valid, *_), _ = ask(items, key, 1, sample)
        (turned, *_), _ = ask(items[:1:-1], key, 1, sample)
        (again, *_), _ = ask(items, key, 2, sample)
    assert valid.all() and scores.shape == (4, 1, 3)
    np.testing.assert_allclose(turned[::-1], scores[2:], atol=1e-6)
    assert not np.allclose(again, scores)


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(done, cfg) -> None:
    stage = cfg.stages[2]
    again = workspace(dataclasses.replace(cfg, name="again", stages=(cfg.stages[0], stage)))
    steps = iter(range(1, 100))
    with jax.set_mesh(again.mesh):
        again.run.finish("sft", train.STAGES["sft"](cfg.stages[0], again))
        again.run.metrics_start = again.run.metrics.offset
        again.run.check_signal = lambda: 15 if next(steps) == 2 else None
        with pytest.raises(Interrupted):
            scalar.run(stage, again)
        scalar.run(stage, again)
    assert logged(again, "semi") == logged(done, "semi")


def test_a_response_that_does_not_fit_is_refused_in_one_sentence(done) -> None:
    long = preference.build_record(preference.Item("q" * 90, ("a", "b"), 0))
    with pytest.raises(RunError, match=r"has \d+ tokens: raise critique.data.prompt_columns"):
        scalar.Encoder(done, [long])


ITEMS = DataConfig(tasks=("sum",), preferences=PreferencesConfig(2, 3))
PICK = CritiqueConfig(form="pick", template="short_pick", data=ITEMS)
QUERY = CritiqueConfig(template="short", principles="from_query", data=ITEMS)


@pytest.mark.parametrize(
    "critique, stages, words",
    [
        (None, (VoteStage(scalar="sft"),), "'sft', which leaves no scalar reward model: name a"),
        (None, (ScalarStage(), VoteStage(scalar="scalar")), r"set votes to \[1\]"),
        (None, (ScalarStage(init="semi"),), "'semi', and no stage has that name"),
        (None, (VoteStage(policy="sft", weighted=True),), "weighted is for verdicts"),
        (PICK, (ScalarStage(critiques="sft"),), "needs judgements of one response"),
        (QUERY, (ScalarStage(critiques="sft"),), "critique.principles is from_query"),
        (None, (ScalarStage(), VoteStage(policy="scalar")), "which leaves no model: name"),
    ],
)
def test_what_does_not_fit_together_is_refused(cfg, critique, stages, words) -> None:
    stages = (cfg.stages[0], *stages)
    changed = dataclasses.replace(cfg, stages=stages, critique=critique or cfg.critique)
    small = {"sft": 64, "train": 64}
    data = dataclasses.replace(changed.critique.data, **small)
    changed = dataclasses.replace(
        changed, critique=dataclasses.replace(changed.critique, data=data)
    )
    with pytest.raises(ValueError, match=words):
        check_config(changed)


def test_options_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="sample is for critiques"):
        ScalarStage(sample=SampleConfig(temperature=0.5))
    for more in ({"meta": "meta"}, {"weighted": True}, {"policy": "sft"}):
        with pytest.raises(ValueError, match="leave policy, meta and weighted out"):
            VoteStage(scalar="scalar", **more)


def test_verdicts_are_weighted_by_their_probability() -> None:
    """Two unsure verdicts for the second response are less than a sure one for the first."""
    score = np.array([[[1, 0], [0, 1], [0, 1]], [[1, 0], [1, 0], [0, 1]]], float)
    chance = np.array([[0.9, 0.2, 0.3], [0.9, 0.9, 0.9]])
    valid = np.array([[True, True, True], [True, False, True]])
    ballots = votes.Ballots(score, valid, valid * 0.0, np.array([2, 2]), np.array([0, 0]))
    stage = VoteStage(policy="sft", weighted=True)
    counted = vote._count(stage, ballots, chance, ["a", "b"])
    assert [counted["plain"][x]["strict"] for x in "ab"] == [0, 0]
    assert [counted["plain"][x]["tied"] for x in "ab"] == [0, 1]
    assert [counted["weighted"][x]["strict"] for x in "ab"] == [1, 0]
    assert set(vote._count(VoteStage(), ballots, chance, ["a", "b"])) == {"plain"}


@pytest.mark.slow
def test_a_judge_that_picks_is_measured_with_and_without_probabilities(cfg) -> None:
    stages = (
        SftStage(role="grm", steps=60, batch=4, optim=FAST),
        VoteStage(policy="sft", votes=(1, 2), weighted=True, batch=4),
    )
    data = dataclasses.replace(cfg.critique.data, response_columns=10, prompt_columns=80)
    judge = CritiqueConfig(form="pick", template="short_pick", most=3, data=data, principles="none")
    ws = workspace(dataclasses.replace(cfg, name="pick", stages=stages, critique=judge), least=2)
    with jax.set_mesh(ws.mesh):
        for stage in stages:
            ws.run.finish(stage.name, train.STAGES[stage.stage](stage, ws))
        ask = vote.Voter(stages[1], ws)
        items = [preference.parse_item(row) for row in dataset.each(ws.problems("test"))][:4]
        (scores, valid, _, chance), _ = ask(items, ws.key("vote"), 1, SampleConfig())
        (turned, *_, others), _ = ask(items[:1:-1], ws.key("vote"), 1, SampleConfig())
    assert valid.any() and (scores.sum(2) == valid).all()
    assert ((chance > 0) & (chance < 1))[valid].all()
    np.testing.assert_array_equal(turned[::-1], scores[2:])
    np.testing.assert_allclose(others[::-1], chance[2:], atol=1e-5)
    assert set(told(ws, "vote")["votes"]["2"]) == {"plain", "weighted"}
