"""These types cross module borders; a key explains the dimension letters of array names.

The name of an array ends in its dimensions: `logprob_BR` is a [rows, response columns] array.

    Q  prompts in a step              V  vocabulary
    G  samples per prompt             D  model width
    B  rows, Q * G, groups adjacent   N  query heads
    P  prefix (prompt) columns        K  key/value heads
    R  response columns               M  query heads per key head, N / K
    T  columns of a query             H  head size
    S  columns of a cache             F  feed-forward width
    C  verifier-context columns       L  layers
    E  experts                        J  verifier templates
    U  rank of an adapter
    N  responses that a judgement compares (in box_scores.py and grm.py)

In `index_SM`, `row_SM` and `owner_SM`, S counts data shards and M the rows of a shard.  Other
letters are local to a file.

An array of tokens comes with a mask of the columns that exist.  The position of a token is the
number of existing columns before it, and a query attends to existing columns up to its own.
Left padding, early stop and text that follows a ragged response are therefore one case.

One training step turns these types into each other:

    Prompts -> Round -> Signals -> Credit -> TrainState

Everything here is data: methods only derive masks and sizes.
"""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlvr_jax.config import CritiqueConfig, ModelConfig, PrmStage, RlStage

Array = jax.Array
Params = dict[str, Array]  # flat; every key ends in its shape: `q_LDNH`, `embed_VD`
Metrics = dict[str, Array]
StageT = TypeVar("StageT", RlStage, PrmStage)


# ---- what goes in ----------------------------------------------------------------------------


@struct.dataclass
class Ranking:
    """A Ranking says which of the responses in a judgement's prompt is the best, in shown order."""

    exists_BN: Array  # bool, the responses that the prompt shows
    best_B: Array  # int32, index of the best response; of a single one: 1 if right, 0 if wrong
    binary_B: Array  # bool, the scores are 0 and 1 instead of 1 to 10

    @property
    def count_B(self) -> Array:
        """Return the number of responses, int32."""
        return jnp.sum(self.exists_BN, 1, dtype=jnp.int32)


@struct.dataclass
class Prompts:
    """Prompts are the problems of one step as left-padded token ids (int32) with bool masks.

    Without a verifier C may be 0.  With J verifier templates `check_QC` is [Q * J, C]: each prompt
    has J adjacent rows.  If a generative reward model judges the responses, `check_QC` is its
    context.  Prompts of preference items have a `ranking` with one row for each prompt.
    `tail_QC` is for templates whose text after the answer depends on the problem.
    """

    prompt_QP: Array
    prompt_mask_QP: Array
    check_QC: Array  # the verifier's context: template, question and reference, up to the answer
    check_mask_QC: Array
    ranking: Ranking | None = None
    tail_QC: Array | None = None  # None: `Verdict.tail_JC` follows the answer to every problem
    tail_mask_QC: Array | None = None
    baseline_Q: Array | None = None  # float32, what is subtracted from rewards; baseline: domain


@struct.dataclass
class Rollout:
    """A Rollout holds Q prompts and the G responses that a policy wrote to each of them.

    The end-of-sequence token belongs to the response.  Masks are computed from lengths, never from
    padding ids.
    """

    prompt_QP: Array
    prompt_mask_QP: Array
    response_BR: Array  # int32
    length_B: Array  # int32, tokens of the response, end-of-sequence token included
    truncated_B: Array  # bool, the token budget ended before an end-of-sequence token
    logprob_BR: Array  # float32, under the distribution that was sampled; 0 in padding

    @property
    def response_mask_BR(self) -> Array:
        """Return a bool mask of the columns that hold a token of the response."""
        return jnp.arange(self.response_BR.shape[1]) < self.length_B[:, None]


@struct.dataclass
class Spelling:
    """A Spelling holds the vocabulary as bytes, to find a marked answer in token ids."""

    bytes_VW: Array  # uint8, the text of each token: its first W bytes, padded with 0
    length_V: Array  # int32, bytes of each token
    kind_U: Array  # uint8, kinds of characters by code point (`markers.REFUSED` and so on)
    last_line: Array  # bool, whether the last line is the answer if none is marked


@struct.dataclass
class Verdict:
    """A Verdict holds the token ids and vocabulary tables with which the verifier is asked."""

    tail_JC: Array  # int32, J templates after the answer; the last column predicts the verdict
    tail_mask_JC: Array  # bool, shorter templates are padded on the left
    accept_J: Array  # int32, id of the token that means correct
    reject_J: Array  # int32, id of the token that means wrong
    newline_V: Array  # bool, tokens that end a line
    blank_V: Array  # bool, tokens that are no visible text (white space, control tokens)
    control_V: Array  # bool, tokens that are no text at all (role markers): never shown
    spelling: Spelling | None = None  # for marked answers; None: the last line is the answer


