"""The training step turns prompts into the next state, in four calls.

    Prompts --draw--> Round --observe--> Signals --credit--> Credit --learn--> TrainState

`draw` writes responses and has them verified, because a prompt filter chooses groups by their
rewards.  `observe` reads the responses; the PRM learns in the same pass that gives its token
rewards.  `assign_credit` is arithmetic, and `learn` is the policy's gradient and optimizer.

`train_step` does all of it in one jitted program, and its reward comes from the verifier's logits.
Where the host computes the rewards, the same calls are two programs with the host between them (the
split step): `write_round`, then `update`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import (
    adapters,
    advantage,
    engine,
    grm,
    judging,
    likelihood,
    loss,
    optim,
    policy_update,
    prm,
    prompt_filter,
    sharding,
    step_metrics,
)
from rlvr_jax.config import RlStage, SampleConfig
from rlvr_jax.structs import (
    Array,
    Credit,
    Frozen,
    Learner,
    Metrics,
    Outcome,
    Params,
    Prompts,
    Rollout,
    Round,
    Setup,
    Signals,
    StepResult,
    TrainState,
)

GREEDY = SampleConfig(temperature=0)
CLIP_COV = 2**31 + 2**30  # stream of the draw of tokens: above those of rows and of rounds


def init_state(key: Array, params: Params, tx: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update, with step 0 and a new optimizer state.

    Jit this function with `out_shardings` from `sharding.shard_tree`.
    """
    zero = jnp.int32(0)
    return TrainState(zero, key, params, optim.init(params, tx), zero, zero)


def with_prm(state: TrainState, params: Params, tx: optax.GradientTransformation) -> TrainState:
    """Add a PRM that learns beside the policy, starting from a copy of `params`."""
    learner = Learner(jax.tree.map(jnp.copy, params), optim.init(params, tx))
    return dataclasses.replace(state, prm=learner)


def with_reference(state: TrainState, params: Params) -> TrainState:
    """Add a reference policy that follows the policy, starting from a copy of `params`."""
    return dataclasses.replace(state, reference=jax.tree.map(jnp.copy, params))


# ---- the step ----------------------------------------------------------------------------------


def train_step(
    state: TrainState, frozen: Frozen, prompts: Prompts, *, setup: Setup[RlStage]
) -> StepResult:
    """Do one training step on Q prompts: write, verify, assign credit, and update.

    With a prompt filter, `prompts` holds `filter.rounds` * Q prompts, those of the first round
    first.  The function is pure.  Jit it once, with `state` donated.

    Raises:
      ValueError: at trace time, if `frozen` holds no verifier.
    """
    held, verdict_metrics = draw(state, frozen, prompts, setup)
    result = update(state, frozen, held.round, held.outcome, setup=setup)
    return result._replace(metrics=result.metrics | verdict_metrics)


def update(
    state: TrainState, frozen: Frozen, round_: Round, outcome: Outcome, *, setup: Setup[RlStage]
) -> StepResult:
    """Learn from a round and its outcomes: observe, assign credit and learn.

    The rewards of `outcome` must be finite; the functions of `prompt_filter` make them so.
    """
    signals = observe(state, frozen, round_, outcome, setup)
    credit = assign_credit(round_, signals, setup)
    new_state, metrics = learn(state, round_, signals, credit, setup, frozen.base)
    metrics |= signals.metrics | _round_metrics(round_, outcome, signals, credit, setup)
    return StepResult(
        state=new_state,
        rollout=round_.rollout,
        reward_B=outcome.rewards["reward"],
        advantage_B=credit.advantage_BR[:, 0],
        metrics=metrics,
        fate_X=round_.selection.fate_X,
        mean_X=round_.selection.mean_X,
        total_Q=_total_rewards(signals, setup),
        tokens=_token_values(signals, credit),
    )


def _token_values(signals: Signals, credit: Credit) -> dict[str, Array]:
    """Return what differs between the tokens of a response: rewards of tokens, and advantages."""
    values = {"advantage": credit.advantage_BR}
    if signals.token_reward_BR is not None:
        values["token_reward"] = signals.token_reward_BR
    return values


# ---- draw --------------------------------------------------------------------------------------


