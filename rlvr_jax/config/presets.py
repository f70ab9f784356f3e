"""A preset holds the published settings of an algorithm, as values of sections of an rl stage.

Where a paper leaves a value open, a comment says which value stands here and why.  Numbers that
belong to an experiment and not to the algorithm (learning rate, prompts, samples) are left out.
"""

import difflib
from typing import Any, NamedTuple

Sections = dict[str, dict[str, Any]]  # name of a section of an rl stage -> its keys and values


class Preset(NamedTuple):
    """A Preset holds the values that an algorithm's paper publishes, and where it does so."""

    paper: str  # name, arXiv number, and the equations or sections that the values are from
    summary: str  # what is done, in words
    fills: Sections


# These papers write std without saying n or n - 1: it is the default, n - 1, as in the libraries
# that their results and later ones are from.
GROUP_SCORE = {"normalise": "group", "baseline": "none", "credit": "response"}
CLIP = {"objective": "clip", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
# At most 10 rounds: the number of the published training script; the paper sets no limit.
DYNAMIC_SAMPLING = {"spread": True, "rounds": 10}
# The buffer is the paper's, of a budget of 20480 tokens: lower it with data.response_columns.
# The paper takes up to 1 off rewards of +1 and -1: that is 0.5 off rewards of 1 and 0, as here.
SOFT_OVERLONG = {"buffer": 4096, "penalty": 0.5}

PRESETS = {
    "grpo": Preset(
        "GRPO, 2402.03300, equations 3 and 4, sections 4.1.2 and 4.2",
        "The reward minus the mean of its group, over the group's standard deviation. Clipped "
        "token ratios, averaged over each response and then over responses. A KL term in the loss.",
        {
            "advantage": GROUP_SCORE,
            # The paper does not print its clip range: 0.2 is that of PPO, which it starts from.
            "loss": {
                **CLIP,
                **{"aggregate": "seq-mean-token-mean", "kl_coef": 0.04},
                **{"kl_in": "loss", "kl_form": "k3"},
            },
        },
    ),
    "rloo": Preset(
        "RLOO, 2402.14740, leave-one-out estimator and settings",
        "The reward minus the mean of the group's other rewards. Policy gradient of whole "
        "responses, without a ratio. The KL is subtracted from the reward.",
        {
            "advantage": {"normalise": "none", "baseline": "rloo", "credit": "response"},
            # REINFORCE on whole responses, one update for a rollout.  For several updates:
            # objective: clip, ratio: product, aggregate: seq-mean-token-mean.
            # The coefficient is one of the paper's, by way of TRL's index of papers.
            "loss": {
                **{"objective": "plain", "aggregate": "seq-mean-token-sum"},
                **{"kl_coef": 0.03, "kl_in": "reward", "kl_form": "k1"},
            },
        },
    ),
    "dr_grpo": Preset(
        "Dr. GRPO, 2503.20783, section 3.2",
        "The reward minus the mean of its group. Clipped token ratios, summed and divided by a "
        "constant, so that length has no weight. No KL.",
        {
            "advantage": {"normalise": "none", "baseline": "mean", "credit": "response"},
            "loss": {**CLIP, "aggregate": "constant", "kl_coef": 0.0},
        },
    ),
    "dapo": Preset(
        "DAPO, 2503.14476, equations 8, 11, 12 and 13, sections 2.3 and 4.1",
        "The advantage of GRPO. A higher upper clip bound, a mean over all tokens, groups with "
        "equal rewards sampled again, and a penalty that grows near the end of the budget. No KL.",
        {
            "advantage": GROUP_SCORE,
            "loss": {**CLIP, "clip_high": 0.28, "aggregate": "token-mean", "kl_coef": 0.0},
            "filter": DYNAMIC_SAMPLING,
            "overlong": SOFT_OVERLONG,
        },
    ),
    "gspo": Preset(
        "GSPO, 2507.18071, equations 5, 6 and 7, section 5.1",
        "The advantage of GRPO. One ratio for a response, the geometric mean of its token ratios, "
        "clipped in a narrow range. No KL.",
        {
            "advantage": GROUP_SCORE,
            "loss": {
                **{"objective": "clip", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
                **{"aggregate": "seq-mean-token-mean", "kl_coef": 0.0},
            },
        },
    ),
    "cispo": Preset(
        "CISPO, 2506.13585, equations 4 and 5, section 3.1",
        "The advantage of GRPO. The policy gradient of every token, weighted by its ratio up to a "
        "bound. Sampling again and the length penalty as in DAPO. No KL.",
        {
            "advantage": GROUP_SCORE,
            # The paper has no lower bound and does not print its upper bound: weights of up to 5,
            # as ScaleRL (2510.13786) has it, are 1 + clip_high.
            "loss": {
                **{"objective": "cispo", "clip_low": 1.0, "clip_high": 4.0},
                **{"aggregate": "token-mean", "kl_coef": 0.0},
            },
            # It takes both from DAPO and prints no values of its own.
            "filter": DYNAMIC_SAMPLING,
            "overlong": SOFT_OVERLONG,
        },
    ),
    "prime": Preset(
        "PRIME, 2502.01456, equation 5, settings of its experiments and code",
        "Outcome rewards and the token rewards of an implicit PRM, each minus a leave-one-out "
        "mean, added and whitened over all tokens. Only groups that are neither too easy nor "
        "too hard.",
        {
            # Whitening is not in equation 5 but in the published code, which the results are from.
            "advantage": {
                **{"normalise": "none", "baseline": "rloo", "credit": "response"},
                **{"process_weight": 1.0, "discount": 1.0, "whiten": "tokens"},
            },
            "loss": {**CLIP, "aggregate": "token-mean", "kl_coef": 0.0},
            # The paper samples until the batch is full; 4 rounds are the oversampling of verl's
            # recipe.
            "filter": {"low": 0.2, "high": 0.8, "rounds": 4},
            "prm": {
                **{"loss": "ce", "beta": 0.05, "order": "score-first", "reference": "frozen"},
                **{"granularity": "token", "optim": {"lr": 1e-6, "grad_clip": 10.0}},
            },
        },
    ),
    "ppo": Preset(
        "PPO, 1707.06347, equations 7, 9 and 11, table 3",
        "Generalised advantage estimation with a value head, whitened over all tokens. Clipped "
        "token ratios and a clipped value loss. No KL.",
        {
            # The paper's discount of 0.99 is for games; responses have one reward at their end, and
            # language models are trained with 1 (2203.02155, appendix C).
            "advantage": {
                **{"normalise": "none", "baseline": "value", "whiten": "tokens"},
                **{"discount": 1.0, "gae_lambda": 0.95},
            },
            # The weight of the value loss is TRL's for language models; the paper's 1 is for Atari.
            # The paper has no reference policy, so there is no KL.
            "loss": {
                **CLIP,
                **{"aggregate": "token-mean", "kl_coef": 0.0},
                **{"value_coef": 0.1, "value_clip": 0.2},
            },
        },
    ),
    "reinforce++": Preset(
        "REINFORCE++, 2501.03262, token KL and normalisation over the global batch",
        "The reward minus the KL of the tokens that follow, whitened over all tokens of the batch. "
        "No baseline. Clipped token ratios.",
        {
            "advantage": {
                **{"normalise": "none", "baseline": "none", "credit": "token"},
                # n: as in OpenRLHF, the code of its authors; over all tokens it is nearly n - 1.
                **{"whiten": "tokens", "discount": 1.0, "ddof": 0},
            },
            # The coefficient is the one with which 2503.23829 uses this algorithm.
            "loss": {
                **CLIP,
                **{"aggregate": "token-mean", "kl_coef": 0.01},
                **{"kl_in": "reward", "kl_form": "k1"},
            },
        },
    ),
    "spct": Preset(
        "SPCT, 2504.02495, equations 4 and 5, section 5.1 (the 27B model)",
        "For `reward.source: preference`: +1 for a judgement that puts the best response strictly "
        "on top, -1 for any other. GRPO with a larger KL term, which keeps the form of the output.",
        {
            "advantage": GROUP_SCORE,
            "loss": {
                **CLIP,
                **{"aggregate": "seq-mean-token-mean", "kl_coef": 0.08},
                **{"kl_in": "loss", "kl_form": "k3"},
            },
        },
    ),
}


def check_preset(name: str) -> None:
    """Raise ValueError, with the nearest name, for a name that is not empty and no preset."""
    if name and name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known presets: {', '.join(PRESETS)}"
        raise ValueError(f"there is no preset {name!r}; {hint}")


def fill_preset(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of an rl stage, with the values of a preset where `given` has none.

    Sections are merged key by key: a key that is in `given` keeps its value.
    """
    return _merged(PRESETS[name].fills, given)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return the union of two trees of mappings, with the values of `above` where both have one."""
    tree = dict(below) | above
    for key, value in below.items():
        if key in above and isinstance(value, dict) and isinstance(above[key], dict):
            tree[key] = _merged(value, above[key])
    return tree
