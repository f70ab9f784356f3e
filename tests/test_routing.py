"""The load-balancing loss: transformers' numbers, a plain oracle, any micro-batches and mesh."""

import dataclasses
import functools
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from make_round import update_on
from rlvr_jax import likelihood, model, parameters, prm, routing, sharding, step, supervised
from rlvr_jax.config import (
    LossConfig,
    MeshConfig,
    ModelConfig,
    PrmConfig,
    RlStage,
    SampleConfig,
)
from rlvr_jax.host import weights
from rlvr_jax.structs import Frozen, Learner, Rollout, Setup

MODELS = Path(__file__).parent / "golden" / "models"
PREFIX = 12  # columns of the goldens that are the prompt here
Q, G, P, R, E, K = 8, 2, 16, 16, 4, 2
B = Q * G
SIZES = dict(layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=24, vocab=32)
MIXTURE = ModelConfig(family="mixtral", experts=E, experts_used=K, part_tokens=64, **SIZES)  # type: ignore[arg-type]
DENSE = ModelConfig(**SIZES)  # type: ignore[arg-type]
COEF = 0.7
NOTHING = optax.identity()


# -- the formula ----------------------------------------------------------------------------------


def plain_loss(logits_LTE: np.ndarray) -> float:
    """Switch Transformers' equations 4 to 6 for one row, token by token, in float64."""
    layers, tokens, experts = logits_LTE.shape
    share, mean = np.zeros(experts), np.zeros(experts)
    for layer in range(layers):
        for t in range(tokens):
            p = np.exp(logits_LTE[layer, t]) / np.exp(logits_LTE[layer, t]).sum()
            for e in sorted(range(experts), key=lambda e: -p[e])[:K]:
                share[e] += 1 / (layers * tokens)
            mean += p / (layers * tokens)
    return experts * float(share @ mean)


def sums_of(logits_LBTE, exists_BT) -> routing.Routed:
    """What the layers count, added up."""
    total = None
    for logits_BTE in logits_LBTE:
        probability_XE = jax.nn.softmax(logits_BTE.reshape(-1, E))
        layer = routing.of_layer(probability_XE, jax.lax.top_k(probability_XE, K)[1], exists_BT)
        total = layer if total is None else jax.tree.map(jnp.add, total, layer)
    return total


def random_logits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    exists_BT = rng.random((3, 7)) < 0.6
    exists_BT[:, 0] = True
    return rng.normal(0, 2, (2, 3, 7, E)), exists_BT