@jax.named_scope("draw")
def draw(
    state: TrainState, frozen: Frozen, prompts: Prompts, setup: Setup[RlStage]
) -> tuple[prompt_filter.Held, Metrics]:
    """Write and verify rounds of responses until the places of the step are filled.

    Without a prompt filter one round fills them.  With a filter this is dynamic sampling (DAPO,
    arXiv 2503.14476, section 3.2) with at most `filter.rounds` rounds.

    Returns the groups in the places, and the metrics of the verdicts as means over the rounds.

    Raises:
      ValueError: at trace time, if `frozen` holds no verifier.
    """
    stage = setup.stage

    def one_round(number: Array) -> tuple[Rollout, Array, Rollout | None, Outcome, Metrics]:
        of_round = jax.tree.map(lambda x: _rows_of_round(x, number, stage.filter.rounds), prompts)
        key = round_key(state, number)
        policy = adapters.over(frozen.base, state.params)
        if stage.role == "grm" and frozen.critic is not None:
            asked = grm.Asked(setup.model, setup.critique, stage.sample, setup.eos)
            of_round = grm.with_criteria(policy, of_round, key, frozen.critic, asked)
        rollout, decoded, greedy = write_round(state, of_round, number, frozen.base, setup=setup)
        reward_B, metrics = judging.judge(frozen, of_round, rollout, key, setup)
        outcome = Outcome({"reward": reward_B}, baseline_Q=of_round.baseline_Q)
        if greedy is not None:
            reward_Q, _ = judging.judge(frozen, of_round, greedy, key, setup)
            outcome = outcome._replace(greedy={"reward": reward_Q})
        return rollout, decoded, greedy, outcome, metrics

    if not stage.filter.on:
        rollout, decoded, greedy, outcome, metrics = one_round(jnp.int32(0))
        return prompt_filter.keep_all(rollout, decoded, greedy, outcome), metrics

    def another(carry):
        held, sums = carry
        rollout, decoded, _, outcome, metrics = one_round(held.round.selection.rounds)
        held = prompt_filter.add_round(held, rollout, decoded, outcome, stage.filter)
        return held, jax.tree.map(jnp.add, sums, metrics)

    rollout, _, _, outcome, metrics = jax.eval_shape(one_round, jnp.int32(0))
    empty = prompt_filter.no_groups(rollout, outcome, stage.filter.rounds)
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    with jax.named_scope(f"rounds_{stage.filter.rounds}"):  # at most; `plan` reads it
        held, sums = jax.lax.while_loop(
            lambda carry: prompt_filter.more_rounds(carry[0], stage.filter), another, (empty, sums)
        )
    rounds = held.round.selection.rounds
    return held, {name: total / rounds for name, total in sums.items()}


@jax.named_scope("write")
def write_round(
    state: TrainState,
    prompts: Prompts,
    number: Array,
    base: Params | None = None,
    *,
    setup: Setup[RlStage],
) -> tuple[Rollout, Array, Rollout | None]:
    """Write the responses of round `number` of a step, counted from 0; `base` is as in `Frozen`.

    Returns the rollout, the number of row-steps that were decoded for it (int32) and, for the ReMax
    baseline (arXiv 2310.10505, algorithm 1), a rollout with one greedy answer to each prompt, else
    None.
    """
    stage, policy = setup.stage, adapters.over(base, state.params)
    sampler = engine.Sampler(
        round_key(state, number), setup.eos, stage.samples, setup.columns, stage.sample
    )
    rollout, decoded = engine.generate(policy, prompts, sampler, setup.model)
    greedy = None
    if stage.advantage.baseline == "greedy":
        sampler = sampler._replace(key=state.key, samples=1, cfg=GREEDY)
        greedy, _ = engine.generate(policy, prompts, sampler, setup.model)
    return rollout, decoded, greedy


def step_key(state: TrainState) -> Array:
    """Return the key of this step; rows, rounds and the PRM's draw fold their numbers into it."""
    return jax.random.fold_in(state.key, state.step)


def round_key(state: TrainState, number: Array) -> Array:
    """Return the key of a round of the prompt filter; the first round uses the step's key."""
    key = step_key(state)
    number = jnp.asarray(number)
    # Larger than the number of any row.
    again = jax.random.fold_in(key, jnp.uint32(2**31) + number.astype(jnp.uint32))
    return jnp.where(number > 0, again, key)