@struct.dataclass
class Critic:
    """A Critic holds the token ids and vocabulary tables with which a GRM is asked and read.

    The frames of responses are padded on the left, one row for each place in a prompt.
    """

    spelling: Spelling
    control_V: Array  # bool, tokens that are no text at all (role markers): never shown
    filler: Array  # int32, id of the token shown instead of text that looks like a frame
    before_NC: Array  # int32, ids before a response
    before_mask_NC: Array
    after_NC: Array  # int32, ids after a response
    after_mask_NC: Array
    middle_C: Array  # int32, ids between criteria from the query and the responses; may be empty
    tail_C: Array  # int32, ids after the responses, up to where the judgement begins
    marks: tuple[str, ...] = struct.field(pytree_node=False, default=())  # signs of a frame
    meta: Verdict | None = None  # how the meta RM is asked; None without one


# ---- what is kept ----------------------------------------------------------------------------


@struct.dataclass
class Learner:
    """A Learner is a model that is trained beside the policy, together with its optimizer."""

    params: Params
    opt_state: Any


@struct.dataclass
class TrainState:
    """A TrainState is all that a training step changes, in one pytree.

    The state is donated to the step, checkpointed and restored as a whole.  Which of
    `prm`, `kl_coef` and `reference` are None does not change during a stage.
    """

    step: Array  # int32, steps done
    key: Array  # the only source of randomness; streams fold in the step, the row, the position
    params: Params  # of the model that the stage trains: all, or its adapter and value head
    opt_state: Any
    skipped: Array  # int32, updates left out so far because loss or gradient was not finite
    skipped_in_row: Array  # int32, updates left out in a row; a step with a bad PRM update adds 1
    prm: Learner | None = None  # if the stage uses token rewards
    kl_coef: Array | None = None  # float32, if the KL coefficient adapts
    reference: Params | None = None  # of the KL term, if the reference follows the policy


def no_tokens() -> Array:
    """Return an empty table over the vocabulary, for steps that never read it."""
    return jnp.zeros(0, bool)


@struct.dataclass
class Frozen:
    """A Frozen holds the models and tables that a step reads and never changes."""

    reference: Params  # what differs from `base`; empty where nothing reads a reference policy, or
    # the state holds it, or the base itself is the reference
    verifier: Params  # empty where the host computes the rewards
    verdict: Verdict | None = None  # None where the host computes the rewards
    newline_V: Array = struct.field(default_factory=no_tokens)  # bool, tokens that end a line;
    # read where the PRM rewards whole lines
    grm: Params = struct.field(default_factory=dict)  # empty where no GRM judges responses
    meta: Params = struct.field(default_factory=dict)  # empty without a meta RM
    critic: Critic | None = None  # where a GRM judges, or is trained
    base: Params = struct.field(default_factory=dict)  # below the adapter of what learns; empty
    # where all parameters learn.  `adapters.over` lays on it what is not whole


@dataclass(frozen=True)
class Setup(Generic[StageT]):
    """A Setup holds the settings of a stage's steps that are fixed at compile time.

    A Setup is hashable.  Bind it with `functools.partial` before `jax.jit`.
    """

    stage: StageT
    model: ModelConfig  # of policy, reference and PRM
    verifier: ModelConfig
    columns: int  # token budget of a response, R
    eos: tuple[int, ...]  # ids of the tokens that end a response
    tx: optax.GradientTransformation  # of the model that the stage trains
    prm_tx: optax.GradientTransformation = optax.identity()  # of a PRM beside the policy
    grm: ModelConfig = ModelConfig()  # of a generative reward model that judges, and its meta RM
    critique: CritiqueConfig = CritiqueConfig()  # what its judgements look like


# ---- the four values of a step ---------------------------------------------------------------


class Outcome(NamedTuple):
    """An Outcome holds the rewards of whole responses, by name.

    The reward named `reward` is the outcome: it labels the PRM, drives the prompt filter and is
    what metrics report.  Further names are those of `also` in the config.
    """

    rewards: dict[str, Array]  # name -> float32 [B]
    greedy: dict[str, Array] | None = None  # the same for one greedy answer to each prompt, [Q]
    baseline_Q: Array | None = None  # that of the prompts


