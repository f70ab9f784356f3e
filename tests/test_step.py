"""The step: the same numbers on every mesh, in any number of parts, fused or split."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from make_round import update_on
from rlvr_jax import (
    advantage,
    judging,
    likelihood,
    loss,
    model,
    optim,
    parameters,
    policy_update,
    sharding,
    step,
    step_metrics,
    supervised,
)
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    OverlongConfig,
    RewardConfig,
    RlStage,
)
from rlvr_jax.host.processes.team import Team
from rlvr_jax.host.runs.compiles import Compiles
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Prompts, Rollout, Setup, StepResult, Verdict

CUBE = (2, 2, 2)  # data x fsdp x tensor: what one axis alone would show, this shows too
MORE = [pytest.param(x, marks=pytest.mark.slow) for x in ((8, 1, 1), (1, 4, 2))]
MESHES = [(1, 1, 1), CUBE, *MORE]
SHARED = (1, 2, 2, 2)  # and two devices that share the columns
STEPS = 3
Q, G, P, R, C, EOS = 8, 4, 8, 6, 10, 1
ACCEPT, REJECT, TAIL, NEWLINE = 3, 4, (5, 6), 7
STAGE = RlStage(
    prompts=Q,
    samples=G,
    reward=RewardConfig(min_mass=0.0),
    loss=LossConfig(kl_coef=0.01),
    # A large epsilon: Adam's first steps are signs of gradients, of those that are rounding too.
    optim=OptimConfig(lr=1e-2, eps=1e-4),
)
TX = optim.make_optimizer(STAGE.optim, STAGE.steps)

# The table of the design, by hand, for the meshes above.
LAYOUT = {
    "embed_VD": ("tensor", "fsdp"),
    "norm1_LD": (),
    "q_LDNH": (None, "fsdp", "tensor"),
    "k_LDKH": (None, "fsdp", "tensor"),
    "v_LDKH": (None, "fsdp", "tensor"),
    "out_LNHD": (None, "tensor", None, "fsdp"),
    "norm2_LD": (),
    "gate_LDF": (None, "fsdp", "tensor"),
    "up_LDF": (None, "fsdp", "tensor"),
    "down_LFD": (None, "tensor", "fsdp"),
    "norm_D": (),
}


class Run(NamedTuple):
    """A few steps on one mesh: what came out on the host, and what is needed to go on."""

    step: Any
    ws: Workspace
    state: Any
    frozen: Frozen
    tokens: list  # of each step
    rewards: list
    metrics: list
    first: Any  # the state after one step
    kept: list  # paths of the old state's arrays that were not donated
    compiles: int


def draw(cfg, seed):
    """Random parameters, without compiling a random number generator on each mesh."""
    rng = np.random.default_rng(seed)
    params = {
        name: np.ones(shape.shape, np.float32)
        if name.startswith("norm")
        else rng.normal(0, 0.25, shape.shape).astype(np.float32)
        for name, shape in parameters.abstract(cfg).items()
    }
    params["embed_VD"][EOS] *= 3  # so that about half of the responses end by themselves
    return params


def even_judge(cfg):
    """A hand-made verifier: the larger the share of even ids it reads, the more it accepts.

    Layer 0 averages a feature of all columns (zero queries attend evenly) into another one, which
    the verdict tokens read; the other layers add nothing.
    """
    params = {k: np.zeros(v.shape, np.float32) for k, v in parameters.abstract(cfg).items()}
    params |= {k: np.ones_like(v) for k, v in params.items() if k.startswith("norm")}
    params["embed_VD"][:, 2:] = np.random.default_rng(5).normal(size=(cfg.vocab, cfg.width - 2))
    params["embed_VD"][8::2, 0] = 4
    params["embed_VD"][[ACCEPT, REJECT], 1] = 2, -2
    params["embed_VD"][TAIL[-1], 1] = -1
    params["v_LDKH"][0, 0, :, 0] = 1
    params["out_LNHD"][0, :, 0, 1] = 4 / cfg.heads
    return params


def ask(seed=0):
    rng = np.random.default_rng(seed)
    length, checked = rng.integers(3, P + 1, (Q, 1)), rng.integers(3, C + 1, (Q, 1))
    return Prompts(
        prompt_QP=rng.integers(8, 48, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - length,
        check_QC=rng.integers(8, 48, (Q, C)).astype(np.int32),
        check_mask_QC=np.arange(C) >= C - checked,
    )


def verdict(vocab):
    ids = np.arange(vocab)
    tail = np.array([TAIL], np.int32)
    words = np.array([ACCEPT], np.int32), np.array([REJECT], np.int32)
    return Verdict(tail, tail >= 0, *words, ids == NEWLINE, ids <= EOS, ids <= EOS)


def answered(seed=0):
    """A rollout that nobody sampled: random tokens, ragged lengths."""
    rng, asked = np.random.default_rng(seed), ask(seed)
    length_B = rng.integers(1, R + 1, Q * G).astype(np.int32)
    mask_BR = np.arange(R) < length_B[:, None]
    return Rollout(
        prompt_QP=asked.prompt_QP,
        prompt_mask_QP=asked.prompt_mask_QP,
        response_BR=rng.integers(0, 48, (Q * G, R)).astype(np.int32),
        length_B=length_B,
        truncated_B=np.zeros(Q * G, bool),
        logprob_BR=np.where(mask_BR, -rng.exponential(size=(Q * G, R)), 0).astype(np.float32),
    )


def start(shape, cfg, tx=TX):
    """A workspace on a mesh, a state, and frozen models: made as the stages make them."""
    whole = Config(stages=(STAGE,), mesh=MeshConfig(*shape), model=cfg, verifier=cfg)
    devices = jax.devices()[: np.prod(shape)]
    ws = Workspace(SimpleNamespace(cfg=whole, team=Team()), sharding.make_mesh(whole.mesh, devices))
    with jax.set_mesh(ws.mesh):
        ws.models._learned = lambda stage, cfg: draw(cfg, 0)  # type: ignore[method-assign]
        state = ws.new_state(STAGE.name, cfg, tx, "given")
        layout = ws.layout.shardings(state.params)
        params = jax.device_put((draw(cfg, 2), even_judge(cfg)), (layout, layout))
    return ws, state, Frozen(*params, verdict(cfg.vocab))


def setup_of(stage, cfg, tx=TX, eos=(EOS,)):
    return Setup(stage, cfg, cfg, R, eos, tx)


def run(shape, cfg):
    compiles = Compiles()
    ws, state, frozen = start(shape, cfg)
    take_step = functools.partial(step.train_step, setup=setup_of(STAGE, cfg))
    tokens, rewards, metrics, kept = [], [], [], []
    with jax.set_mesh(ws.mesh):
        take_step = ws.jit_step(take_step, state, StepResult)
        for number in range(STEPS):
            old = state
            result = take_step(old, frozen, ws.place(ask(number)))
            state = result.state
            paths = jax.tree_util.tree_leaves_with_path(old)
            kept.append([jax.tree_util.keystr(k) for k, x in paths if not x.is_deleted()])
            if number == 0:  # a copy: an array that numpy looks into cannot be donated
                copied = jax.jit(functools.partial(jax.tree.map, jnp.copy))(state)
                first = jax.device_get(copied.replace(key=None))
            tokens.append(jax.device_get(result.rollout))
            rewards.append(np.asarray(result.reward_B))
            metrics.append(jax.device_get(result.metrics))
    count = compiles.count("train_step")
    return Run(take_step, ws, state, frozen, tokens, rewards, metrics, first, kept, count)


@pytest.fixture(scope="module")
def runs(tiny):
    """Runs by mesh, each made when first asked for."""
    return functools.cache(lambda shape: run(shape, tiny))


@pytest.fixture(scope="module")
def parts(tiny):
    """write_round, verify and update, jitted one by one on one device; nothing donated."""
    ws, state, frozen = start((1, 1, 1), tiny)
    setup = setup_of(STAGE, tiny)
    write = functools.partial(step.write_round, number=0, setup=setup)
    verify = functools.partial(judging.verify, cfg=STAGE.reward, verifier_cfg=tiny)
    learn = jax.jit(functools.partial(update_on, setup=setup))

    def update(state, frozen, written, reward_B, decoded=1):
        """One program for every test: all that the host gives is numpy's."""
        return learn(state, frozen, written, np.asarray(reward_B), decoded=np.int32(decoded))

    return ws, state, frozen, *map(jax.jit, (write, verify)), update


