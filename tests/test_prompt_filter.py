"""The prompt filter: which groups are kept, what places they fill, and that the rest is nothing."""

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from make_round import credit
from rlvr_jax import engine, judging, loss, optim, parameters, prompt_filter, sharding, step
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    DataConfig,
    FilterConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    OverlongConfig,
    PrmConfig,
    RlStage,
)
from rlvr_jax.host.processes.team import Team
from rlvr_jax.stages import host_rewards, rl
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Learner, Outcome, Rollout, Setup

Q, G, P, R = 4, 2, 16, 6
B = Q * G
SMALL = ModelConfig(layers=1, width=8, heads=2, kv_heads=2, head_size=4, feedforward=8, vocab=264)
# An optimizer that moves everything and keeps the gradient it was given.
RECORD = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.ones_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.ones_like, grads), grads),
)


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def random_params(seed: int):
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(x.shape, np.float32)
        if name.startswith("norm")
        else rng.normal(0, 0.3, x.shape).astype(np.float32)
        for name, x in parameters.abstract(SMALL).items()
    }


def random_rollout(rng, prompts: int) -> Rollout:
    rows = prompts * G
    length_B = rng.integers(1, R + 1, rows).astype(np.int32)
    mask_BR = np.arange(R) < length_B[:, None]
    return Rollout(
        prompt_QP=rng.integers(0, 260, (prompts, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(3, P + 1, (prompts, 1)),
        response_BR=rng.integers(0, 260, (rows, R)).astype(np.int32),
        length_B=length_B,
        truncated_B=rng.random(rows) < 0.3,
        logprob_BR=np.where(mask_BR, -rng.exponential(size=(rows, R)), 0).astype(np.float32),
    )


# ---- which groups are kept -----------------------------------------------------------------


def keeps_oracle(reward_B, truncated_B, samples, cfg) -> list[bool]:
    kept = []
    for start in range(0, len(reward_B), samples):
        group = [float(x) for x in reward_B[start : start + samples]]
        mean = sum(group) / samples
        good = cfg.low <= round(mean, 9) <= cfg.high
        if cfg.spread and all(x == group[0] for x in group):
            good = False
        if cfg.whole and any(truncated_B[start : start + samples]):
            good = False
        kept.append(good)
    return kept


@pytest.mark.parametrize("samples", [1, 4, 5, 10])
@pytest.mark.parametrize(
    "cfg",
    [
        FilterConfig(),
        FilterConfig(low=0.2, high=0.8),
        FilterConfig(low=0.4, high=0.4),
        FilterConfig(high=0.5),
        FilterConfig(spread=True),
        FilterConfig(whole=True),
        FilterConfig(low=0.2, spread=True, whole=True),
    ],
    ids=str,
)
def test_groups_are_kept_as_the_papers_say(samples, cfg) -> None:
    rng = np.random.default_rng(samples)
    chance = rng.choice([0, 0.2, 0.5, 0.8, 1], (60, 1))
    reward_B = (rng.random((60, samples)) < chance).astype(np.float32).reshape(-1)
    truncated_B = rng.random(60 * samples) < 0.1
    reward_QG = jnp.asarray(reward_B.reshape(-1, samples))
    got = prompt_filter.passing_groups(reward_QG, jnp.asarray(truncated_B), cfg)
    assert np.asarray(got).tolist() == keeps_oracle(reward_B, truncated_B, samples, cfg)
    hard_Q, easy_Q = prompt_filter.outside_range(reward_QG, cfg)
    mean_Q = reward_B.reshape(-1, samples).astype(np.float64).mean(1).round(9)
    np.testing.assert_array_equal(hard_Q, mean_Q < cfg.low)
    np.testing.assert_array_equal(easy_Q, mean_Q > cfg.high)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(low=0.8, high=0.2), "low <= high"),
        (dict(low=-0.1), "0 <= low"),
        (dict(high=1.5), "high <= 1"),
        (dict(high=float("nan")), "high <= 1"),
        (dict(spread=True, rounds=0), "rounds must be at least 1"),
        (dict(rounds=3), "every group would be kept in the first"),
    ],
)
def test_what_cannot_work_is_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        FilterConfig(**options)


