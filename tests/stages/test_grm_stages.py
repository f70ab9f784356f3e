"""Stages of generative reward models on a tiny model that reads bytes."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from rlvr_jax import sharding
from rlvr_jax.config import (
    Config,
    CritiqueConfig,
    DataConfig,
    JudgeConfig,
    MeshConfig,
    MetaStage,
    ModelConfig,
    PreferencesConfig,
    RewardConfig,
    RftStage,
    RlStage,
    SftStage,
    VoteConfig,
    VoteStage,
)
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.runs.folder import Interrupted, Run, RunError
from rlvr_jax.stages import (
    compare,
    host_rewards,
    kept_samples,
    meta,
    rft,
    rl,
    sampled,
    sft,
    vote,
)
from rlvr_jax.stages.grm_workspace import PART, GrmWorkspace, demonstration
from rlvr_jax.stages.workspace import Workspace

SIZE = dict(layers=1, width=16, heads=2, kv_heads=2, head_size=8, feedforward=16, vocab=264)
ITEMS = DataConfig(
    tasks=("sum",),
    preferences=PreferencesConfig(1, 2),
    sft=24,
    label=0,
    train=16,
    test=8,
    prompt_columns=288,
    response_columns=144,
    check_columns=96,
)


def run_config(folder, *stages, **critique) -> Config:
    options = {"template": "short", "most": 2, "data": ITEMS} | critique
    return Config(
        runs=str(folder),
        tokenizer="byte",
        data=DataConfig(
            tasks=("sum",), sft=0, label=0, train=8, prompt_columns=96, response_columns=6
        ),
        model=ModelConfig(**SIZE),
        grm=ModelConfig(**SIZE),
        verifier=ModelConfig(**SIZE),
        critique=CritiqueConfig(**options),
        stages=stages,
    )


@pytest.fixture
def on_mesh():
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


def workspaces(cfg: Config, mesh) -> tuple[Workspace, GrmWorkspace]:
    ws = Workspace(Run(cfg), mesh)
    ws.write_problems()
    grm_ws = GrmWorkspace(ws)
    grm_ws.write_problems()
    return ws, grm_ws


def test_items_are_encoded_with_their_truth_in_shown_order(tmp_path, on_mesh):
    _, ws = workspaces(run_config(tmp_path, RftStage(policy="x")), on_mesh)
    records = list(dataset.each(ws.problems("train")))[:8]
    orders = set()
    for step in range(4):
        prompts = ws.columns(records, step)
        again = ws.columns(records, step)
        np.testing.assert_array_equal(prompts.prompt_QP, again.prompt_QP)
        for q, record in enumerate(records):
            item = preference.parse_item(record)
            order = ws.order(item, step)
            orders.add((step, q, *order))
            ranking = jax.tree.map(lambda x, q=q: x[q], prompts.ranking)
            assert ranking.exists_BN.sum() == len(order)
            if len(order) == 1:
                assert ranking.best_B == item.best and ranking.binary_B
            else:
                assert order[ranking.best_B] == item.best and not ranking.binary_B
            text = ws.tokenizer.decode(prompts.prompt_QP[q][prompts.prompt_mask_QP[q]])
            shown = [text.index(f"[{i + 1}] {item.responses[j]}") for i, j in enumerate(order)]
            assert shown == sorted(shown)
    pairs = [x for x in orders if len(x) == 4]
    assert {x[2:] for x in pairs} == {(0, 1), (1, 0)}  # both orders occur


def test_a_demonstration_has_the_form_of_the_config():
    text = "Criteria: right 6\nAnalysis: fine\nScores: \\boxed{2, 9}"
    item = preference.Item("q?", ("a", "b"), 1, demonstration=text, criteria="right 6")
    plain = CritiqueConfig(template="short")
    assert demonstration(item, plain) == text
    for mode in ("none", "given", "from_query"):
        cfg = dataclasses.replace(plain, principles=mode)
        assert demonstration(item, cfg) == "Analysis: fine\nScores: \\boxed{2, 9}"
    pick = CritiqueConfig(form="pick", template="short_pick")
    assert demonstration(item, pick).endswith("Scores: \\boxed{2}")


def test_a_mixture_of_judgements_and_demonstrations_has_the_share_of_the_config(tmp_path, on_mesh):
    cfg = run_config(tmp_path, SftStage(role="grm"), principles="from_query")
    _, ws = workspaces(cfg, on_mesh)
    item = preference.Item("q?", ("a", "b"), 1)
    path = ws.run.judgements("rft")
    path.parent.mkdir()
    rows = [
        preference.build_record(item) | {"learn": str(i % 2), "response_ids": "[65, 1]"}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = SftStage(role="grm", judgements="rft", share=0.25)
    mixed = list(dataset.each(ws.demonstrations(stage)))
    assert len(mixed) == 6 + 18
    assert [ws.encode_demonstration(row) for row in mixed[:6]] == [[65, 1]] * 6
    alone = ws.demonstrations(SftStage(role="grm"))
    assert sum(PART in row for row in dataset.each(alone)) == len(alone) / 2
    criteria = next(row for row in dataset.each(alone) if PART in row)
    query = ws.tokenizer.decode(ws.encode_prompt(criteria))
    assert query == criteria["question"] + "\nCriteria:"
    path.write_text(path.read_text().replace('"learn": "1"', '"learn": "0"'))
    with pytest.raises(RunError, match="left no right judgement"):
        ws.demonstrations(stage)
    path.write_text("{}\n")
    with pytest.raises(RunError, match="is damaged"):
        ws.load_judgements("rft")
    with pytest.raises(RunError, match="has not been run"):
        ws.load_judgements("other")


def test_items_of_answers_have_one_right_response():
    record = {"question": "2+2?", "reference": "4", "messages": "", "domain": "sums"}
    answers = {
        "k1": {"4": True, "5": False, "6": False, "7": False},
        "k2": {"4": True},
        "k3": {"5": False},
        "k4": {"four": True, "4": True, "3": False},
    }
    items = compare.build_items(dict.fromkeys(answers, record), answers, 3, "seed")
    assert len(items) == 2
    for item in items:
        assert item.responses[item.best] in ("4", "four")
        wrong = [text for i, text in enumerate(item.responses) if i != item.best]
        assert set(wrong) <= {"3", "5", "6", "7"} and 1 <= len(wrong) <= 2
    again = compare.build_items(dict.fromkeys(answers, record), answers, 3, "seed")
    assert items == again


class FakeEndpoint:
    """Says nonsense first, then scores that put the hinted or the longest response on top."""

    asked: list[str] = []

    def __init__(self, cfg, path, stopped):
        self.path = path

    def complete(self, texts, count):
        FakeEndpoint.asked += texts
        return [["nonsense", None, self.judge(text)][:count] for text in texts]

    def judge(self, text):
        return "Scores: \\boxed{9, 2}" if "[2]" in text else "Scores: \\boxed{1}"

    def close(self):
        assert self.path.name == "rft.jsonl"


def test_an_endpoint_may_write_the_judgements(tmp_path, on_mesh, monkeypatch):
    monkeypatch.setattr(rft.http, "Endpoint", FakeEndpoint)
    monkeypatch.setattr(FakeEndpoint, "asked", [])
    asked = JudgeConfig(kind="endpoint", url="http://localhost/v1", model="m", temperature=1.0)
    stage = RftStage(endpoint=asked, samples=3, batch=4)
    _, ws = workspaces(run_config(tmp_path, stage), on_mesh)
    result = rft.run(stage, ws)
    rows = ws.load_judgements("rft")
    assert result["items"] == 16 and len(rows) == 48 + result["hinted"] + result["unsolved"]
    assert result["unsolved"] + result["hinted"] == sum("Best:" in x for x in FakeEndpoint.asked)
    for row in rows:
        item = preference.parse_item(row)
        text = ws.tokenizer.decode(json.loads(row["response_ids"]))
        if "boxed" not in text:
            assert row["right"] == "0" and row["learn"] == "0"
        else:
            single = len(item.responses) == 1
            assert (row["right"] == "1") == (item.best == (1 if single else 0))
    learned = [row for row in rows if row["learn"] == "1"]
    assert learned and all(row["right"] == "1" for row in learned)
    assert all("prompt_ids" not in row for row in rows)


@pytest.mark.slow
def test_every_stage_of_a_generative_reward_model_runs(tmp_path, on_mesh):
    few = dict(steps=2, batch=4, save_every=1)
    stages = (
        SftStage(name="cold", role="grm", **few),
        RftStage(policy="cold", samples=2, batch=8, easy="keep"),
        RlStage(
            name="grm",
            policy="cold",
            reward=RewardConfig(source="preference"),
            steps=2,
            prompts=2,
            samples=2,
        ),
        MetaStage(init="cold", steps=2, batch=2, held_out=2, balance="none"),
        VoteStage(policy="grm", meta="meta", votes=(1, 2), batch=8),
        SftStage(name="base", steps=2, batch=4),
    )
    cfg = run_config(tmp_path, *stages)
    _, ws = workspaces(cfg, on_mesh)
    for stage in stages[:5]:
        run = {"sft": sft, "rft": rft, "rl": rl, "meta": meta, "vote": vote}[stage.stage]
        ws.run.metrics_start = ws.run.metrics.offset
        ws.run.finish(stage.name, run.run(stage, ws))
    rows = ws.load_judgements("rft")
    assert len(rows) >= 32 and {row["right"] for row in rows} <= {"0", "1"}
    result = json.loads(ws.run.evaluation("vote").read_text())
    assert set(result["votes"]) == {"1", "2"} and set(result["votes"]["2"]) == {"plain", "meta 0.5"}
    assert 0 <= result["greedy"]["all"]["expected"] <= 1
    metrics = logged(ws, "grm")
    assert {"grm/valid_frac", "grm/tie_frac"} <= metrics[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("principles", ["with_responses", "from_query"])
def test_votes_pay_a_policy_alike_in_the_fused_and_the_split_step(tmp_path, on_mesh, principles):
    own = VoteConfig(together=2)
    grm_stage = SftStage(name="judge", role="grm", init="fresh", steps=1, batch=4)
    common = dict(policy="fresh", grm="judge", steps=1, prompts=2, samples=2)
    fused = RlStage(name="fused", reward=RewardConfig(source="grm", votes=2, grm=own), **common)
    split = RlStage(
        name="split",
        reward=RewardConfig(source="rule_then_grm", rule="exact", votes=2, grm=own, workers=1),
        **common,
    )
    cfg = run_config(tmp_path, grm_stage, fused, split, principles=principles)
    ws, grm_ws = workspaces(cfg, on_mesh)
    ws.run.finish("judge", sft.run(grm_stage, grm_ws))
    rewards = {}
    for stage in (fused, split):
        rl.run(stage, ws)
        rewards[stage.name] = logged(ws, stage.name)[0]["grm/reward"]
    assert rewards["fused"] == pytest.approx(rewards["split"], abs=1e-6)


def test_a_hint_that_makes_a_prompt_too_long_is_not_given(tmp_path, on_mesh):
    cfg = run_config(tmp_path, RftStage(policy="x"))
    _, ws = workspaces(cfg, on_mesh)
    item = preference.Item("q?", ("a", "b"), 1)
    plain, hinted = (len(ws.prompter.prompt(item, (0, 1), hinted=h)) for h in (False, True))
    assert plain < hinted
    for columns, fits in ((hinted, True), (hinted - 1, False)):
        data = dataclasses.replace(ws.cfg.data, prompt_columns=columns)
        ws.cfg = dataclasses.replace(ws.cfg, data=data)
        assert rft.hint_fits(ws, item, (0, 1)) == fits


def test_a_judgement_is_its_own_oracle():
    item = preference.build_record(preference.Item("q?", ("a", "b"), 0))
    judge = RlStage(reward=RewardConfig(source="preference"))
    assert kept_samples.oracle_score(judge, "\\boxed{9, 2}", item, 1.0) == 1.0
    sums = {"task": "sum", "answer": "4", "reference": "4", "question": "What is 2 + 2?"}
    policy = RlStage()
    assert kept_samples.oracle_score(policy, "4", sums, 0.0) == 1.0
    assert kept_samples.oracle_score(policy, "5", sums, 1.0) == 0.0


def test_a_stage_gets_the_models_and_tables_that_it_reads(tmp_path, on_mesh):
    ruled = RlStage(reward=RewardConfig(source="rule"), policy="fresh")
    judging = RlStage(name="judge", reward=RewardConfig(source="preference"), policy="fresh")
    ws, grm_ws = workspaces(run_config(tmp_path, ruled, judging), on_mesh)
    newline_V = ws.tokenizer.tables(264)[0]
    for stage, own in ((ruled, ws), (judging, grm_ws)):
        frozen = sampled.frozen_models(stage, own, {})
        np.testing.assert_array_equal(jax.device_get(frozen.newline_V), newline_V)
        assert frozen.grm == {} and frozen.meta == {} and frozen.verdict is None
        assert (frozen.critic is None) == (stage is ruled)


TIMED = ("time/", "perf/", "hack/")


def logged(ws: Workspace, stage: str) -> list[dict]:
    rows = map(json.loads, (ws.run.folder / "metrics.jsonl").read_text().splitlines())
    rows = [row for row in rows if row["stage"] == stage]
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["preference", "grm"])
def test_a_stage_goes_on_where_it_was_stopped_to_the_same_numbers(tmp_path, on_mesh, source):
    few = dict(steps=3, prompts=2, samples=2, save_every=1)
    votes = {"votes": 2} if source == "grm" else {}
    reward = RewardConfig(source=source, audit="off", **votes)
    judge = SftStage(name="judge", role="grm", init="fresh", steps=1, batch=4)
    policy = "judge" if source == "preference" else "fresh"
    stage = RlStage(policy=policy, grm="judge", reward=reward, **few)
    logs = []
    for name, stop in (("whole", None), ("stopped", 2)):
        cfg = dataclasses.replace(run_config(tmp_path, judge, stage), name=name)
        ws, grm_ws = workspaces(cfg, on_mesh)
        ws.run.finish("judge", sft.run(judge, grm_ws))
        own = grm_ws if source == "preference" else ws
        steps = itertools.count(1)
        if stop:
            own.run.check_signal = lambda s=steps, at=stop: 15 if next(s) == at else None
            with pytest.raises(Interrupted):
                rl.run(stage, own)
        rl.run(stage, own)
        logs.append(logged(own, "rl"))
    assert logs[0] == logs[1] and len(logs[0]) == 3


def test_a_rule_comes_before_the_votes():
    rule, judged = np.array([1.0, 0.0, 0.5]), np.array([0.2, 0.7, 0.1], np.float32)
    combined = host_rewards.combine("rule_then_grm", rule, judged)
    np.testing.assert_allclose(combined, [1.0, 0.7, 0.1])