def changed(result):
    """The state that a step returns, and its metrics."""
    return result.state, result.metrics


def equal(a, b):
    """Whether two pytrees hold the same bits."""
    leaves = [
        [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)]
        for x in [*jax.tree.leaves(a), *jax.tree.leaves(b)]
    ]
    half = len(leaves) // 2
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.tobytes() == y.tobytes() for (x,), (y,) in zip(leaves[:half], leaves[half:], strict=True)
    )


# ---- meshes --------------------------------------------------------------------------------


def test_what_is_compared_is_not_trivial(runs):
    one = runs((1, 1, 1))
    for rewards, rollout, metrics in zip(one.rewards, one.tokens, one.metrics, strict=True):
        assert rewards.std() > 0.1
        assert len(np.unique(rewards)) >= 4
        assert 0.1 < rollout.truncated_B.mean() < 0.9
        assert len(np.unique(rollout.length_B)) > 2
        assert abs(metrics["policy/kl"]) > 0.01


@pytest.mark.parametrize("shape", [CUBE, *MORE, pytest.param(SHARED, marks=pytest.mark.slow)])
def test_a_mesh_changes_no_token_and_no_number(runs, shape):
    one, many = runs((1, 1, 1)), runs(shape)
    for number in range(STEPS):
        a, b = one.tokens[number], many.tokens[number]
        np.testing.assert_array_equal(a.response_BR, b.response_BR)
        np.testing.assert_array_equal(a.length_B, b.length_B)
        np.testing.assert_array_equal(a.truncated_B, b.truncated_B)
        np.testing.assert_allclose(a.logprob_BR, b.logprob_BR, rtol=0, atol=2e-4)
        np.testing.assert_allclose(one.rewards[number], many.rewards[number], rtol=1e-5, atol=1e-7)
        for name in ("policy/loss", "policy/grad_norm", "reward/mean", "policy/entropy"):
            x, y = one.metrics[number][name], many.metrics[number][name]
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-7, err_msg=f"{name}, step {number}")


