"""The implicit PRM: zero at first, exact on a toy, the plain gradient, one part of the state."""

import dataclasses
import functools
import itertools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from make_round import update_on
from rlvr_jax import likelihood, model, optim, parameters, prm, sharding, step
from rlvr_jax.config import (
    AdvantageConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PrmConfig,
    PrmStage,
    RlStage,
    SampleConfig,
)
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.structs import Frozen, Learner, Rollout, Setup

V, Q, G, P, R = 32, 8, 4, 6, 12
B = Q * G
BETA = 0.3
SIZES = dict(layers=1, width=16, heads=4, kv_heads=2, head_size=4, feedforward=16)
SMALL = ModelConfig(**SIZES, vocab=V, part_tokens=40)
PLAIN = SampleConfig()
KEY = jax.random.key(5)
SLOW = pytest.mark.slow
STAGE = RlStage(
    prompts=Q,
    samples=G,
    advantage=AdvantageConfig("none", "rloo", process_weight=1.0),
    prm=PrmConfig(beta=BETA, optim=OptimConfig(lr=1e-2)),
    optim=OptimConfig(lr=1e-2),
)
TX = optim.make_optimizer(STAGE.optim, 10)
# An optimizer that moves nothing and keeps the gradient it was given.
RECORD = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def random_params(cfg, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        key: jnp.asarray((rng.normal(0, 0.3, x.shape) + ("norm" in key)).astype(dtype))
        for key, x in parameters.abstract(cfg).items()
    }


