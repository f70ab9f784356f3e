"""Plans of stages: their programs are those of the stage, and what they say about them is true."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import parameters, prompt_filter, sharding
from rlvr_jax.config import (
    AdapterConfig,
    AdvantageConfig,
    Config,
    CritiqueConfig,
    DataConfig,
    FilterConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    PrmConfig,
    ReferenceConfig,
    RewardConfig,
    RlStage,
    SftStage,
    TokenizerStage,
    VerifierStage,
)
from rlvr_jax.host.plans.chips import parse_topology
from rlvr_jax.host.processes.team import Team
from rlvr_jax.stages import abstract, compiling, planning, programs, sizing
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Outcome

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
DATA = DataConfig(tasks=("sum",), prompt_columns=64, response_columns=32, check_columns=24)
RULE = RlStage(
    prompts=8, samples=4, policy="pretrained", reward=RewardConfig(source="rule"), steps=2
)


def config(stage, mesh=(2, 2, 1), **parts):
    shape = MeshConfig(*mesh)
    return Config(data=DATA, model=MODEL, verifier=MODEL, mesh=shape, stages=(stage,), **parts)


def mesh_of(cfg):
    size = cfg.mesh.data * cfg.mesh.fsdp * cfg.mesh.tensor
    return sharding.make_mesh(cfg.mesh, jax.devices()[:size])


def made(cfg, in_parts=True):
    mesh = mesh_of(cfg)
    with jax.set_mesh(mesh):
        return abstract.make(cfg.stages[0], cfg, mesh, in_parts=in_parts)


def shapes(tree):
    return jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype), x.sharding), tree)


# ---- no drift ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage",
    [
        RULE,
        dataclasses.replace(
            RULE,
            advantage=AdvantageConfig(normalise="none", baseline="value", process_weight=1.0),
            loss=LossConfig(value_coef=0.5, kl_coef=0.1, kl_target=0.1),
            prm=PrmConfig(reference="policy"),
            reference=ReferenceConfig(update_every=2),
        ),
    ],
    ids=["rule", "all"],
)
def test_the_state_of_a_plan_is_that_of_the_stage(stage):
    cfg = config(stage)
    ws = Workspace(SimpleNamespace(cfg=cfg, team=Team()), mesh_of(cfg))
    setup = programs.rl_setup(stage, cfg, abstract.EOS)
    with jax.set_mesh(ws.mesh):
        state = ws.new_state(
            stage.name, cfg.model, setup.tx, "fresh", start=programs.rl_start(stage, setup)
        )
    planned = made(cfg).state
    real = dataclasses.replace(state, key=None), dataclasses.replace(planned, key=None)
    assert shapes(real[0]) == shapes(real[1])


def real_arguments(cfg, stage):
    """A state, prompts, and a round of written responses, with values."""
    ws = Workspace(SimpleNamespace(cfg=cfg, team=Team()), mesh_of(cfg))
    setup = programs.rl_setup(stage, cfg, abstract.EOS)
    with jax.set_mesh(ws.mesh):
        state = ws.new_state(
            stage.name, cfg.model, setup.tx, "fresh", start=programs.rl_start(stage, setup)
        )
        ids = np.ones((stage.prompts, cfg.data.prompt_columns), np.int32)
        none = ids[:, :0]
        prompts = ws.place(abstract.Prompts(ids, ids > 0, none, none > 0))
    return ws, setup, state, prompts


def test_the_programs_of_a_plan_are_those_of_the_stage():
    """The lowered text of each program is equal, with real arrays and with abstract ones."""
    cfg = config(RULE)
    ws, setup, state, prompts = real_arguments(cfg, RULE)
    with planning.only_widest(True), jax.set_mesh(ws.mesh):  # compiled sooner
        planned = {program.name: program for program in made(cfg).programs}
        assert list(planned) == ["rollout", "update"]
        write = programs.jit_write(setup)
        number = ws.replicate(np.int32(0))
        ours = planned["rollout"].function.lower(*planned["rollout"].arguments)
        assert write.lower(state, prompts, number, {}).as_text() == ours.as_text()
        rollout, decoded, _ = write(state, prompts, number, {})
        outcome = Outcome({"reward": ws.place(np.ones(32, np.float32))})
        held = jax.jit(prompt_filter.keep_all)(rollout, decoded, None, outcome)
        frozen = Frozen({}, {}, newline_V=ws.replicate(np.zeros(cfg.model.vocab, bool)))
        update = programs.jit_update(setup, state, ws.layout)
        theirs = update.lower(state, frozen, held.round, held.outcome).as_text()
        ours = planned["update"].function.lower(*planned["update"].arguments).as_text()
    assert theirs == ours


VERIFIED = dataclasses.replace(RULE, reward=RewardConfig(), verifier="pretrained")
LORA = dataclasses.replace(MODEL, weights="a", adapter=AdapterConfig(rank=2))
CRITIQUE = CritiqueConfig(template="short", data=dataclasses.replace(DATA, prompt_columns=64))


@pytest.mark.parametrize(
    "stage, in_parts, names",
    [
        (VERIFIED, True, ["rollout", "reward", "update"]),
        (VERIFIED, False, ["step"]),
        (
            dataclasses.replace(
                RULE,
                filter=FilterConfig(low=0.2, high=0.8, rounds=3),
                advantage=AdvantageConfig(
                    normalise="none", baseline="rloo", process_weight=1, weights={}
                ),
                minibatches=1,
            ),
            False,
            ["rollout", "update"],
        ),
        (
            dataclasses.replace(VERIFIED, filter=FilterConfig(spread=True, rounds=2)),
            False,
            ["step"],
        ),
        (dataclasses.replace(RULE, advantage=AdvantageConfig(normalise="none", baseline="greedy")),
         True, ["rollout", "update"]),
        (dataclasses.replace(RULE, advantage=AdvantageConfig(normalise="none", baseline="domain")),
         True, ["rollout", "update"]),
        (dataclasses.replace(VERIFIED, advantage=AdvantageConfig("none", "domain")),
         False, ["step"]),
        (dataclasses.replace(RULE, reward=RewardConfig(source="preference")), True,
         ["rollout", "update"]),
        (dataclasses.replace(RULE, reward=RewardConfig(source="preference")), False, ["step"]),
        (dataclasses.replace(RULE, grm="pretrained", reward=RewardConfig(source="grm", votes=2)),
         True, ["rollout", "reward", "update"]),
        (SftStage(batch=8), True, ["update"]),
        (VerifierStage(batch=8), True, ["update"]),
    ],
)  # fmt: skip
def test_every_kind_of_stage_is_traced(stage, in_parts, names):
    cfg = config(stage, grm=MODEL, critique=CRITIQUE)
    planned = made(cfg, in_parts)
    assert [program.name for program in planned.programs] == names
    with jax.set_mesh(mesh_of(cfg)):
        for program in planned.programs:
            assert program.function.trace(*program.arguments).jaxpr.eqns


# ---- true --------------------------------------------------------------------------------------


def count_products(jaxpr, times=1.0) -> float:
    """FLOPs of all products in a traced program: an oracle that reads no HLO.

    A loop counts as often as its scope says, a scan as often as it is long.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, again = equation.primitive.name, times
        if name == "dot_general":
            (left, right), (batch, _) = equation.params["dimension_numbers"]
            a, b = (value.aval.shape for value in equation.invars)
            out = equation.outvars[0].aval.shape
            total += times * 2 * np.prod(out, dtype=float) * np.prod([a[i] for i in left])
            continue
        if name == "scan":
            again = times * equation.params["length"]
        elif name == "shard_map":  # its program is that of one device
            again = times * equation.params["mesh"].size
        elif name == "while":
            word = str(equation.source_info.name_stack).rpartition("/")[2]
            again = times * (int(word.split("_")[1]) if word.startswith("passes_") else 1)
        for value in equation.params.values():
            for one in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(one, "jaxpr", one)
                if hasattr(inner, "eqns"):
                    total += count_products(inner, again)
    return total


