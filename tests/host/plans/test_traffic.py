"""Costs of programs, against counts that are done by hand."""

import jax
import jax.numpy as jnp
import pytest

from rlvr_jax.host.plans import hlo, products, traffic

MESH = {"data": 1, "fsdp": 1, "tensor": 1}


def read(f, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return traffic.Traffic(hlo.parse_module(jax.jit(f).lower(*args).compile().as_text()), MESH)


def parsed(text):
    return traffic.Traffic(hlo.parse_module(text), MESH)


L, D, B = 6, 64, 16


def looped(w_LDD, x_BD):
    def body(carry):
        x_BD, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), carry[1], w_LDD)
        return carry[0] + 1, x_BD

    with jax.named_scope("passes_10"):
        return jax.lax.while_loop(lambda c: jnp.sum(c[1]) > c[0], body, (0.0, x_BD))[1]


@pytest.fixture(scope="module")
def loop():
    return read(looped, (L, D, D), (B, D))


def test_flops_of_loops_count_all_passes(loop):
    assert loop.total().flops == 10 * L * 2 * B * D * D
    (outer,) = loop.loops()
    assert outer.passes == 10 and outer.once.flops == L * 2 * B * D * D
    assert not loop.total().unknown


def test_a_layer_that_a_loop_takes_is_read_and_not_the_stack(loop):
    """A pass reads each layer of the weights once; the stack itself, six times that, is not."""
    (outer,) = loop.loops()
    weights = 4 * L * D * D
    assert weights < outer.once.bytes < L * weights  # with copies of single layers


def test_an_update_in_place_writes_what_it_changes():
    def f(cache_SD, x_D):
        def body(i, cache_SD):
            return jax.lax.dynamic_update_slice(cache_SD, x_D[None] * i, (i, 0))

        return jax.lax.fori_loop(0, 50, body, cache_SD)

    (outer,) = read(f, (1000, D), (D,)).loops()
    assert outer.passes == 50 and outer.once.bytes < 20 * 4 * D  # of a cache of 1000 * 4 * D


def test_the_dearest_branch_counts():
    def f(i, x):
        return jax.lax.switch(i.astype(int), [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x)

    assert read(f, (), (D, D)).total().flops == 2 * 2 * D**3


def test_a_loop_without_a_known_end_counts_once_and_is_named():
    def f(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 5, lambda x: x @ x, x)

    cost = read(f, (D, D)).total()
    ((line, count),) = cost.unknown.items()
    assert "test_traffic.py" in line and count == 1 and cost.flops == 2 * D**3


def test_rounds_of_a_filter_multiply_the_loops_inside():
    def f(w_LDD, x_BD):
        with jax.named_scope("rounds_3"):
            return jax.lax.while_loop(
                lambda c: jnp.sum(c[1]) > c[0],
                lambda c: (c[0] + 1, looped(w_LDD, c[1])),
                (0.0, x_BD),
            )[1]

    found = read(f, (L, D, D), (B, D))
    (inner,) = found.loops()
    assert inner.passes == 30 and found.total().flops == 30 * L * 2 * B * D * D


def test_mini_batches_multiply_the_loops_inside():
    def f(w_LDD, x_NBD):
        return jax.lax.scan(lambda c, x_BD: (c, looped(w_LDD, x_BD)), 0, x_NBD)[1]

    found = read(f, (L, D, D), (4, B, D))
    (inner,) = found.loops()
    assert inner.passes == 40 and found.total().flops == 40 * L * 2 * B * D * D


def test_a_loop_that_a_full_batch_does_not_enter_costs_nothing():
    def f(w_DD, x_BD):
        with jax.named_scope("passes_0"):
            return jax.lax.while_loop(
                lambda x: jnp.sum(x) > 0,
                lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x @ w_DD, x),
                x_BD,
            )

    found = read(f, (D, D), (B, D))
    assert found.loops() == [] and found.total().flops == 0 and not found.total().unknown


def test_largest_arrays_with_the_lines_that_make_them():
    def f(x_BD, y_DB):
        z_BB = x_BD @ y_DB
        return jnp.sum(jnp.sort(z_BB, -1))

    (big, *_) = read(f, (512, D), (D, 512)).largest(3)
    assert big.shape == "f32[512,512]" and big.bytes == 2**20 and big.times >= 1
    assert "test_traffic.py" in big.where and "(f)" in big.where


CONVOLUTION = """HloModule c

ENTRY %main (a: bf16[{lhs}], b: bf16[{rhs}]) -> f32[{out}] {{
  %a = bf16[{lhs}]{{2,1,0}} parameter(0)
  %b = bf16[{rhs}]{{2,1,0}} parameter(1)
  ROOT %c = f32[{out}]{{2,1,0}} convolution(%a, %b), {window}dim_labels={labels}
}}
"""


