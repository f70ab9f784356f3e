"""The parser of HLO text, on a text in the form that libtpu prints and on a program of this jax."""

import textwrap

import jax
import jax.numpy as jnp
import pytest

from rlvr_jax.host.plans import hlo

TEXT = textwrap.dedent("""\
    HloModule jit_f, is_scheduled=true, num_partitions=4

    FileNames
    1 "/src/rlvr_jax/ragged.py"
    2 "/src/rlvr_jax/engine.py"

    FunctionNames
    1 "visit_parts"
    2 "generate"
    3 "write.<locals>.body"

    FileLocations
    1 {file_name_id=1 function_name_id=1 line=24 end_line=24 column=6 end_column=6}
    2 {file_name_id=2 function_name_id=2 line=19 end_line=19 column=11 end_column=11}
    3 {file_name_id=2 function_name_id=3 line=7 end_line=7 column=15 end_column=15}

    StackFrames
    1 {file_location_id=2 parent_frame_id=1}
    2 {file_location_id=1 parent_frame_id=2}
    3 {file_location_id=3 parent_frame_id=3}


    %fused (param_0: bf16[8,512,512], param_1: s32[]) -> bf16[1,512,512] {
      %param_0 = bf16[8,512,512]{2,1,0:T(8,128)(2,1)} parameter(0)
      %param_1 = s32[]{:T(128)} parameter(1)
      %zero = s32[]{:T(128)} constant(0)
      ROOT %slice.1 = bf16[1,512,512]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,512,512}, metadata={op_name="jit(f)/while/body/dynamic_slice" stack_frame_id=3}
    }

    %body (wide: (s32[], bf16[8,512,512], /*index=2*/f32[128,512])) -> (s32[], bf16[8,512,512], /*index=2*/f32[128,512]) {
      %wide = (s32[]{:T(128)}, bf16[8,512,512]{2,1,0:T(8,128)(2,1)}, /*index=2*/f32[128,512]{1,0:T(8,128)}) parameter(0)
      %i = s32[]{:T(128)} get-tuple-element(%wide), index=0
      %w = bf16[8,512,512]{2,1,0:T(8,128)(2,1)} get-tuple-element(%wide), index=1
      %x = f32[128,512]{1,0:T(8,128)} get-tuple-element(%wide), index=2
      %one = bf16[1,512,512]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%fused
      %kernel.3 = f32[128,512]{1,0:T(8,128)} custom-call(%x, %one), custom_call_target="tpu_custom_call", kernel_metadata={
    {"cost": "none"}
    }}, backend_config={"cost_estimate":{"flops":"4096"}}
      ROOT %out = (s32[]{:T(128)}, bf16[8,512,512]{2,1,0:T(8,128)(2,1)}, /*index=2*/f32[128,512]{1,0:T(8,128)}) tuple(%i, %w, %kernel.3)
    }

    %condition (wide.1: (s32[], bf16[8,512,512], /*index=2*/f32[128,512])) -> pred[] {
      %wide.1 = (s32[]{:T(128)}, bf16[8,512,512]{2,1,0}, /*index=2*/f32[128,512]{1,0}) parameter(0)
      %i.1 = s32[]{:T(128)} get-tuple-element(%wide.1), index=0
      %limit = s32[]{:T(128)} constant(8)
      ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
    }

    ENTRY %main (p.0: bf16[8,512,512], p.1: f32[128,512]) -> f32[128,512] {
      %p.0 = bf16[8,512,512]{2,1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="state.params[\\'w_LDF\\']"}
      %p.1 = f32[128,512]{1,0:T(8,128)} parameter(1)
      %c = s32[]{:T(128)} constant(0)
      %t = (s32[]{:T(128)}, bf16[8,512,512]{2,1,0}, /*index=2*/f32[128,512]{1,0}) tuple(%c, %p.0, %p.1)
      %loop = (s32[]{:T(128)}, bf16[8,512,512]{2,1,0}, /*index=2*/f32[128,512]{1,0}) while(%t), condition=%condition, body=%body, metadata={op_name="jit(f)/passes_5/while" stack_frame_id=2}
      ROOT %r = f32[128,512]{1,0:T(8,128)} get-tuple-element(%loop), index=2
    }
    """)  # noqa: E501


@pytest.fixture(scope="module")
def module():
    return hlo.parse_module(TEXT)


def test_computations_and_instructions(module):
    assert module.entry == "main" and set(module.computations) == {
        *("fused", "body", "condition", "main")
    }
    body = module.computations["body"].instructions
    assert [i.op for i in body.values()] == [
        *("parameter", "get-tuple-element", "get-tuple-element", "get-tuple-element"),
        *("fusion", "custom-call", "tuple"),
    ]
    assert body["one"].operands == ["w", "i"] and body["one"].called == ["fused"]
    assert body["out"].root and module.computations["body"].root is body["out"]
    assert len(body["wide"].arrays) == 3
    assert module.computations["fused"].parameter(1).name == "param_1"