def _rows_of_round(x: Array, number: Array, rounds: int) -> Array:
    if rounds == 1:
        return x
    size = x.shape[0] // rounds
    return sharding.split_rows(jax.lax.dynamic_slice_in_dim(x, number * size, size))


# ---- observe -----------------------------------------------------------------------------------


@jax.named_scope("observe")
def observe(
    state: TrainState, frozen: Frozen, round_: Round, outcome: Outcome, setup: Setup[RlStage]
) -> Signals:
    """Compute all that is known about a round before credit is assigned.

    The overlong penalty is subtracted from the reward named `reward`, not from the others.  The PRM
    is updated here, in the pass that gives the token rewards; its label is the outcome before the
    penalty is subtracted.
    """
    stage, rollout = setup.stage, round_.rollout
    # Without top-k and top-p: a sampled token may lie outside the truncated set of the reference.
    whole = stage.sample.whole
    reference_BR = rollout.logprob_BR
    reference = frozen.reference if state.reference is None else state.reference
    if stage.asks_reference:
        read = adapters.over(frozen.base, reference)
        reference_BR, _ = likelihood.logprobs(read, rollout, whole, setup.model)
    kl_coef = jnp.float32(stage.loss.kl_coef) if state.kl_coef is None else state.kl_coef
    penalty_B = advantage.overlong_penalty(rollout.length_B, setup.columns, stage.overlong)
    rewards = outcome.rewards
    if stage.reward.source == "preference":  # +1 and -1 (arXiv 2504.02495, equation 5)
        rewards = rewards | {"reward": 2 * rewards["reward"] - 1}
    signals = Signals(
        rewards=advantage.less_outcome(rewards, penalty_B),
        reference_BR=reference_BR,
        kl_coef=kl_coef,
        metrics={"reward/overlong": jnp.mean(penalty_B, where=round_.counted_B)},
        baseline_Q=outcome.baseline_Q,
    )
    if stage.loss.kl_coef and stage.sample == whole:
        # The KL of such a policy is 0.  Log-probs of the two would differ by the rounding of two
        # programs, and an optimizer that scales its gradient would make a whole step of that.
        same = adapters.is_equal(state.params, reference)
        signals = signals._replace(at_reference=same)
    if stage.loss.kl_coef and stage.loss.kl_in == "reward":
        kl_BR = loss.kl(rollout.logprob_BR, reference_BR, loss.kl_form(stage.loss))
        if signals.at_reference is not None:
            kl_BR = jnp.where(signals.at_reference, 0.0, kl_BR)
        signals = signals._replace(kl_BR=kl_BR)
    if state.prm is not None:
        compared_BR = rollout.logprob_BR if stage.prm.reference == "policy" else reference_BR
        labelled = prm.Labelled(rollout, compared_BR, outcome.rewards["reward"])
        static = prm.PrmSetup(stage.prm, whole, setup.model, setup.prm_tx)
        learner, token_reward_BR, metrics = prm.update(
            state.prm, labelled, frozen.newline_V, step_key(state), static, frozen.base
        )
        signals = signals._replace(learner=learner, token_reward_BR=token_reward_BR)
        signals = signals._replace(metrics=signals.metrics | metrics)
    if round_.greedy is not None and outcome.greedy is not None:
        signals = _observe_greedy(round_.greedy, outcome.greedy, signals, setup)
    if stage.advantage.baseline == "value":
        signals = _observe_values(adapters.over(frozen.base, state.params), rollout, signals, setup)
    return signals


def _observe_greedy(
    answers: Rollout, rewards: dict[str, Array], signals: Signals, setup: Setup[RlStage]
) -> Signals:
    """Add to the signals the total reward of the greedy answers, minus the overlong penalty."""
    stage = setup.stage
    penalty_Q = advantage.overlong_penalty(answers.length_B, setup.columns, stage.overlong)
    greedy_Q = advantage.total_reward(advantage.less_outcome(rewards, penalty_Q), stage.advantage)
    mean = {"reward/greedy": jnp.mean(rewards["reward"])}
    return signals._replace(greedy_Q=greedy_Q, metrics=signals.metrics | mean)


def _observe_values(
    params: Params, rollout: Rollout, signals: Signals, setup: Setup[RlStage]
) -> Signals:
    """Add to the signals the values and, for several updates, the log-probs of the same pass."""
    if setup.stage.updates == 1:
        return signals._replace(value_BR=likelihood.values(params, rollout, setup.model))
    value_BR, behaviour_BR = likelihood.values_and_logprobs(
        params, rollout, setup.stage.sample, setup.model
    )
    return signals._replace(value_BR=value_BR, behaviour_BR=behaviour_BR)


