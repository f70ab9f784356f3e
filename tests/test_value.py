"""The value head: 0 at first, of what stands before each token, taught in the policy's own pass."""

import dataclasses
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from make_round import update_on
from rlvr_jax import (
    likelihood,
    loss,
    model,
    optim,
    parameters,
    policy_update,
    sharding,
    step,
    step_metrics,
)
from rlvr_jax.config import (
    AdvantageConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PrmConfig,
    RlStage,
    SampleConfig,
)
from rlvr_jax.host.runs.checkpoint import Checkpoints, restore_params
from rlvr_jax.structs import Frozen, Rollout, Setup

V, D, Q, G, P, R = 32, 16, 4, 2, 6, 12
B = Q * G
SMALL = ModelConfig(
    layers=1, width=D, heads=4, kv_heads=2, head_size=4, feedforward=16, vocab=V, part_tokens=40
)
DISCOUNT, LAMBDA, COEF, NEAR = 0.95, 0.9, 5.0, 0.3
STAGE = RlStage(
    prompts=Q,
    samples=G,
    sample=SampleConfig(temperature=0.8),
    advantage=AdvantageConfig("none", "value", discount=DISCOUNT, gae_lambda=LAMBDA),
    loss=LossConfig(value_coef=COEF, value_clip=NEAR),
    optim=OptimConfig(lr=1e-2),
)
TX = optim.make_optimizer(STAGE.optim, 100)
NOBODY = Frozen({}, {})
# An optimizer that moves nothing and keeps the gradient it was given.
RECORD = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def random_params(seed=3, dtype=np.float32, head=0.5):
    rng = np.random.default_rng(seed)
    params = {
        key: (rng.normal(0, 0.3, x.shape) + ("norm" in key)).astype(dtype)
        for key, x in parameters.abstract(SMALL).items()
    }
    return params | {"value_D": (head * rng.normal(size=D)).astype(dtype)}