@pytest.mark.parametrize("shape", MESHES)
def test_a_step_leaves_parameters_and_moments_as_the_table_says(runs, shape, tiny):
    result = runs(shape)
    assert set(result.state.params) == set(LAYOUT)
    adam = result.state.opt_state[1][0]
    for tree in (result.state.params, adam.mu, adam.nu):
        assert set(tree) == set(LAYOUT)
        for name, x in tree.items():
            wanted = NamedSharding(result.ws.mesh, PartitionSpec(*LAYOUT[name]))
            assert x.sharding.is_equivalent_to(wanted, x.ndim), (name, x.sharding)
            parts = shape[1] * shape[2] if LAYOUT[name] else 1
            assert all(s.data.size == x.size // parts for s in x.addressable_shards), name
            assert len(x.addressable_shards) == np.prod(shape)


@pytest.mark.parametrize("shape", MESHES)
def test_a_step_donates_the_old_state(runs, shape):
    assert runs(shape).kept == [[]] * STEPS


@pytest.mark.parametrize("shape", MESHES)
def test_a_step_is_compiled_once(runs, shape):
    assert runs(shape).compiles == 1


# ---- the step's own promises ---------------------------------------------------------------


@pytest.fixture(scope="module")
def lowered(tiny):
    """The fused step, lowered and not compiled."""
    ws, state, frozen = start((1, 1, 1), tiny)
    with jax.set_mesh(ws.mesh):
        setup = setup_of(STAGE, tiny)
        return jax.jit(functools.partial(step.train_step, setup=setup)).lower(state, frozen, ask())


def test_the_program_never_calls_the_host(lowered):
    """Nothing between prompts and update waits for the host: no callback, no infeed, no outfeed."""
    text = lowered.as_text()
    for word in ("callback", "infeed", "outfeed"):
        assert word not in text, word
    calls = jax.jit(lambda x: jax.debug.print("{}", x)).lower(1.0).as_text()
    assert "callback" in calls  # what a call of the host would look like


def test_a_profile_of_the_step_reads_like_the_arrow(lowered):
    names = lowered.as_text(debug_info=True)
    for hop in ("draw", "draw/write", "draw/verify", "observe", "credit", "learn"):
        assert f"{hop}/" in names, hop


def test_metrics_are_finite_and_the_histogram_holds_every_row(runs):
    for metrics, rewards in zip(runs((1, 1, 1)).metrics, runs((1, 1, 1)).rewards, strict=True):
        for name, value in metrics.items():
            assert np.isfinite(value).all(), name
        histogram = metrics["reward/histogram"]
        assert histogram.sum() == Q * G
        counts = np.histogram(rewards, bins=10, range=(0, 1))[0]
        np.testing.assert_array_equal(histogram, counts)
        assert metrics["mismatch/logprob_diff_max"] < 1e-5
        assert metrics["policy/skipped"] == 0


def test_an_int8_cache_shows_as_mismatch_of_sampler_and_trainer(runs, parts, tiny):
    """The trainer reads in compute dtype: only the log-probs of the sampler are other ones."""
    exact = runs((1, 1, 1)).metrics[0]
    ws, state, frozen, *_, update = parts
    setup = setup_of(STAGE, dataclasses.replace(tiny, cache_dtype="int8"))
    write = jax.jit(functools.partial(step.write_round, number=0, setup=setup))
    with jax.set_mesh(ws.mesh):
        written, *_ = write(state, ask())
        found = jax.device_get(update(state, frozen, written, even_share_B()).metrics)
    for name in ("mean", "max"):
        name = f"mismatch/logprob_diff_{name}"
        assert 1e-4 < found[name] < 0.2 and exact[name] < 1e-5, name
    assert 0.99 < found["mismatch/ess"] < 1 - 1e-9
    assert found["policy/skipped"] == 0


@pytest.mark.parametrize("shape", MESHES)
def test_what_was_useful_is_counted_by_hand(runs, shape):
    """With a slot for every row, and one width of columns for responses and for prompts."""
    result = runs(shape)
    shards = shape[0] * shape[1]
    for number, (rollout, metrics) in enumerate(zip(result.tokens, result.metrics, strict=True)):
        length, asked = rollout.length_B, ask(number).prompt_mask_QP
        # All slots until half of them, on the fullest shard, are enough; at last until the end.
        count, column, decoded = Q * G // shards, 1, 0
        while count:
            fewer = count // 2 if count > 2 else 0
            while (length.reshape(shards, -1) > column).sum(1).max() > fewer:
                decoded, column = decoded + count * shards, column + 1
            count = fewer
        useful = (length.sum() - Q * G) / max(decoded, 1)
        assert metrics["perf/rollout_useful"] == pytest.approx(useful, rel=1e-6)
        run = Q * G * R + Q * P  # one part of each
        useful = (length.sum() + asked.sum()) / run
        assert metrics["perf/update_useful"] == pytest.approx(useful, rel=1e-6)


@pytest.mark.parametrize("same", [1, 5, Q * G])
def test_identical_is_the_share_of_the_commonest_response(same):
    """Places count, lengths count, and what stands behind the end does not."""
    rows = answered()
    response_BR, length_B = rows.response_BR, np.full(Q * G, 3, np.int32)
    response_BR[:, :3] = 0
    response_BR[:, 0] = np.arange(Q * G) + 10
    response_BR[Q * G - same :, :3] = 7, 8, 9
    if same == 5:
        response_BR[:2, :3] = (9, 8, 7), (7, 8, 0)  # other orders, other lengths: not these
        length_B[1] = 2
    rows = rows.replace(response_BR=response_BR, length_B=length_B)
    assert float(step_metrics.identical_share(rows)) == pytest.approx(same / (Q * G))


def test_a_perfect_reward_is_in_the_last_bin():
    rewards = jnp.concatenate([jnp.ones(20), jnp.zeros(12)])
    histogram = step_metrics.of_rollout(answered(), rewards, G)["reward/histogram"]
    assert histogram.tolist() == [12, *[0] * 8, 20]


def test_the_key_stays_and_the_step_counts(runs):
    state = runs((1, 1, 1)).state
    assert equal(state.key, jax.random.fold_in(runs((1, 1, 1)).ws.key(STAGE.name), 1))
    assert int(state.step) == STEPS


def test_tokens_follow_from_parameters_key_and_step_alone(parts):
    ws, state, _, write, *_ = parts
    with jax.set_mesh(ws.mesh):
        asked = ask()
        first, *_ = write(state, asked)
        other = jax.tree.map(lambda x: x + 1, state.opt_state)
        unrelated = state.replace(
            opt_state=other, skipped=state.skipped + 3, skipped_in_row=state.skipped_in_row + 3
        )
        assert equal(write(unrelated, asked)[0], first)
        assert equal(write(state, ask())[0], first)  # asking does not use anything up
        later, *_ = write(state.replace(step=state.step + 1), asked)
        assert (later.response_BR != first.response_BR).mean() > 0.5


def test_the_split_step_is_the_fused_step(parts, runs):
    ws, state, frozen, write, verify, update = parts
    fused = runs((1, 1, 1))
    with jax.set_mesh(ws.mesh):
        for number in range(STEPS):
            asked = ws.place(ask(number))
            written, decoded, _ = write(state, asked)
            reward_B, verdicts = verify(frozen, asked, written)
            result = update(state, frozen, written, reward_B, decoded)
            state, metrics = result.state, result.metrics
            np.testing.assert_array_equal(fused.tokens[number].response_BR, written.response_BR)
            np.testing.assert_allclose(fused.rewards[number], reward_B, rtol=1e-6)
            assert set(metrics | verdicts) == set(fused.metrics[number])
            for name, value in (metrics | verdicts).items():
                if not name.startswith("mismatch/"):  # is rounding
                    np.testing.assert_allclose(
                        fused.metrics[number][name], value, rtol=1e-5, atol=1e-6, err_msg=name
                    )
            if number == 0:  # later the rounding of earlier steps is in it
                paths = jax.tree_util.tree_leaves_with_path(state.replace(key=None))
                leaves = jax.tree.leaves(fused.first)
                for (path, x), y in zip(paths, leaves, strict=True):
                    name = jax.tree_util.keystr(path)
                    apart = np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-12)
                    assert apart < (2e-6 if ".nu" in name else 1e-6), name  # nu: squares


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_reward_that_is_not_finite_counts_as_none(parts, bad):
    ws, state, frozen, write, verify, update = parts
    with jax.set_mesh(ws.mesh):
        written, *_ = write(state, ask())
        good = np.linspace(0, 1, Q * G, dtype=np.float32)
        spoilt, nothing = (np.where(good == 1, x, good).astype(np.float32) for x in (bad, 0))
        after, metrics = changed(update(state, frozen, written, spoilt))
        same, _ = changed(update(state, frozen, written, nothing))
    assert int(metrics["reward/nonfinite"]) == 1
    assert equal((after.params, after.opt_state), (same.params, same.opt_state))
    assert not equal(after.params, state.params) and int(after.skipped) == 0


