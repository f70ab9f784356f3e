"""Earlier rewards decide draws and baselines: in the right order, and kept for good."""

import dataclasses
import json
import random
import shutil
import zlib

import jax
import numpy as np
import pytest

from rlvr_jax import prompt_filter, sharding
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    DataConfig,
    DifficultyConfig,
    FilterConfig,
    MeshConfig,
    ModelConfig,
    RewardConfig,
    RlStage,
)
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.stages import kept_samples, rl
from rlvr_jax.stages.experience import Experience
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Prompts, StepResult

WEIGHTED = DifficultyConfig({"hard": 3, "middle": 5, "solved": 0})
RAE = AdvantageConfig("none", "domain", baseline_decay=0.9)
UNTRIED, PLACED, REJECTED = prompt_filter.UNTRIED, prompt_filter.PLACED, prompt_filter.REJECTED


def problems(count):
    names = ("algebra", "gsm", "logic")
    return [{"key": f"{i:03d}", "domain": names[i % 3]} for i in range(count)]


def answered(mean_X, fate_X=None, total_Q=None):
    """The result of a step of which nothing but rewards is known."""
    fates = [PLACED] * len(mean_X) if fate_X is None else fate_X
    mean_X = np.array(mean_X, np.float32)
    return StepResult(None, None, None, None, {}, np.array(fates), mean_X, total_Q)


def test_without_the_options_problems_come_in_the_shuffled_epochs_of_always() -> None:
    source = problems(23)
    made, plain = Experience(RlStage(prompts=4), source, 9), dataset.batches(source, 4, 9)
    for _ in range(15):
        taken = made.take(4)
        assert taken == next(plain)
        assert made.learn(taken, answered([0.5] * 4), lambda x: 1 / 0) == {}
    assert set(made.get_state()) == {"data", "queue"}
    made.give_back(taken[1:])
    assert len(made) == 3 and made.take(4)[:3] == taken[1:]


def test_only_what_was_tried_teaches_and_rejected_groups_do_too() -> None:
    stage = RlStage(prompts=2, difficulty=WEIGHTED, filter=FilterConfig(spread=True, rounds=2))
    source = problems(9)
    made = Experience(stage, source, 0)
    taken = made.take(4)
    fates = [REJECTED, PLACED, UNTRIED, prompt_filter.SURPLUS]
    metrics = made.learn(taken, answered([0.0, 0.5, 0.9, 1.0], fates), np.asarray)
    rates = made.get_state()["rates"]
    assert rates == {taken[0]["key"]: 0.0, taken[1]["key"]: 0.5, taken[3]["key"]: 1.0}
    assert metrics["difficulty/drawn_unseen"] == 1
    assert metrics["difficulty/unseen"] == pytest.approx(6 / 9)
    assert made.learn(made.take(4), answered([0] * 4, [UNTRIED] * 4), np.asarray)[
        "difficulty/unseen"
    ] == pytest.approx(6 / 9)


def test_baselines_are_the_means_of_earlier_steps_counted_slowly() -> None:
    """One response after the other; a step is judged by the means before it."""
    rng, source = np.random.default_rng(0), problems(20)
    stage = RlStage(prompts=5, samples=3, advantage=RAE)
    made = Experience(stage, source, 0)
    empty = np.zeros((0, 1), np.int32)
    encode = made.encoder(lambda records, step: Prompts(empty, empty, empty, empty))
    slow = {"algebra": 0.0, "gsm": 0.0, "logic": 0.0}
    for step in range(12):
        taken = made.take(5)
        got = encode(taken, step).baseline_Q
        assert got.dtype == np.float32
        assert got == pytest.approx([slow[r["domain"]] for r in taken], rel=1e-6)
        total_Q = rng.normal(size=5).astype(np.float32)
        metrics = made.learn(taken, answered([0.0] * 5, total_Q=total_Q), np.asarray)
        for domain in {r["domain"] for r in taken}:
            of_domain = [t for t, r in zip(total_Q, taken, strict=True) if r["domain"] == domain]
            for _ in range(3 * len(of_domain)):
                slow[domain] = 0.9 * slow[domain] + 0.1 * sum(map(float, of_domain)) / len(
                    of_domain
                )
            assert metrics[f"baseline/{domain}"] == pytest.approx(slow[domain], rel=1e-9)
    assert min(map(abs, slow.values())) > 0