def test_a_computation_of_another_unit_ends_where_its_thread_is_named():
    """So end those that a TPU gives to its sparse cores."""
    text = TEXT.replace("}\n\n%body", '}, execution_thread="sparsecore"\n\n%body')
    assert text != TEXT
    module = hlo.parse_module(text)
    assert set(module.computations) == {"fused", "body", "condition", "main"}
    assert len(module.computations["fused"].instructions) == 4


def test_metadata_of_several_lines_belongs_to_its_instruction(module):
    kernel = module.computations["body"].instructions["kernel.3"]
    assert kernel.operands == ["x", "one"] and '"flops":"4096"' in kernel.rest


def test_a_type_gives_bytes_and_where_they_lie(module):
    body = module.computations["body"].instructions
    assert body["w"].bytes == body["w"].hbm_bytes == 8 * 512 * 512 * 2
    assert body["one"].bytes == 512 * 512 * 2 and body["one"].hbm_bytes == 0  # S(1): on the chip
    assert body["wide"].bytes == 4 + 8 * 512 * 512 * 2 + 128 * 512 * 4


@pytest.mark.parametrize(
    "text, size",
    [
        *(("pred[3]", 3), ("s4[6]{0}", 3), ("u8[2,5]", 10), ("f8e4m3fn[4]", 4), ("bf16[4]", 8)),
        *(("f32[]", 4), ("s64[2]", 16), ("(f32[2]{0}, /*index=1*/u32[3])", 20), ("token[]", 0)),
    ],
)
def test_bytes_of_types(text, size):
    assert sum(array.bytes for array in hlo.parse_type(text)) == size


@pytest.mark.parametrize(
    "change, passes",
    [
        (("", ""), 5),  # the scope says it
        (("passes_5/while", "rounds_3/while"), 3),
        (("passes_5/while", "passes_5/while/body/while"), 8),  # only of the loop itself
        (("passes_5/while", "while"), 8),  # a counter against a constant
        (('passes_5/while" s', 'while" f=g s'), 8),
        (("stack_frame_id=2}", 'b=c}, backend_config={"known_trip_count":{"n":"12"}}'), 12),
    ],
)
def test_passes_of_a_loop(change, passes):
    module = hlo.parse_module(TEXT.replace(*change) if change[0] else TEXT)
    assert module.passes(module.computations["main"].instructions["loop"]) == passes


def test_a_counter_may_have_no_sign():
    """So have the loops in which XLA passes the parts of a matrix around."""
    text = TEXT.replace("passes_5/", "").replace("s32[]", "u32[]")
    module = hlo.parse_module(text)
    assert module.passes(module.computations["main"].instructions["loop"]) == 8


def test_a_loop_that_ends_by_its_data_has_no_known_number_of_passes():
    text = TEXT.replace("passes_5/", "").replace(
        "%less = pred[]{:T(512)} compare(%i.1, %limit)",
        "%more = s32[]{:T(128)} add(%i.1, %i.1)\n"
        "  ROOT %less = pred[]{:T(512)} compare(%more, %limit)",
    )
    module = hlo.parse_module(text)
    assert module.passes(module.computations["main"].instructions["loop"]) is None


@pytest.mark.parametrize("shift", [0, 1])
def test_lines_of_source_the_innermost_first(shift):
    text = TEXT
    if not shift:  # a version that numbers the frame around another one by its own number
        for number in (1, 2, 3):
            text = text.replace(f"parent_frame_id={number}}}", f"parent_frame_id={number - 1}}}")
    module = hlo.parse_module(text)
    loop = module.computations["main"].instructions["loop"]
    assert module.lines(loop) == [
        hlo.Line("/src/rlvr_jax/ragged.py", "visit_parts", 24),
        hlo.Line("/src/rlvr_jax/engine.py", "generate", 19),
    ]
    inner = module.computations["fused"].instructions["slice.1"]
    assert [line.line for line in module.lines(inner)] == [7, 24, 19]
    assert module.lines(module.computations["body"].instructions["x"]) == []


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no HLO program"):
        hlo.parse_module("HloModule nothing\n")


def test_a_program_of_this_jax():
    """Loops, scopes and lines are found in what the installed XLA prints."""

    def f(w_LDD, x_BD):
        def body(carry):
            i, x_BD = carry
            x_BD, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BD, w_LDD)
            return i + 1, x_BD

        with jax.named_scope("passes_7"):
            return jax.lax.while_loop(lambda c: jnp.sum(c[1]) > c[0], body, (0.0, x_BD))[1]

    args = jax.ShapeDtypeStruct((3, 16, 16), jnp.float32), jax.ShapeDtypeStruct((8, 16), "float32")
    module = hlo.parse_module(jax.jit(f).lower(*args).compile().as_text())
    loops = [
        (module.passes(i), module.lines(i)[0].function.rpartition(".")[2])
        for c in module.computations.values()
        for i in c.instructions.values()
        if i.op == "while"
    ]
    assert sorted(loops) == [(3, "body"), (7, "f")]
