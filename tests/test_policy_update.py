"""One step of learning: what moves nothing, the reference that follows, and coupled tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from make_round import update_on
from rlvr_jax import (
    adapters,
    likelihood,
    optim,
    parameters,
    policy_update,
    ratios,
    sharding,
    step,
)
from rlvr_jax.config import (
    AdvantageConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    ReferenceConfig,
    RlStage,
)
from rlvr_jax.structs import Frozen, Rollout, Setup

Q, G, P, R = 8, 4, 5, 6
SMALL = ModelConfig(layers=1, width=8, heads=2, kv_heads=2, head_size=4, feedforward=8, vocab=48)
STAGE = RlStage(prompts=Q, samples=G, optim=OptimConfig(lr=1e-2, weight_decay=0.1))
TX = optim.make_optimizer(STAGE.optim, 10)
EQUAL, MIXED = np.full(Q * G, 0.3, np.float32), np.arange(Q * G, dtype=np.float32) % 3


def draw(seed):
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(shape.shape, np.float32)
        if name.startswith("norm")
        else rng.normal(0, 0.25, shape.shape).astype(np.float32)
        for name, shape in parameters.abstract(SMALL).items()
    }


@functools.cache
def answered():
    """A rollout of ragged rows, with the probabilities of another sampler."""
    rng = np.random.default_rng(0)
    length_B = rng.integers(1, R + 1, Q * G).astype(np.int32)
    rows = Rollout(
        prompt_QP=rng.integers(8, 48, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(3, P + 1, (Q, 1)),
        response_BR=rng.integers(0, 48, (Q * G, R)).astype(np.int32),
        length_B=length_B,
        truncated_B=np.zeros(Q * G, bool),
        logprob_BR=np.zeros((Q * G, R), np.float32),
    )
    read = jax.jit(likelihood.logprobs, static_argnums=(2, 3))
    logprob_BR, _ = read(draw(0), rows, STAGE.sample, SMALL)
    noise_BR = rng.normal(0, 0.3, (Q * G, R))
    mask_BR = np.asarray(rows.response_mask_BR)
    return rows.replace(logprob_BR=np.float32(np.where(mask_BR, logprob_BR + noise_BR, 0)))


def updater(stage, tx=TX):
    setup = Setup(stage, SMALL, SMALL, R, (1,), tx)
    return jax.jit(functools.partial(update_on, setup=setup))


def same_bits(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


# ---- what moves nothing ----------------------------------------------------------------------

KLS = {
    "in the reward": {"kl_in": "reward"},
    "k3 in the loss": {"kl_in": "loss"},
    "abs in the loss": {"kl_in": "loss", "kl_form": "abs", "kl_corrected": True},
}


@pytest.mark.parametrize(
    "name, minibatches",
    [
        ("in the reward", 1),
        ("k3 in the loss", 2),
        ("abs in the loss", 1),
        pytest.param("k3 in the loss", 1, marks=pytest.mark.slow),
    ],
)
def test_equal_rewards_at_the_reference_move_nothing(name, minibatches):
    """No parameter, no moment, no count: rounding of the KL is no reason for a step of Adam."""
    stage = dataclasses.replace(
        STAGE, minibatches=minibatches, loss=LossConfig(kl_coef=0.1, **KLS[name])
    )
    update, rows = updater(stage), answered()
    state = step.init_state(jax.random.key(0), draw(0), TX)
    result = update(state, Frozen(draw(0), {}), rows, EQUAL)
    after = result.state
    assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
    assert float(result.metrics["policy/grad_norm"]) == 0 == float(result.metrics["policy/kl"])
    assert [int(after.step), int(after.skipped), int(after.skipped_in_row)] == [1, 0, 0]
    # What taught something moves, and from there the KL pulls back.
    moved = update(after, Frozen(draw(0), {}), rows, MIXED).state
    assert not same_bits(moved.params, state.params)
    back = update(moved, Frozen(draw(0), {}), rows, EQUAL)
    assert not same_bits(back.state.params, moved.params)
    assert float(back.metrics["policy/kl"]) != 0


def test_nor_does_momentum_or_decay_without_a_gradient():
    update, rows, nobody = updater(STAGE), answered(), Frozen({}, {})
    state = step.init_state(jax.random.key(0), draw(0), TX)
    moved = update(state, nobody, rows, MIXED).state
    assert float(optax.tree.norm(moved.opt_state[1][0].mu)) > 0
    after = update(moved, nobody, rows, EQUAL).state
    assert same_bits((after.params, after.opt_state), (moved.params, moved.opt_state))
    again = update(after, nobody, rows, MIXED).state
    straight = update(moved, nobody, rows, MIXED).state
    assert same_bits(again.params, straight.params)


def test_a_reference_that_is_off_by_one_bit_is_another_policy():
    """The rule asks for equality, not for nearness; it leaves out a value head."""
    params, other = draw(0), draw(0)
    assert bool(adapters.is_equal(params | {"value_D": np.ones(8, np.float32)}, other))
    other["norm_D"] = np.nextafter(other["norm_D"], np.float32(2))
    assert not bool(adapters.is_equal(params, other))


# ---- a reference that follows ----------------------------------------------------------------


def test_the_reference_follows_every_second_step():
    mixup = 0.25
    stage = dataclasses.replace(
        STAGE,
        loss=LossConfig(kl_coef=0.1, kl_in="loss"),
        reference=ReferenceConfig(update_every=2, mixup=mixup),
    )
    update, rows = updater(stage), answered()
    state = step.with_reference(step.init_state(jax.random.key(0), draw(0), TX), draw(1))
    states, kls = [state], []
    for _ in range(4):
        result = update(states[-1], Frozen({}, {}), rows, MIXED)
        states.append(result.state)
        kls.append(float(result.metrics["policy/kl"]))
    start, one, two, three, four = states
    assert same_bits(one.reference, start.reference) and same_bits(three.reference, two.reference)
    for before, after in ((one, two), (three, four)):
        for name, x in after.reference.items():
            want = mixup * after.params[name] + (1 - mixup) * before.reference[name]
            np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-7)
    assert not same_bits(four.reference, two.reference)
    # The KL is measured to the reference of the state.
    fixed = updater(dataclasses.replace(stage, reference=ReferenceConfig()))
    alone = two.replace(reference=None)
    want = fixed(alone, Frozen(two.reference, {}), rows, MIXED)
    assert kls[2] == pytest.approx(float(want.metrics["policy/kl"]), rel=1e-5)
    # With mixup 1 it is the policy, without rounding; the value head has no counterpart.
    whole = policy_update.move_reference(two, ReferenceConfig(update_every=2))
    assert same_bits(whole.reference, two.params)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"reference": ReferenceConfig(5)}, "needs a loss.kl_coef"),
        (
            {
                "reference": ReferenceConfig(5),
                "loss": LossConfig(kl_coef=0.1),
                "advantage": AdvantageConfig("none", process_weight=1.0),
            },
            "prm.reference: policy",
        ),
        ({"loss": LossConfig(objective="kl-cov")}, "second update"),
        ({"advantage": AdvantageConfig("group-mean", "none"), "samples": 1}, "samples of at least"),
        ({"advantage": AdvantageConfig("group", "none", pass_k=4)}, "more samples per prompt"),
    ],
)
def test_stages_without_meaning_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(STAGE, **keys)


@pytest.mark.parametrize(
    "values, words",
    [((-1, 1.0), "update_every >= 0"), ((5, 0.0), "0 < mixup"), ((0, 0.5), "mixup")],
)
def test_references_without_meaning_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        ReferenceConfig(*values)


# ---- tokens that an update couples -----------------------------------------------------------

COUPLED = {
    "chosen": LossConfig(
        objective="clip-cov", cov_share=0.2, cov_low=0.02, cov_high=4.0, top_entropy=0.6,
        correct="truncate", correct_high=1.2, correct_normalise=True, reject="token",
        reject_low=0.8,
    ),
    "held": LossConfig(objective="kl-cov", cov_share=0.2, correct="sequence-truncate",
                       correct_normalise=True),
}  # fmt: skip


def coupled(name, rows_of_part, shape=(1, 1, 1)):
    """Gradient and sums of one update on a mesh, so many rows at a time."""
    cfg = dataclasses.replace(SMALL, part_tokens=rows_of_part * R)
    stage = dataclasses.replace(STAGE, minibatches=2, loss=COUPLED[name])
    rows, rng = answered(), np.random.default_rng(2)
    random_BR = rng.uniform(0, 1, (Q * G, R)).astype(np.float32)
    batch = policy_update.Batch(
        rollout=rows,
        own_BR=np.asarray(rows.response_mask_BR),
        advantage_BR=np.repeat(rng.normal(size=(Q * G, 1)).astype(np.float32), R, 1),
        reference_BR=rows.logprob_BR,
        filled_B=np.ones(Q * G, bool),
        behaviour_BR=rows.logprob_BR + np.float32(0.8) * (random_BR - np.float32(0.5)),
        draw_BR=random_BR,
    )
    mesh = sharding.make_mesh(MeshConfig(*shape), jax.devices()[: np.prod(shape)])
    gradient = functools.partial(
        policy_update.gradient, setup=Setup(stage, cfg, cfg, R, (1,), TX), kl_coef=0.0
    )
    with jax.set_mesh(mesh):
        over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        found = jax.jit(gradient)(draw(0), jax.tree.map(lambda x: jax.device_put(x, over), batch))
        return jax.device_get((found.grads, found.sums, found.value))


@pytest.fixture(scope="module")
def undivided():
    return functools.cache(lambda name: coupled(name, Q * G))


@pytest.mark.parametrize(
    "name, rows_of_part, shape",
    [
        ("chosen", 5, (2, 2, 2)),
        ("held", 3, (1, 1, 1)),
        pytest.param("chosen", 3, (1, 1, 1), marks=pytest.mark.slow),
        pytest.param("held", 5, (2, 2, 2), marks=pytest.mark.slow),
    ],
)
def test_neither_parts_nor_meshes_change_what_is_chosen(undivided, name, rows_of_part, shape):
    grads, sums, value = undivided(name)
    again, same, equal_value = coupled(name, rows_of_part, shape)
    apart = optax.tree.norm(jax.tree.map(np.subtract, grads, again))
    assert float(apart) < 1e-5 * float(optax.tree.norm(grads)) > 0
    assert value == pytest.approx(equal_value, rel=1e-4)
    for metric, total in sums.items():
        assert total == pytest.approx(same[metric], rel=1e-4, abs=1e-5), metric


def test_the_shares_are_of_all_tokens_of_the_update(undivided):
    tokens = int(np.asarray(answered().length_B).sum())
    _, sums, _ = undivided("chosen")
    share = float(sums["policy/chosen_frac"]) / tokens
    assert 0.6 - 0.2 < share < 0.6
    assert 0 < float(sums["mismatch/rejected_frac"]) < tokens
    assert float(sums["mismatch/weight_mean"]) == pytest.approx(tokens, rel=1e-4)


def test_nothing_is_read_again_where_nothing_is_coupled(monkeypatch):
    def never(*args):
        raise AssertionError("the tokens were read before the gradient")

    monkeypatch.setattr(likelihood, "logprobs", never)
    setup = Setup(STAGE, SMALL, SMALL, R, (1,), TX)
    assert policy_update.choose_tokens({}, policy_update.Batch(None, *[None] * 4), setup) == (
        (None,) * 3
    )


def test_a_row_without_tokens_has_no_part_in_a_mean():
    mask = jnp.array([[True, True], [True, False], [False, False]])
    weight = jnp.float32([[1.0, 3.0], [5.0, 7.0], [9.0, 9.0]])
    got = ratios.with_mean_one(weight, mask, False)
    np.testing.assert_allclose(got, weight / 3, rtol=1e-6)
    rows = jnp.float32([[2.0, 2.0], [4.0, 4.0], [9.0, 9.0]])
    np.testing.assert_allclose(ratios.with_mean_one(rows, mask, True), rows / 3, rtol=1e-6)
    assert not np.any(ratios.with_mean_one(jnp.zeros((3, 2)), mask, False))
