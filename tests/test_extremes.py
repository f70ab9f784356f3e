"""Every estimator with every loss: never a NaN, and never a word about the order of rows.

Groups of one, rewards that agree, lie anywhere or are no numbers, rows of no tokens, log-ratios far
beyond what a float can exponentiate.  All at once: estimators and losses meet in a matrix.
"""

import functools
import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_round import credit, policy_loss
from rlvr_jax import loss, token_choice
from rlvr_jax.config import AdvantageConfig, LossConfig

Q, G, R = 2, 3, 4
B = Q * G
FAR = 1e4


def choices(cfg, name):
    words = cfg.__dataclass_fields__[name].metadata.get("words")
    return words or typing.get_args(typing.get_type_hints(cfg)[name])


def allowed(cfg, each):
    """Those of the options that the config does not refuse, by what they say."""
    for options in each:
        try:
            yield str(options), cfg(**options)
        except ValueError:
            continue


def crossed(cfg, names, **more):
    rows = itertools.product(*(choices(cfg, name) for name in names), *more.values())
    return (dict(zip([*names, *more], row, strict=True)) for row in rows)


ESTIMATORS = dict(
    allowed(
        AdvantageConfig,
        [
            *crossed(AdvantageConfig, ("normalise", "baseline")),
            *({"baseline": b, "process_weight": 1.0} for b in choices(AdvantageConfig, "baseline")),
            {"normalise": "group", "baseline": "none", "process_weight": 1.0},
            {"normalise": "none", "process_weight": 1.0, "process_scale": "batch", "discount": 0.9},
            {"normalise": "none", "baseline": "none", "credit": "token", "whiten": "tokens"},
            {"normalise": "none", "baseline": "mean", "whiten": "tokens", "ddof": 0},
            *crossed(AdvantageConfig, ("normalise", "baseline"), pass_k=(2,)),
            *({"whiten": kind} for kind in choices(AdvantageConfig, "whiten")),
        ],
    )
)
LOSSES = dict(
    allowed(
        LossConfig,
        [
            *crossed(LossConfig, ("objective", "ratio"), dual_clip=(0.0, 3.0)),
            *({"aggregate": a} for a in choices(LossConfig, "aggregate")),
            *(
                {"kl_in": "loss", "kl_coef": 0.1} | options
                for options in crossed(LossConfig, ("kl_form",), kl_corrected=(False, True))
            ),
            *crossed(LossConfig, ("correct",), objective=("clip", "gmpo")),
            *crossed(LossConfig, ("correct", "reject"), correct_normalise=(False, True)),
            *crossed(LossConfig, ("objective",), top_entropy=(0.2,)),
            {"stale_kl": 0.5, "entropy_coef": 0.1},
        ],
    )
)


def lengths():
    return {"ragged": [4, 1, 2, 3, 0, 4], "none": [0] * B, "all cut off": [R] * B, "one": [1] * B}


def rewards():
    return {
        "apart": [0.1, 0.9, 0.4, 1.0, 0.0, 0.3],
        "equal": [0.3] * B,
        "nearly": [0.3 + 1e-7 * b for b in range(B)],
        "anywhere": [-FAR, FAR, 7.0, -2.0, 3.5, FAR],
        "broken": [np.nan, np.inf, -np.inf, 0.5, np.nan, 1.0],
        "all broken": [np.nan] * B,
    }


def tokens(rng, dtype):
    """Rewards, KL and values of tokens, some of them broken: [3, B, R]."""
    x = rng.normal(0, 1, (3, B, R)).astype(dtype)
    x[:, 0, 0], x[:, 1, 0], x[:, 2, 0], x[:, 3, 0] = np.nan, np.inf, FAR, -FAR
    return x


def ratios(rng, dtype):
    """Log-probs of policy, behaviour, reference and sampler: [cases, 4, B, R]."""
    plain = -rng.exponential(1, (4, B, R))
    cases = [plain]
    for who, far in itertools.product(range(4), (FAR, -FAR)):
        cases.append(plain.copy())
        cases[-1][who] += far
        cases.append(plain.copy())
        cases[-1][who, :, ::2] += far
    return np.array(cases, dtype)


@functools.cache
def advantages(samples):
    """Of every estimator in every case: [N, B, R], with its mask."""
    rng = np.random.default_rng(5)
    cases = list(itertools.product(rewards().values(), lengths().values()))
    reward_NB = jnp.float32([reward for reward, _ in cases])
    mask_NBR = jnp.asarray([np.arange(R) < np.array(n)[:, None] for _, n in cases])
    process, kl, value = tokens(rng, np.float32)
    found = {}
    for name, cfg in ESTIMATORS.items():

        def estimate(reward_B, mask_BR, cfg=cfg):
            return credit(
                reward_B, mask_BR, samples, cfg, kl_BR=kl, kl_coef=0.1, token_reward_BR=process,
                value_BR=value, greedy_Q=reward_B[::samples],
                baseline_Q=reward_B[::samples],
            )  # fmt: skip

        found[name] = jax.vmap(estimate)(reward_NB, mask_NBR)
    return found, mask_NBR