def test_single_samples_have_no_spread() -> None:
    alone = AdvantageConfig(baseline="none")
    with pytest.raises(ValueError, match="raise samples"):
        RlStage(samples=1, advantage=alone, filter=FilterConfig(spread=True))
    assert not RlStage(samples=1, advantage=alone).filter.on


# ---- the places they fill ------------------------------------------------------------------


def merge_oracle(rounds):
    """Rows of each place and the fate of each group, one group after the other."""
    places: list = []
    fates = []
    for written, reward_B, keep_Q in rounds:
        fate = []
        for q in range(Q):
            rows = slice(q * G, q * G + G)
            if not keep_Q[q]:
                fate.append(prompt_filter.REJECTED)
            elif len(places) == Q:
                fate.append(prompt_filter.SURPLUS)
            else:
                of_group = {
                    name: x[q] if len(x) == Q else x[rows] for name, x in vars(written).items()
                }
                places.append(of_group | {"reward_B": reward_B[rows]})
                fate.append(prompt_filter.PLACED)
        fates.append(fate)
    return places, fates


def assert_places(got: Rollout, reward_B, places) -> None:
    """The places as the oracle filled them, and nothing at all in the others."""
    for name, x in {**vars(got), "reward_B": reward_B}.items():
        groups = np.asarray(x).reshape(Q, -1)
        for q in range(Q):
            want = np.ravel(places[q][name]) if q < len(places) else np.zeros(groups.shape[1])
            np.testing.assert_array_equal(groups[q], want, err_msg=f"{name}, place {q}")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_kept_groups_fill_the_places_in_order(share) -> None:
    rng = np.random.default_rng(int(share * 10))
    place_groups = jax.jit(prompt_filter.place_groups)
    for _ in range(8):
        held, rounds, got = None, [], []
        for _ in range(3):
            written, reward_B = random_rollout(rng, Q), rng.random(B).astype(np.float32)
            keep_Q = rng.random(Q) < share
            rounds.append((written, reward_B, keep_Q))
            outcome = Outcome({"reward": jnp.asarray(reward_B)})
            held = prompt_filter.no_groups(written, outcome, 3) if held is None else held
            held, fate_Q = place_groups(held, written, outcome, keep_Q)
            got.append(np.asarray(fate_Q).tolist())
        places, fates = merge_oracle(rounds)
        assert got == fates
        passed = (prompt_filter.PLACED, prompt_filter.SURPLUS)
        assert int(held.round.selection.kept) == sum(f in passed for x in fates for f in x)
        filled_QG = held.round.filled_B.reshape(Q, G).tolist()
        assert filled_QG == [[q < len(places)] * G for q in range(Q)]
        assert_places(held.round.rollout, held.outcome.rewards["reward"], places)


