"""The types that cross module borders, and the one key of dimension letters.

Arrays end in their dimensions: `logprob_BR` is a [rows, response columns] array.

    Q  prompts in a step              V  vocabulary
    G  samples per prompt             D  model width
    B  rows, Q * G, groups adjacent   N  query heads
    P  prefix (prompt) columns        K  key/value heads
    R  response columns               M  query heads per key head, N / K
    T  columns of a query             H  head size
    S  columns of a cache             F  feed-forward width
    C  verifier-context columns       L  layers
    E  experts

Token arrays are columns plus a mask: position = running count of the mask, and a query sees
earlier columns whose mask is set.  Left padding, early stop and text that follows a ragged
response are then one case.  Everything here is data: no method computes more than a view.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Params = dict[str, Array]  # flat; every key ends in its shape: `q_LDNH`, `embed_VD`
Metrics = dict[str, Array]


@struct.dataclass
class Prompts:
    """What a step is asked: left-padded token ids, int32, with bool masks."""

    prompt_QP: Array
    prompt_mask_QP: Array
    check_QC: Array  # the verifier's context: question and reference, up to where the answer goes;
    # with J templates J adjacent rows for each prompt
    check_mask_QC: Array


@struct.dataclass
class Rollout:
    """Q prompts and G responses to each.  EOS belongs to the response; masks come from lengths."""

    prompt_QP: Array
    prompt_mask_QP: Array
    response_BR: Array  # int32
    length_B: Array  # int32, tokens of the response, EOS included
    truncated_B: Array  # bool, the budget of R tokens ended before EOS
    logprob_BR: Array  # float32, under the distribution that was sampled; 0 where there is no token

    @property
    def response_mask_BR(self) -> Array:
        return jnp.arange(self.response_BR.shape[1]) < self.length_B[:, None]


@struct.dataclass
class Verdict:
    """How the verifier is asked for its verdict, in token ids and vocabulary tables."""

    tail_JC: Array  # int32, J templates after the answer; the verdict is read in the last column
    tail_mask_JC: Array  # bool, shorter ones stand to the right
    accept: Array  # int32, id of the token that means correct
    reject: Array  # int32, id of the token that means wrong
    newline_V: Array  # bool, tokens that end a line
    blank_V: Array  # bool, tokens that are no visible text (white space, control tokens)
    control_V: Array  # bool, tokens that are no text at all (role markers): never shown
    spelling: "Spelling | None" = None  # to find boxes and markers; None: the last line is shown


@struct.dataclass
class Spelling:
    """What the device needs to find a marked answer in token ids."""

    bytes_VW: Array  # uint8, the text of each token, its first W bytes; then 0
    length_V: Array  # int32, how many of them there are
    kind_U: Array  # uint8, kinds of characters, by code point (`markers.REFUSED` and so on)
    last_line: Array  # bool, whether the last line stands in where nothing is marked


@struct.dataclass
class Learner:
    """A model that is trained beside the policy, and its optimizer."""

    params: Params
    opt_state: Any


@struct.dataclass
class TrainState:
    """All that a training step changes, in one pytree: donated, checkpointed, restored."""

    step: Array  # int32
    key: Array  # the only source of randomness; streams are folds of it by step, row, position
    policy: Params
    opt_state: Any
    skipped: Array  # int32, updates left out so far because loss or gradient was not finite
    skipped_in_row: Array  # int32, steps since all updates, of policy and PRM, were finite
    prm: Learner | None = None  # where token rewards are asked for
    kl_coef: Array | None = None  # float32, where it adapts


@struct.dataclass
class Frozen:
    """Models that a step reads and never changes."""

    reference: Params  # empty where neither a KL term nor the PRM asks for it
    verifier: Params  # empty, and `verdict` None, where rewards come from the host
    verdict: Verdict
    newline_V: Array | None = None  # bool, tokens that end a line, where the PRM rewards lines