@pytest.mark.parametrize("samples", [G, 1])
def test_every_estimate_is_finite(samples):
    assert len(ESTIMATORS) > 20
    for name, found in advantages(samples)[0].items():
        kept = jax.tree.leaves((found.advantage_BR, found.target_BR, found.process_BR))
        assert all(np.all(np.isfinite(x)) for x in kept), name


def policy_gradient(cfg):
    """Value, gradient and sums to log, of everything that both hands give."""

    def one(advantage_BR, mask_BR, logprob_4BR, entropy_BR):
        weight_B = loss.row_weights(mask_BR, cfg).astype(logprob_4BR.dtype)

        new_BR, old_BR, reference_BR, sampler_BR = logprob_4BR
        given = (new_BR, entropy_BR, old_BR, sampler_BR, reference_BR, advantage_BR, mask_BR)
        chosen = token_choice.choose(loss.Tokens(*given), jnp.full_like(new_BR, 0.5), cfg)

        def objective(logprob_BR):
            return policy_loss(
                logprob_BR, *logprob_4BR[1:3], advantage_BR, mask_BR, weight_B, cfg,
                sampler_BR=logprob_4BR[3], entropy_BR=entropy_BR, **chosen._asdict(),
            )  # fmt: skip

        return jax.value_and_grad(objective, has_aux=True)(logprob_4BR[0])

    return one


@pytest.mark.slow
def test_every_loss_of_every_estimate_is_finite():
    assert len(LOSSES) > 40
    rng = np.random.default_rng(6)
    found, mask_NBR = advantages(G)
    every = jnp.concatenate([x.advantage_BR for x in found.values()])
    mask = jnp.tile(mask_NBR, (len(found), 1, 1))
    logprobs, entropy = ratios(rng, np.float32), jnp.float32(rng.exponential(1, (B, R)))
    for name, cfg in LOSSES.items():
        one = jax.vmap(policy_gradient(cfg), (0, 0, None, None))
        got = jax.vmap(one, (None, None, 0, None))(every, mask, logprobs, entropy)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(got)), name


def test_the_order_of_prompts_and_samples_plays_no_part():
    """From rewards to the gradient: the same loss, and each token's own slope."""
    rng = np.random.default_rng(7)
    prompts = np.array([1, 0])
    order = np.concatenate([q * G + rng.permutation(G) for q in prompts])
    mask_BR = np.arange(R) < np.array(lengths()["ragged"])[:, None]
    reward_B = rng.uniform(-1, 2, B)
    rows = [rng.normal(0, 1, (B, R)) for _ in range(4)]
    logprob_4BR = rng.normal(0, 0.1, (4, B, R)) - rng.exponential(1, (B, R))

    def run(of, cfg, which, kept):
        process, kl, value, entropy = (x[which] for x in rows)
        found = credit(
            jnp.asarray(reward_B[which]), jnp.asarray(mask_BR[which]), G, of, kl_BR=kl,
            kl_coef=0.1, token_reward_BR=process, value_BR=value,
            greedy_Q=jnp.asarray(reward_B[::G][kept]),
            baseline_Q=jnp.asarray(reward_B[::G][kept]),
        )  # fmt: skip
        (value, sums), grad = policy_gradient(cfg)(
            found.advantage_BR, mask_BR[which], logprob_4BR[:, which], entropy
        )
        return value, sums, np.asarray(grad)

    # Losses of given advantages: tests/test_loss.py.  Here with those of denominators and rows.
    prime = AdvantageConfig("none", "rloo", process_weight=1.0)
    pairs = [(name, of, LossConfig()) for name, of in ESTIMATORS.items()]
    pairs += [(name, prime, LOSSES[name]) for name in LOSSES if "aggregate" in name]
    pairs.append(("gspo", prime, LossConfig(ratio="sequence", correct="sequence-mask")))
    with jax.enable_x64(True):
        for name, of, cfg in pairs:
            value, sums, grad = run(of, cfg, np.arange(B), np.arange(Q))
            again, same, moved = run(of, cfg, order, prompts)
            assert float(again) == pytest.approx(float(value), rel=1e-6), name
            assert all(float(same[key]) == pytest.approx(float(x)) for key, x in sums.items()), name
            np.testing.assert_allclose(moved, grad[order], rtol=1e-6, atol=1e-12, err_msg=name)
            assert np.any(grad != 0), name