def test_what_is_not_finite_moves_nothing_and_what_follows_does(parts):
    ws, state, frozen, write, verify, update = parts
    with jax.set_mesh(ws.mesh):
        broken = state.params | {"norm_D": state.params["norm_D"].at[0].set(np.nan)}
        written, *_ = write(state, ask())
        good = np.linspace(0, 1, Q * G, dtype=np.float32)
        after = state.replace(params=broken)
        for count in (1, 2):
            after, metrics = changed(update(after, frozen, written, good))
            assert not np.isfinite(metrics["policy/grad_norm"])
            assert equal((after.params, after.opt_state), (broken, state.opt_state))
            assert [int(after.step), int(after.skipped), int(after.skipped_in_row)] == [count] * 3
        after = after.replace(params=state.params)
        healed, _ = changed(update(after, frozen, written, good))
        straight, _ = changed(update(state, frozen, written, good))
    assert equal((healed.params, healed.opt_state), (straight.params, straight.opt_state))
    assert not equal(healed.params, state.params)
    assert [int(healed.step), int(healed.skipped), int(healed.skipped_in_row)] == [3, 2, 0]


@pytest.mark.parametrize("value, norm", [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.inf), (1.0, 2.0)])
def test_apply_looks_at_loss_and_gradient(value, norm):
    tx = optax.sgd(1.0)
    state = step.init_state(jax.random.key(0), {"x_D": jnp.zeros(1)}, tx)
    grads = {"x_D": jnp.full(1, norm)}
    after, seen, did = policy_update.apply_gradient(state, grads, jnp.float32(value), tx)
    moved = np.isfinite(value) and np.isfinite(norm)
    assert float(after.params["x_D"][0]) == (-norm if moved else 0.0)
    assert int(after.skipped) == (not moved)
    assert float(seen) == norm and bool(did) == moved


def test_equal_rewards_leave_only_the_penalty(parts):
    """A group that agrees says nothing: without KL in the reward its advantage is exactly 0."""
    ws, state, frozen, write, verify, update = parts
    same = frozen.replace(reference=state.params)
    with jax.set_mesh(ws.mesh):
        written, *_ = write(state, ask())
        reward_B = np.full(Q * G, 0.3, np.float32)
        result = update(state, same, written, reward_B)
    advantage_B, metrics = result.advantage_B, result.metrics
    assert np.abs(advantage_B).max() < 1e-6  # rounding between sampler and trainer, times 0.01
    assert metrics["policy/grad_norm"] < 1e-4


# ---- a greedy baseline ---------------------------------------------------------------------

REMAX = dataclasses.replace(
    STAGE,
    advantage=AdvantageConfig("none", "greedy"),
    loss=LossConfig(),
    overlong=OverlongConfig(buffer=2, penalty=0.5),
)


ENDS = tuple(range(EOS, 48, 4))  # many, so that greedy answers end too


