"""What a stage starts from: one base for all that lies on it, and checkpoints of adapters only."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import adapters, optim, parameters, sharding
from rlvr_jax.config import (
    AdapterConfig,
    Config,
    DataConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PrmConfig,
    ReferenceConfig,
    RewardConfig,
    RlStage,
    SftStage,
    VerifierStage,
)
from rlvr_jax.host import weights
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.checkpoint import Checkpoints, restore_params
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.stages import programs
from rlvr_jax.stages.check import _check_adapter, _check_frozen, _check_use, check_config
from rlvr_jax.stages.models import Models, Origin, origin

SIZES = dict(layers=2, width=16, heads=2, kv_heads=2, head_size=8, feedforward=24, vocab=300)
PLAIN = ModelConfig(**SIZES)
FORM = AdapterConfig(rank=2, alpha=4.0, targets=("q", "down"))
TX = optim.make_optimizer(OptimConfig(), 10)
SFT = SftStage(init="pretrained")
RULE = RewardConfig(source="rule")
RL = RlStage(policy="sft", reward=RULE, loss=LossConfig(kl_coef=0.1))


@pytest.fixture
def folder(tmp_path) -> Path:
    weights.save(tmp_path / "base", parameters.init(jax.random.key(0), PLAIN), PLAIN)
    return tmp_path


def config(folder: Path, *stages, form=FORM, verifier=None, **keys) -> Config:
    named = dataclasses.replace(PLAIN, weights=str(folder / "base"), **keys)
    return Config(
        name="demo",
        runs=str(folder),
        tokenizer="byte",
        data=DataConfig(tasks=("sum",)),
        model=dataclasses.replace(named, adapter=form),
        verifier=dataclasses.replace(named, adapter=form if verifier is None else verifier),
        stages=stages or (SFT, RL),
        mesh=MeshConfig(1, 2, 1),
    )


def models(cfg: Config) -> tuple[Run, Models]:
    run = Run(cfg)
    return run, Models(run, sharding.make_mesh(cfg.mesh, jax.devices()[:2]))


def leave(run: Run, found: Models, name: str, init: str, model: ModelConfig, **keys):
    """Let a stage finish whose parameters have moved; return them."""
    with jax.set_mesh(found.layout.mesh):
        state = found.new_state(jax.random.key(7), model, TX, init, **keys)
        state = state.replace(params=jax.tree.map(lambda x: x + 0.25, state.params))
        with Checkpoints(run.checkpoints(name)) as checkpoints:
            checkpoints.save(1, state, {})
        run.finish(name, {})
    return state


def test_a_state_holds_the_adapter_and_later_stages_share_the_base(folder):
    cfg = config(folder)
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        state = found.new_state(jax.random.key(0), cfg.model, TX, "pretrained")
        names = set(parameters.abstract_learned(cfg.model))
        assert names == {"qa_LDU", "qb_LUNH", "downa_LFU", "downb_LUD"}
        assert set(state.params) == set(state.opt_state[1][0].mu) == names
        assert not np.any(state.params["qb_LUNH"]) and np.any(state.params["qa_LDU"])
        left = leave(run, found, "sft", "pretrained", cfg.model)
        base = found.base("sft", cfg.model)
        for name, x in parameters.init(jax.random.key(0), PLAIN).items():
            assert np.array_equal(base[name], x)
        whole = found.load("sft", cfg.model)
        # A policy, a reference and a verifier of the same weights are one base.
        plain = dataclasses.replace(cfg.verifier, adapter=AdapterConfig())
        for other in (
            whole,
            found.load("pretrained", plain),
            found.load("pretrained", cfg.model),
            found.base("pretrained", cfg.verifier),
        ):
            assert all(other[name] is base[name] for name in base)
        apart = adapters.apart(whole, base)
        assert set(apart) == names and adapters.over(base, apart) == whole
        assert all(np.array_equal(apart[name], left.params[name]) for name in names)
        # rl goes on from the adapter of sft; its checkpoint has no base.
        start = programs.Start(value_head=True)
        state = found.new_state(jax.random.key(1), cfg.model, TX, "sft", start=start)
        assert set(state.params) == names | {"value_D"}
        assert np.array_equal(state.params["qa_LDU"], left.params["qa_LDU"])
        found.forget()
        assert found.base("sft", cfg.model)["q_LDNH"] is not base["q_LDNH"]
    run.close()


def test_without_an_adapter_nothing_is_shared_and_all_learns(folder):
    cfg = config(folder, form=AdapterConfig())
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        assert found.base("pretrained", cfg.model) == {}
        state = found.new_state(jax.random.key(0), cfg.model, TX, "pretrained")
        assert set(state.params) == set(parameters.names(PLAIN))
    run.close()
    assert not (run.folder / "bases.json").exists()


def test_a_model_without_an_adapter_starts_from_merged_weights(folder):
    cfg = config(folder, SFT, verifier=AdapterConfig())
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        leave(run, found, "sft", "pretrained", cfg.model)
        whole = found.load("sft", cfg.model)
        state = found.new_state(jax.random.key(0), cfg.verifier, TX, "sft")
        want = np.asarray(whole["q_LDNH"]) + 2 * np.einsum(
            "ldu,lunh->ldnh", whole["qa_LDU"], whole["qb_LUNH"]
        )
        np.testing.assert_allclose(state.params["q_LDNH"], want, rtol=1e-5, atol=1e-6)
        assert set(state.params) == set(parameters.names(PLAIN))
    run.close()


@pytest.mark.parametrize("form", [AdapterConfig(), FORM], ids=["whole", "adapter"])
def test_frozen_matrices_may_be_held_in_bfloat16(folder, form):
    cfg = config(folder, form=form, frozen_dtype="bfloat16")
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        whole = found.load("pretrained", cfg.model)
        kept = {name for name, x in whole.items() if x.dtype == jnp.float32}
        assert kept == {name for name in parameters.names(PLAIN) if name.startswith("norm")}
        exact = parameters.init(jax.random.key(0), PLAIN)["up_LDF"]
        assert np.array_equal(whole["up_LDF"], exact.astype(jnp.bfloat16))
        state = found.new_state(jax.random.key(0), cfg.model, TX, "pretrained")
        assert {str(x.dtype) for x in state.params.values()} == {"float32"}
    run.close()


def test_a_base_is_held_as_int8_wherever_it_comes_from(folder):
    """Pretrained, left whole by a stage, and merged: quantised once, on the mesh."""
    whole = AdapterConfig()
    cfg = config(folder, SFT, form=whole, frozen_dtype="int8")
    cfg = dataclasses.replace(cfg, verifier=dataclasses.replace(cfg.verifier, adapter=FORM))
    run, found = models(cfg)
    exact = parameters.init(jax.random.key(0), PLAIN)
    with jax.set_mesh(found.layout.mesh):
        for source, moved in (("pretrained", 0), ("sft", 0.25)):
            if moved:
                leave(run, found, "sft", "pretrained", cfg.model)
            held = found.base(source, cfg.verifier)
            want = parameters.hold({name: x + moved for name, x in exact.items()}, "int8")
            assert set(held) == set(want) == set(parameters.abstract_frozen(PLAIN, "int8"))
            for name, x in want.items():
                np.testing.assert_allclose(held[name], x, rtol=1e-6, err_msg=name)
                assert held[name].dtype == x.dtype
            where = found.layout.shardings(held)
            assert {name: x.sharding for name, x in held.items()} == where
        state = found.new_state(jax.random.key(0), cfg.verifier, TX, "pretrained")
        assert {str(x.dtype) for x in state.params.values()} == {"float32"}
    run.close()


def test_merged_weights_are_held_as_int8(folder):
    cfg = config(folder, SFT, verifier=AdapterConfig(), frozen_dtype="int8")
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        leave(run, found, "sft", "pretrained", cfg.model)
        whole = adapters.merge(found.load("sft", cfg.model), cfg.model, jnp.float32)
        held = found.load("sft", cfg.verifier)
        assert held["q_LDNH"].dtype == held["k_LDKH"].dtype == jnp.int8
        for name, x in parameters.hold(whole, "int8").items():
            np.testing.assert_allclose(held[name], x, rtol=1e-5, err_msg=name)
    run.close()


def other_weights(folder, seed):
    shutil.rmtree(folder / "base")
    weights.save(folder / "base", parameters.init(jax.random.key(seed), PLAIN), PLAIN)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_another_base_is_refused_once_there_are_results(folder, dtype):
    cfg = config(folder, frozen_dtype=dtype)
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        found.base("pretrained", cfg.model)
        other_weights(folder, 1)
        found.forget()
        found.base("pretrained", cfg.model)  # nothing has been learned yet
        leave(run, found, "sft", "pretrained", cfg.model)
        found.forget()
        found.load("sft", cfg.model)
        other_weights(folder, 2)
        found.forget()
        with pytest.raises(RunError, match="have changed since .* put them back"):
            found.load("sft", cfg.model)
        other_weights(folder, 1)
        found.load("sft", cfg.model)
        (run.folder / "bases.json").write_text("[")
        found.forget()
        with pytest.raises(RunError, match="is damaged"):
            found.load("sft", cfg.model)
    run.close()


def test_a_run_may_hold_a_base_as_int8_and_otherwise(folder):
    cfg = config(folder, frozen_dtype="int8")
    run, found = models(cfg)
    with jax.set_mesh(found.layout.mesh):
        leave(run, found, "sft", "pretrained", cfg.model)
        short = found.base("pretrained", cfg.model)
        plain = dataclasses.replace(cfg.verifier, frozen_dtype="float32")
        assert found.base("pretrained", plain)["q_LDNH"].dtype == jnp.float32
        assert found.base("pretrained", cfg.model) is short
        found.forget()
        found.base("pretrained", cfg.model)
    run.close()
    known = json.loads((run.folder / "bases.json").read_text())
    path = str(folder / "base")
    assert set(known) == {path, f"{path} as int8"} and len(set(known.values())) == 2


def test_origins_are_followed_to_the_base(folder):
    cfg = config(folder, SFT, RL, VerifierStage(init="sft"), verifier=AdapterConfig())
    path = str(folder / "base")
    assert origin(cfg, "pretrained", cfg.model) == Origin("pretrained", path, "", FORM)
    assert origin(cfg, "rl", cfg.model) == Origin("pretrained", path, "rl", FORM)
    assert origin(cfg, "verifier", cfg.verifier)[:3] == ("verifier", "", "")
    full = config(folder, SFT, VerifierStage(init="sft"), form=AdapterConfig(), verifier=FORM)
    assert origin(full, "verifier", full.verifier) == Origin("sft", "", "verifier", FORM)


PRM = dict(advantage=dataclasses.replace(RL.advantage, process_weight=1.0))


@pytest.mark.parametrize(
    "stages, keys, words",
    [
        ((SftStage(init="fresh"),), {}, "sft.init is `fresh` and model.adapter.rank is 2"),
        (
            (SFT, dataclasses.replace(RL, reference=ReferenceConfig(5, 0.5))),
            {},
            "matrices of an adapter do not mix",
        ),
        (
            (SFT, VerifierStage(verdicts="sft", init="sft")),
            {"verifier": AdapterConfig(rank=3)},
            "whose adapter has another rank, scale or targets than verifier.adapter",
        ),
    ],
)
def test_adapters_that_cannot_work_are_refused(folder, monkeypatch, stages, keys, words):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr("rlvr_jax.stages.check._check_input", lambda *_: None)
    cfg = config(folder, *stages, **keys)
    with pytest.raises(ValueError, match=words):
        check_config(cfg)


def test_an_adapter_that_nobody_uses_is_refused(folder):
    cfg = config(folder, SFT, dataclasses.replace(RL, policy="sft"))
    _check_use(cfg, "model", FORM)
    with pytest.raises(ValueError, match="verifier.adapter.rank is 2 and no stage trains"):
        _check_use(cfg, "verifier", FORM)
    given = dataclasses.replace(FORM, weights="somewhere")
    _check_use(cfg, "model", given)
    with pytest.raises(ValueError, match="nobody would read verifier.adapter.weights"):
        _check_use(cfg, "verifier", given)


def test_int8_is_for_weights_that_do_not_learn(folder):
    cfg = config(folder, SFT, form=AdapterConfig(), verifier=AdapterConfig(), frozen_dtype="int8")
    words = "model.frozen_dtype is int8 and all weights of model learn: set model.adapter.rank"
    with pytest.raises(ValueError, match=words):
        _check_frozen(cfg, "model", cfg.model)
    _check_frozen(cfg, "verifier", cfg.verifier)  # no stage trains it
    _check_frozen(cfg, "model", dataclasses.replace(cfg.model, adapter=FORM))


def test_a_prm_needs_the_base_of_the_policy(folder):
    whole = VerifierStage(verdicts="sft", init="pretrained")
    other = dataclasses.replace(RL, policy="pretrained", prm=PrmConfig(init="verifier"), **PRM)
    cfg = config(folder, SFT, whole, other, verifier=AdapterConfig())
    with pytest.raises(ValueError, match="lies on another base than the policy 'pretrained'"):
        _check_adapter(cfg, other)
    good = dataclasses.replace(other, prm=PrmConfig(init="sft"))
    _check_adapter(config(folder, SFT, good), good)


# ---- whole runs ------------------------------------------------------------------------------

RUN = """
name: demo
tokenizer: byte
data: {{tasks: [sum], sft: 16, train: 16, test: 8, prompt_columns: 64, response_columns: 24,
  check_columns: 96}}