def test_the_loss_of_a_row_is_the_plain_one(exact) -> None:
    logits, exists = random_logits()
    got = routing.balance_losses(sums_of(logits, exists), K)
    want = [plain_loss(logits[:, b, exists[b]]) for b in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_the_gradient_flows_through_the_probabilities_alone(exact) -> None:
    """By differences: counts stay as they are under a small step, probabilities do not."""
    logits, exists = random_logits(1)

    def total(logits):
        return jnp.sum(routing.balance_losses(sums_of(logits, exists), K))

    got, step_size = np.asarray(jax.grad(total)(logits)), 1e-6
    assert np.abs(got).max() > 1e-2 and np.all(got[:, ~exists] == 0)
    for at in [(0, 0, 0, 0), (1, 2, 0, 3), (0, 1, 0, 2)]:
        more = np.zeros_like(logits)
        more[at] = step_size
        want = (float(total(logits + more)) - float(total(logits - more))) / (2 * step_size)
        assert got[at] == pytest.approx(want, abs=1e-8)


def test_even_use_costs_k_and_one_pair_of_experts_costs_all() -> None:
    """Equal probabilities cost k.  The router that always takes the same experts costs E."""
    exists = np.ones((1, 6), bool)
    same = np.zeros((1, 1, 6, E))
    even = routing.balance_losses(sums_of(same, exists), K)
    assert float(even[0]) == pytest.approx(K)
    same[..., :K] = 50
    assert float(routing.balance_losses(sums_of(same, exists), K)[0]) == pytest.approx(E)


def test_a_row_without_tokens_costs_nothing_and_counts_nothing() -> None:
    logits, exists = random_logits()
    exists[1] = False
    sums = routing.sums(sums_of(logits, exists), exists.any(1), K)
    assert float(sums[routing.ROWS]) == 2
    metrics = routing.metrics(sums)
    want = np.mean([plain_loss(logits[:, b, exists[b]]) for b in (0, 2)])
    assert float(metrics["router/balance"]) == pytest.approx(want, rel=1e-5)
    assert np.isfinite(float(metrics["router/busiest"]))
    nobody = routing.sums(sums_of(logits, exists & False), np.zeros(3, bool), K)
    assert all(float(x) == 0 for x in routing.metrics(nobody).values())
    assert routing.metrics({"policy/kl": jnp.float32(1)}) == {}


def test_the_busiest_expert() -> None:
    sums = {routing.ROWS: jnp.float32(1), routing.BALANCE: jnp.float32(2)}
    sums[routing.COUNT] = jnp.array([1.0, 5.0, 3.0, 1.0])
    assert float(routing.metrics(sums)["router/busiest"]) == pytest.approx(0.5)


# -- transformers ---------------------------------------------------------------------------------


def balance_only(params, rows: Rollout, cfg: ModelConfig):
    """The gradient of nothing but what a mixture of experts adds."""

    def objective(states):
        return 0 * jnp.sum(states.before_BRD), ({}, jnp.float32(0), ())

    return likelihood.gradient(objective, params, rows, cfg)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen3_moe_raw"])
def test_loss_and_gradient_are_those_of_transformers(name) -> None:
    """Each row is a batch of its own there; ours reads all rows, prompt and response, in parts."""
    golden = load_file(MODELS / name / "balance.safetensors")
    read = load_file(MODELS / name / "logits.safetensors")
    cfg = ModelConfig(**weights.load_architecture(MODELS / name))
    cfg = dataclasses.replace(cfg, router_aux_loss_coef=COEF, part_tokens=16)
    like = parameters.abstract(cfg)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    params = weights.load(MODELS / name, cfg, sharding.shard_tree(like, mesh, MeshConfig()))
    token, mask = read["token"], read["mask"]
    rows = Rollout(
        prompt_QP=token[:, :PREFIX],
        prompt_mask_QP=mask[:, :PREFIX],
        response_BR=token[:, PREFIX:],
        length_B=mask[:, PREFIX:].sum(1).astype(np.int32),
        truncated_B=np.zeros(len(token), bool),
        logprob_BR=np.zeros(token[:, PREFIX:].shape, np.float32),
    )
    result = jax.jit(balance_only, static_argnums=2)(params, rows, cfg)
    want = golden["loss"].mean()
    assert golden["loss"].std() > 0.01
    assert float(routing.metrics(result.sums)["router/balance"]) == pytest.approx(want, rel=1e-6)
    assert float(result.value) == pytest.approx(COEF * want, rel=1e-6)
    got = dict(result.grads) | {"down_EFD": result.grads["down_LEFD"][0]}
    for key in ("router_LDE", "down_EFD", "embed_VD"):
        largest = np.abs(golden[key]).max()
        assert largest > 1e-4
        error = np.abs(np.asarray(got[key]) - COEF * golden[key]).max()
        assert error < 2e-5 * largest, key


# -- parts and meshes -----------------------------------------------------------------------------


@pytest.fixture
def exact():
    """Float64 throughout, where the code asks for float32: what is left is no rounding."""
    x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield np.float64


def random_params(cfg: ModelConfig, dtype=np.float32):
    rng = np.random.default_rng(3)
    return {
        key: (rng.normal(0, 0.3, x.shape) + key.startswith("norm")).astype(dtype)
        for key, x in parameters.abstract(cfg).items()
    }


def batch(dtype=np.float32, columns: int = R) -> Rollout:
    """Prompts and responses of all lengths, rubbish in the holes; one response is empty."""
    rng = np.random.default_rng(7)
    asked = np.array([P, 1, 5, 16, 9, 2, 12, 7])
    length = rng.integers(1, columns + 1, B).astype(np.int32)
    length[[0, 3, 5, 9]] = columns, 1, 0, 16
    return Rollout(
        prompt_QP=rng.integers(0, 32, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - asked[:, None],
        response_BR=rng.integers(0, 32, (B, columns)).astype(np.int32),
        length_B=length,
        truncated_B=np.zeros(B, bool),
        logprob_BR=np.zeros((B, columns), dtype),
    )


def plain_balance(params, rows: Rollout, cfg: ModelConfig):
    """The mean over rows that exist; each row is read at once, with a prompt of its own."""
    mask_BR = rows.response_mask_BR
    token_BT = jnp.concatenate([jnp.repeat(rows.prompt_QP, G, 0), rows.response_BR], 1)
    mask_BT = jnp.concatenate([jnp.repeat(rows.prompt_mask_QP, G, 0), mask_BR], 1)
    _, read = model.prefill(params, token_BT, mask_BT, cfg)
    count_BE, sum_BE = read.routed
    tokens_B1 = cfg.layers * jnp.sum(mask_BT, -1, keepdims=True)
    loss_B = E * jnp.sum((count_BE / tokens_B1) * (sum_BE / tokens_B1), -1)
    return jnp.mean(loss_B, where=rows.length_B > 0)


@pytest.mark.parametrize("part_tokens, unroll, remat", [(16, False, True), (512, True, False)])
def test_parts_do_not_matter(exact, part_tokens, unroll, remat) -> None:
    cfg = dataclasses.replace(MIXTURE, router_aux_loss_coef=COEF, compute="float64")  # type: ignore[arg-type]
    params, rows = random_params(cfg, exact), batch(exact, 20)  # in 20 and 16 columns
    want, want_grads = jax.jit(jax.value_and_grad(plain_balance), static_argnums=2)(
        params, rows, cfg
    )
    cfg = dataclasses.replace(cfg, part_tokens=part_tokens, unroll=unroll, remat=remat)
    result = jax.jit(balance_only, static_argnums=2)(params, rows, cfg)
    assert float(result.value) == pytest.approx(COEF * float(want), rel=1e-12)
    for key, x in want_grads.items():
        np.testing.assert_allclose(result.grads[key], COEF * x, atol=1e-13, err_msg=key)
    assert all(np.abs(want_grads[key]).max() > 1e-5 for key in ("router_LDE", "q_LDNH", "embed_VD"))


def test_the_mesh_does_not_matter() -> None:
    cfg = dataclasses.replace(MIXTURE, router_aux_loss_coef=COEF)
    params, rows = random_params(cfg), batch()
    want = jax.jit(balance_only, static_argnums=2)(params, rows, cfg)
    mesh_cfg = MeshConfig(2, 2, 2)
    mesh = sharding.make_mesh(mesh_cfg)
    with jax.set_mesh(mesh):
        split = jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
        got = jax.jit(balance_only, static_argnums=2)(split, sharding.place_rows(rows, mesh), cfg)
    assert float(got.value) == pytest.approx(float(want.value), rel=1e-5)
    for key, x in want.grads.items():
        np.testing.assert_allclose(got.grads[key], x, atol=2e-6, err_msg=key)
    a, b = (routing.metrics(x.sums) for x in (got, want))
    assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-5) for key in b)


