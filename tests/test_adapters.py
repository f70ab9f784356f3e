"""Adapters: their names, their gradient against the dense one, and that merging changes nothing."""

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
    engine,
    judging,
    likelihood,
    model,
    optim,
    parameters,
    sharding,
    supervised,
)
from rlvr_jax import step as steps
from rlvr_jax.config import (
    FAMILIES,
    AdapterConfig,
    AdvantageConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PrmConfig,
    RlStage,
    SampleConfig,
)
from rlvr_jax.structs import Frozen, Prompts, Rollout, Setup

Q, P, R, V = 4, 5, 7, 48
ADAPTER = AdapterConfig(rank=4, alpha=6.0)
CFG = ModelConfig(
    layers=2,
    width=32,
    heads=8,
    kv_heads=4,
    head_size=4,
    feedforward=40,
    vocab=V,
    part_tokens=20,
    adapter=ADAPTER,
)
SPARSE = dataclasses.replace(CFG, family="qwen3_moe", experts=4, experts_used=2)


def drawn(cfg, seed=0):
    """A base, and an adapter that has learned something: no matrix is 0."""
    rng = np.random.default_rng(seed)

    def draw(shapes):
        return {
            name: np.float32(
                np.ones(x.shape) if name.startswith("norm") else rng.normal(0, 0.2, x.shape)
            )
            for name, x in shapes.items()
        }

    return draw(parameters.abstract(cfg)), draw(parameters.abstract_learned(cfg))


