"""Advantages and losses against the numbers of TRL 1.16.0 and of verl 0.9.1.

They are made by tests/golden/make_objectives.py and make_verl.py; docs/objectives.md has a table.
What sets verl apart is asserted where it is compared, below.

All of TRL's agree, with these names: `delta` is dual_clip, `importance_sampling_level: sequence`
ratio sequence, `use_bias_correction_kl` kl_corrected, `off_policy_mask_threshold` stale_kl, RLOO's
ratio of whole responses ratio product, `normalize_then_sum` mix after.  Where the library is not
its paper, or not what is here:

- It divides by std + 1e-4 and takes std over n - 1; here the divisor is max(std, floor), and ddof
  is an option.  The numbers differ by a factor of about 1 + 1e-4 / std, allowed for below.
- Its CISPO `epsilon_high` is the cap itself and it has no floor: here clip_high + 1, clip_low 1.
- Its entropy bonus is a mean over tokens whatever the aggregation: as here with token-mean only.
- Its normalised RLOO divides by std + 1e-4 too.
- In GMPO and RLOO a row without tokens has ratio 1 and adds -A / B to the value, and nothing to the
  gradient; here it adds nothing to either.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_round import credit, policy_loss
from rlvr_jax import loss, prm, ratios, returns, token_choice
from rlvr_jax.config import AdvantageConfig, LossConfig

GOLDEN = json.loads((Path(__file__).parent / "golden/objectives.json").read_text("utf-8"))
DATA = {name: np.array(x) for name, x in GOLDEN["data"].items()}
B, R = DATA["logprob"].shape
G = 4
MASK = np.arange(R) < DATA["length"][:, None]
GROUP = {"normalise": "group", "baseline": "none", "ddof": 1}
PLAIN = {"normalise": "none"}
TWO = {"weights": {"a": 1.0, "b": 0.3}}
ADVANTAGES = {
    "grpo": GROUP,
    "dr_grpo": PLAIN | {"baseline": "mean"},
    "batch_std": {"normalise": "batch", "baseline": "mean", "ddof": 1},
    "sum_then_normalize": GROUP | TWO,
    "gdpo": GROUP | TWO | {"mix": "after"},
    "rloo": PLAIN | {"baseline": "rloo"},
    "rloo_kl": PLAIN | {"baseline": "rloo"},
    "rloo_normalised": PLAIN | {"baseline": "rloo", "whiten": "responses"},
}
ROWS = {"aggregate": "seq-mean-token-mean", "clip_high": 0.28}
KL = ROWS | {"kl_in": "loss", "kl_coef": 0.3}
LOSSES = {
    "grpo": ROWS,
    "bnpo": ROWS | {"aggregate": "token-mean"},
    "dapo": ROWS | {"aggregate": "token-mean"},
    "dr_grpo": ROWS | {"aggregate": "constant"},
    "delta": ROWS | {"dual_clip": 1.5},
    "kl": KL,
    "kl_corrected": KL | {"kl_corrected": True},
    "entropy": ROWS | {"aggregate": "token-mean", "entropy_coef": 0.2},
    "gspo": ROWS | {"ratio": "sequence", "clip_low": 0.1, "clip_high": 0.1},
    "cispo": {"objective": "cispo", "clip_low": 1.0, "clip_high": 0.28},
    "sapo": ROWS | {"objective": "sapo"},
    "gmpo": ROWS | {"objective": "gmpo", "clip_high": 0.2},
    "rloo": ROWS | {"ratio": "product"},
    "top_entropy": ROWS | {"aggregate": "token-mean", "top_entropy": 0.3},
    "off_policy_mask": ROWS | {"stale_kl": 0.05},
    "truncate": ROWS | {"correct": "truncate", "correct_high": 1.2},
    "mask": ROWS | {"correct": "mask", "correct_low": 0.8, "correct_high": 1.2},
    "sequence_truncate": ROWS | {"correct": "sequence-truncate", "correct_high": 1.2},
    "sequence_mask": ROWS | {"correct": "sequence-mask", "correct_low": 0.5, "correct_high": 1.5},
}


def test_every_number_of_the_file_is_compared():
    assert set(GOLDEN["advantages"]) == set(ADVANTAGES) and set(GOLDEN["losses"]) == set(LOSSES)
    assert GOLDEN["by"].startswith("trl 1.16.0")


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages(name):
    cfg = AdvantageConfig(**ADVANTAGES[name])
    reward = DATA["reward"]
    with jax.enable_x64(True):
        of_name = {"a": jnp.asarray(reward[:, 0]), "b": jnp.asarray(reward[:, 1])}
        found = credit(
            of_name if cfg.weights else of_name["a"],
            jnp.asarray(MASK),
            G,
            cfg,
            kl_BR=jnp.asarray(DATA["logprob"]) if name == "rloo_kl" else None,
            kl_coef=0.3,
        )
        got = np.asarray(found.advantage_BR)[:, 0]
    # their divisor is std + 1e-4; of these rewards no std that is not 0 is below 0.3
    exact = cfg.normalise == cfg.whiten == "none"
    np.testing.assert_allclose(
        got, GOLDEN["advantages"][name], rtol=1e-9 if exact else 7e-4, atol=1e-12
    )


def chosen(x, mask, cfg):
    """What is chosen among all tokens, by the numbers of the update that is tested."""
    advantage = jnp.broadcast_to(x["advantage"][:, None], mask.shape)
    names = ("logprob", "entropy", "behaviour", "sampler", "reference")
    tokens = loss.Tokens(*(x[name] for name in names), advantage, mask)
    return token_choice.choose(tokens, jnp.zeros(mask.shape), cfg)._asdict()


def value_and_grad(cfg):
    mask = jnp.asarray(MASK)
    with jax.enable_x64(True):
        x = {k: jnp.asarray(v) for k, v in DATA.items()}
        if cfg.objective.startswith("dppo"):  # whose probabilities must be below 1
            x["logprob"] = jnp.minimum(x["logprob"], -0.01)
        weight = loss.row_weights(mask, cfg).astype(jnp.float64)
        choice = chosen(x, mask, cfg)

        def objective(logprob):
            return policy_loss(
                logprob,
                x["behaviour"],
                x["reference"],
                x["advantage"],
                mask,
                weight,
                cfg,
                sampler_BR=x["sampler"],
                entropy_BR=x["entropy"],
                **choice,
            )[0]

        value, grad = jax.value_and_grad(objective)(x["logprob"])
    return float(value), np.asarray(grad)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    value, grad = value_and_grad(LossConfig(**LOSSES[name]))
    want = GOLDEN["losses"][name]["value"]
    if name in ("gmpo", "rloo"):
        want += DATA["advantage"][DATA["length"] == 0].sum() / B
    assert value == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(grad, GOLDEN["losses"][name]["grad"], rtol=1e-6, atol=1e-10)


# ---- verl ------------------------------------------------------------------------------------

VERL = json.loads((Path(__file__).parent / "golden/verl.json").read_text("utf-8"))
TOKENS = {"whiten": "tokens", "ddof": 1}
CREDIT = PLAIN | TOKENS | {"baseline": "none", "credit": "token", "discount": 0.95}
VERL_ADVANTAGES = {
    "gae": PLAIN | TOKENS | {"baseline": "value", "discount": 0.95, "gae_lambda": 0.9},
    "grpo": GROUP,
    "dr_grpo": PLAIN | {"baseline": "mean"},
    "rloo": PLAIN | {"baseline": "rloo"},
    "rloo_kl": PLAIN | {"baseline": "rloo"},
    "rloo_vectorized": PLAIN | {"baseline": "rloo"},
    "opo": PLAIN | {"baseline": "opo"},
    "reinforce_plus_plus": CREDIT,
    "reinforce_plus_plus_baseline": PLAIN | TOKENS | {"baseline": "mean"},
    "remax": PLAIN | {"baseline": "greedy"},
    "gpg": PLAIN | {"baseline": "mean"},
    "gdpo": GROUP | TWO | {"mix": "after"},
}
TOKEN_MEAN = {"clip_high": 0.28, "dual_clip": 3.0}
TRUNCATE = {"correct": "truncate", "correct_high": 1.2}
REJECT = {"reject": "geometric", "reject_low": 1 / 1.2, "reject_high": 1 / 0.9}
COV = {"clip_high": 0.28}
SUMS = TOKEN_MEAN | {"aggregate": "seq-mean-token-sum"}
MEANS = TOKEN_MEAN | {"aggregate": "seq-mean-token-mean"}
VERL_LOSSES = {
    "token_mean": TOKEN_MEAN,
    "rows_token_mean": MEANS,
    "rows_token_sum": SUMS,
    "constant": TOKEN_MEAN | {"aggregate": "constant"},
    "rows_token_mean_alone": MEANS,
    "rows_token_sum_alone": SUMS,
    "constant_alone": TOKEN_MEAN | {"aggregate": "constant"},
    "dual_clip": TOKEN_MEAN | {"dual_clip": 1.1},
    "gspo": LOSSES["gspo"] | {"ratio": "sequence-token"},
    "cispo": {"objective": "cispo", "clip_high": 0.28},
    "gmpo": ROWS | {"objective": "gmpo"},
    "sapo": ROWS | {"objective": "sapo"},
    "gpg": {"objective": "plain"},
    "truncate": TOKEN_MEAN | {"correct": "truncate", "correct_high": 1.2},
    "mask": TOKEN_MEAN | {"correct": "mask", "correct_low": 0.8, "correct_high": 1.2},
    "sequence_truncate": TOKEN_MEAN | {"correct": "sequence-truncate", "correct_high": 1.2},
    "sequence_mask": TOKEN_MEAN
    | {"correct": "sequence-mask", "correct_low": 0.5, "correct_high": 1.5},
    "token_sum": TOKEN_MEAN | {"aggregate": "token-sum"},
    "constant_of_nine": TOKEN_MEAN | {"aggregate": "constant", "aggregate_length": 9},
    "clip_cov": COV | {"objective": "clip-cov", "cov_share": 1.0, "cov_low": 0.1, "cov_high": 2.0},
    "kl_cov": COV | {"objective": "kl-cov", "cov_share": 0.3, "cov_kl": 0.7},
    "dppo_tv": {"objective": "dppo-tv", "clip_low": 0.05, "clip_high": 0.08, "dual_clip": 1.3},
    "dppo_kl": {"objective": "dppo-kl", "clip_low": 0.01, "clip_high": 0.02, "dual_clip": 1.3},
    "truncate_mean_one": TOKEN_MEAN | TRUNCATE | {"correct_normalise": True},
    "sequence_mean_one": TOKEN_MEAN
    | {"correct": "sequence-mask", "correct_low": 0.5, "correct_high": 1.5}
    | {"correct_normalise": True},
    # verl bounds p_sampler / p_trainer, here it is p_trainer / p_sampler
    "reject_token": TOKEN_MEAN | {"reject": "token", "reject_low": 0.8, "reject_high": 1.25},
    "reject_sequence": TOKEN_MEAN
    | {"reject": "sequence", "reject_low": 1 / 1.6, "reject_high": 1 / 0.6},
    "reject_geometric": TOKEN_MEAN | REJECT,
    "weights_and_rejection": TOKEN_MEAN | TRUNCATE | REJECT,
}


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def verl_estimate(cfg, reward, samples=G, **more):
    more = {name: jnp.asarray(x) for name, x in more.items()}
    found = credit(reward, jnp.asarray(MASK), samples, cfg, kl_coef=0.3, **more)
    return np.where(MASK, found.advantage_BR, 0), found


def test_every_number_of_verl_is_compared():
    assert VERL["by"].startswith("verl 0.9.1")
    assert set(VERL["advantages"]) == {
        *VERL_ADVANTAGES,
        *("gae_targets", "whiten", "whiten_keep_mean"),
    }
    assert set(VERL["losses"]) == set(VERL_LOSSES)
    assert set(VERL["prime"]) == {"both", "outcome", "cross_entropy", "accuracy"}


@pytest.mark.parametrize("name", VERL_ADVANTAGES)
def test_advantages_of_verl(name):
    cfg, want = AdvantageConfig(**VERL_ADVANTAGES[name]), np.array(VERL["advantages"][name])
    gap = DATA["behaviour"] - DATA["reference"]
    more = {"kl_BR": gap} if name in ("gae", "rloo_kl", "reinforce_plus_plus") else {}
    if name == "gae":
        more["value_BR"] = DATA["entropy"]
    if name == "remax":
        more["greedy_Q"] = DATA["reward"][::G, 1]
    with jax.enable_x64(True):
        a, b = jnp.asarray(DATA["reward"]).T
        reward = jnp.maximum(a, 0) if name == "gpg" else a
        got, found = verl_estimate(cfg, {"a": a, "b": b} if cfg.weights else reward, **more)
    if name == "grpo":  # it divides by std + 1e-6
        std = np.repeat(DATA["reward"][:, 0].reshape(-1, G).std(1, ddof=1), G)
        want = want * (1 + 1e-6 / np.where(std > 0, std, 1))[:, None]
    if name == "gpg":  # it multiplies by rows / rows with a reward, which is a matter of the rate
        assert (count := int((DATA["reward"][:, 0] > 0).sum())) < B
        want = want * count / B
    if name == "gdpo":  # the last z-score of the paper is over responses, verl's over tokens
        slope, start = np.polyfit(got[MASK], want[MASK], 1)
        close(got[MASK] * slope + start, want[MASK])
        assert abs(slope - 1) > 0.01 and abs(start) > 0.01
        return
    close(got, want)
    if name == "gae":
        close(np.asarray(found.target_BR), VERL["advantages"]["gae_targets"])


def test_whitening_of_verl():
    with jax.enable_x64(True):
        got = returns.whiten(jnp.asarray(DATA["logprob"]), jnp.asarray(MASK), 1e-4, 1)
        kept = returns.whiten(jnp.asarray(DATA["logprob"]), jnp.asarray(MASK), 1e-4, 1, True)
    close(got, VERL["advantages"]["whiten"])
    close(kept, VERL["advantages"]["whiten_keep_mean"])


@pytest.mark.parametrize("name", VERL["alone"])
def test_groups_of_one_have_no_signal_here(name):
    """Nor in verl's vectorized RLOO; elsewhere it leaves the reward as it is, or whitens it."""
    reward = np.tile(DATA["reward"][:, :1], R)
    with jax.enable_x64(True):
        cfg = AdvantageConfig(**VERL_ADVANTAGES[name])
        got, _ = verl_estimate(cfg, jnp.asarray(DATA["reward"][:, 0]), samples=1)
        white = returns.whiten(jnp.asarray(reward), jnp.asarray(MASK), 1e-4, 1)
    assert np.all(got == 0)
    theirs = np.array(VERL["alone"][name])
    if name == "rloo_vectorized":
        assert np.all(theirs == 0)
    elif name == "reinforce_plus_plus_baseline":
        close(theirs, white)
    else:
        close(theirs, np.where(MASK, reward, 0) / (1 + 1e-6 * (name == "grpo")))


