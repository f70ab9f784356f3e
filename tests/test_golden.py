"""Advantages and losses against TRL 1.16.0's own numbers (tests/golden/make_objectives.py).

All agree, with these names: `delta` is dual_clip, `importance_sampling_level: sequence` ratio
sequence, `use_bias_correction_kl` kl_corrected, `off_policy_mask_threshold` stale_kl, RLOO's ratio
of whole responses ratio product, `normalize_then_sum` mix after.  Where the library is not its
paper, or not what is here:

- It divides by std + 1e-4 and takes std over n - 1; here the divisor is max(std, floor), and ddof
  is an option.  The numbers differ by a factor of about 1 + 1e-4 / std, allowed for below.
- Its CISPO `epsilon_high` is the cap itself and it has no floor: here clip_high + 1, clip_low 1.
- Its entropy bonus is a mean over tokens whatever the aggregation: as here with token-mean only.
- In GMPO and RLOO a row without tokens has ratio 1 and adds -A / B to the value, and nothing to the
  gradient; here it adds nothing to either.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import advantage, loss
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
        found = advantage.estimate(
            of_name if cfg.weights else of_name["a"],
            jnp.asarray(MASK),
            G,
            cfg,
            kl_BR=jnp.asarray(DATA["logprob"]) if name == "rloo_kl" else None,
            kl_coef=0.3,
        )
        got = np.asarray(found.advantage_BR)[:, 0]
    # their divisor is std + 1e-4; of these rewards no std that is not 0 is below 0.3
    exact = cfg.normalise == "none"
    np.testing.assert_allclose(
        got, GOLDEN["advantages"][name], rtol=1e-9 if exact else 7e-4, atol=1e-12
    )


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    cfg = LossConfig(**LOSSES[name])
    mask = jnp.asarray(MASK)
    with jax.enable_x64(True):
        x = {k: jnp.asarray(v) for k, v in DATA.items()}
        weight = loss.row_weights(mask, cfg).astype(jnp.float64)

        def objective(logprob):
            return loss.policy_gradient(
                logprob,
                x["behaviour"],
                x["reference"],
                x["advantage"],
                mask,
                weight,
                cfg,
                sampler_BR=x["sampler"],
                entropy_BR=x["entropy"],
            )[0]

        value, grad = jax.value_and_grad(objective)(x["logprob"])
    want = GOLDEN["losses"][name]["value"]
    if name in ("gmpo", "rloo"):
        want += DATA["advantage"][DATA["length"] == 0].sum() / B
    assert float(value) == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(grad, GOLDEN["losses"][name]["grad"], rtol=1e-6, atol=1e-10)