def no_update(state, *_):
    """No update: what is tested is in front of it, and compiles in no time without it."""
    return state, {}


@pytest.fixture(scope="module")
def remax():
    """One fused step of ReMax, and its parts: greedy answers and verdicts made by themselves."""
    ws, state, frozen = start((1, 1, 1), SMALL, RECORD)
    setup = setup_of(REMAX, SMALL, eos=ENDS)
    take_step = functools.partial(step.train_step, setup=setup)
    update = functools.partial(update_on, setup=setup)
    answer = functools.partial(step.write_round, number=0, setup=setup)
    judge = functools.partial(judging.verify, cfg=REMAX.reward, verifier_cfg=SMALL)
    take_step, update, answer, judge = map(jax.jit, (take_step, update, answer, judge))
    with jax.set_mesh(ws.mesh), mock.patch.object(policy_update, "update_policy", no_update):
        *_, answers = answer(state, ask())
        reward_Q, _ = judge(frozen, ask(), answers)
        result = take_step(state, frozen, ask())
        written, metrics = result.rollout, result.metrics
        best_Q = np.arange(Q) == np.argmax(reward_Q)
        broken_Q = jnp.where(best_Q, jnp.nan, reward_Q)
        split = [
            update(state, frozen, written, result.reward_B, greedy=(answers, {"reward": greedy_Q}))
            for greedy_Q in (reward_Q, broken_Q)
        ]
    return SimpleNamespace(**locals())


def test_the_baseline_is_the_reward_of_a_greedy_answer(remax):
    """Answers are the argmax, token by token; what was cut off is worth 0, what is long less."""
    params, asked, length = remax.state.params, ask(), np.asarray(remax.answers.length_B)
    token_QT = np.concatenate([asked.prompt_QP, remax.answers.response_BR], 1)
    mask_QT = np.concatenate([asked.prompt_mask_QP, np.arange(R) < length[:, None]], 1)
    hidden_QTD, _ = jax.jit(functools.partial(model.prefill, cfg=SMALL))(params, token_QT, mask_QT)
    best_QR = np.asarray(model.logits(params, hidden_QTD, SMALL)).argmax(-1)[:, P - 1 : -1]
    mask_QR = mask_QT[:, P:]
    np.testing.assert_array_equal(best_QR[mask_QR], np.asarray(remax.answers.response_BR)[mask_QR])

    reward_Q, cut_Q = np.asarray(remax.reward_Q), np.asarray(remax.answers.truncated_B)
    assert 0 < cut_Q.sum() < Q and (length[~cut_Q] < R).any()
    assert np.all(reward_Q[cut_Q] == 0) and np.unique(reward_Q).size > 2
    reward_B, advantage_B = remax.result.reward_B, remax.result.advantage_B

    def lost(length):
        return 0.5 * np.clip((np.asarray(length) - (R - 2)) / 2, 0, 1)

    baseline_B = np.repeat(reward_Q - lost(length), G)
    wanted = reward_B - lost(remax.written.length_B) - baseline_B
    np.testing.assert_allclose(advantage_B, wanted, rtol=1e-5, atol=1e-6)
    assert float(remax.metrics["reward/greedy"]) == pytest.approx(reward_Q.mean(), rel=1e-6)
    assert float(remax.metrics["reward/mean"]) == pytest.approx(float(np.mean(reward_B)), rel=1e-6)


def test_a_greedy_answer_needs_no_luck(remax):
    with jax.set_mesh(remax.ws.mesh):
        *_, other = remax.answer(remax.state.replace(key=jax.random.key(99)), ask())
    assert equal(other, remax.answers)


def test_the_split_step_takes_greedy_rewards_and_counts_what_is_none(remax):
    split, broken = remax.split
    split_B, broken_B = split.advantage_B, broken.advantage_B
    np.testing.assert_allclose(split_B, remax.result.advantage_B, atol=1e-6)
    bad = split.metrics["reward/nonfinite"], broken.metrics["reward/nonfinite"]
    assert bad == (0, 1)
    gained_Q = np.where(remax.best_Q, remax.reward_Q, 0)
    np.testing.assert_allclose(broken_B - split_B, np.repeat(gained_Q, G), atol=1e-6)


# ---- parts ---------------------------------------------------------------------------------

AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant")
WHOLE = Q * G * max(P, R)  # tokens
SMALL = ModelConfig(layers=1, width=8, heads=2, kv_heads=2, head_size=4, feedforward=8, vocab=48)
# An optimizer that moves nothing and keeps the gradient it was given.
RECORD = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def gradients(part_tokens, kl_in, shape=(1, 1, 1)):
    """Gradient and metrics of `update` under each of the four aggregations.

    Only the row weights know the aggregation; choosing among the four at run time saves compiling
    the update four times.
    """
    stage = dataclasses.replace(STAGE, loss=LossConfig(kl_coef=0.1, kl_in=kl_in))
    cfg = dataclasses.replace(SMALL, part_tokens=part_tokens)
    weights = loss.row_weights

    def update(which, state, frozen, written, reward_B):
        def chosen(mask_BR, cfg, counted_B):
            each = [weights(mask_BR, dataclasses.replace(cfg, aggregate=a)) for a in AGGREGATES]
            return jnp.stack(each)[which]

        with mock.patch.object(loss, "row_weights", chosen):
            result = update_on(state, frozen, written, reward_B, setup_of(stage, cfg, RECORD))
        return result.state.opt_state, result.metrics

    reward_B = np.random.default_rng(3).random(Q * G).astype(np.float32)
    ws, state, frozen = start(shape, SMALL, RECORD)
    with jax.set_mesh(ws.mesh):
        written, reward_B = ws.place((answered(), reward_B))
        jitted = jax.jit(update)
        return [
            jax.device_get(jitted(which, state, frozen, written, reward_B))
            for which in range(len(AGGREGATES))
        ]