@pytest.mark.parametrize("name", VERL_LOSSES)
def test_losses_of_verl(name):
    value, grad = value_and_grad(LossConfig(**VERL_LOSSES[name]))
    want, slope = VERL["losses"][name]["value"], np.array(VERL["losses"][name]["grad"])
    if name.endswith("_alone"):  # not told how many rows there are, it counts those with tokens
        factor = B / int((DATA["length"] > 0).sum())
        assert factor > 1
        value, grad = value * factor, grad * factor
    if "reject" in VERL_LOSSES[name]:  # it leaves what it rejects out of the mean too
        cfg = LossConfig(**VERL_LOSSES[name])
        args = (jnp.asarray(x) for x in (DATA["behaviour"], DATA["sampler"], MASK))
        left = (MASK & ~np.asarray(ratios.rejected(*args, cfg))).sum()
        assert 0 < left < MASK.sum()
        value, grad = value * MASK.sum() / left, grad * MASK.sum() / left
    assert value == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(grad, slope, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("form", VERL["kl"])
def test_kl_of_verl(form):
    with jax.enable_x64(True):
        logprob, reference = jnp.asarray(DATA["logprob"]), jnp.asarray(DATA["reference"])
        got = loss.kl(logprob, reference, form)
        grad = jax.grad(lambda x: jnp.sum(loss.kl(x, reference, form)))(logprob)
    close(got, VERL["kl"][form]["value"])
    close(grad, VERL["kl"][form]["grad"])


def test_k3_has_no_ceiling_here():
    """verl cuts it at 10, and k3+ too; both cut its exponent at 20."""
    zero, reference = jnp.zeros(4), jnp.float32([-30, -5, 2, 5])
    for form in ("k1", "k2"):
        close(loss.kl(zero, reference, form), VERL["far"][form])
    got = loss.kl(zero, reference, "k3")
    np.testing.assert_allclose(np.minimum(got, 10), VERL["far"]["k3"], rtol=1e-6)
    np.testing.assert_allclose(loss.kl(zero, reference, "k3+"), got, rtol=1e-5)
    assert VERL["far"]["k3+"] == pytest.approx(VERL["far"]["k3"], rel=1e-6)
    np.testing.assert_allclose(got, [19, 4 + np.exp(-5), np.exp(2) - 3, np.exp(5) - 6], rtol=1e-6)


@pytest.mark.parametrize("mean", VERL["adapted"])
def test_the_adapted_coefficient_is_that_of_verl(mean):
    cfg = LossConfig(kl_coef=0.3, kl_target=0.1, kl_horizon=1000.0)
    got = loss.adapt_kl(jnp.float32(0.3), jnp.float32(mean), B, cfg)
    assert float(got) == pytest.approx(VERL["adapted"][mean], rel=1e-6)


EIGHT = slice(2 * G)  # rows of the groups without an empty one: it has no mean for verl


def prime_estimate(process_weight):
    """Of what verl's recipe was given; its coefficients of both parts are 1."""
    cfg = AdvantageConfig("none", "rloo", process_weight=process_weight)
    gap = (DATA["logprob"] - DATA["reference"])[EIGHT]
    with jax.enable_x64(True):
        right = jnp.asarray(DATA["reward"][EIGHT, 0] > 0.5, jnp.float64)
        process, mask = jnp.asarray(0.05 * gap), jnp.asarray(MASK[EIGHT])
        found = credit(right, mask, G, cfg, token_reward_BR=process)
        return np.where(MASK[EIGHT], found.advantage_BR, 0), np.where(MASK[EIGHT], 0.05 * gap, 0)


def test_outcomes_of_primes_recipe():
    got, _ = prime_estimate(0.0)
    close(got, VERL["prime"]["outcome"]["returns"])


def test_primes_recipe_scales_a_tokens_own_reward():
    """Its process part is r n/(n-1) - sum of all means/(n-1), not r - mean of the others' means.

    To the paper's form (2502.01456 s. 4.3) that adds (r - own mean) / (n - 1), which is nothing
    over a whole response, and so nothing to the return of its first token.
    """
    got, process = prime_estimate(1.0)
    mask, length = MASK[EIGHT], DATA["length"][EIGHT]
    theirs = np.array(VERL["prime"]["both"]["returns"])
    more = np.where(mask, process - (process.sum(1) / length)[:, None], 0) / (G - 1)
    added = np.where(mask, more[:, ::-1].cumsum(1)[:, ::-1], 0)
    assert np.abs(added).max() > 0.005
    close(got + added, theirs)
    close(got[:, 0], theirs[:, 0])
    with jax.enable_x64(True):
        white = returns.whiten(jnp.asarray(theirs), jnp.asarray(mask), 1e-4, 1)
    close(white, VERL["prime"]["both"]["advantages"])


def test_the_loss_of_primes_reward_model():
    mask, label = jnp.asarray(MASK[EIGHT]), np.clip(DATA["reward"][EIGHT, 1], 0, 1)

    def mean(gap):
        score_B = jnp.sum(prm.token_rewards(gap, jnp.zeros_like(gap), mask, 0.05), -1)
        return jnp.mean(prm.cross_entropy(score_B, jnp.asarray(label)))

    with jax.enable_x64(True):
        gap = jnp.asarray((DATA["logprob"] - DATA["reference"])[EIGHT])
        value, grad = jax.value_and_grad(mean)(gap)
    want = VERL["prime"]["cross_entropy"]
    assert float(value) == pytest.approx(want["value"], rel=1e-6)
    np.testing.assert_allclose(grad, want["grad"], rtol=1e-6, atol=1e-10)


def test_a_reward_model_that_says_nothing_is_half_right_here():
    """verl's recipe counts a score of 0 as wrong."""
    label = jnp.asarray(np.clip(DATA["reward"][EIGHT, 1], 0, 1))
    gap = np.where(MASK, DATA["logprob"] - DATA["reference"], 0)[EIGHT]
    got = jnp.mean(prm.agreement(jnp.asarray(gap.sum(1)), label))
    assert float(got) == VERL["prime"]["accuracy"]["apart"]
    assert jnp.all(prm.agreement(jnp.zeros(2 * G), label) == 0.5)
    assert VERL["prime"]["accuracy"]["equal"] == 0


# ---- OpenRLHF --------------------------------------------------------------------------------

OPEN = json.loads((Path(__file__).parent / "golden/openrlhf.json").read_text("utf-8"))
RANGE = {"correct_low": 0.8, "correct_high": 1.2}
OPEN_LOSSES = {
    "token_mean": TOKEN_MEAN | {"dual_clip": 0.0},
    "rows_token_mean": ROWS,
    "dual_clip": TOKEN_MEAN | {"dual_clip": 1.5},
    "gspo": LOSSES["gspo"],
    "truncate": TOKEN_MEAN | {"dual_clip": 0.0, "correct": "truncate"} | RANGE,
    "mask": TOKEN_MEAN | {"dual_clip": 0.0, "correct": "mask"} | RANGE,
    # The weights of its rows that are kept have no bound.
    "weights_and_rejection": TOKEN_MEAN
    | {"dual_clip": 0.0, "correct": "truncate", "correct_high": 1e6}
    | {"reject": "geometric", "reject_low": 0.8, "reject_high": 1.2},
}


@pytest.mark.parametrize("name", OPEN["losses"])
def test_losses_of_openrlhf(name):
    value, grad = value_and_grad(LossConfig(**OPEN_LOSSES[name]))
    assert value == pytest.approx(OPEN["losses"][name]["value"], rel=1e-6)
    np.testing.assert_allclose(grad, OPEN["losses"][name]["grad"], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("form", OPEN["kl"])
def test_kl_of_openrlhf(form):
    """In float32, and every form cut at 10."""
    assert OPEN["by"].startswith("openrlhf 0.11.0") and set(OPEN["losses"]) == set(OPEN_LOSSES)
    got = loss.kl(jnp.float32(DATA["logprob"]), jnp.float32(DATA["reference"]), form)
    np.testing.assert_allclose(got, OPEN["kl"][form], rtol=1e-4, atol=1e-6)
    far = loss.kl(jnp.zeros(4), jnp.float32([-30, -5, 2, 5]), form)
    np.testing.assert_allclose(np.clip(far, -10, 10), OPEN["far"][form], rtol=1e-5)
    assert np.max(np.abs(far)) > 10