@pytest.fixture(scope="module")
def told():
    """Each program of a small stage on a mesh of 2 x 2: the plan's answer, and its jaxpr."""
    cfg = config(RULE)
    topology = parse_topology("h100:4")
    out = {}
    with jax.set_mesh(mesh_of(cfg)), planning.only_widest(True):
        planned = abstract.make(RULE, cfg, mesh_of(cfg), in_parts=True)
        for program in planned.programs:
            traced = program.function.trace(*program.arguments)
            answer = compiling.compile_program(program, planned, RULE, topology)
            out[program.name] = answer, traced.jaxpr
    return out


@pytest.mark.parametrize("name", ["rollout", "update"])
def test_flops_are_those_of_the_traced_program(told, name):
    answer, jaxpr = told[name]
    assert not answer.unknown
    assert answer.flops * 4 == pytest.approx(count_products(jaxpr.jaxpr), rel=0.1)


def test_flops_are_two_for_each_parameter_and_token(told):
    """Rollout: 2 N a token, read or written; update: 6 N a token, and prompts are read twice more.

    Attention comes on top: here it is small.
    """
    layers, head = sizing.parameter_counts(MODEL)
    prompts, responses = 8 * 64, 32 * 32
    rollout, update = told["rollout"][0].flops * 4, told["update"][0].flops * 4
    # A token that ends a response is never read, and the head is not run for prompts.
    needed = 2 * layers * (prompts + responses) + 2 * head * responses
    assert needed < rollout < 1.25 * needed
    needed = 6 * layers * responses + 6 * head * responses + (2 + 6) * layers * prompts
    assert 0.95 * needed < update < 1.35 * needed