def rows(seed=1):
    rng = np.random.default_rng(seed)
    return Rollout(
        prompt_QP=rng.integers(0, V, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(2, P + 1, (Q, 1)),
        response_BR=rng.integers(0, V, (Q, R)).astype(np.int32),
        length_B=np.array([7, 3, 5, 1], np.int32),
        truncated_B=np.zeros(Q, bool),
        logprob_BR=np.zeros((Q, R), np.float32),
    )


def loss_gradient(params, cfg):
    """The gradient of a sum of log-probs, by the reader."""

    def objective(states):
        logprob_BR, _ = likelihood.token_logprobs(states, SampleConfig(), cfg)
        return -jnp.sum(logprob_BR), ({}, jnp.float32(0), ())

    def take(params):
        return likelihood.gradient(objective, params, rows(), cfg).grads

    return jax.device_get(jax.jit(take)(params))


def test_names_follow_the_matrix():
    assert adapters.pair("q_LDNH") == ("qa_LDU", "qb_LUNH")
    assert adapters.pair("out_LNHD") == ("outa_LNHU", "outb_LUD")
    assert adapters.pair("down_LEFD") == ("downa_LEFU", "downb_LEUD")
    names = parameters.names(CFG)
    assert adapters.adapted(names, CFG) == [
        "q_LDNH", "k_LDKH", "v_LDKH", "out_LNHD", "gate_LDF", "up_LDF", "down_LFD",
    ]  # fmt: skip
    few = dataclasses.replace(CFG, adapter=AdapterConfig(2, targets=("o", "v")))
    assert adapters.adapted(names, few) == ["v_LDKH", "out_LNHD"]
    assert not adapters.adapted(names, dataclasses.replace(CFG, adapter=AdapterConfig()))
    assert not any(
        adapters.is_part(name) for kind in (CFG, SPARSE) for name in parameters.names(kind)
    )


def test_an_adapter_is_split_as_its_matrix():
    """The same table: D over fsdp, heads and feed-forward over tensor, the rank whole."""
    mesh = MeshConfig(1, 2, 2)
    spec = {
        name: tuple(sharding.param_spec(name, mesh)) for name in parameters.abstract_learned(CFG)
    }
    assert spec["qa_LDU"] == (None, "fsdp") and spec["qb_LUNH"] == (None, None, "tensor")
    assert spec["downa_LFU"] == (None, "tensor") and spec["downb_LUD"] == (None, None, "fsdp")


def test_the_scale_is_that_of_the_papers():
    """alpha / rank (arXiv 2106.09685, section 4.1), alpha / sqrt(rank) (arXiv 2312.03732)."""
    assert AdapterConfig(4, 6.0).scale == 1.5 and AdapterConfig(4, 6.0, rslora=True).scale == 3.0


@pytest.mark.parametrize("cfg", [CFG, SPARSE], ids=["dense", "experts"])
def test_the_gradient_is_the_projection_of_the_dense_one(cfg):
    """With G = dL/dW of whole weights W + s A B: dL/dA = s G B^T and dL/dB = s A^T G."""
    scale = 1.5
    frozen, adapter = drawn(cfg)
    whole = dict(frozen)
    flat = {}  # name -> (A, B) as matrices in float64, one for each layer and expert
    for name in adapters.adapted(parameters.names(cfg), cfg):
        a, b = (np.float64(adapter[part]) for part in adapters.pair(name))
        stack = frozen[name].shape[: 2 if "LE" in name else 1]
        flat[name] = a.reshape(*stack, -1, 4), b.reshape(*stack, 4, -1)
        added = scale * (flat[name][0] @ flat[name][1])
        whole[name] = np.float32(frozen[name] + added.reshape(frozen[name].shape))
    dense = loss_gradient(whole, dataclasses.replace(cfg, adapter=AdapterConfig()))
    got = loss_gradient(frozen | adapter, cfg)
    assert set(got) == set(adapter)
    for name, (a, b) in flat.items():
        g = np.float64(dense[name]).reshape(*a.shape[:-1], b.shape[-1])
        first, second = adapters.pair(name)
        want = {first: scale * g @ b.swapaxes(-1, -2), second: scale * a.swapaxes(-1, -2) @ g}
        for part, x in want.items():
            top = np.abs(x).max()
            assert top > 1e-3
            np.testing.assert_allclose(got[part].reshape(x.shape), x, atol=2e-5 * max(1, top))


@pytest.mark.parametrize(
    "family, unroll",
    [
        ("qwen2", False),
        ("qwen3_moe", False),
        ("gemma2", True),
        pytest.param("qwen2", True, marks=pytest.mark.slow),
    ],
)
def test_merged_weights_give_the_same_logits(family, unroll, of_family):
    cfg = dataclasses.replace(CFG, family=family, unroll=unroll, **of_family[family])
    frozen, adapter = drawn(cfg)
    seen = rows()

    @functools.partial(jax.jit, static_argnums=1)
    def read(params, cfg):
        hidden, _ = model.prefill(params, seen.response_BR, jnp.ones((Q, R), bool), cfg)
        return model.logits(params, hidden, cfg)

    apart = read(frozen | adapter, cfg)
    merged = adapters.merge(frozen | adapter, cfg, jnp.float32)
    assert set(merged) == set(frozen)
    together = read(merged, dataclasses.replace(cfg, adapter=AdapterConfig()))
    np.testing.assert_allclose(apart, together, atol=1e-5)
    assert np.abs(np.asarray(apart) - np.asarray(read(frozen, cfg))).max() > 0.05


def test_what_the_engine_writes_is_what_the_reader_reads():
    """The engine merges, the reader does not: equal log-probs."""
    cfg = dataclasses.replace(CFG, unroll=True)
    frozen, adapter = drawn(cfg)
    seen = rows()
    empty = np.zeros((Q, 0), np.int32)
    prompts = Prompts(seen.prompt_QP, seen.prompt_mask_QP, empty, empty.astype(bool))
    sampler = engine.Sampler(jax.random.key(0), (1,), 2, R, SampleConfig())
    write = jax.jit(lambda params: engine.generate(params, prompts, sampler, cfg)[0])
    written = write(frozen | adapter)
    read = jax.jit(lambda params: likelihood.logprobs(params, written, SampleConfig(), cfg)[0])
    np.testing.assert_allclose(read(frozen | adapter), written.logprob_BR, atol=1e-5)
    # Another adapter is another policy, and one that starts is none.
    assert np.abs(np.asarray(read(frozen)) - np.asarray(written.logprob_BR)).max() > 0.1
    new = parameters.init_learned(jax.random.key(1), cfg)
    assert np.array_equal(read(frozen | new), read(frozen))


def test_a_view_for_decoding_merges_too():
    """Two devices share the merged weights of four that hold base and adapter split by width."""
    cfg = dataclasses.replace(CFG, layers=1, part_tokens=200)
    params, seen = {k: x for part in drawn(cfg) for k, x in part.items()}, rows()
    empty = np.zeros((Q, 0), np.int32)
    prompts = Prompts(seen.prompt_QP, seen.prompt_mask_QP, empty, empty.astype(bool))
    sampler = engine.Sampler(jax.random.key(0), (1,), 2, R, SampleConfig())

    def write(params, prompts, cfg):
        return engine.generate(params, prompts, sampler, cfg)[0]

    want = jax.jit(write, static_argnums=2)(params, prompts, cfg)
    mesh_cfg = MeshConfig(1, 4, 1)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
        rows_of = sharding.place_rows(prompts, mesh)
        shared = dataclasses.replace(cfg, decode_tensor=2)
        got = jax.jit(write, static_argnums=2)(placed, rows_of, shared)
    assert np.array_equal(got.response_BR, want.response_BR)
    np.testing.assert_allclose(got.logprob_BR, want.logprob_BR, atol=1e-5)


def learned(cfg, shape, count=3):
    """Adapter and moments after some supervised updates on a mesh."""
    mesh_cfg = MeshConfig(*shape)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[: int(np.prod(shape))])
    frozen, adapter = drawn(cfg)
    tx = optim.make_optimizer(OptimConfig(lr=1e-2), 10)
    with jax.set_mesh(mesh):
        place = lambda tree: jax.device_put(tree, sharding.shard_tree(tree, mesh, mesh_cfg))  # noqa: E731
        build = functools.partial(steps.init_state, tx=tx)
        like = jax.eval_shape(build, jax.random.key(0), adapter)
        to = sharding.shard_tree(like, mesh, mesh_cfg)
        state = jax.jit(build, out_shardings=to)(jax.random.key(0), place(adapter))
        update = functools.partial(supervised.supervised_step, model_cfg=cfg, tx=tx)
        base, seen = place(frozen), sharding.place_rows(rows(), mesh)
        for _ in range(count):
            state, metrics = jax.jit(update)(state, seen, base)
        return jax.device_get((state.params, state.opt_state, metrics["loss"]))


