"""The search for adversarial tokens raises the verifier's reward, and reports the same reward."""

import jax
import numpy as np

from rlvr_jax import attack, parameters, verifier
from rlvr_jax.config import ModelConfig, RewardConfig
from rlvr_jax.structs import Prompts, Rollout, Verdict

CFG = ModelConfig(
    layers=1, width=16, heads=4, kv_heads=2, head_size=4, feedforward=16, vocab=64, tied=False
)
Q, C, R, ACCEPT, REJECT = 8, 6, 4, 3, 2


def test_a_search_finds_what_a_verifier_likes():
    params = jax.jit(parameters.init, static_argnums=1)(jax.random.key(0), CFG)
    params = {k: np.asarray(x) * (1 if k.startswith("norm") else 3) for k, x in params.items()}
    rng, ids = np.random.default_rng(0), np.arange(CFG.vocab)
    check = rng.integers(8, 64, (Q, C)).astype(np.int32)
    mask = np.arange(C) >= rng.integers(0, 3, (Q, 1))
    tail = np.array([[0, 5, 6]], np.int32)
    verdict = jax.device_put(
        Verdict(tail, tail > 0, np.array([ACCEPT]), np.array([REJECT]), ids < 0, ids < 4, ids < 4)
    )
    tails = np.tile(tail, (Q, 1)), np.tile(tail > 0, (Q, 1))
    start = rng.integers(8, 64, (Q, R)).astype(np.int32)
    allowed = (ids >= 8) & (ids % 3 != 0)
    find = jax.jit(attack.search, static_argnames="cfg")

    def found(steps):
        target = attack.Target(check, mask, *tails, ACCEPT, REJECT)
        return find(params, target, start, allowed, jax.random.key(0), steps, cfg=CFG)

    before, after = found(0), found(12)
    np.testing.assert_array_equal(before.token_BR, start)
    assert np.all(after.gap_B >= before.gap_B) and np.mean(after.gap_B - before.gap_B) > 0.1
    changed = np.asarray(after.token_BR) != start
    assert changed.any() and allowed[np.asarray(after.token_BR)[changed]].all()

    # The reported gap and probability are those of the verifier for these answers.
    none = np.zeros((Q, 1), np.int32)
    rows = np.pad(after.token_BR, ((0, 0), (0, 1)), constant_values=1)
    length, cut = np.full(Q, R, np.int32), np.zeros(Q, bool)
    rollout = Rollout(none, none == 0, rows, length, cut, np.zeros(rows.shape, np.float32))
    prompts = Prompts(none, none == 0, check, mask)
    score = jax.jit(verifier.score, static_argnums=(4, 5))
    got = score(params, prompts, rollout, verdict, RewardConfig(min_mass=0.0), CFG)
    np.testing.assert_allclose(got.reward_B, jax.nn.sigmoid(after.gap_B), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.p1_B, after.p1_B, rtol=1e-4, atol=1e-6)