# -- the losses of the stages ---------------------------------------------------------------------

NAMES = {"router/balance", "router/busiest"}


def router_names(metrics) -> set[str]:
    return {name for name in metrics if "router" in name}


ADDED = dataclasses.replace(MIXTURE, router_aux_loss_coef=COEF)


def of_policy(cfg: ModelConfig, minibatches: int):
    """A jitted update of the policy, and its arguments."""
    stage = RlStage(prompts=Q, samples=G, minibatches=minibatches, loss=LossConfig())
    state = step.init_state(jax.random.key(0), random_params(cfg), optax.sgd(0.0))
    reward_B = np.random.default_rng(8).random(B).astype(np.float32)
    setup = Setup(stage, cfg, cfg, R, (), optax.sgd(0.0))
    update = jax.jit(lambda *given: update_on(*given, setup).metrics)
    return update, (state, Frozen({}, {}), batch(), reward_B)


def run(jitted, args):
    return jitted(*args)


def names_of(jitted, args) -> set[str]:
    return router_names(jax.eval_shape(jitted, *args))


def test_the_policy_update_adds_and_reports_it() -> None:
    without, added = (run(*of_policy(cfg, 1)) for cfg in (MIXTURE, ADDED))
    assert router_names(without) == router_names(added) == NAMES
    want = float(plain_balance(random_params(MIXTURE), batch(), MIXTURE))
    assert float(without["router/balance"]) == pytest.approx(want, rel=1e-5)
    assert float(added["router/balance"]) == pytest.approx(want, rel=1e-5)
    assert 1 / E < float(added["router/busiest"]) <= 1 / K
    gained = float(added["policy/loss"]) - float(without["policy/loss"])
    assert gained == pytest.approx(COEF * want, rel=1e-5)
    assert not names_of(*of_policy(DENSE, 1))


