"""Writes verl.json: advantages and losses as verl 0.9.1 computes them.

    python tests/golden/make_verl.py prime_core_algos.py

The numbers they are of are those of objectives.json.  Needs torch, transformers, verl (`pip install
--no-deps verl==0.9.1`), and prime/prime_core_algos.py of github.com/verl-project/verl-recipe at
48ea0a79.  The test that reads the file needs none of them.

What is called are verl's own functions, on float64 tensors.  ray, tensordict, omegaconf, dill,
codetiming and orjson are imported beside them but take no part in any number: where they are
missing empty stand-ins are enough, and the script makes them.
"""

import importlib.util
import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch

HERE = Path(__file__).parent
UNUSED = ("ray", "tensordict", "omegaconf", "dill", "codetiming", "orjson")


class StandIns:
    """Finds, after everything else, the modules that no number comes from."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in UNUSED else None

    def create_module(self, spec):
        return MagicMock(__path__=[], __version__="99", __spec__=spec, __name__=spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(StandIns())

import verl  # noqa: E402
import verl.utils.torch_functional as verl_F  # noqa: E402
from verl.trainer.ppo import core_algos as core  # noqa: E402
from verl.trainer.ppo import rollout_corr_helper  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402
from verl.workers.config.actor import PolicyLossConfig  # noqa: E402

DATA = json.loads((HERE / "objectives.json").read_text("utf-8"))["data"]
DATA = {name: torch.from_numpy(np.array(x)) for name, x in DATA.items()}
B, R = DATA["logprob"].shape
G = 4
LENGTH = DATA["length"]
MASK = (torch.arange(R) < LENGTH[:, None]).long()
REWARD = DATA["reward"][:, 0]
GROUPS = np.arange(B) // G
ALONE = np.arange(B)


def at_last(reward):
    """A row's reward on its last token; in the first column of a row without any."""
    out = torch.zeros(B, R, dtype=torch.float64)
    out[torch.arange(B), (LENGTH - 1).clamp(min=0)] = reward
    return out


def advantage(function, index=GROUPS, reward=REWARD, **more):
    args = {"token_level_rewards": at_last(reward), "response_mask": MASK} | more
    return shown(function(index=index, **args)[0])


def shown(x):
    return (x * MASK).tolist()


def loss(function, mode="token-mean", whole=True, advantage=None, mask=MASK, **fields):
    """Value and gradient; `whole`: told how many rows the batch has, as verl's trainer does."""
    logprob = DATA["logprob"].clamp(max=fields.pop("most", math.inf)).clone().requires_grad_(True)
    weights = fields.pop("rollout_is_weights", None)
    scale = {"loss_scale_factor": fields.pop("scale")} if "scale" in fields else {}
    cfg = ActorConfig(
        strategy="fsdp",
        rollout_n=G,
        ppo_micro_batch_size_per_gpu=B,
        global_batch_info=({"global_batch_size": B} if whole else {}) | scale,
        **({"clip_ratio_low": 0.2, "clip_ratio_high": 0.28} | fields),
    )
    each = (DATA["advantage"][:, None] * MASK) if advantage is None else advantage
    value, _ = function(
        DATA["behaviour"], logprob, each, mask, mode, cfg, rollout_is_weights=weights
    )
    value.backward()
    return {"value": value.item(), "grad": logprob.grad.tolist()}


def kl(form):
    """Of each token, and the gradient of their sum."""
    logprob = DATA["logprob"].clone().requires_grad_(True)
    each = core.kl_penalty(logprob, DATA["reference"], form)
    each.sum().backward()
    return {"value": each.tolist(), "grad": logprob.grad.tolist()}


def correction(level, threshold, mean_one=False):
    gap = DATA["behaviour"] - DATA["sampler"]
    weights = rollout_corr_helper.compute_rollout_correction_weights
    return weights(gap, MASK, level, threshold, mean_one)[0]


def kept(level, bounds):
    """The mask without what verl rejects; it bounds p_sampler / p_trainer."""
    gap = DATA["behaviour"] - DATA["sampler"]
    return rollout_corr_helper.compute_rollout_rejection_mask(gap, MASK, level, bounds)[0]


def by_covariance(function, **fields):
    return loss(function, policy_loss=PolicyLossConfig(**fields))


def adapted(kl_mean):
    control = core.AdaptiveKLController(0.3, 0.1, 1000.0)
    control.update(kl_mean, B)
    return float(control.value)