@pytest.fixture(scope="module")
def whole():
    """The gradients of the undivided batch: one part holds all rows, and one all prompts."""
    return functools.cache(lambda kl_in, shape: gradients(WHOLE, kl_in, shape))


def distance(a, b):
    """Norm of the difference of two gradients, relative to the first."""
    apart = optax.tree.norm(jax.tree.map(np.subtract, a, b))
    return float(apart / optax.tree.norm(a))


def test_aggregations_and_kl_are_all_different(whole):
    both = [whole("reward", (1, 1, 1)), whole("loss", (1, 1, 1))]
    grads = [grad for part in both for grad, _ in part]
    assert len(grads) == 8
    for a, b in itertools.combinations(grads, 2):
        assert distance(a, b) > 1e-2


@pytest.mark.parametrize(
    "rows, kl_in, shape",  # rows in a part; 5 does not divide 32, nor 3 what a shard of four has
    [
        (1, "reward", (1, 1, 1)),
        pytest.param(5, "reward", (1, 1, 1), marks=pytest.mark.slow),
        pytest.param(1, "loss", (1, 1, 1), marks=pytest.mark.slow),
        (5, "loss", (1, 1, 1)),
        (3, "loss", (2, 2, 2)),
    ],
)
def test_parts_change_no_gradient(whole, rows, kl_in, shape):
    parts = gradients(rows * R, kl_in, shape)
    pairs = zip(AGGREGATES, whole(kl_in, shape), parts, strict=True)
    for aggregate, (a, one), (b, many) in pairs:
        assert distance(a, b) < 1e-6, aggregate
        for name in one:
            if name != "perf/update_useful":  # is about the parts
                near = dict(rtol=1e-5, atol=1e-6, err_msg=name)
                np.testing.assert_allclose(one[name], many[name], **near)


def test_a_mesh_changes_no_gradient(whole):
    pairs = zip(AGGREGATES, whole("loss", (1, 1, 1)), whole("loss", (2, 2, 2)), strict=True)
    for aggregate, (a, _), (b, _) in pairs:
        assert distance(a, b) < 1e-5, aggregate


# ---- several updates of one rollout --------------------------------------------------------


@functools.cache
def updates(epochs, minibatches, shape=(1, 1, 1)):
    """Parameters and metrics after a step on `answered`, by gradient descent."""
    tx = optax.sgd(0.3)
    stage = dataclasses.replace(
        STAGE, epochs=epochs, minibatches=minibatches, loss=LossConfig(aggregate="token-mean")
    )
    update = functools.partial(update_on, setup=setup_of(stage, SMALL, tx))
    ws, state, frozen = start(shape, SMALL, tx)
    with jax.set_mesh(ws.mesh):
        written, reward_B = ws.place((answered(), even_share_B()))
        new, metrics = changed(jax.jit(update)(state, frozen, written, reward_B))
        return jax.device_get((state.params, new.params, new.step, metrics))


def even_share_B():
    return np.random.default_rng(4).random(Q * G).astype(np.float32)


def test_only_tokens_that_the_policy_wrote_are_learned_from():
    """A token of somebody else is as one without an advantage, and counts in no denominator."""
    rows, params = answered(), draw(SMALL, 0)
    mask_BR = np.asarray(rows.response_mask_BR)
    own_BR = mask_BR & (np.arange(R) % 3 != 1)
    advantage_BR = np.random.default_rng(6).normal(size=(Q * G, R)).astype(np.float32)

    @functools.cache
    def gradient(aggregate):
        stage = dataclasses.replace(STAGE, loss=LossConfig(aggregate=aggregate))
        setup = setup_of(stage, SMALL)
        return jax.jit(functools.partial(policy_update.gradient, setup=setup))

    def learned(own_BR, advantage_BR, aggregate):
        everyone = np.ones(Q * G, bool)
        batch = policy_update.Batch(rows, own_BR, advantage_BR, rows.logprob_BR, everyone)
        return gradient(aggregate)(params, batch, 0.0)

    some = learned(own_BR, advantage_BR, "seq-mean-token-sum")
    zeroed = learned(mask_BR, np.where(own_BR, advantage_BR, 0), "seq-mean-token-sum")
    assert distance(some.grads, zeroed.grads) < 1e-6
    assert distance(some.grads, learned(mask_BR, advantage_BR, "seq-mean-token-sum").grads) > 1e-2
    mean, whole = (learned(x, advantage_BR * own_BR, "token-mean") for x in (own_BR, mask_BR))
    ratio = mask_BR.sum() / own_BR.sum()
    scaled = jax.tree.map(lambda x: x * ratio, whole.grads)
    assert distance(mean.grads, scaled) < 1e-6
    assert float(some.sums["policy/entropy"]) < float(zeroed.sums["policy/entropy"])


