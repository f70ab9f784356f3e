"""Writes objectives.json: advantages and losses as TRL 1.16.0 computes them.

    python tests/golden/make_objectives.py

Needs torch and trl.  The test that reads the file needs neither.  The losses are TRL's own
`_compute_loss`, called with log-probs in place of a model; the advantages are the statements of
its `_generate_and_score_completions` between the rewards and the slice of one process.
"""

import inspect
import json
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import trl
from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer
from trl.trainer import grpo_trainer, rloo_trainer

HERE = Path(__file__).parent
Q, G, R = 3, 4, 6
B = Q * G
LENGTHS = [6, 1, 3, 4, 2, 6, 5, 6, 0, 4, 3, 6]


def numbers():
    rng = np.random.default_rng(7)
    behaviour = -rng.exponential(1, (B, R))
    reward = rng.uniform(-1, 2, (B, 2))
    reward[4:8] = 0.25  # a group that agrees
    return {
        "logprob": behaviour + rng.normal(0, 0.4, (B, R)),
        "behaviour": behaviour,
        "reference": behaviour + rng.normal(0, 0.5, (B, R)),
        "sampler": behaviour + rng.normal(0, 0.3, (B, R)),
        "entropy": rng.exponential(1, (B, R)),
        "advantage": rng.normal(0, 1, B),
        "reward": reward,
        "length": np.array(LENGTHS),
    }


def statements(function, first, last):
    """The lines of a method from the one that starts with `first` to the one with `last`."""
    lines = inspect.getsource(function).splitlines()
    begin = next(i for i, x in enumerate(lines) if x.strip().startswith(first))
    end = next(i for i, x in enumerate(lines) if x.strip().startswith(last) and i > begin)
    return textwrap.dedent("\n".join(lines[begin : end + 1]))


def advantages(module, trainer, weights, kl=None, mask=None, **fields):
    reward = torch.tensor(DATA["reward"])
    space = vars(module) | {
        "self": SimpleNamespace(
            reward_weights=torch.tensor(weights), beta=0.3 if kl is not None else 0.0,
            reward_clip_range=None, **fields,
        ),
        "rewards_per_func": reward, "num_generations": G, "device": "cpu", "gather": lambda x: x,
        "old_per_token_logps": kl, "ref_per_token_logps": 0.0, "completion_mask": mask,
    }  # fmt: skip
    function = trainer._generate_and_score_completions
    exec(statements(function, "unscorable_mask =", "advantages = torch.nan_to_num"), space)
    return space["advantages"].tolist()


def loss(trainer, **fields):
    """Value and gradient of TRL's own loss."""
    logprob = torch.tensor(DATA["logprob"], requires_grad=True)
    mask = torch.arange(R) < torch.tensor(LENGTHS)[:, None]
    extra = {k: fields.pop(k) for k in ("importance_sampling_ratio", "sampling") if k in fields}
    args = {"delta": None, "use_bias_correction_kl": False, "sapo_temperature_pos": 1.0}
    args |= {"sapo_temperature_neg": 1.05, "steps_per_generation": 1}
    share = fields.pop("top_entropy_quantile", 1.0)
    args = {k: fields.pop(k, v) for k, v in args.items()}
    own = {
        "epsilon_low": 0.2, "epsilon_high": 0.28, "beta": 0.0, "importance_sampling_level": "token",
        "loss_type": "grpo", "off_policy_mask_threshold": None, "_entropy_bonus_enabled": False,
        "use_vllm": "importance_sampling_ratio" in extra,
        "vllm_importance_sampling_correction": True, "use_adaptive_entropy": False,
        "entropy_coef": 0.0, "max_completion_length": R,
    } | fields  # fmt: skip
    metrics = {"train": _Anything(), "eval": _Anything()}
    accelerator = SimpleNamespace(
        reduce=lambda x, reduction: x,
        gather=lambda x: x,
        num_processes=1,
        sync_gradients=False,
        pad_across_processes=lambda x, **k: x,
    )
    fake = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (
            logprob, torch.tensor(DATA["entropy"]), None
        ),
        args=SimpleNamespace(**args), top_entropy_quantile=share, aux_loss_enabled=False,
        get_off_policy_mask=grpo_trainer.GRPOTrainer.get_off_policy_mask,
        model=SimpleNamespace(training=True), accelerator=accelerator, _metrics=metrics,
        current_gradient_accumulation_steps=1, **own,
    )  # fmt: skip
    fake.get_high_entropy_mask = lambda *a: GRPO.get_high_entropy_mask(fake, *a)
    none = torch.zeros((B, 0), dtype=torch.long)
    behaviour = torch.tensor(DATA["behaviour"])
    inputs = {
        "prompt_ids": none, "prompt_mask": none,
        "completion_ids": torch.zeros((B, R), dtype=torch.long), "completion_mask": mask.long(),
        "advantages": torch.tensor(DATA["advantage"]), "old_per_token_logps": behaviour,
        "old_logps": (behaviour * mask).sum(1), "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": torch.tensor(DATA["reference"]),
    } | extra  # fmt: skip
    if "sampling" in extra:
        inputs["sampling_per_token_logps"] = torch.tensor(DATA["sampler"])
    value = trainer._compute_loss(fake, None, inputs)
    value.backward()
    return {"value": float(value), "grad": logprob.grad.tolist()}