# ---- credit ------------------------------------------------------------------------------------


@jax.named_scope("credit")
def assign_credit(round_: Round, signals: Signals, setup: Setup[RlStage]) -> Credit:
    """Compute the advantage of each token from the signals, over the rows that count."""
    stage = setup.stage
    return advantage.assign_credit(
        signals, round_.own_BR, stage.samples, stage.advantage, round_.counted_B
    )


# ---- learn -------------------------------------------------------------------------------------


@jax.named_scope("learn")
def learn(
    state: TrainState,
    round_: Round,
    signals: Signals,
    credit: Credit,
    setup: Setup[RlStage],
    base: Params | None = None,
) -> tuple[TrainState, Metrics]:
    """Update the policy, store the updated PRM, adapt the KL coefficient, move the reference.

    If no place of the round is filled, the parameters of the policy do not change.
    """
    stage, rollout = setup.stage, round_.rollout
    if stage.overlong.leave_out:  # a row without tokens is not read
        length_B = jnp.where(rollout.truncated_B, 0, rollout.length_B)
        rollout = dataclasses.replace(rollout, length_B=length_B)
    batch = policy_update.Batch(
        rollout=rollout,
        own_BR=round_.own_BR,
        advantage_BR=credit.advantage_BR,
        reference_BR=signals.reference_BR,
        filled_B=round_.filled_B,
        behaviour_BR=signals.behaviour_BR,
        value_BR=signals.value_BR,
        target_BR=credit.target_BR,
        at_reference=signals.at_reference,
    )
    if stage.loss.objective == "clip-cov":
        key = jax.random.fold_in(step_key(state), jnp.uint32(CLIP_COV))
        batch = batch._replace(draw_BR=jax.random.uniform(key, rollout.response_BR.shape))
    new_state, metrics = policy_update.update_policy(state, batch, signals.kl_coef, setup, base)
    new_state = dataclasses.replace(new_state, step=state.step + 1, prm=signals.learner)
    if signals.learner is not None:  # a PRM that cannot learn ends the run as a policy does
        skipped = signals.metrics["prm/skipped"] > 0
        in_row = jnp.where(skipped, state.skipped_in_row + 1, new_state.skipped_in_row)
        new_state = dataclasses.replace(new_state, skipped_in_row=in_row)
    if state.kl_coef is not None:
        rows = jnp.sum(rollout.length_B > 0)  # without rows there is no KL to adapt to
        next_coef = loss.adapt_kl(signals.kl_coef, metrics["policy/kl"], rows, stage.loss)
        new_state = dataclasses.replace(new_state, kl_coef=next_coef)
        metrics |= {"policy/kl_coef": signals.kl_coef}
    new_state = policy_update.move_reference(new_state, stage.reference)
    return new_state, metrics | {"policy/skipped": new_state.skipped}


def _total_rewards(signals: Signals, setup: Setup[RlStage]) -> Array:
    """Compute the mean total reward [Q] of each group."""
    total_B = advantage.total_reward(signals.rewards, setup.stage.advantage)
    return jnp.mean(total_B.reshape(-1, setup.stage.samples), 1)


def _round_metrics(
    round_: Round, outcome: Outcome, signals: Signals, credit: Credit, setup: Setup[RlStage]
) -> Metrics:
    """Compute metrics of the rollout, the rewards, the advantages and the prompt filter."""
    rollout, counted_B = round_.rollout, round_.counted_B
    nonfinite = round_.selection.nonfinite + credit.nonfinite
    metrics = {
        "reward/nonfinite": nonfinite,
        "perf/rollout_useful": step_metrics.decoding_occupancy(rollout, round_.decoded),
    }
    for name in setup.stage.also:
        metrics[f"reward/{name}"] = jnp.mean(outcome.rewards[name], where=counted_B)
    metrics |= step_metrics.of_credit(credit, signals, round_.own_BR, counted_B)
    metrics |= step_metrics.of_rollout(
        rollout, outcome.rewards["reward"], setup.stage.samples, counted_B
    )
    return metrics | (prompt_filter.filter_metrics(round_) if setup.stage.filter.on else {})
