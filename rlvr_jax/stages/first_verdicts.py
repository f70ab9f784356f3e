"""Before a stage pays with a verifier, ten references are shown to it as answers.

A verifier that was trained on other words, or with another template, puts little probability on the
two verdict words.  Then most rewards would be 0, which is better seen before the first step.
"""

from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import model
from rlvr_jax.config import RewardConfig
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text.template import left_pad
from rlvr_jax.stages.workspace import Workspace, padded
from rlvr_jax.structs import Params

COUNT = 10


class FirstVerdicts(NamedTuple):
    """FirstVerdicts are a verifier's verdicts on references, one for each problem and template."""

    mass_B: np.ndarray  # probability of the two verdict words together
    accepted_B: np.ndarray  # bool, the word for right is the more probable of the two
    clear_B: np.ndarray  # bool, the most probable token is one of the two words
    said_B: list[str]  # the most probable token as text


def ask(ws: Workspace, params: Params, records: list[dataset.Record]) -> FirstVerdicts:
    """Show the verifier the references of some problems as answers to them."""
    asked, cfg = ws.verifier_prompt, ws.cfg.verifier
    rows, words = list[list[int]](), list[tuple[int, int]]()
    for record in records:
        answer = asked.tok.encode(record["reference"])
        rows += [[*before, *answer, *after] for before, after in asked.around(record)]
        words += zip(asked.accept_J, asked.reject_J, strict=True)
    count, shards = len(rows), ws.cfg.mesh.row_shards
    size = -(-count // shards) * shards
    ids: Any = left_pad(padded(rows, size), max(map(len, rows)), "check")
    words_B2: Any = np.array(padded(words, size), np.int32)

    @jax.jit
    def read(params, token_BT, mask_BT, words_B2):
        hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
        logits_BV = model.logits(params, hidden_BTD[:, -1], cfg).astype(jnp.float32)
        p_B2 = jnp.take_along_axis(jax.nn.softmax(logits_BV), words_B2, 1)
        return p_B2, jnp.argmax(logits_BV, -1)

    p_B2, top_B = (x[:count] for x in ws.fetch(read(params, *ws.place((*ids, words_B2)))))
    p_B2 = np.nan_to_num(p_B2)
    said = asked.tok.pieces(top_B.tolist())
    clear_B = (top_B[:, None] == words_B2[:count]).any(1)
    return FirstVerdicts(p_B2.sum(1), p_B2[:, 0] > p_B2[:, 1], clear_B, said)


def check(ws: Workspace, stage: str, params: Params, cfg: RewardConfig, split: str) -> None:
    """Print how much probability a verifier puts on its two words.

    `split` names the problems whose references are shown to it.

    Raises:
      RunError: it is less than `min_mass`, or in mode `paper` most often another token is the most
        probable one, so that there would be no rewards.
    """
    source = ws.problems(split)
    found = ask(ws, params, [source[i] for i in range(min(COUNT, len(source)))])
    pairs = ", ".join(" and ".join(map(repr, pair)) for pair in {*ws.verifier_prompt.words_J})
    mass, accepted = float(found.mass_B.mean()), int(found.accepted_B.sum())
    log.say(
        f"{stage}: shown {len(found.said_B)} references as answers, the verifier puts {mass:.2f} "
        f"of its probability on {pairs} and accepts {accepted}"
    )
    enough = found.clear_B.mean() >= 0.5 if cfg.mode == "paper" else mass >= cfg.min_mass
    if not enough:
        often = [f"{text!r} ({n} times)" for text, n in Counter(found.said_B).most_common(3)]
        raise RunError(
            f"stage {stage}: the verifier says {', '.join(often)} where {pairs} is due, and would "
            "give almost no rewards: ask it with the template and words that it was trained on "
            "(data.check_templates), or lower reward.min_mass"
        )