def test_only_the_adapter_learns_and_the_mesh_changes_nothing():
    params, moments, loss = learned(CFG, (1, 1, 1))
    _, adapter = drawn(CFG)
    assert set(params) == set(adapter) == set(moments[1][0].mu) == set(moments[1][0].nu)
    assert all(np.abs(params[name] - adapter[name]).max() > 1e-3 for name in adapter)
    split, _, again = learned(CFG, (1, 2, 2))
    assert loss == pytest.approx(float(again), rel=1e-5)
    apart = optax.tree.norm(jax.tree.map(np.subtract, params, split))
    assert float(apart) < 1e-4 * float(optax.tree.norm(params))


STAGE = RlStage(
    prompts=Q,
    samples=2,
    loss=LossConfig(kl_coef=0.1, kl_in="loss"),
    advantage=AdvantageConfig("group", "none", process_weight=0.5),
    prm=PrmConfig(),
    optim=OptimConfig(lr=1e-2),
)


def test_fused_and_split_steps_learn_the_same_adapters(monkeypatch):
    """Policy, reference and PRM are three adapters on one base."""
    tx = optim.make_optimizer(STAGE.optim, 10)
    cfg = dataclasses.replace(CFG, layers=1, part_tokens=200)
    setup = Setup(STAGE, cfg, cfg, R, (1,), tx, prm_tx=tx)
    base, adapter = drawn(cfg)
    state = steps.init_state(jax.random.key(0), adapter, tx)
    state = steps.with_prm(state, drawn(cfg, 5)[1], tx)
    frozen = Frozen(adapter, {}, base=base)
    seen, empty = rows(), np.zeros((Q, 0), np.int32)
    prompts = Prompts(seen.prompt_QP, seen.prompt_mask_QP, empty, empty.astype(bool))

    def verify(frozen, prompts, written, *_):
        return jnp.float32(written.response_BR[:, 0] % 2), {}

    monkeypatch.setattr(judging, "verify", verify)
    fused = jax.jit(functools.partial(steps.train_step, setup=setup))(state, frozen, prompts)
    write = jax.jit(functools.partial(steps.write_round, setup=setup))
    written, decoded, _ = write(state, prompts, jnp.int32(0), base)
    reward_B, _ = verify(None, None, written)
    update = jax.jit(functools.partial(update_on, setup=setup))
    again = update(state, frozen, written, reward_B, decoded=decoded)
    assert np.array_equal(written.response_BR, fused.rollout.response_BR)
    assert 0 < float(reward_B.mean()) < 1
    assert set(fused.state.params) == set(fused.state.prm.params) == set(adapter)
    for one, other in (
        (fused.state.params, again.state.params),
        (fused.state.prm.params, again.state.prm.params),
    ):
        for name, x in one.items():
            np.testing.assert_allclose(x, other[name], rtol=1e-3, atol=2e-5)
    assert float(fused.metrics["policy/kl"]) == 0 == float(again.metrics["policy/kl"])
    assert float(fused.metrics["policy/grad_norm"]) > 0 < float(fused.metrics["prm/grad_norm"])
    # The adapter has left the reference.
    later = update(fused.state, frozen, written, reward_B, decoded=decoded)
    assert float(later.metrics["policy/kl"]) != 0