def test_several_updates_are_updates_one_after_the_other():
    """Every second prompt first; ratios are to the parameters before the first of them."""
    epochs, count = 2, 2
    params, got, step, metrics = updates(epochs, count)
    written, whole = answered(), LossConfig(aggregate="token-mean")
    plain = jax.jit(likelihood.logprobs, static_argnums=(2, 3))
    behaviour_BR = np.asarray(plain(params, written, STAGE.sample, SMALL)[0])
    rewards, length_B = {"reward": even_share_B()}, written.length_B
    advantage_B = np.asarray(
        advantage.response_advantages(rewards, np.zeros(Q * G), length_B, G, STAGE.advantage)
    )
    stage = dataclasses.replace(STAGE, loss=whole)
    setup = Setup(stage, SMALL, SMALL, 1, (), TX)
    gradient = jax.jit(functools.partial(policy_update.gradient, kl_coef=0.0, setup=setup))
    cut = 0.0

    def some(tree, of_prompt, of_row):
        return jax.tree.map(lambda x: x[of_prompt if len(x) == Q else of_row], tree)

    for _ in range(epochs):
        for first in range(count):
            of_prompt = np.arange(first, Q, count)
            of_row = (of_prompt[:, None] * G + np.arange(G)).reshape(-1)
            part = some(written, of_prompt, of_row)
            batch = policy_update.Batch(
                part,
                part.response_mask_BR,
                np.repeat(advantage_B[of_row, None], R, 1),
                part.logprob_BR,
                np.ones(len(of_row), bool),
                behaviour_BR[of_row],
            )
            found = gradient(params, batch)
            params = jax.tree.map(lambda p, g: p - 0.3 * g, params, found.grads)
            cut += float(found.sums["policy/clip_frac"])
    for name, x in params.items():
        np.testing.assert_allclose(got[name], x, rtol=1e-4, atol=1e-6, err_msg=name)
    tokens = written.length_B.sum()
    assert cut > 0 and metrics["policy/clip_frac"] == pytest.approx(cut / epochs / tokens)
    assert int(step) == 1
    sides = metrics["policy/clip_low_frac"] + metrics["policy/clip_high_frac"]
    assert sides == pytest.approx(metrics["policy/clip_frac"])