def rollout(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, R + 1, B).astype(np.int32)
    return Rollout(
        prompt_QP=rng.integers(0, V, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(1, P + 1, (Q, 1)),
        response_BR=rng.integers(0, V, (B, R)).astype(np.int32),
        length_B=length,
        truncated_B=np.zeros(B, bool),
        logprob_BR=np.zeros((B, R), dtype),
    )


def outcomes():
    return (np.random.default_rng(1).random(B) < 0.5).astype(np.float32)


@pytest.fixture
def exact():
    """Float64 throughout, where the code asks for float32."""
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield np.float64


# ---- arithmetic ------------------------------------------------------------------------------


def test_cross_entropy_is_the_formula() -> None:
    score = np.array([0.0, 3.0, -2.0, 0.5, 80.0, -80.0])
    label = np.array([1.0, 0.0, 1.0, 0.25, 0.0, 0.5])
    sigmoid = [1 / (1 + math.exp(-s)) for s in score[:4]]
    want = [-r * math.log(p) - (1 - r) * math.log(1 - p) for r, p in zip(label, sigmoid)]  # noqa: B905
    got = prm.cross_entropy(jnp.float32(score), jnp.float32(label))
    np.testing.assert_allclose(got, [*want, 80, 40], rtol=1e-5)


def test_a_score_of_zero_is_neither_right_nor_wrong() -> None:
    score, label = jnp.float32([1, -1, 0, 0, 2, -2, 0, 0]), jnp.float32([1, 0, 1, 0, 0, 0.6, 0, 0])
    assert prm.agreement(score, label).tolist() == [1, 1, 0.5, 0.5, 0, 0, 0.5, 0.5]


def tied_by_hand(name, score, label, length, samples):
    """The losses of pairs and of batches, row by row and pair by pair."""
    softplus = lambda x: np.logaddexp(0.0, x)  # noqa: E731 - of -x it is -log sigma(x)
    there = [b for b in range(len(score)) if length[b] > 0]
    if name == "kto":
        z = max(0.0, sum(score[b] for b in there) / max(1, len(there)))

        def loss_at(score):  # z stays where it is
            signed = [score[b] - z if label[b] > 0.5 else z - score[b] for b in there]
            return sum(1 - 1 / (1 + math.exp(-x)) for x in signed) / max(1, len(there))

        return loss_at
    pairs = [
        (w, l)
        for w in there
        for l in there  # noqa: E741
        if w // samples == l // samples and label[w] > 0.5 >= label[l]
    ]

    def loss_at(score):
        total = 0.0
        for w, l in pairs:  # noqa: E741
            if name == "dpo":
                total += softplus(score[l] - score[w])
            else:
                total += softplus(-score[w]) + 0.5 * softplus(score[w]) + 0.5 * softplus(score[l])
        return total / max(1, len(pairs))

    return loss_at


@pytest.mark.parametrize("name", ["dpo", "nca", "kto"])
@pytest.mark.parametrize("shift", [-1.0, 2.0])
def test_losses_that_tie_rows_are_their_formulas(exact, name, shift) -> None:
    rng = np.random.default_rng(11)
    score = rng.normal(shift, 2, B)
    label = rng.choice([0.0, 0.3, 0.5, 0.8, 1.0], B)
    label[:G], label[G : 2 * G] = 1.0, 0.0  # two groups without a pair
    length = np.where(rng.random(B) < 0.2, 0, 5)
    right, there = label > 0.5, length > 0
    given = (jnp.asarray(right & there), jnp.asarray(~right & there), G)
    value, slope = jax.value_and_grad(getattr(prm, name))(jnp.asarray(score), *given)
    loss_at = tied_by_hand(name, score, label, length, G)
    assert float(value) == pytest.approx(loss_at(score), rel=1e-12)
    for b in range(B):
        step = np.zeros(B)
        step[b] = 1e-5
        want = (loss_at(score + step) - loss_at(score - step)) / 2e-5
        assert float(slope[b]) == pytest.approx(want, rel=1e-6, abs=1e-9), b
    assert np.all(np.asarray(slope)[length == 0] == 0) and np.any(np.asarray(slope) != 0)


@pytest.mark.parametrize("name", ["dpo", "nca", "kto"])
def test_what_holds_no_pair_teaches_nothing_and_large_scores_are_no_nan(name) -> None:
    score = jnp.float32([1e4, -1e4, 3.0, -2.0])
    some, none = jnp.array([True, False, True, False]), jnp.zeros(4, bool)
    for right, wrong in ((some, ~some), (~some, some), (some | ~some, none), (none, none)):
        value, slope = jax.value_and_grad(getattr(prm, name))(score, right, wrong, 2)
        assert np.isfinite(value) and np.all(np.isfinite(slope))
        if not np.any(right | wrong) or (name != "kto" and not np.any(wrong)):
            assert float(value) == 0 and not np.any(slope)


@pytest.mark.parametrize("pairs", ["dpo", "nca"])
def test_pairs_need_a_second_sample(pairs) -> None:
    one = dict(samples=1, prm=PrmConfig(loss=pairs))
    with pytest.raises(ValueError, match=f"prm.loss {pairs} needs samples of at least 2"):
        RlStage(advantage=AdvantageConfig("none", "none", process_weight=1.0), **one)
    with pytest.raises(ValueError, match=f"prm.loss {pairs} needs samples of at least 2"):
        PrmStage(**one)
    RlStage(advantage=AdvantageConfig("none", "none"), **one)  # nobody reads it
    PrmStage(samples=1, prm=PrmConfig(loss="kto"))


def test_a_prm_that_learns_alone_rewards_nobody() -> None:
    for prm_cfg in (
        PrmConfig(order="update-first"),
        PrmConfig(init="sft"),
        PrmConfig(granularity="line"),
    ):
        with pytest.raises(ValueError, match="beside a policy that learns"):
            PrmStage(prm=prm_cfg)
    with pytest.raises(ValueError, match="greedy answers give nothing"):
        PrmStage(sample=SampleConfig(temperature=0))
    with pytest.raises(ValueError, match="without top_k and top_p"):
        PrmStage(prm=PrmConfig(reference="policy"), sample=SampleConfig(top_k=5))


def test_the_worst_line_is_the_least_of_their_sums() -> None:
    rng = np.random.default_rng(12)
    length = np.array([7, 3, 1, 0, 7])
    reward = np.where(np.arange(7) < length[:, None], rng.normal(1, 1, (5, 7)), 0)
    ends = rng.random((5, 7)) < 0.4
    want = []
    for b in range(5):
        lines, total = [], 0.0
        for t in range(length[b]):
            total += reward[b, t]
            if ends[b, t] or t == length[b] - 1:
                lines.append(total)
                total = 0.0
        want.append(min(lines, default=0.0))
    mask = np.arange(7) < length[:, None]
    got = prm.smallest_line_reward(jnp.float32(reward), jnp.asarray(ends), jnp.asarray(mask))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert min(want) > 0 or max(want) > 0, "a 0 of no line is not a line"


def test_lines_are_added_up_on_their_last_token() -> None:
    rng = np.random.default_rng(2)
    length = np.array([7, 3, 1, 0, 7])
    reward = np.where(np.arange(7) < length[:, None], rng.normal(size=(5, 7)), 0)
    ends = rng.random((5, 7)) < 0.4
    ends[4] = [False, True, True, False, False, False, True]
    for ending in (ends, np.zeros_like(ends)):
        want = np.zeros((5, 7))
        for b in range(5):
            total = 0.0
            for t in range(length[b]):
                total += reward[b, t]
                if ending[b, t] or t == length[b] - 1:
                    want[b, t], total = total, 0.0
        mask = np.arange(7) < length[:, None]
        got = prm.sum_on_line_ends(jnp.float32(reward), jnp.asarray(ending), jnp.asarray(mask))
        np.testing.assert_allclose(got, want, atol=1e-6)


# ---- reading ---------------------------------------------------------------------------------


def plain_rewards(params, reference, rows, cfg, temperature=1.0):
    """beta * (log pi - log ref), every row with its own copy of its prompt, in one batch."""
    token_BT = np.concatenate([np.repeat(rows.prompt_QP, G, 0), rows.response_BR], 1)
    mask_BR = np.arange(R) < rows.length_B[:, None]
    mask_BT = np.concatenate([np.repeat(rows.prompt_mask_QP, G, 0), mask_BR], 1)

    def logprobs(params):
        hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
        logits_BRV = model.logits(params, hidden_BTD[:, P - 1 : -1], cfg)
        logprob_BRV = jax.nn.log_softmax(logits_BRV / temperature)
        return jnp.take_along_axis(logprob_BRV, rows.response_BR[..., None], -1)[..., 0]

    return jnp.where(mask_BR, BETA * (logprobs(params) - logprobs(reference)), 0.0)


def plain_loss(score, label, name):
    """Of jax scores, for `jax.grad` of all at once."""
    if name == "ce":
        p_B = 1 / (1 + jnp.exp(-score))
        return -jnp.mean(label * jnp.log(p_B) + (1 - label) * jnp.log(1 - p_B))
    if name == "kto":
        z = jnp.maximum(jax.lax.stop_gradient(jnp.mean(score)), 0)
        sign = np.where(label > 0.5, 1, -1)
        return jnp.mean(1 - 1 / (1 + jnp.exp(sign * (z - score))))
    pairs = [
        (g * G + i, g * G + j)
        for g, i, j in itertools.product(range(Q), range(G), range(G))
        if label[g * G + i] > 0.5 >= label[g * G + j]
    ]
    w, l = np.array(pairs).T  # noqa: E741
    good, bad = score[w], score[l]
    if name == "dpo":
        return jnp.mean(jnp.log(1 + jnp.exp(bad - good)))
    log = lambda s: jnp.log(1 / (1 + jnp.exp(-s)))  # noqa: E731
    return -jnp.mean(log(good) + 0.5 * log(-good) + 0.5 * log(-bad))


@pytest.mark.parametrize(
    "part_tokens, loss",
    [
        (16, "ce"),
        (1000, "ce"),
        (16, "dpo"),
        pytest.param(48, "nca", marks=SLOW),
        pytest.param(1000, "kto", marks=SLOW),
    ],
)
def test_rewards_loss_and_gradient_are_the_plain_ones(exact, part_tokens, loss) -> None:
    cfg = dataclasses.replace(SMALL, compute="float64", part_tokens=part_tokens)  # type: ignore[arg-type]
    params, reference = (random_params(cfg, seed, exact) for seed in (3, 4))
    rows, label = rollout(dtype=exact), np.random.default_rng(5).random(B)

    def plain(params):
        reward_BR = plain_rewards(params, reference, rows, cfg)
        return plain_loss(jnp.sum(reward_BR, -1), label, loss), reward_BR

    @jax.jit
    def ours(params):
        reference_BR, _ = likelihood.logprobs(reference, rows, PLAIN, cfg)
        learns = PrmConfig(beta=BETA, loss=loss)
        labelled = prm.Labelled(rows, reference_BR, label)
        return prm.gradient(params, labelled, KEY, prm.PrmSetup(learns, PLAIN, cfg, TX))

    (want_loss, want_BR), want = jax.jit(jax.value_and_grad(plain, has_aux=True))(params)
    got = ours(params)
    np.testing.assert_allclose(got.reward_BR, want_BR, rtol=1e-10, atol=1e-12)
    assert float(got.loss) == pytest.approx(float(want_loss), rel=1e-12)
    for key, x in want.items():
        assert np.max(np.abs(got.grads[key] - x)) < 1e-10 * np.max(np.abs(x)), key


def test_a_share_is_drawn_in_proportion_and_no_row_twice() -> None:
    weight = np.abs(np.random.default_rng(21).normal(size=40)) * (np.arange(40) % 5 > 0)
    weight[13] = 60.0  # more than its part of the draw
    exists = np.arange(40) > 4  # a group of five that nobody wrote
    weight *= exists
    chance = np.asarray(prm.row_chances(jnp.float32(weight), exists, 0.4), np.float64)
    np.testing.assert_allclose(chance, np.minimum(14 * weight / weight.sum(), 1), rtol=1e-6)
    drawn = jax.vmap(lambda key: prm.draw_rows(key, jnp.float32(chance)))
    drawn = np.asarray(drawn(jax.random.split(jax.random.key(1), 4000)))
    assert np.all(np.abs(drawn.sum(1) - chance.sum()) < 1)
    assert drawn[:, 13].all() and not drawn[:, weight == 0].any()
    spread = np.sqrt(chance * (1 - chance) / 4000)
    assert np.all(np.abs(drawn.mean(0) - chance) <= 4.5 * spread)
    everyone = prm.row_chances(jnp.float32(weight), exists, 1)
    assert np.array_equal(prm.draw_rows(KEY, everyone), weight > 0)
    nobody = prm.row_chances(jnp.zeros(8), jnp.ones(8, bool), 0.25)
    assert not prm.draw_rows(KEY, nobody).any()


def test_no_rounding_of_a_sum_draws_a_row_without_a_chance() -> None:
    chance = jnp.float32([0.5, 0.0, 0.5, 0.0])
    wavering = jnp.float32([0.5, 0.5, 1.0, 2.0])  # as if the last 0 had moved the sum up
    with mock.patch.object(jnp, "cumsum", lambda x: wavering):
        assert prm.draw_rows(KEY, chance)[2] or prm.draw_rows(KEY, chance)[0]
        assert not prm.draw_rows(KEY, chance)[1] and not prm.draw_rows(KEY, chance)[3]


@pytest.mark.parametrize("loss, samples_of", [("ce", "all"), ("ce", "some"), ("dpo", "all")])
def test_a_share_gives_the_gradient_of_what_it_drew_and_every_reward(
    exact, loss, samples_of
) -> None:
    """Expected over draws it is that of all: rows count 1 / chance times (Horvitz and Thompson)."""
    cfg = dataclasses.replace(SMALL, compute="float64", part_tokens=16)  # type: ignore[arg-type]
    params, reference = (random_params(cfg, seed, exact) for seed in (3, 4))
    rows, label = rollout(dtype=exact), np.random.default_rng(5).random(B)
    if samples_of == "some":  # rows that nobody wrote
        rows = rows.replace(length_B=np.where(np.arange(B) < G, 0, rows.length_B))
    learns = PrmConfig(beta=BETA, loss=loss, share=0.25)

    @jax.jit
    def ours(params):
        reference_BR, _ = likelihood.logprobs(reference, rows, PLAIN, cfg)
        labelled = prm.Labelled(rows, reference_BR, label)
        return prm.gradient(params, labelled, KEY, prm.PrmSetup(learns, PLAIN, cfg, TX))

    got = ours(params)
    exists, taught = rows.length_B > 0, np.asarray(got.drawn_B)

    def value(score):
        if loss == "dpo":
            return plain_loss(score, label, loss)
        p_B = 1 / (1 + jnp.exp(-score))
        return -jnp.mean(label * jnp.log(p_B) + (1 - label) * jnp.log(1 - p_B), where=exists)

    reward_BR = plain_rewards(params, reference, rows, cfg)
    want_loss, slope = jax.value_and_grad(value)(jnp.sum(reward_BR, -1))
    slope = np.asarray(slope)
    chance = np.minimum(exists.sum() / 4 * np.abs(slope) / np.abs(slope).sum(), 1)
    assert abs(taught.sum() - chance.sum()) < 1 and not taught[~exists].any()
    weight = np.where(taught, slope / np.where(taught, chance, 1), 0)
    want = jax.grad(lambda p: jnp.sum(weight * plain_rewards(p, reference, rows, cfg).sum(-1)))
    np.testing.assert_allclose(got.reward_BR, reward_BR, rtol=1e-10, atol=1e-12)
    assert float(got.loss) == pytest.approx(float(want_loss), rel=1e-12)
    for key, x in want(params).items():
        assert np.max(np.abs(got.grads[key] - x)) < 1e-10 * np.max(np.abs(x)), key


@pytest.mark.parametrize("share", [0.0, 1.5, math.nan])
def test_a_share_is_of_one(share) -> None:
    with pytest.raises(ValueError, match="needs 0 < share <= 1"):
        PrmConfig(share=share)


@functools.cache
@functools.cache
def stepper(order="score-first", granularity="token", lr=1e-2):
    """`prm.update` against the frozen start, jitted."""
    cfg = PrmConfig(beta=BETA, order=order, granularity=granularity)  # type: ignore[arg-type]
    tx = optim.make_optimizer(OptimConfig(lr=lr), 10)

    @jax.jit
    def step(learner, reference, rows, label_B):
        reference_BR, _ = likelihood.logprobs(reference, rows, PLAIN, SMALL)
        ends_V = jnp.arange(V) % 5 == 0
        labelled = prm.Labelled(rows, reference_BR, label_B)
        return prm.update(learner, labelled, ends_V, KEY, prm.PrmSetup(cfg, PLAIN, SMALL, tx))

    return step, tx


def test_the_first_rewards_are_exactly_zero() -> None:
    step, tx = stepper()
    params, rows = random_params(SMALL, 3), rollout()
    learner, reward_BR, metrics = step(Learner(params, tx.init(params)), params, rows, outcomes())
    assert np.all(np.asarray(reward_BR) == 0)
    assert float(metrics["prm/loss"]) == pytest.approx(math.log(2))
    _, reward_BR, _ = step(learner, params, rows, outcomes())
    assert np.all(np.asarray(reward_BR)[np.asarray(rows.response_mask_BR)] != 0)


def test_update_first_reads_what_it_has_learned() -> None:
    """The rewards of the next score-first step on the same rows, one step earlier."""
    before, tx = stepper()
    after, _ = stepper("update-first")
    params, rows = random_params(SMALL, 3), rollout()
    begun = Learner(params, tx.init(params))
    learner, now_BR, _ = after(begun, params, rows, outcomes())
    same, _, _ = before(begun, params, rows, outcomes())
    _, next_BR, _ = before(same, params, rows, outcomes())
    np.testing.assert_allclose(now_BR, next_BR, atol=1e-6)
    assert np.max(np.abs(now_BR)) > 1e-3
    for key, x in learner.params.items():  # two programs, which may round apart; a step is 1e-2
        np.testing.assert_allclose(x, same.params[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("granularity", ["line", "whole"])
def test_granularity_moves_rewards_and_changes_no_sum(granularity) -> None:
    step, tx = stepper()
    coarse, _ = stepper(granularity=granularity)
    params, rows = random_params(SMALL, 3), rollout()
    other = Learner(random_params(SMALL, 4), tx.init(params))
    _, fine_BR, fine = step(other, params, rows, outcomes())
    _, got_BR, same = coarse(other, params, rows, outcomes())
    np.testing.assert_allclose(got_BR.sum(1), fine_BR.sum(1), atol=1e-5)
    assert float(fine["prm/loss"]) == float(same["prm/loss"])
    places = np.asarray(got_BR) != 0
    ends = (np.arange(R) == rows.length_B[:, None] - 1) | (
        (rows.response_BR % 5 == 0) & (granularity == "line")
    )
    assert np.all(places == ends & np.asarray(rows.response_mask_BR))


def test_labels_outside_their_range_and_empty_rows_do_no_harm() -> None:
    step, tx = stepper()
    params, rows = random_params(SMALL, 3), rollout()
    begun = Learner(params, tx.init(params))
    wide = np.where(outcomes() > 0, 7.0, -3.0).astype(np.float32)
    a, b = (step(begun, params, rows, label)[0].params for label in (wide, outcomes()))
    assert all(np.array_equal(a[key], b[key]) for key in a)
    nobody = rows.replace(length_B=np.zeros(B, np.int32))
    same, reward_BR, metrics = step(begun, params, nobody, outcomes())
    assert np.all(np.asarray(reward_BR) == 0) and float(metrics["prm/loss"]) == 0
    assert all(np.array_equal(same.params[key], params[key]) for key in params)


def test_what_is_not_finite_is_left_out() -> None:
    step, tx = stepper()
    params, rows = random_params(SMALL, 3), rollout()
    broken = params | {"norm_D": jnp.full_like(params["norm_D"], np.nan)}
    begun = Learner(params, tx.init(params))
    same, _, metrics = step(begun, broken, rows, outcomes())
    assert int(metrics["prm/skipped"]) == 1
    assert all(np.array_equal(same.params[key], params[key]) for key in params)


def test_a_prm_that_cannot_learn_is_counted_until_the_run_stops() -> None:
    """Its rewards are no numbers and count as 0: the policy learns on, and nobody would see it."""
    state, frozen, rows = begin()
    broken = state.prm.params | {"norm_D": jnp.full_like(state.prm.params["norm_D"], np.nan)}
    sick = state.replace(prm=state.prm.replace(params=broken))
    update = updater()
    for n in (1, 2):
        sick, _, metrics = update(sick, frozen, rows, outcomes())
        assert int(sick.skipped_in_row) == n and int(metrics["prm/skipped"]) == 1
        assert int(metrics["policy/skipped"]) == 0 and int(metrics["reward/nonfinite"]) > 0
    well, *_ = update(sick.replace(prm=state.prm), frozen, rows, outcomes())
    assert int(well.skipped_in_row) == 0


# ---- the toy ---------------------------------------------------------------------------------


def toy(lr, steps, loss="ce"):
    """All 4^3 responses to one prompt, their chances under the start, and how to learn labels."""
    words, columns = 4, 3
    texts = np.array(list(itertools.product(range(words), repeat=columns)), np.int32)
    cfg = ModelConfig(**(SIZES | dict(width=32, layers=2, feedforward=64)), vocab=words, tied=False)
    rows = Rollout(
        # Two words: after one, its repetition would look the same to a model without positions.
        prompt_QP=np.array([[0, 1]], np.int32),
        prompt_mask_QP=np.ones((1, 2), bool),
        response_BR=texts,
        length_B=np.full(64, columns, np.int32),
        truncated_B=np.zeros(64, bool),
        logprob_BR=np.zeros((64, columns), np.float32),
    )
    params = random_params(cfg, 6)
    reference_BR, _ = jax.jit(likelihood.logprobs, static_argnums=(2, 3))(params, rows, PLAIN, cfg)
    chance = np.exp(np.asarray(reference_BR, np.float64).sum(1))
    tx = optim.make_optimizer(OptimConfig(lr=lr, decay="cosine", final=0.0, grad_clip=10), steps)
    learns = PrmConfig(beta=BETA, loss=loss)

    @jax.jit
    def train(label):
        def body(learner, _):
            labelled = prm.Labelled(rows, reference_BR, jnp.float32(label))
            read = prm.gradient(learner.params, labelled, KEY, prm.PrmSetup(learns, PLAIN, cfg, tx))
            params, opt_state, *_ = optim.step(
                learner.params, learner.opt_state, read.grads, read.loss, tx
            )
            return Learner(params, opt_state), read.reward_BR

        return jax.lax.scan(body, Learner(params, tx.init(params)), None, steps)[1][-1]

    return texts, chance, lambda label: np.asarray(train(label), np.float64)


def test_learned_token_rewards_are_the_exact_soft_values() -> None:
    """All 4^3 responses; q_t = beta log E_ref[exp(r / beta) | y_<=t], reward q_t - q_(t-1).

    Labels are sigma(r*) of rewards r* that some policy can have, E_ref[exp(r* / beta)] = 1; the
    cross-entropy is least where the learned rewards are r*.
    """
    texts, chance, train = toy(1e-2, 800)
    columns = texts.shape[1]
    assert chance.sum() == pytest.approx(1, abs=1e-5)
    wanted = BETA * np.random.default_rng(7).normal(0, 1, 64)
    wanted -= BETA * np.log(np.sum(chance * np.exp(wanted / BETA)))
    label = 1 / (1 + np.exp(-wanted))

    learned = train(label)

    def value(r, prefix):
        """beta log E_ref[exp(r / beta) | prefix], by adding up everything that continues it."""
        go_on = np.all(texts[:, : len(prefix)] == prefix, 1)
        return BETA * np.log(np.sum((chance * np.exp(r / BETA))[go_on]) / np.sum(chance[go_on]))

    for r, tolerance in ((learned.sum(1), 1e-4), (wanted, 0.02)):  # an identity; what was learned
        for b, text in enumerate(texts):
            for t in range(columns):
                soft = value(r, text[: t + 1]) - value(r, text[:t])
                assert abs(learned[b, t] - soft) < tolerance * np.max(np.abs(wanted)), (b, t)


@pytest.mark.parametrize(
    "loss", ["dpo", pytest.param("nca", marks=SLOW), pytest.param("kto", marks=SLOW)]
)
def test_losses_that_tie_rows_put_right_above_wrong(loss) -> None:
    """Of all 4^3 responses those with few of one word are right; nothing else is learned."""
    texts, _, train = toy(1e-2, 60, loss)
    right = np.sum(texts == 2, 1) == 1
    score = train(right).sum(1)
    assert np.min(score[right]) > np.max(score[~right])


# ---- in the step -----------------------------------------------------------------------------


@functools.cache
def updater(**changes):
    stage = dataclasses.replace(STAGE, **changes)

    @jax.jit
    def update(state, frozen, rows, reward_B):
        setup = Setup(stage, SMALL, SMALL, R, (), TX, TX)
        result = update_on(state, frozen, rows, reward_B, setup)
        return result.state, result.advantage_B, result.metrics

    return update


def begin():
    params = random_params(SMALL, 3)
    rows = rollout()
    sampled, _ = jax.jit(likelihood.logprobs, static_argnums=(2, 3))(params, rows, PLAIN, SMALL)
    state = step.with_prm(step.init_state(jax.random.key(0), params, TX), params, TX)
    return state, Frozen(params, {}), rows.replace(logprob_BR=sampled)


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_the_first_step_is_that_of_the_outcome_alone_and_the_second_is_not() -> None:
    state, frozen, rows = begin()
    with_prm = updater()
    alone = updater(advantage=AdvantageConfig("none", "rloo"))
    one, advantage_B, metrics = with_prm(state, frozen, rows, outcomes())
    other, outcome_B, _ = alone(state.replace(prm=None), frozen, rows, outcomes())
    np.testing.assert_array_equal(advantage_B, outcome_B)
    for key, x in one.params.items():
        np.testing.assert_allclose(x, other.params[key], atol=1e-6)
    two, advantage_B, metrics = with_prm(one, frozen, rows, outcomes())
    assert np.max(np.abs(advantage_B - outcome_B)) > 1e-3
    assert float(metrics["prm/acc"]) > 0.6 and float(metrics["prm/loss"]) < math.log(2)
    assert int(two.step) == 2 and not same(one.prm.params, two.prm.params)


def test_what_the_policy_is_told_is_the_formula() -> None:
    """r - mean of the others, and the tokens' sum of r_phi - mean of the others' means (PRIME)."""
    state, frozen, rows = begin()
    other, outcome = random_params(SMALL, 9), outcomes()
    state = state.replace(prm=state.prm.replace(params=other))
    warm = updater(sample=SampleConfig(temperature=0.7))
    _, advantage_B, metrics = warm(state, frozen, rows, outcome)
    reward = np.asarray(plain_rewards(other, frozen.reference, rows, SMALL, 0.7), np.float64)
    mean = reward.sum(1) / rows.length_B
    for i in range(B):
        others = [j for j in range(i // G * G, i // G * G + G) if j != i]
        want = outcome[i] - sum(outcome[j] for j in others) / (G - 1)
        baseline = sum(mean[j] for j in others) / (G - 1)
        want += sum(reward[i, t] - baseline for t in range(rows.length_B[i]))
        assert float(advantage_B[i]) == pytest.approx(want, rel=1e-4, abs=1e-4)
    right = (reward.sum(1) > 0) == (outcome > 0.5)
    assert float(metrics["prm/acc"]) == pytest.approx(right.mean())


def test_the_policy_as_its_own_reference_needs_no_frozen_model() -> None:
    state, _, rows = begin()
    free = updater(prm=dataclasses.replace(STAGE.prm, reference="policy"))
    nobody = Frozen({}, {})
    state, _, metrics = free(state, nobody, rows, outcomes())
    assert abs(float(metrics["prm/reward_mean"])) < 1e-6  # the rounding of two ways to read
    _, _, metrics = free(state, nobody, rows, outcomes())
    assert float(metrics["prm/loss"]) < math.log(2)


def test_a_checkpoint_carries_it_and_what_follows_is_bit_equal(tmp_path) -> None:
    state, frozen, rows = begin()
    update = updater()
    state, *_ = update(state, frozen, rows, outcomes())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        restored, _ = checkpoints.restore(1, shapes)
    on, *_ = update(state, frozen, rows, outcomes())
    again, *_ = update(restored, frozen, rows, outcomes())
    assert same(restored.replace(key=None), state.replace(key=None))
    assert same(again.replace(key=None), on.replace(key=None))
    assert not same(on.prm, state.prm)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, learnt, share",
    [
        ((2, 2, 2), "ce", 1.0),
        ((8, 1, 1), "ce", 1.0),
        ((8, 1, 1), "ce", 0.25),
        ((2, 2, 2), "dpo", 1.0),
        ((4, 1, 2), "kto", 0.5),
    ],
)
def test_neither_mesh_nor_parts_change_a_number(shape, learnt, share) -> None:
    state, frozen, rows = begin()
    params = random_params(SMALL, 9)
    other = Learner(params, RECORD.init(params))
    state = step.init_state(state.key, state.params, RECORD).replace(prm=other)
    ours = dataclasses.replace(STAGE.prm, loss=learnt, share=share)
    stage = dataclasses.replace(STAGE, prm=ours, loss=LossConfig(kl_coef=0.1, kl_in="loss"))

    def gradients(shape, part_tokens):
        mesh = sharding.make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])
        cfg = dataclasses.replace(SMALL, part_tokens=part_tokens)
        with jax.set_mesh(mesh):
            placed_rows, reward_B = sharding.place_rows((rows, outcomes()), mesh)

            @jax.jit
            def update(state, frozen, rows, reward_B):
                setup = Setup(stage, cfg, cfg, R, (), RECORD, RECORD)
                result = update_on(state, frozen, rows, reward_B, setup)
                new = result.state
                return new.opt_state, new.prm.opt_state, result.advantage_B, result.metrics

            return jax.device_get(update(state, frozen, placed_rows, reward_B))

    one, many = gradients((1, 1, 1), 1000), gradients(shape, 24)
    for a, b in zip(one[:2], many[:2], strict=True):
        for key, x in a.items():
            assert np.max(np.abs(x - b[key])) < 2e-5 * np.max(np.abs(x)), key
    np.testing.assert_allclose(one[2], many[2], rtol=1e-4, atol=1e-5)
    for key in ("prm/loss", "prm/acc", "policy/loss", "prm/reward_mean"):
        assert float(one[3][key]) == pytest.approx(float(many[3][key]), rel=1e-4, abs=1e-6), key