def test_loops_have_names_and_passes(told):
    rollout, update = told["rollout"][0], told["update"][0]
    # A shard has two prompts of 64 columns, eight responses of 32; a part has 64 tokens.
    assert [(loop.name, loop.passes) for loop in rollout.loops] == [
        ("part of prompts", 2), ("column of decoding", 32),
    ]  # fmt: skip
    assert [(loop.name, loop.passes) for loop in update.loops] == [
        ("part of prompts", 2),
        ("part, forward and backward", 4),
        ("part, forward and backward", 2),
    ]
    assert {wire.axes for wire in update.wires} <= {"data", "fsdp", "data x fsdp"}
    assert sum(loop.passes * loop.time.seconds for loop in update.loops) < update.seconds


def test_quick_leaves_out_narrower_parts_only(told):
    cfg = config(RULE)
    with jax.set_mesh(mesh_of(cfg)):
        program = made(cfg).programs[0]
        whole = compiling.compile_program(program, made(cfg), RULE, parse_topology("h100:4"))
    quick = told["rollout"][0]
    assert whole.flops == pytest.approx(quick.flops) and whole.seconds > quick.seconds * 0.9
    assert whole.peak == pytest.approx(quick.peak, rel=0.1)


@pytest.mark.parametrize("topology, hop", [("h100:4", "NVLink"), ("h100:2x2", "network")])
def test_fast_links_end_at_a_node(topology, hop):
    cfg = config(RULE, (4, 1, 1))
    where = jax.sharding.NamedSharding(mesh_of(cfg), jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=where)
    compiled = jax.jit(lambda x: x.sum(0)).lower(x).compile()
    read = compiling.read_program("sum", compiled, cfg.mesh, parse_topology(topology))
    assert {wire.hop for wire in read.wires} == {hop}


def test_parts_are_the_bytes_of_real_arrays():
    cfg = config(dataclasses.replace(RULE, loss=LossConfig(kl_coef=0.1)), (1, 2, 2))
    stage = cfg.stages[0]
    ws, _, state, _ = real_arguments(cfg, stage)
    device = ws.mesh.devices.flat[0]

    def held(tree):
        leaves = [
            x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        ]
        return sum(
            s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == device
        )

    parts = abstract.resident(made(cfg))
    assert parts["policy"] == parts["reference"] == held(state.params)
    assert parts["moments"] == held(state.opt_state)
    assert set(parts) == {"policy", "moments", "reference", "tables"}


MEASURE = """
import json, re, sys, functools
import jax, jax.numpy as jnp, numpy as np
from rlvr_jax import sharding
from rlvr_jax.config import Config, DataConfig, MeshConfig, ModelConfig, RewardConfig, RlStage
from rlvr_jax.host.plans.chips import parse_topology
from rlvr_jax.host.processes.team import Team
from rlvr_jax.stages import abstract, compiling, planning
from rlvr_jax.structs import Prompts

name = sys.argv[1]
model = ModelConfig(layers=3, width=256, heads=4, kv_heads=4, head_size=64, feedforward=768,
                    vocab=4096, part_tokens=4096, remat=False)
data = DataConfig(tasks=("sum",), prompt_columns=64, response_columns=256)
stage = RlStage(prompts=8, samples=8, policy="pretrained", reward=RewardConfig(source="rule"))
cfg = Config(data=data, model=model, mesh=MeshConfig(1, 2, 1), stages=(stage,))
mesh = sharding.claim_mesh(cfg.mesh)

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1))

with jax.set_mesh(mesh), planning.only_widest(True):
    made = abstract.make(stage, cfg, mesh, in_parts=True)
    (program,) = [p for p in made.programs if p.name == name]
    told = compiling.compile_program(program, made, stage, parse_topology("h100:2"))
    compiled = program.function.lower(*program.arguments).compile()

    def value(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(0), x.sharding)
        if x.shape == (64,) and x.dtype == jnp.int32:  # lengths: all responses are full
            return jax.device_put(np.full(x.shape, 256, np.int32), x.sharding)
        fill = np.random.default_rng(0).normal(0, 0.02, x.shape) if x.dtype == jnp.float32 else 1
        return jax.device_put(np.broadcast_to(np.asarray(fill, x.dtype), x.shape), x.sharding)

    given = jax.block_until_ready(jax.tree.map(value, program.arguments))
    used = compiled.memory_analysis()
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    out = jax.block_until_ready(compiled(*given))
    measured = status("VmHWM") - before
new = used.output_size_in_bytes - used.alias_size_in_bytes
print(json.dumps({"planned": 2 * (told.temporaries + new), "measured": measured}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rollout", "update"])
def test_memory_is_what_the_process_takes(name):
    """Temporaries of two CPU devices, against the growth of the process while the program runs."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["planned"] > 100e6
    assert found["planned"] == pytest.approx(found["measured"], rel=0.15)