model: {{weights: {base}, adapter: {{rank: 2, targets: [q, v, down]}}, frozen_dtype: {dtype}}}
verifier: {{weights: {base}, frozen_dtype: {dtype}}}
stages:
  - {{stage: sft, init: pretrained, steps: 4, batch: 8, optim: {{lr: 1.0e-2}}}}
  - stage: rl
    steps: 4
    prompts: 4
    samples: 2
    verifier: pretrained
    reward: {{audit: "off", min_mass: 0}}
    loss: {{kl_coef: 0.01}}
    advantage: {{process_weight: 1.0}}
    optim: {{lr: 1.0e-2}}
    save_every: 1
  - {{stage: evaluate, verifier: "", batch: 8}}
"""


def command(folder: Path) -> str:
    """Run the config to its end, and return what was printed."""
    env = os.environ | {
        "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
    }
    words = [sys.executable, "-m", "rlvr_jax.train", "--config", str(folder / "demo.yaml")]
    done = subprocess.run(
        [*words, f"runs={folder}"], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lasting(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "perf/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_run_of_adapters_resumes_to_the_same_bytes(folder, dtype):
    """Fused, with KL, PRM and a verifier on one base."""
    pytest.importorskip("reasoning_gym")
    (folder / "demo.yaml").write_text(RUN.format(base=folder / "base", dtype=dtype))
    command(folder)
    run, before = folder / "demo", lasting(folder / "demo")
    assert [line["stage"] for line in before] == ["sft"] * 4 + ["rl"] * 4
    assert before[-1]["policy/kl"] != 0 and before[-1]["policy/grad_norm"] > 0
    # Merged weights write, base and adapter apart are learned from: also of an int8 base.
    assert 0 < before[-1]["mismatch/logprob_diff_max"] < 1e-4
    newest = run / "checkpoints" / "rl" / "step_000004"
    state = kept(run)
    assert {name.rpartition(".")[2] for name in state} == {
        *("qa_LDU", "qb_LUNH", "va_LDU", "vb_LUKH", "downa_LFU", "downb_LUD")
    }
    size = sum(path.stat().st_size for path in newest.glob("**/*") if path.is_file())
    for path in (newest, run / "stages" / "rl.json", run / "eval" / "evaluate.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "stages" / "evaluate.json").unlink()
    command(folder)
    assert lasting(run) == before
    again = kept(run)
    assert [name for name, x in state.items() if x.tobytes() != again[name].tobytes()] == []
    base = sum(x.size for x in parameters.abstract(PLAIN).values()) * 4
    assert size < 3 * base  # policy, PRM and their moments would be 6 times as much


def kept(run: Path) -> dict[str, np.ndarray]:
    """What the last checkpoint of rl holds of policy and PRM."""
    cfg = settings.load(run / "config.resolved.yaml")
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
        for name, x in parameters.abstract_learned(cfg.model).items()
    }
    folder = run / "checkpoints" / "rl"
    return {
        f"{part}.{name}": np.asarray(x)
        for part in ("params", "prm.params")
        for name, x in restore_params(folder, like, part).items()
    }