class Selection(NamedTuple):
    """A Selection counts which groups the prompt filter kept, over all rounds of a step."""

    rounds: Array  # int32, rounds of generation
    kept: Array  # int32, groups that passed the filter, also those for which no place was free
    too_hard: Array  # int32, groups whose mean outcome is below the range of the filter
    too_easy: Array  # int32, groups whose mean outcome is above it
    nonfinite: Array  # int32, rewards that were not finite and count as 0
    reward_sum: Array  # float32, sum of all outcomes, of rejected groups too
    fate_X: Array  # int32, the fate of each prompt that could be drawn (`prompt_filter.PLACED`...)
    mean_X: Array  # float32, the mean outcome of each of these prompts; 0 where untried


class Round(NamedTuple):
    """A Round holds the groups of responses that a step learns from, and which of its rows count.

    A step has Q places for groups.  Without a prompt filter one round of generation fills all of
    them.  With a filter the groups may come from several rounds of generation, and a place may stay
    unfilled; it then has G rows of length 0 that count nowhere.
    """

    rollout: Rollout
    decoded: Array  # int32, row-steps of decoding in all rounds of generation, free slots included
    selection: Selection
    greedy: Rollout | None = None  # one greedy answer to each prompt, for the ReMax baseline

    @property
    def own_BR(self) -> Array:
        """Return a bool mask of the tokens that the policy wrote; only they get credit and loss."""
        return self.rollout.response_mask_BR

    @property
    def samples(self) -> int:
        """Return the number of samples per prompt, G."""
        return self.rollout.length_B.shape[0] // self.rollout.prompt_QP.shape[0]

    @property
    def filled_B(self) -> Array:
        """Return a bool mask of the rows whose place holds a group."""
        filled_Q = jnp.arange(self.rollout.prompt_QP.shape[0]) < self.selection.kept
        return jnp.repeat(filled_Q, self.samples)

    @property
    def counted_B(self) -> Array:
        """Return a bool mask of the rows over which means are taken.

        If no place is filled, all rows are marked: their values are all 0, and the mean of an empty
        set would not be a number.
        """
        return self.filled_B | ~jnp.any(self.filled_B)


class Signals(NamedTuple):
    """Signals hold all that is known about a round before credit is assigned.

    `step.observe` fills them.  Which fields are None depends only on the config of the stage, so
    that it is fixed when the step is compiled.
    """

    rewards: dict[str, Array]  # by name, float32 [B], finite, after gates and overlong penalty
    reference_BR: Array  # log-probs of the reference policy; the sampler's where none is read
    kl_coef: Array  # float32, the coefficient of the KL term in this step
    metrics: Metrics  # scalars that were measured on the way
    behaviour_BR: Array | None = None  # the trainer's log-probs before the first of several updates
    token_reward_BR: Array | None = None  # rewards of single tokens, from the PRM
    kl_BR: Array | None = None  # estimate of the KL per token, where it is part of the reward
    value_BR: Array | None = None  # values of the value head before this step's updates
    greedy_Q: Array | None = None  # total reward of the greedy answer to each prompt
    baseline_Q: Array | None = None  # running mean of the total rewards in each prompt's domain
    learner: Learner | None = None  # the PRM after its own update
    at_reference: Array | None = None  # bool, whether policy and reference are equal bit by bit


class Credit(NamedTuple):
    """A Credit holds the advantages of the tokens; they are constants for the gradient."""

    advantage_BR: Array
    outcome_BR: Array  # the part of the advantage that comes from outcomes, before whitening
    nonfinite: Array  # int32, numbers among the signals that were not finite and count as 0
    process_BR: Array | None = None  # the part that token rewards add
    target_BR: Array | None = None  # what the value head learns, A + V


class StepResult(NamedTuple):
    """A StepResult is what one training step returns."""

    state: TrainState
    rollout: Rollout
    reward_B: Array  # outcome of each row
    advantage_B: Array  # advantage of the first token of each row
    metrics: Metrics  # scalars
    fate_X: Array  # int32, the fate of each prompt that could be drawn, as in Selection
    mean_X: Array  # float32, the mean outcome of each of these prompts, as in Selection
    total_Q: Array  # float32, the mean total reward of each place
    tokens: dict[str, Array] = {}  # name -> values of tokens [B, R], for the samples that are kept
    parts: dict[str, Any] = {}  # name -> what the host's rewards are made of [B], for the same


class UpdateResult(NamedTuple):
    """An UpdateResult is what a training step of a prm, sft or verifier stage returns."""

    state: TrainState
    metrics: Metrics
