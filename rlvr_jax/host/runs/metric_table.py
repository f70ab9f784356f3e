"""METRICS lists every metric that a stage logs: what it is, and how it goes in a healthy run.

docs/metrics.md, the notes and limits of the report, and the trackers are made from this table. A
metric is added here and where it is computed; the tests refuse one that is not in both places.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple


class Metric(NamedTuple):
    """A Metric is a sentence about a metric, and the limits between which it is healthy."""

    note: str
    low: float | None = None
    high: float | None = None


# In the order in which they are shown. An upper-case word in a name stands for any text: metrics of
# such a name are a family. The limit of the mismatch is that of bfloat16, because the page does not
# know the precision of a run.
METRICS: dict[str, Metric] = {
    "loss": Metric("Falls fast, then flattens; a rise means the learning rate is too high."),
    # What the policy does with held-out problems.
    "eval/accuracy": Metric(
        "Graded by the oracle, not by the reward: it should rise with the reward."
    ),
    "eval/accuracy/DOMAIN": Metric(
        "The same for one domain: a fall in one is forgetting that the mean hides."
    ),
    "eval/greedy": Metric("Rises with the sampled accuracy and stays a little above it."),
    "eval/pass_at_k": Metric(
        "Right at least once among k; a fall as accuracy rises is lost variety."
    ),
    "eval/false_positive": Metric(
        "Below 5 %: a policy learns to find wrong answers that are accepted.", high=0.05
    ),
    "eval/false_negative": Metric(
        "Below 10 %: rejected right answers cost learning signal, not safety.", high=0.10
    ),
    # Rewards, and the signs that they are gamed.
    "reward/mean": Metric(
        "Rises and flattens; compare it with eval/accuracy, the gap is the hacked part."
    ),
    "reward/min": Metric("The smallest reward of the step."),
    "reward/max": Metric("The largest reward of the step; at 0, nothing was right."),
    "reward/std": Metric("Above 0: with no spread there is nothing to learn from.", low=1e-6),
    "reward/greedy": Metric("Rises with reward/mean and stays above it: ReMax's baseline."),
    "reward/frac_zero_std": Metric(
        "Below 60 %: groups that are all right or all wrong teach nothing.", high=0.6
    ),
    "reward/histogram": Metric(
        "Mass moves upwards and out of the middle; all of it in the top bin is either a solved "
        "task or a fooled verifier."
    ),
    "reward/overlong": Metric("The mean penalty for length; towards 0, answers learn to fit."),
    "reward/nonfinite": Metric("0: rewards that were not finite and count as 0.", high=0.0),
    "reward/NAME": Metric("The mean of a further reward, of this name in `also`."),
    "oracle/gap": Metric(
        "Near 0: how far the mean reward is above the score of the oracle; a climb is hacking."
    ),
    "rule/mean": Metric("The mean score of the rule where a model judges too."),
    "rule/no_answer": Metric("Falls: answers in which the rule found nothing to grade."),
    "rule/timeout": Metric(
        "0; a timeout scores 0, so a slow rule punishes right answers.", high=0.0
    ),
    "rule/crash": Metric("0: answers on which the rule raised or died; they score 0.", high=0.0),
    "gate/NAME": Metric("The share of answers that pass this gate; the others get reward 0."),
    "hack/alarm_length": Metric("1 while answers are far shorter and the reward is higher."),
    "hack/alarm_identical": Metric("1 while nearly all answers are one and the same."),
    "hack/alarm_reward_std": Metric("1 while all rewards are equal."),
    "hack/alarm_oracle_gap": Metric("1 while the reward is too far above the oracle's score."),
    "hack/alarm_kl_jump": Metric("1 while the KL to the reference has jumped."),
    "hack/alarm_prm_rise": Metric("1 while the PRM's reward rises and the outcome does not."),
    "hack/alarm_valid_frac": Metric("1 while too few judgements of a GRM can be read."),
    "hack/alarm_tie_frac": Metric("1 while too many judgements of a GRM tie at the top."),
    # The audit before the first step, which logs it.
    "audit/false_positive": Metric(
        "The share of attacks that are accepted, or mislead a GRM; a policy finds them."
    ),
    "audit/false_negative": Metric("The share of right answers that are rejected."),
    "audit/youden": Metric("1 minus both error rates: 1 is perfect, 0 teaches nothing."),
    "audit/dark_current": Metric("The mean reward for saying nothing; near 0."),
    "audit/worst": Metric("The largest reward of a wrong answer."),
    "audit/search_p1": Metric("The p(1) that a search over tokens reached; it has no limit."),
    "audit/before": Metric("The share of pairs that a GRM gets wrong without an attack."),
    "audit/rise": Metric("How much that share grows by an attack; near 0."),
    "audit/moved": Metric("How much an attack raises the reward of the worse answer; near 0."),
    "audit/invalid": Metric("The share of attacked judgements that cannot be read."),
    # Which problems are drawn and kept.
    "difficulty/unseen": Metric("Falls to 0 as every problem is tried once."),
    "difficulty/unsolved": Metric("Falls; what stays has no right answer to learn from yet."),
    "difficulty/hard": Metric("The share of problems that are rarely solved."),
    "difficulty/middle": Metric("The share of problems that teach most."),
    "difficulty/easy": Metric("The share of problems that are mostly solved."),
    "difficulty/solved": Metric(
        "Rises; its share of the step (drawn_solved) is spent on nothing new."
    ),
    "difficulty/drawn_unseen": Metric("The share of the step's problems that were unseen."),
    "difficulty/drawn_unsolved": Metric("The share of the step's problems that were unsolved."),
    "difficulty/drawn_hard": Metric("The share of the step's problems that were hard."),
    "difficulty/drawn_middle": Metric("The share of the step's problems of middle difficulty."),
    "difficulty/drawn_easy": Metric("The share of the step's problems that were easy."),
    "difficulty/drawn_solved": Metric("The share of the step's problems that were solved."),
    "difficulty/forced": Metric(
        "0: problems of weight 0 that were drawn because no others were left."
    ),
    "filter/reward": Metric("The mean reward before groups were selected: it should rise."),
    "filter/kept_frac": Metric("The share of the groups tried that the filter keeps."),
    "filter/too_hard": Metric("The share of the groups tried whose mean is below the limit."),
    "filter/too_easy": Metric("The share of the groups tried whose mean is above the limit."),
    "filter/rounds": Metric("How often the step generated; a climb is time for fewer groups."),
    "filter/unfilled": Metric("0: places of the update that no group was left for."),
    "filter/surplus": Metric("Kept groups without a place; they wait for a later step."),
    "filter/queue": Metric("Problems that wait for a later step; it should not grow for ever."),
    # Credit.
    "advantage/mean": Metric(
        "Close to 0: advantages are centred in their group or batch.", low=-0.1, high=0.1
    ),
    "advantage/min": Metric("A few units below 0; far below -5, one failure steers the update."),
    "advantage/max": Metric("A few units; far above 5, one rare success steers the whole update."),
    "advantage/correlation": Metric("Above 0: token rewards agree with the outcome rewards."),
    "advantage/process_std": Metric("Below the outcome's: token rewards never stand alone."),
    "advantage/outcome_std": Metric("The spread of the outcome's part of the advantages."),
    "baseline/DOMAIN": Metric("The running mean of a domain's rewards, which is subtracted."),
    # The policy and its updates.
    "policy/loss": Metric("Hovers around 0; its size says little, jumps and drifts do."),
    "policy/grad_norm": Metric(
        "Steady and mostly below the clipping threshold, with rare single spikes."
    ),
    "policy/lr": Metric("Follows the schedule: warm-up, then flat or falling."),
    "policy/entropy": Metric(
        "Falls slowly; a plunge towards 0 is collapse, a climb is noise winning."
    ),
    "policy/kl": Metric(
        "Grows slowly from 0 and levels off; far above 1 it has left the reference.", high=1.0
    ),
    "policy/kl_coef": Metric("The weight of the KL, where it adapts to reach `kl_target`."),
    "policy/approx_kl": Metric(
        "Below 0.02 between two updates; 0 when every batch is used once.", high=0.02
    ),
    "policy/clip_frac": Metric("Below 20 %; 0 when every batch is used once.", high=0.2),
    "policy/clip_low_frac": Metric("The clipped tokens whose probability fell."),
    "policy/clip_high_frac": Metric("The clipped tokens whose probability rose."),
    "policy/chosen_frac": Metric("The share of the tokens that the policy learns from."),
    "policy/skipped": Metric(
        "0: updates left out so far, because loss or gradient were not finite.", high=0.0
    ),
    "completion/length_mean": Metric("Drifts slowly; racing up or down is length being rewarded."),
    "completion/length_min": Metric("Tokens of the shortest answer of the step."),
    "completion/length_max": Metric("Tokens of the longest answer; at the limit, it was cut."),
    "completion/truncated_frac": Metric(
        "Below 10 %: above it, raise the response limit, or ask for shorter answers.", high=0.1
    ),
    "completion/identical_frac": Metric(
        "Low: the share of the step's answers that are one and the same; a climb is collapse."
    ),
    "completion/tokens": Metric("Tokens of all answers of the step."),
    "mismatch/logprob_diff_mean": Metric(
        "1e-7 to 1e-5 in float32, about 1e-3 in bfloat16; int8 caches: 3e-2."
    ),
    "mismatch/logprob_diff_max": Metric(
        "1e-6 to 1e-4 in float32: sampler and trainer are the same function.", high=0.05
    ),
    "mismatch/ess": Metric("Above 90 %: the share of tokens that count as drawn from the policy."),
    "mismatch/ratio": Metric(
        "1 within rounding: the sampler's and the trainer's probabilities agree."
    ),
    "mismatch/weight_mean": Metric("Near 1: the mean weight that corrects for the sampler."),
    "mismatch/masked_frac": Metric("Near 0: tokens whose correcting weight is 0."),
    "mismatch/rejected_frac": Metric("Near 0: tokens left out as too unlike the sampler's."),
    "mismatch/stale_frac": Metric("Near 0: tokens of answers that the policy has left."),
    # The models that judge, and those that are trained to.
    "grm/valid_frac": Metric(
        "Above 90 %: judgements with one score for each response, in range.", low=0.9
    ),
    "grm/tie_frac": Metric(
        "Below 20 %: judgements that give their top score to several responses.", high=0.2
    ),
    "grm/reward": Metric("The mean reward that a generative reward model's votes give."),
    "grm/votes": Metric(
        "Votes that count, for each response; fewer than asked are invalid or left out."
    ),
    "grm/unjudged_frac": Metric(
        "Below 5 %: responses without a vote, whose reward is 0.", high=0.05
    ),
    "grm/length": Metric("Tokens of a judgement; a fall while the reward rises is a shortcut."),
    "grm/rollout_useful": Metric(
        "The share of decoding in which judgements were written, not waited for."
    ),
    "grm/disagree_frac": Metric("How often the rule and the votes disagree about a response."),
    "scalar/acc": Metric("Rises: how often the best response of an item gets the top reward."),
    "verifier/p1_mean": Metric("Follows the accuracy; pinned near 1 means the verifier is fooled."),
    "verifier/mass01": Metric(
        "Above 95 %: the verifier answers with a verdict and nothing else.", low=0.95
    ),
    "verifier/ambiguous_frac": Metric(
        "Below 5 %: verdicts whose mass was too low and count as 0.", high=0.05
    ),
    "verifier/blocked_frac": Metric(
        "Below 2 %: answers refused because they attack the verifier.", high=0.02
    ),
    "verifier/disagree_frac": Metric("How often the rule and the verifier disagree."),
    "verifier/accuracy": Metric(
        "How often the verifier agrees with the judge on held-back verdicts."
    ),
    "verifier/f1": Metric("The F1 score of the verifier on held-back verdicts: 1 is perfect."),
    "verifier/kappa": Metric("Agreement with the judge beyond chance: 1 is all, 0 is none."),
    "verifier/false_positive": Metric("Near 0: wrong answers that are accepted."),
    "verifier/false_negative": Metric("Near 0: right answers that are rejected."),
    "verifier/youden": Metric("1 minus both error rates: 1 is perfect, 0 teaches nothing."),
    "verifier/youden/DOMAIN": Metric("The same for one domain."),
    "verifier/ece": Metric("Near 0: the gap between p(1) and the share that is right."),
    "verifier/ece/DOMAIN": Metric("The same for one domain."),
    "verifier/verdicts": Metric("The held-back verdicts that these numbers are of."),
    "verifier/kappa/DOMAIN": Metric("Near 1: agreement with the judge in one domain."),
    "verifier/youden_forms": Metric("Near 1: right answers in other forms pass, wrong ones fail."),
    "verifier/fooled_by_KIND": Metric("Near 0: wrong answers of this kind that are accepted."),
    "prm/loss": Metric("Falls and then hovers: the PRM keeps up with the policy."),
    "prm/acc": Metric("Above 60 %: the PRM ranks right responses above wrong ones.", low=0.6),
    "prm/reward_mean": Metric("Near 0 and bounded; a steady drift means beta is too large."),
    "prm/grad_norm": Metric("Steady, as that of the policy."),
    "prm/taught_frac": Metric("The share of the responses that the PRM learns from."),
    "prm/skipped": Metric("0: 1 in a step whose update of the PRM was not finite.", high=0.0),
    "prm/router/balance": Metric("As router/balance, of the PRM."),
    "prm/router/busiest": Metric("As router/busiest, of the PRM."),
    "router/balance": Metric(
        "Near the number of experts per token; a climb is a few experts taking over."
    ),
    "router/busiest": Metric(
        "A few times 1 / experts; towards 1 / (experts per token) it has collapsed."
    ),
    "value/loss": Metric(
        "Falls and then hovers: the squared error of the value head per token, halved."
    ),
    "value/explained": Metric("Rises from 0 towards 1; below 0 the values are worse than none."),
    "value/mean": Metric(
        "Follows the mean reward after normalisation; a drift away is a broken head."
    ),
    # Time.
    "time/step": Metric(
        "Seconds; flat after the first step. Slow later ones are compilation or host rewards."
    ),
    "time/compile": Metric("0 after the first steps: the seconds in which programs were compiled."),
    "perf/tokens_per_s": Metric(
        "Flat or rising; a fall with constant lengths is padding or a recompile."
    ),
    "perf/compiles": Metric("Stops growing after the first steps: one compile for each bucket."),
    "perf/compile_s": Metric("Stops growing: seconds of compiling since the process began."),
    "perf/rollout_useful": Metric(
        "The share of decoding that wrote tokens; a fall is waiting for the longest answers."
    ),
    "perf/update_useful": Metric("The share of the update's positions that are no padding."),
}
_FAMILIES = {
    name: re.compile(re.sub("[A-Z]+", ".+", name)) for name in METRICS if not name.islower()
}
# The tests set it, so that a stage which logs a metric without a note fails them.
_STRICT = "RLVR_TEST_METRICS" in os.environ


def find(name: str) -> str | None:
    """Return the entry of METRICS that a logged name has: itself, or its family."""
    if name in METRICS:
        return name if name not in _FAMILIES else None
    return next((entry for entry, form in _FAMILIES.items() if form.fullmatch(name)), None)


def about(names: Iterable[str]) -> dict[str, Metric]:
    """Return what is known about logged names, in the order of METRICS."""
    order = {entry: place for place, entry in enumerate(METRICS)}
    entries = {name: entry for name in names if (entry := find(name))}
    return {
        name: METRICS[entry] for name, entry in sorted(entries.items(), key=lambda x: order[x[1]])
    }


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse, in tests only, a metric that METRICS does not have.

    Raises:
      ValueError: the message names it.
    """
    for name in names if _STRICT else ():
        if find(name) is None:
            raise ValueError(f"the metric {name} has no entry in METRICS of {__name__}")