# ---- choices and refusals ----------------------------------------------------------------------


def test_the_first_rl_stage_is_planned_or_the_one_that_is_named():
    cfg = dataclasses.replace(config(RULE), stages=(TokenizerStage(), SftStage(), RULE))
    assert planning.choose_stage(cfg) is RULE
    assert planning.choose_stage(cfg, "sft").name == "sft"


@pytest.mark.parametrize(
    "stages, name, message",
    [
        ((SftStage(),), "", "no rl stage to plan; name another with --stage: sft"),
        ((TokenizerStage(),), "", "no rl stage to plan$"),
        ((RULE,), "rule", "no stage 'rule'; its stages are rl"),
        ((TokenizerStage(), RULE), "tokenizer", "no rl, sft or verifier stage"),
    ],
)
def test_a_config_without_the_stage_is_refused(stages, name, message):
    cfg = dataclasses.replace(config(RULE), stages=stages)
    with pytest.raises(planning.PlanError, match=message):
        planning.choose_stage(cfg, name)


@pytest.mark.parametrize(
    "mesh, topology, message",
    [
        ((1, 1, 4), "h100:4", "model: dimension K = 2 .* not a multiple of mesh.tensor = 4"),
        ((16, 1, 1), "h100:16", "rl.prompts is 8, not a multiple of mesh.data x mesh.fsdp = 16"),
        ((2, 2, 1), "h100:2", "mesh 2 x 2 x 1 .* is not one of the 2 devices of h100:2"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh, topology, message):
    cfg = config(RULE, mesh)
    with pytest.raises(ValueError, match=message):
        planning.plan(cfg, RULE, parse_topology(topology), models={}, price=1.0, quick=True)


def test_a_program_that_the_compiler_refuses_is_an_answer(monkeypatch):
    cfg = config(RULE)
    planned = made(cfg)

    def refuse(*args, **options):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (39.11G) exceeds available HBM (15.75G)."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with jax.set_mesh(mesh_of(cfg)):
        answer = compiling.compile_program(
            planned.programs[0], planned, RULE, parse_topology("v5e:2x2")
        )
    parts = abstract.resident(planned)
    beside = parts["moments"] + parts["tables"]
    assert answer.elsewhere == beside and answer.peak == pytest.approx(39.11 * 2**30 + beside)
    assert answer.refused.startswith("RESOURCE_EXHAUSTED") and answer.parts == parts


def test_gpus_are_estimated_without_kernels(monkeypatch):
    """A config with kernels for GPUs is planned too: CPUs compile plain operations."""
    seen = []
    monkeypatch.setattr(compiling, "compile_program", lambda p, made, *_: seen.append(made.cfg))
    model = dataclasses.replace(MODEL, kernels="pallas")
    cfg = dataclasses.replace(config(RULE, (2, 1, 1)), model=model)
    with pytest.raises(AttributeError):  # there is no answer to sum up
        planning.plan(cfg, RULE, parse_topology("h100:2"), models={}, price=1.0, quick=True)
    assert {one.model.kernels for one in seen} == {"xla"}


def test_hints_are_for_the_config_that_was_given_and_would_be_taken():
    model = dataclasses.replace(MODEL, kernels="xla", remat=True)
    cfg = dataclasses.replace(config(RULE, (2, 2, 1)), model=model)
    hints = planning._hints(RULE, cfg, parse_topology("v5e:2x2"))
    assert {"model.kernels=pallas", "model.decode_tensor=2"} <= set(hints)
    assert "model.kernels=pallas" not in planning._hints(RULE, cfg, parse_topology("h100:4"))
    odd = dataclasses.replace(model, heads=3, kv_heads=3)  # two devices cannot share them
    cfg = dataclasses.replace(cfg, model=odd)
    hints = planning._hints(RULE, cfg, parse_topology("v5e:2x2"))
    assert not any("decode_tensor" in hint for hint in hints)
    wide = dataclasses.replace(config(RULE, (6, 1, 1)), model=model)  # of a width of 64
    hints = planning._hints(RULE, wide, parse_topology("v5p:2x3"))
    assert not any("mesh.fsdp=6" in hint for hint in hints)
    cfg = config(RULE, (4, 1, 1))
    assert "mesh.fsdp=4 mesh.data=1" in planning._hints(RULE, cfg, parse_topology("v5e:2x2"))


@pytest.mark.parametrize(
    "own, source, shared",
    [
        (LORA, "pretrained", True),
        (dataclasses.replace(LORA, adapter=AdapterConfig()), "pretrained", True),
        (dataclasses.replace(LORA, weights="b"), "pretrained", False),
        (dataclasses.replace(LORA, frozen_dtype="bfloat16"), "pretrained", False),
        (LORA, "verifier", False),  # learned from the model that another stage left whole
        (dataclasses.replace(LORA, adapter=AdapterConfig()), "adapted", False),  # merged
        (LORA, "adapted", True),
        (LORA, "nobody", False),
    ],
)
def test_a_verifier_lies_on_the_base_of_the_policy_if_both_begin_there(own, source, shared):
    whole = SftStage(name="whole", init="fresh")
    other = VerifierStage(init="whole")
    adapted = SftStage(name="adapted", init="pretrained")
    stage = dataclasses.replace(VERIFIED, verifier=source)
    cfg = dataclasses.replace(
        config(stage, (2, 1, 1)),
        model=LORA,
        verifier=own,
        stages=(whole, other, adapted, stage),
    )
    if source == "verifier":
        cfg = dataclasses.replace(cfg, verifier=dataclasses.replace(own, adapter=AdapterConfig()))
    assert ("verifier" in abstract.held(stage, cfg)) != shared


def test_a_smaller_base_is_counted():
    """int8: a byte for each value of the layers' matrices, and 4 for each of their outputs."""
    stage = dataclasses.replace(RULE, policy="pretrained")

    def base(dtype):
        model = dataclasses.replace(LORA, frozen_dtype=dtype)
        cfg = dataclasses.replace(config(stage, (1, 1, 1)), model=model)
        return abstract.held(stage, cfg)["base"]

    layers, width, heads, head, inner = 2, 64, 4 + 2 * 2, 16, 192
    values = layers * width * (heads * head + 4 * head + 3 * inner)
    outputs = layers * (heads * head + width + 2 * inner + width)
    assert base("int8") == base("bfloat16") - 2 * values + values + 4 * outputs


def test_a_mixture_reads_more_experts_the_more_tokens_there_are():
    sizes = dict(family="qwen3_moe", experts=8, experts_used=2)
    mixture = dataclasses.replace(MODEL, **sizes)
    one, four, many = (sizing.parameter_counts(mixture, rows)[0] for rows in (1, 2, 100))
    every = sum(x.size for n, x in parameters.abstract(mixture).items() if parameters.is_stacked(n))
    experts = 3 * 8 * MODEL.layers * MODEL.width * MODEL.feedforward
    assert many == every and one == every - experts * 6 / 8 and four == every - experts * 4 / 8


def test_arrays_of_a_traced_program():
    def f(x):
        y = jnp.einsum("ab,cb->abc", x, x)
        return jax.lax.scan(lambda c, i: (c + jnp.sum(y * i), None), 0.0, jnp.arange(3.0))[0]

    traced = jax.jit(f).trace(jax.ShapeDtypeStruct((128, 128), jnp.float32))
    big = compiling.traced_arrays(traced.jaxpr.jaxpr, 2)[0]
    assert big.shape == "float32[128,128,128]" and big.bytes == 128**3 * 4 / 2 and big.times >= 2


def test_topologies_without_libtpu(monkeypatch):
    """Where libtpu is missing or knows no such slice, the reason is a sentence."""
    from jax.experimental import topologies

    def fail(text):
        def describe(**options):
            raise RuntimeError(text)

        return describe

    monkeypatch.setattr(topologies, "get_topology_desc", fail("Unable to find libtpu: not found"))
    with pytest.raises(planning.PlanError, match=r"not installed: pip install -e '.\[plan\]'"):
        planning.devices(parse_topology("v5e:2x2"))
    monkeypatch.setattr(topologies, "get_topology_desc", fail("INVALID: no topology v5e:3x5"))
    with pytest.raises(planning.PlanError, match="libtpu does not know v5e:3x5: INVALID"):
        planning.devices(parse_topology("v5e:3x5"))