def prime(path):
    """Its returns and advantages of two groups without an empty row, and its loss of the PRM."""
    # It is imported for a mask that is here already.
    sys.modules["verl.trainer.ppo.ray_trainer"] = MagicMock()
    spec = importlib.util.spec_from_file_location("prime_core_algos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = slice(2 * G)
    gap = (DATA["logprob"] - DATA["reference"])[rows]
    mask = MASK[rows]
    data = SimpleNamespace(
        batch={
            "rm_scores": 0.05 * gap,
            "acc": (REWARD[rows] > 0.5).float(),
            "prompts": torch.zeros(2 * G, 0),
            "attention_mask": mask,
        }
    )
    found = {}
    for name, process, outcome in (("both", 1.0, 1.0), ("outcome", 0.0, 1.0)):
        part = SimpleNamespace(reward_dpo_coef=process, reward_gt_coef=outcome)
        advantages, returns = module.compute_rloo_advantage_return(
            data, mask, G, SimpleNamespace(algorithm=part)
        )
        found[name] = {"returns": returns.tolist(), "advantages": (advantages * mask).tolist()}
    score = (DATA["logprob"] - DATA["reference"])[rows].requires_grad_(True)
    soft = DATA["reward"][rows, 1].clamp(0, 1)
    value = module.compute_ce_dpo_loss_rm(score, soft, mask, 0.05)
    value.backward()
    found["cross_entropy"] = {"value": value.item(), "grad": score.grad.tolist()}
    found["accuracy"] = {
        name: float(module.compute_dpo_abs_accuracy(x, (soft > 0.5).float(), mask, G))
        for name, x in (("apart", gap), ("equal", torch.zeros_like(gap)))
    }
    return found


def gdpo():
    data = {"a": REWARD.numpy(), "b": DATA["reward"][:, 1].numpy()}
    cfg = {"gdpo_reward_keys": ["a", "b"], "gdpo_reward_weights": [1.0, 0.3]}
    batch = {"prompts": torch.zeros(B, 0), "attention_mask": MASK}
    return advantage(
        core.compute_gdpo_outcome_advantage, config=cfg, non_tensor_batch=data, batch=batch
    )


def main(path: str) -> None:
    own = MASK.double()
    with_kl = core.compute_rewards(
        at_last(REWARD), DATA["behaviour"] * own, DATA["reference"] * own, 0.3
    )
    value = DATA["entropy"]
    gae, targets = core.compute_gae_advantage_return(with_kl, value, MASK, 0.95, 0.9)
    greedy = DATA["reward"][::G, 1].repeat_interleave(G)
    discounted = SimpleNamespace(gamma=0.95)
    grpo, rloo = core.compute_grpo_outcome_advantage, core.compute_rloo_outcome_advantage
    plus = core.compute_reinforce_plus_plus_baseline_outcome_advantage
    vectorized, opo = (
        core.compute_rloo_vectorized_outcome_advantage,
        core.compute_opo_outcome_advantage,
    )
    rare = REWARD.clamp(min=0)  # some are exactly 0
    vanilla = core.compute_policy_loss_vanilla
    rows = "seq-mean-token-mean"
    out = {
        "by": f"verl {verl.__version__}, torch {torch.__version__.partition('+')[0]}",
        "recipe": "verl-recipe 48ea0a79, prime/prime_core_algos.py",
        "advantages": {
            "gae": shown(gae),
            "gae_targets": shown(targets),
            "grpo": advantage(grpo),
            "dr_grpo": advantage(grpo, norm_adv_by_std_in_grpo=False),
            "rloo": advantage(rloo),
            "rloo_kl": advantage(rloo, token_level_rewards=with_kl),
            "rloo_vectorized": advantage(vectorized),
            "opo": advantage(opo),
            "reinforce_plus_plus": advantage(
                core.compute_reinforce_plus_plus_outcome_advantage,
                token_level_rewards=with_kl,
                config=discounted,
            ),
            "reinforce_plus_plus_baseline": advantage(plus),
            "remax": advantage(core.compute_remax_outcome_advantage, reward_baselines=greedy),
            "gpg": advantage(core.compute_gpg_outcome_advantage, reward=rare),
            "gdpo": gdpo(),
            "whiten": shown(verl_F.masked_whiten(DATA["logprob"], MASK)),
            "whiten_keep_mean": shown(verl_F.masked_whiten(DATA["logprob"], MASK, False)),
        },
        "alone": {  # groups of one
            "grpo": advantage(grpo, ALONE),
            "rloo": advantage(rloo, ALONE),
            "rloo_vectorized": advantage(vectorized, ALONE),
            "opo": advantage(opo, ALONE),
            "reinforce_plus_plus_baseline": advantage(plus, ALONE),
        },
        "losses": {
            "token_mean": loss(vanilla),
            "rows_token_mean": loss(vanilla, rows),
            "rows_token_sum": loss(vanilla, "seq-mean-token-sum"),
            "constant": loss(vanilla, "seq-mean-token-sum-norm"),
            "rows_token_mean_alone": loss(vanilla, rows, whole=False),
            "rows_token_sum_alone": loss(vanilla, "seq-mean-token-sum", whole=False),
            "constant_alone": loss(vanilla, "seq-mean-token-sum-norm", whole=False),
            "dual_clip": loss(vanilla, clip_ratio_c=1.1),
            "gspo": loss(
                core.compute_policy_loss_gspo, rows, clip_ratio_low=0.1, clip_ratio_high=0.1
            ),
            "cispo": loss(core.compute_policy_loss_cispo),
            "gmpo": loss(core.compute_policy_loss_geo_mean),
            "sapo": loss(core.compute_policy_loss_sapo),
            "gpg": loss(core.compute_policy_loss_gpg),
            "truncate": loss(vanilla, rollout_is_weights=correction("token", 1.2)),
            "mask": loss(vanilla, rollout_is_weights=correction("token", "0.8_1.2")),
            "sequence_truncate": loss(vanilla, rollout_is_weights=correction("sequence", 1.2)),
            "sequence_mask": loss(vanilla, rollout_is_weights=correction("sequence", "0.5_1.5")),
            "token_sum": loss(vanilla, "token-sum"),
            "constant_of_nine": loss(vanilla, "seq-mean-token-sum-norm", scale=9),
            # So large a share that nothing is left to the draw.
            "clip_cov": by_covariance(
                core.compute_policy_loss_clip_cov,
                clip_cov_ratio=1.0,
                clip_cov_lb=0.1,
                clip_cov_ub=2.0,
            ),
            "kl_cov": by_covariance(
                core.compute_policy_loss_kl_cov, kl_cov_ratio=0.3, ppo_kl_coef=0.7
            ),
            # Log-probs below 0: its binary KL needs the probability of another token.
            "dppo_tv": loss(
                core.compute_policy_loss_dppo_tv,
                clip_ratio_low=0.05,
                clip_ratio_high=0.08,
                most=-0.01,
                clip_ratio_c=1.3,
            ),
            "dppo_kl": loss(
                core.compute_policy_loss_dppo_kl,
                clip_ratio_low=0.01,
                clip_ratio_high=0.02,
                most=-0.01,
                clip_ratio_c=1.3,
            ),
            "truncate_mean_one": loss(vanilla, rollout_is_weights=correction("token", 1.2, True)),
            "sequence_mean_one": loss(
                vanilla, rollout_is_weights=correction("sequence", "0.5_1.5", True)
            ),
            "reject_token": loss(vanilla, mask=kept("token_k1", "0.8_1.25")),
            "reject_sequence": loss(vanilla, mask=kept("seq_sum_k1", "0.6_1.6")),
            "reject_geometric": loss(vanilla, mask=kept("seq_mean_k1", "0.9_1.2")),
            "weights_and_rejection": loss(
                vanilla,
                rollout_is_weights=correction("token", 1.2),
                mask=kept("seq_mean_k1", "0.9_1.2"),
            ),
        },
        "kl": {form: kl(form) for form in ("k1", "abs", "k2", "k3", "k1+", "k3+")},
        "far": {
            form: core.kl_penalty(
                torch.zeros(4).double(), torch.tensor([-30.0, -5.0, 2.0, 5.0]).double(), form
            ).tolist()
            for form in ("k1", "k2", "k3", "k3+")
        },
        "adapted": {str(x): adapted(x) for x in (0.0, 0.09, 0.11, 5.0)},
        "prime": prime(path),
    }
    text = json.dumps(out)
    text = json.dumps(json.loads(text, parse_float=lambda x: float(f"{float(x):.12g}")))
    (HERE / "verl.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