@pytest.mark.slow
def test_mini_batches_are_the_same_on_a_mesh():
    one, many = updates(2, 2)[1], updates(2, 2, (2, 1, 1))[1]
    for name, x in one.items():
        np.testing.assert_allclose(many[name], x, rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_was_cut_off_may_teach_nothing():
    """As if it had not been written, but that it counts in its group's baseline."""
    written, params = answered(), draw(SMALL, 0)
    cut_B = np.arange(Q * G) % 3 == 0
    given = written.replace(truncated_B=cut_B)
    rewards = even_share_B()
    state = step.init_state(jax.random.key(0), params, RECORD)
    nobody = Frozen({}, {})

    def jitted(**changes):
        cfg = dataclasses.replace(STAGE, loss=LossConfig(), **changes)
        return jax.jit(functools.partial(update_on, setup=setup_of(cfg, SMALL, RECORD)))

    def grads(update, rows, reward_B):
        new, metrics = changed(update(state, nobody, rows, reward_B))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
        return new.opt_state

    leave_out, plain = jitted(overlong=OverlongConfig(leave_out=True)), jitted()
    shorter = given.replace(length_B=np.where(cut_B, 0, given.length_B).astype(np.int32))
    assert distance(grads(leave_out, given, rewards), grads(plain, shorter, rewards)) < 1e-6
    all_cut = given.replace(truncated_B=np.ones(Q * G, bool))
    assert optax.tree.norm(grads(leave_out, all_cut, rewards)) == 0


def test_several_rewards_are_one_or_are_normalised_apart():
    state = step.init_state(jax.random.key(0), draw(SMALL, 0), RECORD)
    nobody = Frozen({}, {})
    right_B, short_B = even_share_B(), 10 * even_share_B()[::-1].copy()

    def after(rewards, **changes):
        said = dataclasses.replace(STAGE.advantage, normalise="group", **changes)
        cfg = dataclasses.replace(
            STAGE,
            loss=LossConfig(),
            advantage=said,
            also={"short": "overlong"} if said.weights else {},
        )
        update = functools.partial(update_on, setup=setup_of(cfg, SMALL, RECORD))
        new, metrics = changed(jax.jit(update)(state, nobody, answered(), rewards))
        return new.opt_state, metrics

    both, weights = {"reward": right_B, "short": short_B}, {"reward": 1.0, "short": 0.5}
    mixed, told = after(both, weights=weights)
    assert distance(mixed, after(right_B + 0.5 * short_B)[0]) < 1e-6
    apart, _ = after(both, weights=weights, mix="after")
    assert distance(mixed, apart) > 1e-2, "in `mixed` nearly all is of the larger one's spread"
    assert told["reward/short"] == pytest.approx(short_B.mean(), rel=1e-6)
    assert told["reward/mean"] == pytest.approx(right_B.mean(), rel=1e-6)


def test_the_kl_coefficient_follows_its_target():
    stage = dataclasses.replace(
        STAGE,
        loss=LossConfig(kl_coef=0.1, kl_in="loss", kl_target=1e-3, kl_horizon=100.0),
        overlong=OverlongConfig(leave_out=True),
    )
    params = draw(SMALL, 0)
    state = step.init_state(jax.random.key(0), params, TX).replace(kl_coef=jnp.float32(0.1))
    frozen = Frozen(draw(SMALL, 2), {})
    update = jax.jit(functools.partial(update_on, setup=setup_of(stage, SMALL)))
    whole = answered().replace(truncated_B=np.zeros(Q * G, bool))
    after, metrics = changed(update(state, frozen, whole, even_share_B()))
    assert metrics["policy/kl_coef"] == np.float32(0.1)
    wanted = loss.adapt_kl(0.1, metrics["policy/kl"], Q * G, stage.loss)
    assert float(after.kl_coef) == pytest.approx(float(wanted))
    assert abs(float(after.kl_coef) - 0.1) > 1e-3
    nobody = whole.replace(truncated_B=np.ones(Q * G, bool))  # a KL of nothing is not a small one
    after, _ = changed(update(state, frozen, nobody, even_share_B()))
    assert float(after.kl_coef) == np.float32(0.1)


# ---- learning ------------------------------------------------------------------------------


def test_the_fused_step_learns_what_the_verifier_likes(runs, tiny):
    fused = runs((1, 1, 1))
    ws, state, frozen = start((1, 1, 1), tiny)
    rewards = []
    with jax.set_mesh(ws.mesh):
        for _ in range(40):
            result = fused.step(state, frozen, ws.place(ask()))
            state = result.state
            rewards.append(float(np.mean(result.reward_B)))
    assert np.mean(rewards[:2]) < 0.7 and np.mean(rewards[-5:]) > 0.95


def test_the_split_step_learns_what_the_host_likes(parts):
    ws, state, frozen, write, _, update = parts
    liked = []
    with jax.set_mesh(ws.mesh):
        for _ in range(60):
            written, *_ = write(state, ask())
            reward_B = (np.asarray(written.response_BR[:, 0]) % 3 == 0).astype(np.float32)
            liked.append(reward_B.mean())
            state, _ = changed(update(state, frozen, written, reward_B))
    assert np.mean(liked[:3]) < 0.6 and np.mean(liked[-3:]) > 0.85


# ---- supervised ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teach():
    """supervised_step on one device, jitted; and a state for it."""
    ws, state, _ = start((1, 1, 1), SMALL)
    step = functools.partial(supervised.supervised_step, model_cfg=SMALL, tx=TX)
    return ws, state, jax.jit(step)


def lesson():
    """One response to each prompt, by a rule: the next id each time."""
    asked, length_B = ask(), np.random.default_rng(1).integers(1, R + 1, Q).astype(np.int32)
    first_Q1 = asked.prompt_QP[:, -1:]
    return Rollout(
        prompt_QP=asked.prompt_QP,
        prompt_mask_QP=asked.prompt_mask_QP,
        response_BR=(first_Q1 + 1 + np.arange(R, dtype=np.int32)) % 48,
        length_B=length_B,
        truncated_B=np.zeros(Q, bool),
        logprob_BR=np.zeros((Q, R), np.float32),
    )


def test_supervised_steps_lower_the_loss(teach):
    ws, state, step = teach
    compiles, losses = Compiles(), []
    with jax.set_mesh(ws.mesh):
        for _ in range(40):
            state, metrics = step(state, lesson())
            losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 40 and int(state.skipped) == 0
    assert compiles.count("supervised_step") <= 1


@pytest.mark.parametrize("masked", [False, True])
def test_the_supervised_loss_is_the_mean_over_tokens(teach, masked):
    """Against log-probs of the whole sequence, computed from the logits here."""
    ws, state, step = teach
    rows = lesson()
    mask_BR = np.arange(R) < rows.length_B[:, None]
    learned_BR = np.random.default_rng(2).random((Q, R)) < 0.5
    counted_BR = mask_BR & learned_BR if masked else mask_BR
    assert 0 < counted_BR.sum() < mask_BR.sum() + (not masked)
    token_QT = np.concatenate([rows.prompt_QP, rows.response_BR], 1)
    mask_QT = np.concatenate([rows.prompt_mask_QP, mask_BR], 1)

    @jax.jit
    def logits(params):
        hidden_QTD, _ = model.prefill(params, token_QT, mask_QT, SMALL)
        return model.logits(params, hidden_QTD, SMALL)

    with jax.set_mesh(ws.mesh):
        _, metrics = step(state, rows, None, learned_BR if masked else None)
        before_QRV = np.asarray(logits(state.params), np.float64)[:, P - 1 : -1]
    logprob_QRV = before_QRV - np.log(np.exp(before_QRV).sum(-1, keepdims=True))
    logprob_QR = np.take_along_axis(logprob_QRV, rows.response_BR[..., None], -1)[..., 0]
    expected = -logprob_QR[counted_BR].sum() / counted_BR.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_what_the_masks_hide_has_no_influence(teach):
    ws, state, step = teach
    rows = lesson()
    rng = np.random.default_rng(9)
    noise_QP, noise_BR = rng.integers(0, 48, (Q, P)), rng.integers(0, 48, (Q, R))
    hidden = rows.replace(
        prompt_QP=np.where(rows.prompt_mask_QP, rows.prompt_QP, noise_QP).astype(np.int32),
        response_BR=np.where(
            np.arange(R) < rows.length_B[:, None], rows.response_BR, noise_BR
        ).astype(np.int32),
        logprob_BR=rng.normal(size=(Q, R)).astype(np.float32),
    )
    assert (hidden.response_BR != rows.response_BR).any()
    assert (hidden.prompt_QP != rows.prompt_QP).any()
    last = rows.response_BR.copy()
    last[np.arange(Q), rows.length_B - 1] += 1  # the last token of a response does count
    with jax.set_mesh(ws.mesh):
        plain, metrics = step(state, rows)
        noisy, noisy_metrics = step(state, hidden)
        other, _ = step(state, rows.replace(response_BR=last % 48))
    assert equal((plain, metrics), (noisy, noisy_metrics))
    assert not equal(plain.params, other.params)


def test_a_supervised_step_leaves_out_what_is_not_finite(teach):
    ws, state, step = teach
    broken = state.replace(params=state.params | {"norm_D": jnp.full(8, jnp.nan)})
    with jax.set_mesh(ws.mesh):
        after, metrics = step(broken, lesson())
    assert equal((after.params, after.opt_state), (broken.params, broken.opt_state))
    assert int(metrics["policy/skipped"]) == int(after.skipped_in_row) == int(after.step) == 1
