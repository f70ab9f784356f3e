"""Writes openrlhf.json: losses and KL estimates as OpenRLHF 0.11.0 computes them.

    python tests/golden/make_openrlhf.py OpenRLHF

The numbers they are of are those of objectives.json.  Needs torch, and a checkout of
github.com/OpenRLHF/OpenRLHF at 3c3be623.  The test that reads the file needs neither.  What is
called are its PolicyLoss and compute_approx_kl; deepspeed is imported beside them, takes no part in
any number, and is replaced by an empty stand-in.
"""

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

HERE = Path(__file__).parent
DATA = json.loads((HERE / "objectives.json").read_text("utf-8"))["data"]
DATA = {name: torch.from_numpy(np.array(x)) for name, x in DATA.items()}
B, R = DATA["logprob"].shape
MASK = (torch.arange(R) < DATA["length"][:, None]).double()


def load(root: Path):
    """Its modules of losses and of KL estimates, without the package around them."""
    sys.modules["deepspeed"] = MagicMock()
    spec = importlib.util.spec_from_file_location("models", root / "openrlhf/models/none.py")
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(root / "openrlhf/models")]
    sys.modules["models"] = package
    return importlib.import_module("models.loss"), importlib.import_module("models.utils")


def loss(module, **fields):
    """Value and gradient of a batch whose number of rows it is told, as its trainer does."""
    logprob = DATA["logprob"].clone().requires_grad_(True)
    each = DATA["advantage"][:, None].expand(B, R)
    policy_loss = module.PolicyLoss(**({"clip_eps_high": 0.28} | fields))
    value, *_ = policy_loss(
        logprob, DATA["behaviour"], each, MASK, DATA["sampler"],
        batch_num_tokens=MASK.sum(), global_batch_size=B,
    )  # fmt: skip
    value.backward()
    return {"value": value.item(), "grad": logprob.grad.tolist()}


def main(root: str) -> None:
    losses, utils = load(Path(root))
    weighted = {"enable_vllm_is_correction": True, "vllm_is_truncated_threshold": [0.8, 1.2]}
    out = {
        "by": f"openrlhf 0.11.0, torch {torch.__version__.partition('+')[0]}",
        "losses": {
            "token_mean": loss(losses),
            "rows_token_mean": loss(losses, token_level_loss=False),
            "dual_clip": loss(losses, dual_clip=1.5),
            "gspo": loss(losses, policy_loss_type="gspo", clip_eps_low=0.1, clip_eps_high=0.1),
            "truncate": loss(losses, **weighted),
            "mask": loss(losses, vllm_is_correction_type="icepop", **weighted),
            "weights_and_rejection": loss(
                losses, vllm_is_correction_type="seq-mask-tis", **weighted
            ),
        },
        "kl": {
            form: utils.compute_approx_kl(DATA["logprob"], DATA["reference"], form).tolist()
            for form in ("k1", "k2", "k3")
        },
        "far": {
            form: utils.compute_approx_kl(
                torch.zeros(4), torch.tensor([-30.0, -5.0, 2.0, 5.0]), form
            ).tolist()
            for form in ("k1", "k2", "k3")
        },
    }
    text = json.dumps(out)
    text = json.dumps(json.loads(text, parse_float=lambda x: float(f"{float(x):.12g}")))
    (HERE / "openrlhf.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