def test_what_is_no_number_counts_as_none_and_is_counted() -> None:
    rng = np.random.default_rng(0)
    written = random_rollout(rng, Q)
    reward_B = np.array([np.nan, 1, 0, np.inf, 1, 1, 0, 0], np.float32)
    cfg = FilterConfig(low=0.2, high=0.8)
    outcome = Outcome({"reward": jnp.asarray(reward_B)})
    held = prompt_filter.no_groups(written, outcome, 1)
    held = prompt_filter.add_round(held, written, jnp.int32(5), outcome, cfg)
    selection = held.round.selection
    assert selection.mean_X.tolist() == [0.5, 0, 1, 0]
    assert selection.fate_X.tolist() == [
        prompt_filter.PLACED,
        prompt_filter.REJECTED,
        prompt_filter.REJECTED,
        prompt_filter.REJECTED,
    ]
    assert held.outcome.rewards["reward"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    counts = (selection.nonfinite, selection.too_hard, selection.too_easy, held.round.decoded)
    assert tuple(map(int, counts)) == (2, 2, 1, 5)
    told = prompt_filter.filter_metrics(held.round)
    assert {k: float(v) for k, v in told.items()} == {
        "filter/rounds": 1,
        "filter/kept_frac": 0.25,
        "filter/too_hard": 0.5,
        "filter/too_easy": 0.25,
        "filter/unfilled": 3,
        "filter/surplus": 0,
        "filter/reward": 3 / 8,
    }


# ---- unfilled places are nothing -----------------------------------------------------------


@pytest.mark.parametrize("normalise", ["batch", "group", "none"])
@pytest.mark.parametrize("baseline, ddof", [("rloo", 0), ("opo", 1), ("none", 1)])
def test_an_unfilled_place_changes_no_advantage(normalise, baseline, ddof) -> None:
    """As if the batch had ended before it; and its own advantage is exactly 0."""
    rng = np.random.default_rng(ddof)
    filled, rows = 3, 3 * G
    length_B = np.where(np.arange(B) < rows, rng.integers(1, R + 1, B), 0)
    mask_BR = jnp.asarray(np.arange(R) < length_B[:, None])
    reward_B = np.where(np.arange(B) < rows, rng.random(B), 0).astype(np.float32)
    kl_BR, process_BR = rng.normal(size=(2, B, R)).astype(np.float32)
    for more in ({}, {"process_weight": 0.5, "whiten": "tokens"}, {"credit": "token"}):
        cfg = AdvantageConfig(normalise, baseline, ddof=ddof, **more)
        estimate = functools.partial(credit, samples=G, cfg=cfg, kl_coef=0.1)
        given = dict(kl_BR=kl_BR, token_reward_BR=process_BR)
        got = estimate(reward_B, mask_BR, counted_B=jnp.arange(B) < filled * G, **given)
        shorter = {name: x[:rows] for name, x in given.items()}
        want = estimate(reward_B[:rows], mask_BR[:rows], **shorter)
        np.testing.assert_allclose(
            got.advantage_BR[:rows], want.advantage_BR, rtol=1e-5, atol=1e-6, err_msg=str(cfg)
        )
        assert not np.any(got.advantage_BR[rows:])


AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant")


@functools.cache
def updater(places: int, filtered: bool):
    """`update` with all that looks at a whole batch, under one of the four aggregations."""
    stage = RlStage(
        prompts=places,
        samples=G,
        advantage=AdvantageConfig("batch", "rloo", ddof=1, process_weight=0.5),
        prm=PrmConfig(reference="policy"),
        loss=LossConfig(kl_coef=0.1, kl_in="loss", kl_target=1e-3, kl_horizon=100.0),
        overlong=OverlongConfig(buffer=R, penalty=0.5),
        filter=FilterConfig(spread=filtered),
    )
    weights = loss.row_weights

    @jax.jit
    def update(which, state, frozen, written, reward_B, kept):
        def chosen(mask_BR, cfg, counted_B):
            each = [
                weights(mask_BR, dataclasses.replace(cfg, aggregate=a), counted_B)
                for a in AGGREGATES
            ]
            return jnp.stack(each)[which]

        outcome = Outcome({"reward": reward_B})
        round_, outcome = prompt_filter.keep_all(written, jnp.int32(7), None, outcome)
        round_ = round_._replace(selection=round_.selection._replace(kept=jnp.int32(kept)))
        setup = Setup(stage, SMALL, SMALL, R, (), RECORD, RECORD)
        with mock.patch.object(loss, "row_weights", chosen):
            result = step.update(state, frozen, round_, outcome, setup=setup)
        # The filter's own metrics are not of the rows.
        metrics = {k: x for k, x in result.metrics.items() if not k.startswith("filter/")}
        return result.state, result.advantage_B, metrics

    return update


def begin():
    params = random_params(1)
    state = step.init_state(jax.random.key(0), params, RECORD)
    state = step.with_prm(state, params, RECORD).replace(kl_coef=jnp.float32(0.1))
    state = state.replace(prm=Learner(random_params(2), state.prm.opt_state))
    return state, Frozen(random_params(3), {})


def cut(tree, filled: int, places: int):
    """The first groups, followed by nothing."""
    return jax.tree.map(
        lambda x: np.concatenate(
            [
                x[: len(x) // Q * filled],
                np.zeros((len(x) // Q * (places - filled), *x.shape[1:]), x.dtype),
            ]
        ),
        tree,
    )


@pytest.mark.parametrize("which", range(4), ids=AGGREGATES)
def test_an_unfilled_place_changes_no_gradient_and_no_metric(which) -> None:
    rng, filled = np.random.default_rng(5), 3
    rows = random_rollout(rng, Q), rng.random(B).astype(np.float32)
    state, frozen = begin()
    with_holes, without = cut(rows, filled, Q), cut(rows, filled, filled)
    got, got_B, metrics = updater(Q, True)(which, state, frozen, *with_holes, filled)
    want, want_B, wanted = updater(filled, False)(which, state, frozen, *without, filled)
    for name, x in want.opt_state.items():
        for a, b in ((got.opt_state[name], x), (got.prm.opt_state[name], want.prm.opt_state[name])):
            assert np.max(np.abs(a - b)) <= 2e-5 * np.max(np.abs(b)), name
            assert np.max(np.abs(b)) > 0
    np.testing.assert_allclose(got_B[: filled * G], want_B, rtol=1e-5, atol=1e-6)
    assert not np.any(got_B[filled * G :])
    np.testing.assert_allclose(got.kl_coef, want.kl_coef, rtol=1e-6)
    assert set(metrics) == set(wanted)
    for name, x in wanted.items():
        if name != "perf/update_useful":  # the parts of the two are of different sizes
            np.testing.assert_allclose(metrics[name], x, rtol=1e-4, atol=1e-6, err_msg=name)


def test_where_nothing_is_kept_nothing_moves_and_all_is_a_number() -> None:
    """Not even by an optimizer's momentum or decay; and it is no update left out as broken."""
    rows = cut((random_rollout(np.random.default_rng(5), Q), np.zeros(B, np.float32)), 0, Q)
    state, frozen = begin()
    after, advantage_B, metrics = updater(Q, True)(0, state, frozen, *rows, 0)
    for old, new in ((state, after), (state.prm, after.prm)):
        assert same(old.opt_state, new.opt_state)
    assert same(state.params, after.params) and same(state.prm.params, after.prm.params)
    assert (int(after.step), int(after.skipped), int(metrics["prm/skipped"])) == (1, 0, 0)
    assert float(after.kl_coef) == np.float32(0.1)
    assert not np.any(advantage_B)
    for name, value in metrics.items():
        assert np.isfinite(value).all(), name
    assert metrics["completion/identical_frac"] == 0 and metrics["reward/mean"] == 0


# ---- the step ------------------------------------------------------------------------------

ROUNDS = 3
STAGE = RlStage(
    prompts=Q,
    samples=G,
    filter=FilterConfig(spread=True, rounds=ROUNDS),
    advantage=AdvantageConfig("batch", "rloo"),
    loss=LossConfig(aggregate="seq-mean-token-mean"),
    # A large epsilon: Adam's first steps are signs of gradients, of those that are rounding too.
    optim=OptimConfig(lr=1e-2, eps=1e-4),
)
# What of a response is liked: some, no response, every second one, all but few.
LIKES = (3, 0, -1, 6)
TX = optim.make_optimizer(STAGE.optim, len(LIKES))


def liked(written: Rollout, likes):
    """[B] 0 or 1, from the sum of a response's tokens; -1: every second response."""
    sum_B = jnp.sum(jnp.where(written.response_mask_BR, written.response_BR, 0), 1)
    every_second_B = jnp.arange(B) % 2 == 0
    return jnp.where(likes < 0, every_second_B, sum_B % 7 < likes).astype(jnp.float32)


def records(step: int) -> list[dict]:
    return [
        {"question": f"{step} + {i}", "reference": "0", "messages": ""} for i in range(Q * ROUNDS)
    ]


@functools.cache
def run(shape, part_tokens: int, hosted: bool):
    """A step for each of LIKES; what came out of each, and what was asked and written in it."""
    size = dataclasses.replace(SMALL, part_tokens=part_tokens)
    cfg = Config(
        stages=(STAGE,),
        tokenizer="byte",
        mesh=MeshConfig(*shape),
        model=size,
        verifier=size,
        data=DataConfig(prompt_columns=P, response_columns=R, check_columns=40),
    )
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[: np.prod(shape)])
    place = SimpleNamespace(
        cfg=cfg, folder=Path("none"), tokenizer_file=None, began=None, team=Team()
    )
    ws = Workspace(place, mesh)  # type: ignore[arg-type]
    ws.models._learned = lambda stage, cfg: random_params(0)  # type: ignore[method-assign]
    likes, rounds, out = np.array(LIKES[:1]), [], []

    def verify(frozen, prompts, written, cfg, verifier_cfg):
        reward_B = liked(written, frozen.newline_V[0])
        return reward_B, {"verifier/p1_mean": jnp.mean(reward_B)}

    def host_reward(asked, prompts, written, texts, on_error, key):
        reward_B = np.asarray(liked(written, likes[0]))
        rounds.append(jax.device_get((written, reward_B)))
        return reward_B, {"verifier/p1_mean": float(reward_B.mean())}, {"p1": reward_B}

    with (
        jax.set_mesh(mesh),
        mock.patch.object(judging, "verify", verify),
        mock.patch.object(host_rewards, "part_scorer", lambda *_: host_reward),
    ):
        state = ws.new_state(STAGE.name, size, TX, "given")
        frozen = Frozen({}, {}, None, likes)
        setup = Setup(STAGE, size, size, R, ws.tokenizer.eos, TX)

        def placed(records, number):
            return ws.place(ws.columns(records, number))

        if hosted:
            take_step = rl.split_step(setup, ws, state, frozen, None, placed)  # type: ignore[arg-type]
        else:
            take_step = rl.fused_step(setup, ws, state, frozen, placed)
        for number, likes[0] in enumerate(LIKES):
            rounds.clear()
            result = take_step(state, records(number))
            state = result.state
            copied = jax.tree.map(np.array, jax.device_get((state.params, state.opt_state)))
            signal_2B = np.stack([result.reward_B, result.advantage_B])
            asked = (result.fate_X, result.mean_X)
            found = jax.device_get((result.rollout, signal_2B, result.metrics, asked))
            out.append((copied, found, list(rounds)))
    return out


ONE = ((1, 1, 1), 256)


def outcome(places, fates):
    """Metrics that follow from the oracle's fates."""
    tried = [fate for of_round in fates for fate in of_round]
    kept = sum(fate != prompt_filter.REJECTED for fate in tried)
    return {
        "filter/rounds": len(fates),
        "filter/kept_frac": kept / len(tried),
        "filter/unfilled": Q - len(places),
        "filter/surplus": kept - len(places),
        "filter/too_hard": 0,
        "filter/too_easy": 0,
    }


def test_rounds_go_on_until_the_places_are_filled_or_the_rounds_are_over() -> None:
    """By the rounds as the host saw them, one group after the other."""
    seen = []
    for _, (written, signal_2B, metrics, (fate_X, mean_X)), rounds in run(*ONE, True):
        kept = [keeps_oracle(r, w.truncated_B, G, STAGE.filter) for w, r in rounds]
        triples = [(w, r, k) for (w, r), k in zip(rounds, kept, strict=True)]
        places, fates = merge_oracle(triples)
        assert_places(written, signal_2B[0], places)
        untried = [prompt_filter.UNTRIED] * (Q * (ROUNDS - len(rounds)))
        assert fate_X.tolist() == [*sum(fates, []), *untried]
        means = np.concatenate([r.reshape(Q, G).mean(1) for _, r in rounds])
        assert mean_X == pytest.approx(np.concatenate([means, np.zeros(len(untried))]))
        # No round too many, none too few.
        assert len(merge_oracle(triples[:-1])[0]) < Q
        assert len(places) == Q or len(rounds) == ROUNDS
        rewards = np.concatenate([r for _, r in rounds])
        want = outcome(places, fates) | {
            "filter/reward": rewards.mean(),
            "verifier/p1_mean": rewards.mean(),
        }
        assert {k: float(metrics[k]) for k in want} == pytest.approx(want)
        assert metrics["completion/tokens"] == sum(np.sum(p["length_B"]) for p in places)
        seen.append((len(rounds), len(places), want["filter/surplus"]))
    # What is compared is not trivial: every kind of end was seen.
    assert seen[1][:2] == (ROUNDS, 0) and seen[2] == (1, Q, 0)
    assert any(rounds > 1 and places for rounds, places, _ in seen)
    assert any(surplus for *_, surplus in seen) or any(0 < places < Q for _, places, _ in seen)


def test_rounds_are_drawn_apart_and_the_first_as_without_a_filter() -> None:
    first, second = (rounds[0] for rounds in run(*ONE, True)[1][2][:2])
    assert (first.response_BR != second.response_BR).mean() > 0.5
    key = jax.random.key(3)
    state = SimpleNamespace(key=key, step=jnp.int32(2), params=None)
    keys = []

    def generate(params, prompts, sampler, cfg):
        keys.append(sampler.key)
        return None, None

    setup = Setup(STAGE, SMALL, SMALL, R, (1,), TX)
    with mock.patch.object(engine, "generate", generate):
        for number in range(3):
            step.write_round(state, None, jnp.int32(number), setup=setup)
    keys.insert(0, step.step_key(state))  # what a step without a filter draws with
    drawn = [tuple(jax.random.key_data(key).tolist()) for key in keys]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_fused_on_a_mesh_in_parts_is_split_on_one_device_in_one() -> None:
    """The same groups in the same places, the same update, the same metrics."""
    pairs = zip(run((2, 2, 1), 12, False), run(*ONE, True), strict=True)
    for number, (a, b) in enumerate(pairs):
        (written, signal, metrics, fate), (written1, signal1, metrics1, fate1) = a[1], b[1]
        for name, x in vars(written1).items():
            rounding = 1e-4 if name == "logprob_BR" else 0
            np.testing.assert_allclose(vars(written)[name], x, rtol=0, atol=rounding, err_msg=name)
        np.testing.assert_array_equal(fate[0], fate1[0])
        np.testing.assert_allclose(fate[1], fate1[1], rtol=1e-6)
        np.testing.assert_allclose(signal, signal1, rtol=1e-5, atol=1e-6)
        for x, y in zip(jax.tree.leaves(a[0]), jax.tree.leaves(b[0]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5, err_msg=str(number))
        assert set(metrics) == set(metrics1)
        for name, x in metrics1.items():
            assert np.isfinite(metrics[name]).all(), name
            if not name.startswith(("mismatch/", "perf/")):  # rounding, and the mesh's own
                np.testing.assert_allclose(metrics[name], x, rtol=2e-4, atol=2e-6, err_msg=name)


def test_a_step_that_keeps_nothing_moves_nothing() -> None:
    steps = run(*ONE, True)
    assert not same(steps[0][0], steps[2][0])
    assert same(steps[0][0], steps[1][0])
