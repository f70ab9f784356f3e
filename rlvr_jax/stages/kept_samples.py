"""The rollouts of some steps are kept in samples/, with what explains their rewards and credit.

A row has the problem, the response with its tokens, and its scores.  `piece_values` are the tokens'
log-probs when they were sampled; `token_values` has further values by name:

    ratio         probability after this step's update / probability when it was sampled
    token_reward  from the process reward model
    advantage     where it differs between the tokens of a response

`parts` has what the reward is made of.  `prompt` stands in the first row of each problem only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import adapters, likelihood, prompt_filter
from rlvr_jax.config import RlStage
from rlvr_jax.host import rules
from rlvr_jax.host.runs import log
from rlvr_jax.stages import host_rewards
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Array, Frozen, Params, Rollout, StepResult

DIGITS = 4  # significant digits of the values of tokens

# (number of the step, its placed records, its result) -> mean reward minus mean oracle score
Keep = Callable[[int, list[Any], StepResult], float]


def keeper(stage: RlStage, ws: Workspace, frozen: Frozen) -> Keep:
    """Return a function that writes all rollouts of a step to disk, and prints a few of them."""

    @jax.jit
    def ratios(params: Params, base: Params, rollout: Rollout) -> Array:
        policy = adapters.over(base, params)
        after_BR, _ = likelihood.logprobs(policy, rollout, stage.sample, ws.cfg.model)
        return jnp.exp(after_BR - rollout.logprob_BR)

    def keep(number: int, records: list[Any], result: StepResult) -> float:
        ratio_BR = ratios(result.state.params, frozen.base, result.rollout)
        names = ("rollout", "reward_B", "advantage_B", "tokens")
        arrays = {name: getattr(result, name) for name in names}
        arrays["tokens"] = result.tokens | {"ratio": ratio_BR}
        result = result._replace(**ws.fetch(arrays))
        rows = [{"step": number} | row for row in make_rows(stage, ws, records, result)]
        ws.run.write_samples(stage.name, number, rows)
        head = ["question", "reference", "response", "reward", "advantage"]
        few = rows[:: stage.samples * max(1, stage.prompts // 4)]
        log.table(f"{stage.name} step {number}", head, [[row[h] for h in head] for row in few])
        return float(np.mean([row["reward"] - row["oracle"] for row in rows]))

    return keep


def make_rows(
    stage: RlStage, ws: Workspace, records: list[Any], result: StepResult
) -> list[dict[str, Any]]:
    """Return the rows of a step; `records` are the problems of its groups, `result` on the host."""
    rollout: Any = result.rollout  # numpy arrays
    tok, count = ws.tokenizer, len(records) * stage.samples
    texts = [tok.decode(rollout.response_BR[i, : rollout.length_B[i]]) for i in range(count)]
    owners = [record for record in records for _ in range(stage.samples)]
    reward_B: Any = result.reward_B
    how = ws.cfg.data.answer
    oracles = ws.divide(
        lambda mine: [oracle_score(stage, texts[i], owners[i], float(reward_B[i])) for i in mine],
        count,
    )
    rows = []
    for i, (text, oracle, record) in enumerate(zip(texts, oracles, owners, strict=True)):
        length, (parts, status) = int(rollout.length_B[i]), parts_of(result.parts, i)
        if stage.reward.source == "verifier" and not parts and stage.reward.mode == "soft":
            parts["p1"] = shortened(reward_B[i : i + 1])[0]
        row = {
            "domain": record["domain"],
            "question": record["question"],
            "reference": record["reference"],
            "response": text,
            "answer": "" if stage.role == "grm" else host_rewards.visible_answer(text, how),
            "reward": reward_B[i],
            "advantage": result.advantage_B[i],
            "oracle": oracle,
            "truncated": bool(rollout.truncated_B[i]),
            "parts": parts,
            "pieces": tok.pieces(rollout.response_BR[i, :length]),
            "piece_values": shortened(rollout.logprob_BR[i, :length]),
            "token_values": token_values(result.tokens, i, length),
        }
        if status:
            row["status"] = status
        if i % stage.samples == 0:
            prompt = rollout.prompt_QP[i // stage.samples]
            mask = rollout.prompt_mask_QP[i // stage.samples]
            row["prompt"] = "".join(tok.pieces(prompt[mask]))
        rows.append(row)
    return rows


def parts_of(parts: dict[str, Any], row: int) -> tuple[dict[str, float], str]:
    """Return what the reward of a row is made of, and how its grading ended; "" where it is ok."""
    status = parts["status"][row] if "status" in parts else "ok"
    names = [name for name in parts if name != "status"]
    values = shortened([parts[name][row] for name in names])
    return dict(zip(names, values, strict=True)), "" if status == "ok" else status


def token_values(tokens: dict[str, Any], row: int, length: int) -> dict[str, list[float]]:
    """Return the values of a row's tokens by name; advantages only where they differ."""
    found = {name: value_BR[row, :length] for name, value_BR in tokens.items()}
    if "advantage" in found and np.ptp(found["advantage"]) < 1e-6:
        del found["advantage"]
    return {name: shortened(values) for name, values in found.items()}


def shortened(values: Sequence[float]) -> list[float]:
    """Round numbers to DIGITS significant digits, so that a file of samples stays small."""
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, np.float64)]


def placed_parts(
    rounds: Sequence[dict[str, Any]], fate_X: np.ndarray, samples: int
) -> dict[str, Any]:
    """Return the parts of the rows that a prompt filter placed, in the order of their places.

    `rounds` has the parts of each round, and `fate_X` the fate of each prompt that could be drawn;
    a prompt has `samples` rows.
    """
    found = {}
    for name in rounds[0]:
        rows = [value for parts in rounds for value in parts[name]]
        placed = [i for i in range(len(rows)) if fate_X[i // samples] == prompt_filter.PLACED]
        found[name] = [rows[i] for i in placed]
    return found


def oracle_score(stage: RlStage, text: str, record: Any, reward: float) -> float:
    """Return the score of the task's own rule, or the reward where that is the truth already.

    A rule of the user's own runs in the pool only, and a judgement of a preference item is rewarded
    by the item's truth.
    """
    if stage.reward.rule or stage.role == "grm":
        return reward
    return rules.score_record(text, record)
