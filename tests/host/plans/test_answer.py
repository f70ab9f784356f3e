"""Answers and their text."""

import dataclasses
import json

import pytest

from rlvr_jax.host.plans import answer, table
from rlvr_jax.host.plans.answer import Answer, LoopAnswer, ProgramAnswer, WireAnswer
from rlvr_jax.host.plans.chips import parse_topology
from rlvr_jax.host.plans.roofline import Time
from rlvr_jax.host.plans.traffic import Big

BIG = Big(3e9, "f32[8,128]", 2, "model.py:7 (decode)")
WRITE = ProgramAnswer(
    "rollout",
    peak=8e9,
    arguments=1e9,
    temporaries=6e9,
    elsewhere=1e9,
    parts={"policy": 1e9, "KV cache": 5e9},
    largest=(BIG,),
    flops=4e12,
    bytes=3e11,
    sent=2e9,
    time=Time(0.02, 0.5, 0.01),
    seconds=2.0,
    runs=4,
    wires=(WireAnswer("all-gather", "fsdp", 8, "ICI", 3, 2e9, 1e9, "bf16[2]", True),),
    kernels={"tpu_custom_call: flash": 2},
    loops=(LoopAnswer("column of decoding", 100, 1e9, 3e9, 0, Time(0.0, 0.005, 0.0)),),
    unknown={"sort.py:3 (f)": 2},
    compile_seconds=12.3,
)
UPDATE = dataclasses.replace(WRITE, name="update", peak=12e9, seconds=3.0, runs=1, loops=())
WHOLE = Answer(
    config="c",
    stage="rl",
    topology=parse_topology("v5e:2x4"),
    mesh={"data": 1, "fsdp": 8, "tensor": 1},
    models={"m": "published sizes of M"},
    programs=(WRITE, UPDATE),
    tokens=40_000,
    price=1.2,
    needed_column=1.5e9,
    notes=("rules are not counted",),
)
FULL = dataclasses.replace(
    WHOLE,
    programs=(WRITE, dataclasses.replace(UPDATE, peak=20e9)),
    hints=("model.remat=true", "model.kernels=pallas", "a", "b"),
)
HBM = 15.75 * 2**30


def test_what_fits():
    assert WHOLE.fits and WHOLE.peak == 12e9
    assert (
        WHOLE.verdict == f"fits with {100 * (1 - 12e9 / HBM):.0f} % free" == "fits with 29 % free"
    )
    estimate = dataclasses.replace(WHOLE, estimate=True)
    assert estimate.verdict == "fits with 29 % free (an estimate)"


def test_time_and_cost_of_a_step():
    assert WHOLE.step_seconds == 5
    assert WHOLE.tokens_per_second == 40_000 / 5 / 8
    # A million tokens take 1e6 / 1000 chip seconds.
    assert WHOLE.dollars_per_million == pytest.approx(1000 / 3600 * 1.2)
    idle = dataclasses.replace(WHOLE, programs=())
    assert idle.tokens_per_second == idle.dollars_per_million == 0


def test_what_does_not_fit_names_the_largest_and_what_to_try():
    assert not FULL.fits
    assert FULL.verdict == (
        "does not fit: update needs 20.0 GB of 16.9; the largest are 3.00 GB f32[8,128] "
        "model.py:7 (decode); try model.remat=true, or model.kernels=pallas, or a"
    )


def test_a_refused_program_does_not_fit_whatever_its_size():
    refused = dataclasses.replace(UPDATE, refused="RESOURCE_EXHAUSTED")
    assert not dataclasses.replace(WHOLE, programs=(WRITE, refused)).fits


def test_the_text():
    text = table.render(WHOLE)
    for part in (
        "c, stage rl, on v5e:2x4 (1 data x 8 fsdp x 1 tensor)",
        "m: sizes from published sizes of M",
        "fits with 29 % free",
        "step: at least 5 s for 40,000 response tokens",
        "1,000 tokens/s/chip, $0.333 per million tokens at $1.20 a chip hour",
        "note: rules are not counted",
        "rollout: peak 8 GB of 16.9 GB, 8.91 GB free (compiled in 12 s)",
        "by part: policy 1 GB, KV cache 5 GB",
        "3 GB f32[8,128] x 2  model.py:7 (decode)",
        "time: 2 s (4 runs a step), 4 TFLOP, 300 GB HBM, 2 GB sent",
        "column of decoding: 100 x 5 ms (HBM): 1 GFLOP, 3 GB HBM",
        "a column has to read 1.5 GB: weights, and the cache in use; this is 2.00 times that",
        "all-gather over fsdp (8 devices, ICI, in loops): 3 times, 2 GB sent, largest 1 GB bf16[2]",
        "kernels: tpu_custom_call: flash (2)",
        "loops with an unknown number of passes, counted as one pass: sort.py:3 (f) (2)",
    ):
        assert part in text, part
    assert "3.09 GB too much" in table.render(FULL) and "step: " not in table.render(FULL)