class _Anything(dict):
    def __missing__(self, name):
        return []


def correction(mode, low, high):
    """TRL's weights for a sampler that is not the trainer (its own lines, with vLLM's names)."""
    first, last = "mask = completion_mask if tool_mask", "raise ValueError("
    text = statements(grpo_trainer.GRPOTrainer._generate_and_score_completions, first, last)
    text = text[: text.rindex("else:")]
    space = vars(grpo_trainer) | {
        "self": SimpleNamespace(
            vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=low,
            vllm_importance_sampling_clip_max=high,
        ),
        "tool_mask": None, "completion_mask": torch.arange(R) < torch.tensor(LENGTHS)[:, None],
        "old_per_token_logps": torch.tensor(DATA["behaviour"]),
        "sampling_per_token_logps": torch.tensor(DATA["sampler"]),
    }  # fmt: skip
    exec(textwrap.dedent(text), space)
    return space["vllm_importance_sampling_ratio"]


DATA = numbers()
GRPO, RLOO = grpo_trainer.GRPOTrainer, rloo_trainer.RLOOTrainer


def main() -> None:
    mask = (torch.arange(R) < torch.tensor(LENGTHS)[:, None]).double()
    gap = torch.tensor(DATA["logprob"])
    one, two = [1.0, 0.0], [1.0, 0.3]
    mixed = {"multi_objective_aggregation": "sum_then_normalize"}
    found_advantages = {
        "grpo": advantages(grpo_trainer, GRPO, one, scale_rewards="group", **mixed),
        "dr_grpo": advantages(grpo_trainer, GRPO, one, scale_rewards="none", **mixed),
        "batch_std": advantages(grpo_trainer, GRPO, one, scale_rewards="batch", **mixed),
        "sum_then_normalize": advantages(grpo_trainer, GRPO, two, scale_rewards="group", **mixed),
        "gdpo": advantages(
            grpo_trainer, GRPO, two, scale_rewards="group", reward_funcs=[0, 1],
            multi_objective_aggregation="normalize_then_sum",
        ),
        "rloo": advantages(rloo_trainer, RLOO, one, normalize_advantages=False),
        "rloo_normalised": advantages(rloo_trainer, RLOO, one, normalize_advantages=True),
        "rloo_kl": advantages(rloo_trainer, RLOO, one, gap, mask, normalize_advantages=False),
    }  # fmt: skip
    token = correction("token_truncate", 0.0, 1.2)
    found_losses = {
        "grpo": loss(GRPO),
        "bnpo": loss(GRPO, loss_type="bnpo"),
        "dapo": loss(GRPO, loss_type="dapo"),
        "dr_grpo": loss(GRPO, loss_type="dr_grpo"),
        "delta": loss(GRPO, delta=1.5),
        "kl": loss(GRPO, beta=0.3),
        "kl_corrected": loss(GRPO, beta=0.3, use_bias_correction_kl=True),
        "entropy": loss(GRPO, loss_type="bnpo", _entropy_bonus_enabled=True, entropy_coef=0.2),
        "gspo": loss(GRPO, importance_sampling_level="sequence", epsilon_low=0.1, epsilon_high=0.1),
        "cispo": loss(GRPO, loss_type="cispo", epsilon_high=1.28),
        "sapo": loss(GRPO, loss_type="sapo"),
        "gmpo": loss(GMPOTrainer, epsilon_low=0.2, epsilon_high=0.2),
        "rloo": loss(RLOO),
        "top_entropy": loss(GRPO, loss_type="dapo", top_entropy_quantile=0.3),
        "off_policy_mask": loss(GRPO, off_policy_mask_threshold=0.05, sampling=True),
        "truncate": loss(GRPO, importance_sampling_ratio=token),
        "mask": loss(GRPO, importance_sampling_ratio=correction("token_mask", 0.8, 1.2)),
        "sequence_truncate": loss(
            GRPO, importance_sampling_ratio=correction("sequence_truncate", 0.0, 1.2)
        ),
        "sequence_mask": loss(
            GRPO, importance_sampling_ratio=correction("sequence_mask", 0.5, 1.5)
        ),
    }
    out = {
        "by": f"trl {trl.__version__}, torch {torch.__version__.partition('+')[0]}",
        "data": {name: np.asarray(x).tolist() for name, x in DATA.items()},
        "advantages": found_advantages,
        "losses": found_losses,
    }
    text = json.dumps(json.loads(json.dumps(out), parse_float=lambda x: float(f"{float(x):.12g}")))
    (HERE / "objectives.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