def test_the_mean_over_mini_batches_is_that_over_rows() -> None:
    """One mini-batch has 8 rows with tokens, the other 7; nothing moves between the two."""
    metrics = run(*of_policy(MIXTURE, 2))
    want = float(plain_balance(random_params(MIXTURE), batch(), MIXTURE))
    assert float(metrics["router/balance"]) == pytest.approx(want, rel=1e-5)
    assert not names_of(*of_policy(DENSE, 2))


def test_supervised_training_adds_and_reports_it() -> None:
    rows = batch()
    rows = dataclasses.replace(
        rows, response_BR=rows.response_BR[::G], length_B=rows.length_B[::G],
        truncated_B=rows.truncated_B[::G], logprob_BR=rows.logprob_BR[::G],
    )  # fmt: skip

    def train(cfg):
        state = step.init_state(jax.random.key(0), random_params(cfg), NOTHING)
        train = functools.partial(supervised.supervised_step, model_cfg=cfg, tx=NOTHING)
        return jax.jit(lambda *given: train(*given).metrics), (state, rows)

    without, added = run(*train(MIXTURE)), run(*train(ADDED))
    assert router_names(without) == router_names(added) == NAMES
    gained = float(added["loss"]) - float(without["loss"])
    assert gained == pytest.approx(COEF * float(without["router/balance"]), rel=1e-5)
    assert not names_of(*train(DENSE))


@pytest.mark.parametrize("loss", ["ce", pytest.param("dpo", marks=pytest.mark.slow)])
def test_a_prm_adds_and_reports_it(loss) -> None:
    rows = batch()
    outcome_B = (np.arange(B) % G == 0).astype(np.float32)
    labelled = prm.Labelled(rows, np.zeros((B, R), np.float32), outcome_B)

    def train(cfg):
        setup = prm.PrmSetup(PrmConfig(loss=loss), SampleConfig(), cfg, NOTHING)
        params = random_params(cfg)
        learner = Learner(params, NOTHING.init(params))
        update = jax.jit(lambda *given: prm.update(*given, setup)[2])
        return update, (learner, labelled, jnp.zeros(32, bool), jax.random.key(0))

    without, added = run(*train(MIXTURE)), run(*train(ADDED))
    assert router_names(without) == router_names(added) == {f"prm/{name}" for name in NAMES}
    gained = float(added["prm/loss"]) - float(without["prm/loss"])
    assert gained == pytest.approx(COEF * float(without["prm/router/balance"]), rel=1e-4)
    assert not names_of(*train(DENSE))


def test_training_with_it_spreads_the_tokens() -> None:
    """A router that prefers two experts learns to use the others too."""
    cfg = dataclasses.replace(MIXTURE, router_aux_loss_coef=1.0)
    params = random_params(cfg)
    rows = batch()
    tx = optax.adam(3e-3)

    @jax.jit
    def update(params, opt_state):
        result = balance_only(params, rows, cfg)
        changes, opt_state = tx.update(result.grads, opt_state)
        return optax.apply_updates(params, changes), opt_state, routing.metrics(result.sums)

    opt_state, seen = tx.init(params), []
    for _ in range(30):
        params, opt_state, metrics = update(params, opt_state)
        seen.append({name: float(x) for name, x in metrics.items()})
    assert seen[0]["router/balance"] > 1.02 * K
    assert seen[-1]["router/balance"] < seen[0]["router/balance"] - 0.02
    assert seen[-1]["router/busiest"] < seen[0]["router/busiest"]


def test_a_dense_model_is_compiled_as_before() -> None:
    """Without experts nothing is counted: no result, no operation of this module."""
    params, rows = random_params(DENSE), batch()
    with mock.patch.object(routing, "of_layer", side_effect=AssertionError):
        jaxpr = jax.make_jaxpr(balance_only, static_argnums=2)(params, rows, DENSE)
        _, prefix = model.prefill(params, rows.prompt_QP, rows.prompt_mask_QP, DENSE)
    assert "top_k" not in str(jaxpr) and prefix.routed is None


def test_decoding_counts_nothing() -> None:
    params, rows = random_params(MIXTURE), batch()
    _, prefix = model.prefill(params, rows.prompt_QP, rows.prompt_mask_QP, MIXTURE)
    assert prefix.routed is not None
    cache = model.empty_cache(prefix, Q, 4)
    layout = parameters.for_decoding(params, MIXTURE)
    start_Q = np.zeros(Q, np.int32)
    with mock.patch.object(routing, "of_layer", side_effect=AssertionError):
        model.decode(layout, rows.prompt_QP[:, 0], 0, start_Q, prefix, cache, MIXTURE)