@pytest.mark.parametrize(
    "price, text",
    [(0.00482, "0.00482"), (0.3333, "0.333"), (1.2, "1.20"), (1234.5, "1234.50"), (0, "0.00")],
)
def test_prices_below_a_cent_are_not_zero(price, text):
    assert table.dollars(price) == text


def test_json_holds_what_the_text_says():
    tree = json.loads(table.render_json(WHOLE))
    assert tree["fits"] is True and tree["peak"] == 12e9 and tree["topology"] == "v5e:2x4"
    assert tree["programs"][0]["largest"][0]["where"] == "model.py:7 (decode)"
    assert tree["programs"][0]["loops"][0]["time"]["bound"] == "HBM"
    assert tree["chip"]["name"] == "v5e" and tree["step_seconds"] == 5
    tree = json.loads(table.render_tried("a=1", FULL, ""))
    assert tree["override"] == "a=1" and not tree["fits"]
    for name in ("step_seconds", "tokens_per_second", "dollars_per_million"):
        assert tree[name] is None


def test_a_row_of_the_table():
    row = table.markdown_row(WHOLE)
    assert row.startswith(
        "| c | v5e:2x4 | 1 x 8 x 1 | rollout 8.0, update 12.0 | 16.9 | yes, 29 % "
    )
    assert row.count("|") == len(table.HEAD.splitlines()[0].split("|")) - 1
    assert "**no**" in table.markdown_row(FULL)


def test_a_ranking_gives_the_overrides():
    text = table.render_ranking([("mesh.fsdp=8", WHOLE, ""), ("mesh.fsdp=4", FULL, "")])
    assert text.splitlines()[0].startswith(
        "1. step 5 s, $0.333 per million tokens, peak 12 GB, 29 %"
    )
    assert text.splitlines()[1:] == [
        "   mesh.fsdp=8", "2. peak 20 GB, does not fit", "   mesh.fsdp=4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "size, text", [(0, "0 kB"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (7.77e8, "0.777 GB"),
                   (3e12, "3000 GB")]
)  # fmt: skip
def test_sizes_in_words(size, text):
    assert table.gigabytes(size) == text


@pytest.mark.parametrize(
    "seconds, text", [(2.5e-6, "2.5 us"), (0.0042, "4.2 ms"), (1.5, "1.5 s"), (4321, "4321 s")]
)
def test_times_in_words(seconds, text):
    assert table.duration(seconds) == text


# The two messages of libtpu.
SHORT = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(39.11G) exceeds available HBM (15.75G)."
)
LONG = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. \
Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.

Total hbm usage >= 20.75G:
    reserved        258.00M
    program          19.40G
    arguments         1.10G

  Largest program allocations in hbm:

  1. Size: 9.00G
     Operator: op_name="jit(update)/while/body/dot_general" source_file="/x/rlvr_jax/block.py" source_line=52
     Shape: f32[16,9,8192,2048]{3,2,1,0:T(8,128)}
     Unpadded size: 9.00G
     XLA label: fusion.1 = fusion(...)
     Allocation type: HLO temp
     ==========================

  2. Size: 9.00G
     Shape: f32[16,9,8192,2048]{3,2,1,0:T(8,128)}
     ==========================

  3. Size: 512.00M
     Operator: op_name="jit(update)/add"
     Shape: bf16[8,128]{1,0}
     ==========================
"""  # noqa: E501


def test_what_libtpu_says_where_a_program_does_not_fit():
    assert answer.parse_refusal(SHORT) == (39.11 * 2**30, [])
    needed, largest = answer.parse_refusal(LONG)
    assert needed == 20.5 * 2**30
    assert largest == [
        Big(9.0 * 2**30, "f32[16,9,8192,2048]", 2, "block.py:52"),
        Big(512.0 * 2**20, "bf16[8,128]", 1, "jit(update)/add"),
    ]
    assert answer.parse_refusal("INTERNAL: something else") is None
