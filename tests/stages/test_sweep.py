"""What a sweep tries, and what of it is worth compiling."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import pytest

from rlvr_jax import sharding
from rlvr_jax.config import (
    Config,
    DataConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    RewardConfig,
    RlStage,
    SftStage,
)
from rlvr_jax.host.plans import models, table
from rlvr_jax.host.plans.answer import Answer
from rlvr_jax.host.plans.chips import parse_topology
from rlvr_jax.host.runs import settings
from rlvr_jax.stages import abstract, planning, sizing, sweep

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = ModelConfig(
    layers=2,
    width=64,
    heads=4,
    kv_heads=2,
    head_size=16,
    feedforward=192,
    vocab=512,
    part_tokens=64,
)
DATA = DataConfig(tasks=("sum",), prompt_columns=64, response_columns=32)
STAGE = RlStage(
    prompts=8, samples=4, policy="pretrained", reward=RewardConfig(source="rule"), steps=2
)
CFG = Config(data=DATA, model=MODEL, stages=(STAGE,))


def asked(cfg=CFG, stage=STAGE, topology="v5e:2x4"):
    return sweep.Asked(cfg, stage, parse_topology(topology), {}, 1.2, True)


def mesh(candidate):
    return candidate.cfg.mesh.data, candidate.cfg.mesh.fsdp, candidate.cfg.mesh.tensor


@pytest.mark.parametrize("count", [1, 6, 8, 64])
def test_meshes_use_all_devices_once(count):
    found = list(sweep._meshes(count))
    assert len(set(found)) == len(found) and all(math.prod(shape) == count for shape in found)
    wanted = {
        (d, f, t)
        for d in range(1, count + 1)
        for f in range(1, count + 1)
        for t in range(1, 9)
        if d * f * t == count
    }
    assert set(found) == wanted


def test_only_what_divides_is_tried():
    found = sweep.candidates(asked())
    assert {mesh(one) for one in found} == {
        *((1, 8, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1)),
        *((1, 4, 2), (2, 2, 2), (4, 1, 2)),  # two kv heads
    }
    assert {one.cfg.model.remat for one in found} == {False, True}
    assert {one.cfg.model.part_tokens for one in found} == {32, 64}
    # Each view of the mesh for decoding that the kv heads allow.
    views = {(mesh(one), one.cfg.model.decode_tensor) for one in found}
    assert {view for shape, view in views if shape == (2, 4, 1)} == {0, 2, 4}
    assert {view for shape, view in views if shape == (8, 1, 1)} == {0}


def test_an_override_gives_its_config():
    for one in sweep.candidates(asked()):
        words = dict(word.split("=") for word in one.override.split())
        for key, value in words.items():
            part, _, name = key.partition(".")
            assert str(getattr(getattr(one.cfg, part), name)).lower() == value
        changed = {f"model.{f.name}" for f in dataclasses.fields(MODEL)
                   if getattr(one.cfg.model, f.name) != getattr(MODEL, f.name)}  # fmt: skip
        assert changed == {key for key in words if key.startswith("model.")}


def test_the_fastest_of_each_mesh_is_compiled_first_and_what_cannot_fit_last():
    def candidate(data, seconds, memory):
        cfg = dataclasses.replace(CFG, mesh=MeshConfig(data=data))
        return sweep.Candidate(cfg, f"{data} {seconds}", seconds, memory)

    found = [
        *(candidate(1, 5, 1), candidate(1, 1, 1), candidate(2, 2, 1)),
        *(candidate(3, 0.1, 9), candidate(2, 3, 1)),
    ]
    chosen = [one.override for one in sweep.prune(found, 5, hbm=4)]
    assert chosen == ["1 1", "2 2", "3 0.1", "2 3", "1 5"]
    assert len(sweep.prune(found, 2, hbm=4)) == 2


@pytest.mark.parametrize("shape", [(1, 4, 1), (2, 1, 2), (1, 2, 2)])
def test_sizes_alone_know_what_stays_in_memory(shape):
    """The estimate holds at least the arrays that a stage keeps, and a copy of its parameters."""
    stage = dataclasses.replace(STAGE, loss=LossConfig(kl_coef=0.1))
    cfg = dataclasses.replace(CFG, mesh=MeshConfig(*shape), stages=(stage,))
    devices = sharding.make_mesh(cfg.mesh, jax.devices()[:4])
    with jax.set_mesh(devices):
        parts = abstract.resident(abstract.make(stage, cfg, devices, in_parts=True))
    work, held = sizing.work_of(stage, cfg), abstract.held(stage, cfg)
    assert held == parts
    least = sweep.memory(cfg, held, work)
    assert sum(parts.values()) + parts["policy"] / 2 < least
    assert sweep.memory(cfg, held, work._replace(columns=1000)) > least


def test_an_adapter_and_short_dtypes_need_less():
    """By hand: 7.62 B parameters of base and verifier in bfloat16, on eight chips."""
    cfg = settings.load(CONFIGS / "cross_domain_lora_7b.yaml", sizes=models.Sizes())
    stage = cfg.rl_stages[0]
    held = abstract.held(stage, cfg)
    assert held["base"] == pytest.approx(7.62e9 * 2 / 8, rel=0.01)
    assert held["verifier"] == pytest.approx(7.62e9 * 2 / 8, rel=0.01)
    # What an adapter has of other dimensions than the width is whole on each chip.
    assert 40.4e6 * 12 / 8 < held["policy"] + held["moments"] < 40.4e6 * 12
    assert "reference" not in held
    least = sweep.memory(cfg, held, sizing.work_of(stage, cfg))
    assert 3.9e9 + 15.2e9 / 4 < least < 15.75 * 2**30


def test_a_candidate_that_fails_loses_no_other(monkeypatch):
    def once(cfg, stage, topology, **options):
        if cfg.mesh.tensor > 1:
            raise RuntimeError("INTERNAL:\n  no layout")
        return Answer("c", "rl", topology, {}, {}, (), 1, 1.0)

    monkeypatch.setattr(planning, "plan", once)
    tried = sweep.run(asked(), 7, lambda text: None)
    assert [one.problem for one in tried] == [""] * 4 + ["INTERNAL: no layout"] * 3
    assert not any(one.fits for one in tried[4:])
    *_, last = table.render_ranking(tried).split("\n7. ")
    assert last.startswith("not compiled: INTERNAL: no layout\n   mesh.data=")
    assert json.loads(table.render_tried(*tried[-1]))["problem"] == "INTERNAL: no layout"
    monkeypatch.setattr(planning, "plan", lambda *args, **options: 1 / 0)
    with pytest.raises(planning.PlanError, match="no candidate can be compiled: division by zero"):
        sweep.run(asked(), 7, lambda text: None)


def test_a_stage_that_does_not_sample_has_no_sweep():
    with pytest.raises(planning.PlanError, match="--sweep is for rl stages, and sft is none"):
        sweep.run(asked(stage=SftStage()), 1, print)


def test_a_slice_that_divides_nothing_is_refused():
    with pytest.raises(planning.PlanError, match="no mesh of 49 devices divides stage rl"):
        sweep.run(asked(topology="v5e:7x7"), 1, print)


def test_shared_columns_that_the_slice_cannot_share_are_refused():
    cfg = dataclasses.replace(CFG, mesh=dataclasses.replace(CFG.mesh, context=3))
    with pytest.raises(planning.PlanError, match="mesh.context 3 does not divide the 8 devices"):
        sweep.run(asked(cfg), 1, print)