def test_equal_policies_are_known_by_their_adapters():
    _, adapter = drawn(CFG)
    assert bool(adapters.is_equal(adapter, adapter))
    new = parameters.init_learned(jax.random.key(0), CFG)
    assert bool(adapters.is_equal(new, {})) and not bool(adapters.is_equal(adapter, {}))
    value = {"value_D": np.ones(32, np.float32)}
    assert bool(adapters.is_equal(new | value, {}))
    off = new | {"upb_LUF": new["upb_LUF"].at[1, 0, 0].set(1e-30)}
    assert not bool(adapters.is_equal(off, {})) and not bool(adapters.is_equal(off, new))


def test_a_new_adapter_has_the_variance_of_its_inputs():
    wide = dataclasses.replace(CFG, width=256, adapter=AdapterConfig(64))
    new = parameters.init_learned(jax.random.key(0), wide)
    for name, inputs in {"qa_LDU": 256, "outa_LNHU": 32, "downa_LFU": 40}.items():
        assert float(new[name].std()) == pytest.approx((3 * inputs) ** -0.5, rel=0.05)
        assert float(jnp.abs(new[name]).max()) <= inputs**-0.5
    assert all(not np.any(x) for name, x in new.items() if "b_" in name)


def test_a_digest_tells_values_places_and_names_apart():
    frozen, _ = drawn(CFG)
    digest = jax.jit(adapters.digest)
    want = np.asarray(digest(frozen))
    moved = dict(frozen) | {"q_LDNH": frozen["q_LDNH"][::-1].copy()}
    bit = dict(frozen) | {"norm_D": np.nextafter(frozen["norm_D"], np.float32(2))}
    renamed = dict(frozen) | {"k_LDKH": frozen["v_LDKH"], "v_LDKH": frozen["k_LDKH"]}
    for other in (moved, bit, renamed):
        assert np.all(np.asarray(digest(other)) != want)
    short = {name: jnp.asarray(x, jnp.bfloat16) for name, x in frozen.items()}
    long = {name: x.astype(jnp.float32) for name, x in short.items()}
    assert np.array_equal(digest(short), digest(long))
    mesh = sharding.make_mesh(MeshConfig(1, 2, 2), jax.devices()[:4])
    placed = jax.device_put(frozen, sharding.shard_tree(frozen, mesh, MeshConfig(1, 2, 2)))
    with jax.set_mesh(mesh):
        assert np.array_equal(digest(placed), want)


def test_every_family_takes_an_adapter():
    for family in FAMILIES:
        sparse = FAMILIES[family].experts
        cfg = dataclasses.replace(
            CFG, family=family, experts=4 * sparse, experts_used=2 * sparse, adapter=ADAPTER
        )
        assert len(parameters.abstract_learned(cfg)) == 14


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(rank=-1), "rank >= 0"),
        (dict(rank=1, alpha=0.0), "alpha > 0"),
        (dict(rank=1, targets=()), "targets must name"),
        (dict(rank=1, targets=("q", "q")), "each once"),
    ],
)
def test_adapters_without_meaning_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        AdapterConfig(**keys)


@pytest.mark.slow
def test_an_update_of_an_adapter_needs_half_the_memory():
    """Arguments, results and temporaries of the compiled program; the base is bfloat16."""
    size = dict(layers=4, width=512, heads=8, kv_heads=4, head_size=64, feedforward=1536, vocab=V)

    def bytes_of(**keys):
        cfg = ModelConfig(**size, compute="bfloat16", remat=True, part_tokens=64, **keys)
        tx = optim.make_optimizer(OptimConfig(), 10)
        build = functools.partial(steps.init_state, tx=tx)
        state = jax.eval_shape(build, jax.random.key(0), parameters.abstract_learned(cfg))
        base = parameters.abstract_frozen(cfg, "bfloat16") if cfg.adapter.rank else {}
        update = functools.partial(supervised.supervised_step, model_cfg=cfg, tx=tx)
        found = jax.jit(update, donate_argnums=0).lower(state, rows(), base).compile()
        m = found.memory_analysis()
        whole = m.argument_size_in_bytes + m.temp_size_in_bytes
        return whole + m.output_size_in_bytes - m.alias_size_in_bytes

    full, adapter = bytes_of(), bytes_of(adapter=AdapterConfig(rank=16))
    assert adapter < 0.5 * full