def rollout(dtype=np.float32):
    """Rows of all lengths, rubbish behind their ends."""
    rng = np.random.default_rng(0)
    return Rollout(
        prompt_QP=rng.integers(0, V, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(1, P + 1, (Q, 1)),
        response_BR=rng.integers(0, V, (B, R)).astype(np.int32),
        length_B=np.array([R, 1, 5, 3, 8, R, 2, 7], np.int32),
        truncated_B=np.zeros(B, bool),
        logprob_BR=-rng.exponential(size=(B, R)).astype(dtype),
    )


def rewards():
    return np.random.default_rng(1).random(B).astype(np.float32)


def hidden(params, rows, cfg=SMALL):
    """[B, R, D]: every row with its own copy of its prompt, in one batch; before each token."""
    token_BT = jnp.concatenate([jnp.repeat(rows.prompt_QP, G, 0), rows.response_BR], 1)
    mask_BR = jnp.arange(R) < rows.length_B[:, None]
    mask_BT = jnp.concatenate([jnp.repeat(rows.prompt_mask_QP, G, 0), mask_BR], 1)
    hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
    return hidden_BTD[:, P - 1 : -1]


def plain_values(params, rows):
    """V [B, R] in float64, of hidden states in float32."""
    hidden_BRD = np.asarray(jax.jit(hidden)(params, rows), np.float64)
    return hidden_BRD @ np.asarray(params["value_D"], np.float64)


def plain_gae(reward_BR, value_BR, length_B):
    """Advantages and targets by their sums: A_t = sum_k (discount lambda)^k delta_(t + k)."""
    advantage = np.zeros(value_BR.shape)
    for b, length in enumerate(length_B):
        ahead = [*value_BR[b, :length], 0.0]
        delta = [reward_BR[b, t] + DISCOUNT * ahead[t + 1] - ahead[t] for t in range(length)]
        for t in range(length):
            terms = [(DISCOUNT * LAMBDA) ** (s - t) * delta[s] for s in range(t, length)]
            advantage[b, t] = sum(terms)
    mask_BR = np.arange(value_BR.shape[1]) < np.asarray(length_B)[:, None]
    return advantage, np.where(mask_BR, advantage + value_BR, 0)


def plain_error(value, old, target, length, weight):
    """The value loss by loops over tokens, and its slope [B, R] in the values."""
    total, slope = 0.0, np.zeros(value.shape)
    for b in range(len(value)):
        for t in range(length[b]):
            near = min(max(value[b, t], old[b, t] - NEAR), old[b, t] + NEAR)
            free, held = (value[b, t] - target[b, t]) ** 2 / 2, (near - target[b, t]) ** 2 / 2
            total += COEF * weight[b] * max(free, held)
            if free >= held:
                slope[b, t] = COEF * weight[b] * (value[b, t] - target[b, t])
    return total, slope


@functools.cache
def updater():
    return updates(setup_of())


def setup_of(stage=None, cfg=None, tx=None, prm_tx=None):
    cfg = cfg or SMALL
    return Setup(stage or STAGE, cfg, cfg, R, (), tx or TX, prm_tx or RECORD)


def updates(setup):
    """The step's update, jitted: (state, advantage [B], metrics)."""

    @jax.jit
    def update(state, rows, reward_B):
        result = update_on(state, NOBODY, rows, reward_B, setup)
        return result.state, result.advantage_B, result.metrics

    return update


def no_update(state, *_):
    """No update: what is tested is in front of it, and compiles in no time without it."""
    return state, {}


def begin(params):
    return step.init_state(jax.random.key(0), params, TX)


def same(a, b):
    a, b = a.replace(key=None), b.replace(key=None)
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# ---- the loss --------------------------------------------------------------------------------


@pytest.fixture
def exact():
    """Float64 throughout, where the code asks for float32."""
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield np.float64


def test_its_loss_and_gradient_are_the_plain_ones(exact) -> None:
    """What the head adds to the policy's own: by loops, then back through the hidden states."""
    cfg = dataclasses.replace(SMALL, compute="float64", part_tokens=16)  # type: ignore[arg-type]
    params, rows, rng = random_params(dtype=exact), rollout(exact), np.random.default_rng(2)
    hidden_BRD, pull = jax.vjp(jax.jit(lambda p: hidden(p, rows, cfg)), params)
    value = np.asarray(hidden_BRD) @ params["value_D"]
    mask = np.arange(R) < rows.length_B[:, None]
    old = np.where(mask, value + rng.normal(0, 2 * NEAR, (B, R)), np.nan)
    target = np.where(mask, value + rng.normal(0, 1, (B, R)), np.nan)
    weight = 1 / (B * rows.length_B)
    stage = dataclasses.replace(
        STAGE, loss=LossConfig(aggregate="seq-mean-token-mean", value_coef=COEF, value_clip=NEAR)
    )

    @jax.jit
    def gradient(params, advantage_BR):
        everyone = jnp.ones(B, bool)
        batch = policy_update.Batch(
            *(rows, rows.response_mask_BR, advantage_BR, jnp.zeros((B, R)), everyone),
            *(None, old, target),
        )
        setup = Setup(stage, cfg, cfg, 1, (), TX)
        return policy_update.gradient(params, batch, 0.0, setup)

    want, slope = plain_error(value, old, target, rows.length_B, weight)
    free = np.sum((slope == 0) & mask)
    assert 5 < free < mask.sum() - 5  # some are held by the clip, some are not
    (grads,) = pull(jnp.asarray(slope[..., None] * params["value_D"]))
    grads["value_D"] = np.einsum("br,brd->d", slope, hidden_BRD)
    got = gradient(params, np.zeros((B, R)))  # nothing to learn but values
    assert float(got.value) == pytest.approx(want, rel=1e-10)
    for name, x in grads.items():
        assert np.max(np.abs(x)) > 1e-3, name  # the trunk is taught too
        assert np.max(np.abs(got.grads[name] - x)) < 1e-10 * np.max(np.abs(x)), name
    both = gradient(params, np.broadcast_to(rng.normal(size=(B, 1)), (B, R)))
    np.testing.assert_array_equal(both.grads["value_D"], got.grads["value_D"])
    assert np.max(np.abs(both.grads["q_LDNH"] - got.grads["q_LDNH"])) > 1e-3


def test_the_clip_is_the_larger_of_two_errors() -> None:
    """Within it, beyond it on the way to the target, beyond it away from the target; and off."""
    one = np.ones((4, 1), np.float32)
    value, old = one * [[0.2], [0.9], [-0.9], [0.9]], one * 0
    target = one * [[1.0], [1.0], [1.0], [0.9]]

    def error(clip):
        cfg = LossConfig(value_coef=2.0, value_clip=clip)
        return jax.value_and_grad(
            lambda v: loss.value_error(v, old, target, one > 0, np.ones(4), cfg)[0]
        )(jnp.float32(value))

    got, slope = error(0.3)
    np.testing.assert_allclose(got, 0.8**2 + 0.7**2 + 1.9**2 + 0.6**2, rtol=1e-6)
    np.testing.assert_allclose(slope[:, 0], [-1.6, 0, -3.8, 0], rtol=1e-6)
    got, slope = error(0.0)
    np.testing.assert_allclose(got, 0.8**2 + 0.1**2 + 1.9**2, rtol=1e-6)
    np.testing.assert_allclose(slope[:, 0], [-1.6, -0.2, -3.8, 0], rtol=1e-5, atol=1e-6)


# ---- in the step -----------------------------------------------------------------------------


def test_first_values_are_exactly_zero_and_the_head_learns() -> None:
    params = {name: x for name, x in random_params().items() if name != "value_D"}
    state = step.init_state(jax.random.key(0), parameters.with_value(params, SMALL), TX)
    assert set(state.params) - set(params) == {"value_D"}
    rows, update, told = rollout(), updater(), []
    for _ in range(40):
        state, advantage_B, metrics = update(state, rows, rewards())
        told.append(jax.device_get(metrics))
        if len(told) == 1:  # A is what the reward at the end is worth at the first token
            worth = rewards() * (DISCOUNT * LAMBDA) ** (rows.length_B - 1)
            np.testing.assert_allclose(advantage_B, worth, rtol=1e-5)
    assert told[0]["value/mean"] == 0 and told[0]["value/explained"] == 0
    assert told[-1]["value/loss"] < 0.3 * told[0]["value/loss"]
    assert told[-1]["value/explained"] > 0.3 and told[-1]["value/mean"] > 0.05
    assert all(np.isfinite(x).all() for one in told for x in one.values())


def test_advantages_and_metrics_are_those_of_values_before_each_token() -> None:
    """Outcomes on the last token, and the token rewards of a process model of its own."""
    beta, params, rows = 0.3, random_params(), rollout()
    stage = dataclasses.replace(
        STAGE,
        advantage=dataclasses.replace(STAGE.advantage, process_weight=0.5),
        prm=PrmConfig(beta=beta, reference="policy"),
    )
    other = {name: x for name, x in random_params(5).items() if name != "value_D"}
    state = step.init_state(jax.random.key(0), parameters.with_value(other, SMALL), TX)
    state = step.with_prm(state, other, RECORD)
    assert "value_D" not in state.prm.params and "value_D" in state.params
    state = dataclasses.replace(state, params=params)
    update = updates(setup_of(stage))
    with mock.patch.object(policy_update, "update_policy", no_update):
        _, advantage_B, metrics = update(state, rows, rewards())

    whole = jax.jit(likelihood.logprobs, static_argnums=(2, 3))
    token_BR = 0.5 * beta * (whole(other, rows, STAGE.sample, SMALL)[0] - rows.logprob_BR)
    token_BR = np.array(token_BR, np.float64)
    token_BR[np.arange(B), rows.length_B - 1] += rewards()
    value_BR = plain_values(params, rows)
    advantage_BR, target_BR = plain_gae(token_BR, value_BR, rows.length_B)
    np.testing.assert_allclose(advantage_B, advantage_BR[:, 0], rtol=1e-4, atol=1e-5)
    mask = np.arange(R) < rows.length_B[:, None]
    value, target = value_BR[mask], target_BR[mask]
    assert float(metrics["value/mean"]) == pytest.approx(value.mean(), rel=1e-4)
    share = 1 - np.var(target - value) / np.var(target)
    assert float(metrics["value/explained"]) == pytest.approx(share, rel=1e-3)


def test_equal_targets_have_nothing_to_explain() -> None:
    mask = np.arange(R) < rollout().length_B[:, None]
    value = np.random.default_rng(3).normal(size=(B, R)).astype(np.float32)
    for target in (np.where(mask, 0.3, value), np.where(mask, value, 0.3)):
        got = step_metrics.explained_variance(value, target.astype(np.float32), mask)
        assert float(got["value/mean"]) == pytest.approx(value[mask].mean(), rel=1e-4)
        assert float(got["value/explained"]) == np.all(target[mask] == value[mask])
    assert (
        float(step_metrics.explained_variance(value, value, mask & False)["value/explained"]) == 0
    )


def test_several_updates_share_one_look_and_clip_around_it() -> None:
    """Mini-batches by hand, with values and log-probs of before the first."""
    tx = optax.sgd(0.01)
    stage = dataclasses.replace(STAGE, epochs=2, minibatches=2)
    params, rows = random_params(), rollout()
    state = step.init_state(jax.random.key(0), params, tx)
    new, _, metrics = updates(setup_of(stage, tx=tx))(state, rows, rewards())

    behaviour_BR = jax.jit(likelihood.logprobs, static_argnums=(2, 3))(
        params, rows, STAGE.sample, SMALL
    )[0]
    value_BR = plain_values(params, rows)
    reward_BR = np.zeros((B, R))
    reward_BR[np.arange(B), rows.length_B - 1] = rewards()
    advantage_BR, target_BR = plain_gae(reward_BR, value_BR, rows.length_B)
    filled_B, lost = np.ones(B), 0.0
    given = (advantage_BR, rows.logprob_BR, filled_B, behaviour_BR, value_BR, target_BR)
    setup = Setup(stage, SMALL, SMALL, 1, (), tx)
    gradient = jax.jit(functools.partial(policy_update.gradient, kl_coef=0.0, setup=setup))
    for number in (0, 1, 0, 1):
        of_prompt = np.arange(number, Q, 2)
        of_row = (of_prompt[:, None] * G + np.arange(G)).reshape(-1)
        part = jax.tree.map(lambda x, p=of_prompt, r=of_row: x[p if len(x) == Q else r], rows)
        of_rows = (np.float32(x)[of_row] for x in given)
        batch = policy_update.Batch(part, part.response_mask_BR, *of_rows)
        found = gradient(params, batch)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, found.grads)
        lost += float(found.sums["value/loss"])
    for name, x in params.items():
        np.testing.assert_allclose(new.params[name], x, rtol=1e-4, atol=2e-6, err_msg=name)
    assert float(metrics["value/loss"]) == pytest.approx(lost / 2 / rows.length_B.sum(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2, 2), (4, 1, 1)])
