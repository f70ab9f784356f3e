"""The optimizer against AdamW written out, and the schedule against numbers by hand."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from rlvr_jax import optim, parameters
from rlvr_jax.config import OptimConfig

# No strict_dtypes: optax itself mixes dtypes.

SHAPES = {"embed_VD": (3, 2), "norm1_LD": (2, 2), "q_LDNH": (2, 2, 1, 2), "norm_D": (2,)}
MATRICES = {"embed_VD", "q_LDNH"}


def rates(cfg: OptimConfig, steps: int) -> list[float]:
    schedule = optim.learning_rate_schedule(cfg, steps)
    return [float(schedule(n)) for n in range(steps)]


def test_warm_up_moves_from_the_first_update_and_ends_at_the_peak() -> None:
    cfg = OptimConfig(lr=0.8, warmup=4)
    assert rates(cfg, 7) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8])
    assert rates(OptimConfig(lr=0.8, warmup=1), 3) == pytest.approx([0.8] * 3)
    assert rates(OptimConfig(lr=0.8), 3) == pytest.approx([0.8] * 3)


def test_decay_starts_at_the_peak_and_falls() -> None:
    for decay in ("linear", "cosine"):
        cfg = OptimConfig(lr=0.8, warmup=2, decay=decay, final=0.25)
        got = rates(cfg, 12)
        assert got[:3] == pytest.approx([0.4, 0.8, 0.8])
        assert all(a > b for a, b in zip(got[2:], got[3:], strict=False))
    for cfg in (OptimConfig(lr=0.8, decay="linear"), OptimConfig(lr=0.8, decay="cosine")):
        assert rates(cfg, 5)[0] == pytest.approx(0.8)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_last_update_has_the_final_rate(decay, warmup) -> None:
    cfg = OptimConfig(lr=0.8, warmup=warmup, decay=decay, final=0.25)
    assert rates(cfg, 11)[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
def test_odd_lengths_stay_finite(decay) -> None:
    for steps, warmup in ((1, 0), (1, 1), (2, 1), (3, 5)):
        got = rates(OptimConfig(lr=0.8, warmup=warmup, decay=decay), steps)
        assert all(0 < rate <= 0.8 + 1e-6 for rate in got)


def arrays(seed: int, scale: float) -> dict:
    rng = np.random.default_rng(seed)
    return {k: (scale * rng.normal(size=s)).astype(np.float32) for k, s in SHAPES.items()}


def adamw(params, grads, cfg: OptimConfig, steps: int):
    """Loshchilov & Hutter's algorithm 2 in float64, after clipping by the global norm."""
    p = {k: np.float64(x) for k, x in params.items()}
    m = {k: np.zeros(x.shape) for k, x in p.items()}
    v = {k: np.zeros(x.shape) for k, x in p.items()}
    for n, grad in enumerate(grads):
        norm = sum((np.float64(g) ** 2).sum() for g in grad.values()) ** 0.5
        lr = cfg.lr * min((n + 1) / cfg.warmup, 1)
        for k in p:
            g = np.float64(grad[k]) * min(1.0, cfg.grad_clip / norm)
            m[k] = cfg.beta1 * m[k] + (1 - cfg.beta1) * g
            v[k] = cfg.beta2 * v[k] + (1 - cfg.beta2) * g * g
            m_hat = m[k] / (1 - cfg.beta1 ** (n + 1))
            v_hat = v[k] / (1 - cfg.beta2 ** (n + 1))
            decay = cfg.weight_decay * p[k] if k in MATRICES else 0.0
            p[k] = p[k] - lr * (m_hat / (np.sqrt(v_hat) + cfg.eps) + decay)
    return p


def walk(params, grads, cfg: OptimConfig) -> dict:
    tx = optim.make_optimizer(cfg, len(grads))
    state = tx.init(params)

    @jax.jit
    def step(params, state, grad):
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    for grad in grads:
        params, state = step(params, state, grad)
    return params


def test_updates_are_adamw() -> None:
    """Some gradients are longer than the clip, some shorter; eps large enough to be seen."""
    cfg = OptimConfig(
        lr=0.1, warmup=3, beta1=0.8, beta2=0.9, eps=0.05, weight_decay=0.3, grad_clip=1.0
    )
    params = arrays(0, 1.0)
    grads = [arrays(1 + n, scale) for n, scale in enumerate((3.0, 0.05, 0.5, 0.01))]
    got, want = walk(params, grads, cfg), adamw(params, grads, cfg, 4)
    for name in params:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_first_step_by_hand() -> None:
    """Gradient (3, 4), clipped to (0.6, 0.8): Adam moves by lr g / (|g| + eps)."""
    cfg = OptimConfig(lr=0.1, eps=0.2, weight_decay=0.5, grad_clip=1.0)
    params = {"norm_D": np.float32([1, 1]), "embed_VD": np.float32([[2]])}
    grads = [{"norm_D": np.float32([3, -4]), "embed_VD": np.float32([[0]])}]
    got = walk(params, grads, cfg)
    np.testing.assert_allclose(got["norm_D"], [1 - 0.1 * 0.75, 1 + 0.1 * 0.8], rtol=1e-6)
    np.testing.assert_allclose(got["embed_VD"], [[2 - 0.1 * 0.5 * 2]], rtol=1e-6)


def test_weight_decay_is_for_matrices(tiny) -> None:
    """With a gradient of 0 everywhere, only decayed parameters move."""
    params = {
        name: np.ones(x.shape, np.float32)
        for name, x in parameters.abstract(dataclasses.replace(tiny, tied=False)).items()
    }
    params |= {"value_D": np.ones(tiny.width, np.float32)}  # a head that is no matrix
    zero = {name: np.zeros_like(x) for name, x in params.items()}
    got = walk(params, [zero], OptimConfig(lr=0.1, weight_decay=0.5))
    moved = {name for name, x in got.items() if np.any(np.asarray(x) != 1)}
    assert {name for name in params if "norm" not in name and name != "value_D"} == moved
    for name in moved:
        np.testing.assert_allclose(got[name], 0.95, rtol=1e-6)