@pytest.mark.parametrize(
    "lhs, rhs, out, window, labels, flops",
    [
        ("128,1024", "1024,512", "128,512", "", "bf_io->bf", 2 * 128 * 1024 * 512),
        # A batch of 8 products, as a window of which one place falls on the input.
        (
            *("8,32,64", "8,16,64", "8,32,16"),
            "window={size=8 stride=7 pad=0_0 lhs_dilate=8}, ",
            *("0bf_0oi->0bf", 8 * 2 * 32 * 64 * 16),
        ),
        (
            *("8,32,64", "8,16,64", "8,32,16"),
            "window={size=8 pad=7_7 rhs_reversal=1 rhs_dilate=1 stride=1 lhs_dilate=1}, ",
            *("0bf_0oi->0bf", 36 * 2 * 32 * 64 * 16),
        ),
        ("5,3,2", "3,2,7", "3,3,7", "window={size=3}, ", "0bf_0io->0bf", 9 * 2 * 3 * 2 * 7),
        (
            *("5,3,2", "3,2,7", "5,3,7"),
            *("window={size=3 pad=1_1}, ", "0bf_0io->0bf", 13 * 2 * 3 * 2 * 7),
        ),
    ],
)
def test_products_as_convolutions(lhs, rhs, out, window, labels, flops):
    text = CONVOLUTION.format(lhs=lhs, rhs=rhs, out=out, window=window, labels=labels)
    assert parsed(text).total().flops == flops


@pytest.mark.parametrize(
    "size, kernel, low, stride, dilate, spread",
    [
        *((9, 3, 1, 1, 1, 1), (9, 4, 2, 2, 1, 1), (5, 5, 0, 4, 5, 1)),
        *((7, 3, 3, 1, 1, 2), (4, 6, 5, 3, 2, 2)),
    ],
)
def test_places_of_a_window_against_a_plain_count(size, kernel, low, stride, dilate, spread):
    out, reach = 6, (size - 1) * dilate
    at = [[o * stride + k * spread - low for k in range(kernel)] for o in range(out)]
    count = sum(0 <= p <= reach and p % dilate == 0 for row in at for p in row)
    assert products._places(size, kernel, out, low, stride, dilate, spread) == count


KERNELS = """HloModule k

ENTRY %main (a: bf16[1024,512]) -> bf16[1024,512] {
  %a = bf16[1024,512]{1,0:T(8,128)} parameter(0)
  %start = (bf16[1024,512]{1,0:T(8,128)S(1)}, bf16[1024,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %near = bf16[1024,512]{1,0:T(8,128)S(1)} copy-done(%start)
  %flash.7 = bf16[1024,512]{1,0:T(8,128)S(1)} custom-call(%near), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000","bytes_accessed":"700"}}}
  ROOT %other = bf16[1024,512]{1,0:T(8,128)} custom-call(%flash.7), custom_call_target="Sharding"
}
"""  # noqa: E501


START = """HloModule s

ENTRY %main (a: f32[8,128], b: f32[4,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[4,128]{1,0} parameter(1)
  %both = (f32[8,128]{1,0}, f32[4,128]{1,0}) all-reduce-start(%a, %b), replica_groups=[1,2]<=[2], to_apply=%add
  %done = (f32[8,128]{1,0}, f32[4,128]{1,0}) all-reduce-done(%both)
  ROOT %r = f32[8,128]{1,0} get-tuple-element(%done), index=0
}
"""  # noqa: E501


def test_an_all_reduce_of_two_arrays_writes_both():
    found = traffic.Traffic(hlo.parse_module(START), {"data": 2, "fsdp": 1, "tensor": 1})
    cost = found.total()
    assert cost.bytes == 2 * 12 * 128 * 4  # read, and written
    ((wire, times),) = cost.wires.items()
    assert wire.bytes == 12 * 128 * 4 and times == 1


def test_kernels_and_arrays_on_the_chip():
    cost = parsed(KERNELS).total()
    assert cost.kernels == {"tpu_custom_call: flash": 1} and cost.flops == 1000
    # HBM: read once into the memory of the chip, as the kernel says, and written once from there.
    assert cost.bytes == 1024 * 512 * 2 + 700 + 1024 * 512 * 2


GATHER = """HloModule g

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,128]{1,0} get-tuple-element(%p), index=1
  %sum = f32[8,128]{1,0} all-reduce(%x), replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[8,128]{1,0}) tuple(%i, %sum)
}

%condition (p.1: (s32[], f32[8,128])) -> pred[] {
  %p.1 = (s32[], f32[8,128]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t.1 = (s32[], f32[8,128]{1,0}) tuple(%zero, %x.1)
  %w = (s32[], f32[8,128]{1,0}) while(%t.1), condition=%condition, body=%body, metadata={op_name="jit(f)/passes_9/while"}
  ROOT %r = f32[8,128]{1,0} get-tuple-element(%w), index=1
}
"""  # noqa: E501


def test_collectives_in_loops_count_all_passes():
    found = traffic.Traffic(hlo.parse_module(GATHER), {"data": 2, "fsdp": 2, "tensor": 2})
    ((wire, times),) = found.total().wires.items()
    assert times == 9 and wire.kind == "all-reduce" and wire.axes == ("tensor",)
    assert wire.sent == 2 * 4096 / 2