def test_neither_mesh_nor_parts_change_a_number(shape) -> None:
    state = step.init_state(jax.random.key(0), random_params(), RECORD)

    def gradients(shape, part_tokens):
        mesh = sharding.make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])
        cfg = dataclasses.replace(SMALL, part_tokens=part_tokens)
        with jax.set_mesh(mesh):
            rows, reward_B = sharding.place_rows((rollout(), rewards()), mesh)
            layout = sharding.shard_tree(state, mesh, MeshConfig(*shape))
            placed = jax.device_put(state, layout)
            update = updates(setup_of(cfg=cfg, tx=RECORD))
            new, advantage_B, metrics = update(placed, rows, reward_B)
            return jax.device_get((new.opt_state, advantage_B, metrics))

    (one, advantage_B, metrics), many = gradients((1, 1, 1), 1000), gradients(shape, 24)
    for name, x in one.items():
        assert np.max(np.abs(x - many[0][name])) < 2e-5 * np.max(np.abs(x)), name
    np.testing.assert_allclose(many[1], advantage_B, rtol=1e-4, atol=1e-5)
    for name in ("value/loss", "value/mean", "value/explained", "policy/loss"):
        assert float(many[2][name]) == pytest.approx(float(metrics[name]), rel=1e-4), name


# ---- in the state ----------------------------------------------------------------------------