def test_a_state_goes_on_with_the_same_draws_and_baselines() -> None:
    stage = RlStage(prompts=3, samples=2, difficulty=WEIGHTED, advantage=RAE)

    def go_on(made, rng, steps):
        out = []
        for _ in range(steps):
            taken = made.take(3)
            mean_X = np.array([rng.choice([0, 0.5, 1]) for _ in taken], np.float32)
            out.append((taken, made.learn(taken, answered(mean_X, total_Q=mean_X), np.asarray)))
        return out

    one, rng = Experience(stage, problems(20), 1), random.Random(0)
    go_on(one, rng, 8)
    other, again = Experience(stage, problems(20), 1), random.Random()
    other.set_state(json.loads(json.dumps(one.get_state())))
    again.setstate(rng.getstate())
    assert go_on(one, rng, 8) == go_on(other, again, 8)
    assert one.get_state() == other.get_state() and len(one.get_state()["baselines"]) == 3


def test_a_filter_with_the_baseline_of_a_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="domain is the mean of all rewards"):
        RlStage(advantage=RAE, filter=FilterConfig(spread=True))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"weights": {"simple": 1}}, "no band 'simple': the bands are unseen, unsolved"),
        ({"weights": {"hard": -1}}, "weights.hard must be finite and at least 0, not -1"),
        ({"weights": {"hard": float("nan")}}, "weights.hard must be finite"),
        ({"weights": {"unseen": 0}}, "no problem would ever be tried a first time"),
        ({"weights": {"hard": 2}, "decay": 1}, "0 <= decay < 1"),
        ({"decay": 0.9}, "decay needs weights"),
    ],
)
def test_options_without_meaning_are_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        DifficultyConfig(**options)


# ---- in a stage ----------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run a stage from wherever it stands; what each step saw, its metrics, its checkpoints."""
    size = dict(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)
    stage = RlStage(
        steps=9,
        prompts=4,
        samples=2,
        save_every=4,
        sample_every=100,
        difficulty=WEIGHTED,
        advantage=RAE,
        reward=RewardConfig(source="rule"),
    )
    cfg = Config(
        name="drawn",
        runs=str(tmp_path),
        tokenizer="byte",
        data=DataConfig(tasks=("sum", "siblings"), sft=0, label=0, train=30, prompt_columns=120),
        model=ModelConfig(**size),
        stages=(stage,),
    )
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(kept_samples, "keeper", lambda *_: lambda *_: 0.0)

    def made_up(log, setup, ws, state, frozen, workers, place):
        def take_step(state, records):
            number = int(jax.device_get(state.step))
            baseline_Q = jax.device_get(place(records, number).baseline_Q)
            mean_X = np.array([hash_of(r["key"], number) for r in records], np.float32)
            log.append(([r["key"] for r in records], baseline_Q.tolist()))
            state = dataclasses.replace(state, step=jax.jit(lambda step: step + 1)(state.step))
            shown = {name: np.float32(0) for name in rl.SHOWN.values()}
            return answered(mean_X, total_Q=mean_X)._replace(state=state, metrics=shown)

        return take_step

    def hash_of(key, number):
        return zlib.crc32(f"{key} {number // 3}".encode()) % 5 / 4

    def train():
        log: list = []
        ws = Workspace(Run(cfg), mesh)
        ws.write_problems()
        made = ws.new_state
        ws.new_state = lambda *a, **more: made(*a[:3], "fresh", *a[4:], **more)
        monkeypatch.setattr(rl, "split_step", lambda *args: made_up(log, *args))
        with jax.set_mesh(mesh):
            rl.run(stage, ws)
        rows = ws.run.metrics.load_rows(stage.name)
        ws.run.close()
        timed = ("time/", "perf/")
        rows = [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]
        return log, rows, ws.run.checkpoints(stage.name)

    return train


def test_a_stage_that_resumes_draws_and_judges_as_if_nothing_had_happened(train) -> None:
    log, rows, folder = train()
    assert len(log) == len(rows) == 9
    drawn = [row["difficulty/drawn_unseen"] for row in rows]
    assert drawn[0] == 1 and 0 in drawn, "pass rates have decided something"
    assert rows[3]["baseline/arithmetic"] in [pytest.approx(x) for x in log[4][1]]
    shutil.rmtree(next(folder.glob("step_*9")))
    again, rows_again, _ = train()
    assert again == log[8:] and rows_again == rows