def test_a_checkpoint_carries_it_and_the_policy_is_read_without_it(tmp_path) -> None:
    update, rows = updater(), rollout()
    state, *_ = update(begin(random_params()), rows, rewards())

    def shapes(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
        )

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        restored, _ = checkpoints.restore(1, shapes(state))
    on, *_ = update(state, rows, rewards())
    again, *_ = update(restored, rows, rewards())
    assert same(restored, state) and same(again, on)
    assert not np.array_equal(on.params["value_D"], state.params["value_D"])
    like = shapes({name: state.params[name] for name in parameters.abstract(SMALL)})
    left = restore_params(tmp_path, like)
    assert "value_D" not in left
    for name, x in left.items():
        np.testing.assert_array_equal(x, state.params[name])


def test_a_head_changes_nothing_that_is_said() -> None:
    cfg = dataclasses.replace(SMALL, unroll=True, compute="bfloat16")
    params, rows = random_params(), rollout()
    bare = {name: x for name, x in params.items() if name != "value_D"}
    logprobs = jax.jit(likelihood.logprobs, static_argnums=(2, 3))
    with_logprobs = jax.jit(likelihood.values_and_logprobs, static_argnums=(2, 3))
    plain = logprobs(bare, rows, STAGE.sample, cfg)[0]
    value_BR, both = with_logprobs(params, rows, STAGE.sample, cfg)
    # Of other programs: a compiler may fuse, and round, each in its own way.
    np.testing.assert_allclose(both, plain, rtol=1e-6)
    assert value_BR.dtype == np.float32
    alone = jax.jit(likelihood.values, static_argnums=2)(params, rows, cfg)
    np.testing.assert_allclose(alone, value_BR, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(alone)[~rows.response_mask_BR] == 0)
