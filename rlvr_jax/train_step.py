"""The fused step, and the parts it is made of.

    prompts -> rollout -> reward -> advantage -> loss -> update

`train_step` is one jitted program.  `rollout`, `reward` and `update` are its parts: jitted one by
one they are the split step, for rewards that only the host can compute.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import (
    advantage,
    loss,
    model,
    parameters,
    policy,
    policy_update,
    prm,
    prompt_filter,
    ragged,
    sharding,
    step_metrics,
    verifier,
)
from rlvr_jax.config import ModelConfig, PrmStage, RlStage, SampleConfig, Sampling
from rlvr_jax.structs import (
    Array,
    Frozen,
    Learner,
    Metrics,
    Params,
    Prompts,
    Rollout,
    TrainState,
)

PLAIN = SampleConfig()  # supervised losses are of the model's own distribution
GREEDY = SampleConfig(temperature=0)


def init_state(
    key: Array,
    policy_params: Params,
    tx: optax.GradientTransformation,
    prm_tx: optax.GradientTransformation | None = None,
    kl_coef: float | None = None,
    value_head: bool = False,
    prm_params: Params | None = None,
) -> TrainState:
    """The state before the first update.  Jit it with `out_shardings` from the table."""
    zero, learner = jnp.int32(0), None
    if prm_tx:  # a copy: the two are donated apart
        first = policy_params if prm_params is None else prm_params
        learner = Learner(jax.tree.map(jnp.copy, first), prm_tx.init(first))
    coef = None if kl_coef is None else jnp.float32(kl_coef)
    if value_head:
        policy_params = parameters.with_value(policy_params)
    return TrainState(zero, key, policy_params, tx.init(policy_params), zero, zero, learner, coef)


def train_step(
    state: TrainState,
    frozen: Frozen,
    prompts: Prompts,
    *,
    cfg: RlStage,
    model_cfg: ModelConfig,
    verifier_cfg: ModelConfig,
    columns: int,
    eos: tuple[int, ...],
    tx: optax.GradientTransformation,
    prm_tx: optax.GradientTransformation | None = None,
) -> tuple[TrainState, Rollout, Array, Metrics]:
    """One update from Q prompts: sample, verify, normalise, differentiate, apply.

    Returns the next state, the rollout, each row's reward [B] and advantage [B] stacked as
    [2, B], and scalar metrics.  Pure; to be jitted once with `state` donated.
    """
    written, decoded = rollout(
        state, prompts, cfg=cfg, model_cfg=model_cfg, columns=columns, eos=eos
    )
    reward_B, told = reward(frozen, prompts, written, cfg=cfg, verifier_cfg=verifier_cfg)
    best = None
    if cfg.advantage.baseline == "greedy":
        answers, _ = greedy(state, prompts, model_cfg=model_cfg, columns=columns, eos=eos)
        best = answers, reward(frozen, prompts, answers, cfg=cfg, verifier_cfg=verifier_cfg)[0]
    taught = functools.partial(update, cfg=cfg, model_cfg=model_cfg, tx=tx, prm_tx=prm_tx)
    new_state, advantage_B, metrics = taught(state, frozen, written, decoded, reward_B, best)
    return new_state, written, jnp.stack([reward_B, advantage_B]), metrics | told


def filtered_step(
    state: TrainState,
    frozen: Frozen,
    prompts: Prompts,
    *,
    cfg: RlStage,
    model_cfg: ModelConfig,
    verifier_cfg: ModelConfig,
    columns: int,
    eos: tuple[int, ...],
    tx: optax.GradientTransformation,
    prm_tx: optax.GradientTransformation | None = None,
) -> tuple[TrainState, Rollout, Array, Metrics, Array]:
    """`train_step` on the groups that a filter keeps, of up to `cfg.filter.rounds` rounds.

    `prompts` are Q for each round, one round's after the other's: dynamic sampling (DAPO,
    2503.14476, section 3.2) with an end.  A round begins while places are unfilled.  Also returns
    what became of each of the prompts, int32, as in `filter.merge`; 0 where none was asked.
    """

    def once(number: Array) -> tuple[Rollout, Array, tuple[Array, Metrics]]:
        def of_round(x: Array) -> Array:
            size = x.shape[0] // cfg.filter.rounds
            return sharding.split_rows(jax.lax.dynamic_slice_in_dim(x, number * size, size))

        asked = jax.tree.map(of_round, prompts)
        written, decoded = rollout(
            state, asked, number, cfg=cfg, model_cfg=model_cfg, columns=columns, eos=eos
        )
        reward_B, told = reward(frozen, asked, written, cfg=cfg, verifier_cfg=verifier_cfg)
        return written, reward_B, (decoded, told)

    def more(carry) -> Array:
        held, _, _ = carry
        return (held.rounds < cfg.filter.rounds) & (held.kept < cfg.prompts)

    def another(carry):
        held, sums, fate_X = carry
        written, reward_B, found = once(held.rounds)
        start = held.rounds * cfg.prompts
        held, fate_Q = prompt_filter.sift(held, written, reward_B, cfg.samples, cfg.filter)
        fate_X = jax.lax.dynamic_update_slice_in_dim(fate_X, fate_Q, start, 0)
        return held, jax.tree.map(jnp.add, sums, found), fate_X

    written, reward_B, found = jax.eval_shape(once, jnp.int32(0))
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
    fate_X = jnp.full(cfg.filter.rounds * cfg.prompts, prompt_filter.UNTRIED)
    begun = (prompt_filter.nothing(written, reward_B), sums, fate_X)
    held, (decoded, told), fate_X = jax.lax.while_loop(more, another, begun)
    taught = functools.partial(filtered_update, cfg=cfg, model_cfg=model_cfg, tx=tx, prm_tx=prm_tx)
    new_state, advantage_B, metrics = taught(state, frozen, held, decoded)
    told = {name: total / held.rounds for name, total in told.items()}
    signal_2B = jnp.stack([held.outcome_B, advantage_B])
    return new_state, held.written, signal_2B, metrics | told, fate_X


def step_key(state: TrainState) -> Array:
    """The step's own key; rows, rounds of a filter and the PRM's draw fold their numbers in."""
    return jax.random.fold_in(state.key, state.step)


def rollout(
    state: TrainState,
    prompts: Prompts,
    number: Array | None = None,
    *,
    cfg: Sampling,
    model_cfg: ModelConfig,
    columns: int,
    eos: tuple[int, ...],
) -> tuple[Rollout, Array]:
    """G responses to each prompt, from the state's own key folded by its step; rows decoded.

    `number`, where a filter samples again, is of the round; the first one's are as without it.
    """
    key = step_key(state)
    if number is not None:
        again = jax.random.fold_in(key, jnp.uint32(2**31) + number.astype(jnp.uint32))  # of no row
        key = jnp.where(number > 0, again, key)
    return policy.generate(
        state.policy, prompts, key, eos, cfg.samples, columns, cfg.sample, model_cfg
    )


def greedy(
    state: TrainState,
    prompts: Prompts,
    *,
    model_cfg: ModelConfig,
    columns: int,
    eos: tuple[int, ...],
) -> tuple[Rollout, Array]:
    """One answer to each prompt, always of the most probable token (ReMax, 2310.10505, alg. 1)."""
    return policy.generate(state.policy, prompts, state.key, eos, 1, columns, GREEDY, model_cfg)


def of_greedy(
    answers: Rollout, rewards: advantage.Rewards, cfg: RlStage
) -> tuple[Array, Array, Metrics]:
    """The baseline [Q] that greedy answers are, how many rewards were no numbers, what to log."""
    rewards, bad = advantage.finite(rewards)
    lost_Q = advantage.overlong(answers.length_B, answers.response_BR.shape[1], cfg.overlong)
    greedy_Q = advantage.total(advantage.less(rewards, lost_Q), cfg.advantage)
    return greedy_Q, bad, {"reward/greedy": jnp.mean(advantage.outcome(rewards))}


def reward(
    frozen: Frozen, prompts: Prompts, written: Rollout, *, cfg: Sampling, verifier_cfg: ModelConfig
) -> tuple[Array, Metrics]:
    """The verifier's outcome reward [B] and what to log of its verdicts."""
    score = verifier.score(
        frozen.verifier, prompts, written, frozen.verdict, cfg.reward, verifier_cfg
    )
    return score.reward_B, step_metrics.verdicts(score)


def filtered_update(
    state: TrainState,
    frozen: Frozen,
    held: prompt_filter.Held,
    decoded: Array,
    *,
    cfg: RlStage,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
    prm_tx: optax.GradientTransformation | None = None,
) -> tuple[TrainState, Array, Metrics]:
    """`update` on the groups that a filter kept; metrics of all that were tried too."""
    taught = functools.partial(update, cfg=cfg, model_cfg=model_cfg, tx=tx, prm_tx=prm_tx)
    new_state, advantage_B, metrics = taught(
        state, frozen, held.written, decoded, held.rewards, filled_Q=held.filled_Q
    )
    metrics["reward/nonfinite"] += held.bad
    return new_state, advantage_B, metrics | prompt_filter.describe(held)


def update(
    state: TrainState,
    frozen: Frozen,
    written: Rollout,
    decoded: Array,
    rewards: advantage.Rewards,
    best: tuple[Rollout, advantage.Rewards] | None = None,
    filled_Q: Array | None = None,
    *,
    cfg: RlStage,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
    prm_tx: optax.GradientTransformation | None = None,
) -> tuple[TrainState, Array, Metrics]:
    """Advantage, gradient, and one optimizer step; also the advantage [B] and metrics.

    Of several rewards [B] the one named `reward` is the outcome: the PRM's label, and what metrics
    tell.  `best` are the greedy answers and their rewards [Q], where these are the baseline.
    Where a response's tokens have advantages of their own, the one returned is its first token's.
    Places that a filter left unfilled (`filled_Q`) have rows without tokens, and count nowhere; if
    all are, no optimizer moves.
    """
    mask_BR = written.response_mask_BR
    held_B = counted_B = None
    if filled_Q is not None:
        held_B = jnp.repeat(filled_Q, cfg.samples)
        counted_B = held_B | ~jnp.any(held_B)  # a mean over nothing would be no number; all are 0
    # Untruncated: a sampled token may lie outside the reference's own top-k or top-p.
    kl_coef = jnp.float32(cfg.loss.kl_coef) if state.kl_coef is None else state.kl_coef
    whole = cfg.sample.whole
    reference_BR = written.logprob_BR
    if cfg.asks_reference:
        reference_BR, _ = policy.logprobs(frozen.reference, written, whole, model_cfg)
    kl_BR = None
    if cfg.loss.kl_coef and cfg.loss.kl_in == "reward":
        kl_BR = loss.kl(written.logprob_BR, reference_BR, loss.kl_form(cfg.loss))

    rewards, bad = advantage.finite(rewards)
    reward_B = advantage.outcome(rewards)
    learner, process_BR = state.prm, None
    learned: Metrics = {}
    if learner:
        assert prm_tx
        ref_BR = written.logprob_BR if cfg.prm.reference == "policy" else reference_BR
        learner, process_BR, learned = prm.step(
            *(learner, written, ref_BR, reward_B, frozen.newline_V, step_key(state)),
            *(cfg.prm, whole, model_cfg, prm_tx),
        )
    lost_B = advantage.overlong(written.length_B, mask_BR.shape[1], cfg.overlong)
    greedy_Q = None
    if best:
        greedy_Q, worse, told = of_greedy(*best, cfg)
        bad, learned = bad + worse, learned | told
    value_BR = behaviour_BR = None
    if cfg.advantage.baseline == "value":
        ratios_of = cfg.sample if cfg.updates > 1 else None
        value_BR, behaviour_BR = policy.values(state.policy, written, ratios_of, model_cfg)
    found = advantage.estimate(
        advantage.less(rewards, lost_B),
        mask_BR,
        cfg.samples,
        cfg.advantage,
        kl_BR=kl_BR,
        kl_coef=kl_coef,
        process_BR=process_BR,
        value_BR=value_BR,
        greedy_Q=greedy_Q,
        held_B=counted_B,
    )
    advantage_B = found.advantage_BR[:, 0]  # of the first token: all that follows is its doing

    taught = written
    lesson = policy_update.Lesson(
        found.advantage_BR, reference_BR, behaviour_BR, value_BR, found.target_BR, held_B
    )
    if cfg.overlong.leave_out:  # a row without tokens is not read
        length_B = jnp.where(written.truncated_B, 0, written.length_B)
        taught = dataclasses.replace(written, length_B=length_B)
    new_state, metrics = policy_update.improve(state, taught, lesson, kl_coef, cfg, model_cfg, tx)
    new_state = dataclasses.replace(new_state, step=state.step + 1, prm=learner)
    if learner:  # a PRM that cannot learn ends the run as a policy does
        lost = learned["prm/skipped"] > 0
        in_row = jnp.where(lost, state.skipped_in_row + 1, new_state.skipped_in_row)
        new_state = dataclasses.replace(new_state, skipped_in_row=in_row)
    if state.kl_coef is not None:
        rows = jnp.sum(taught.length_B > 0)  # where none teaches there is no KL to go by
        next_coef = loss.adapt_kl(kl_coef, metrics["policy/kl"], rows, cfg.loss)
        new_state = dataclasses.replace(new_state, kl_coef=next_coef)
        metrics |= {"policy/kl_coef": kl_coef}
    metrics |= learned | {
        "policy/skipped": new_state.skipped,
        "reward/overlong": jnp.mean(lost_B, where=counted_B),
        "reward/nonfinite": bad + found.bad,
        "perf/rollout_useful": step_metrics.useful(written, decoded),
    }
    if isinstance(rewards, dict):
        metrics |= {f"reward/{x}": jnp.mean(rewards[x], where=counted_B) for x in cfg.also}
    metrics |= step_metrics.of_estimate(found, value_BR, mask_BR, counted_B)
    metrics |= step_metrics.describe(written, reward_B, cfg.samples, counted_B)
    return new_state, advantage_B, metrics


def prm_step(
    state: TrainState,
    frozen: Frozen,
    prompts: Prompts,
    *,
    cfg: PrmStage,
    model_cfg: ModelConfig,
    verifier_cfg: ModelConfig,
    columns: int,
    eos: tuple[int, ...],
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """One update of a PRM that learns alone, from Q prompts: sample, verify, differentiate, apply.

    The PRM is `state.policy`; `frozen.reference` writes.
    """
    writer = dataclasses.replace(state, policy=frozen.reference)
    written, _ = rollout(writer, prompts, cfg=cfg, model_cfg=model_cfg, columns=columns, eos=eos)
    reward_B, told = reward(frozen, prompts, written, cfg=cfg, verifier_cfg=verifier_cfg)
    new_state, metrics = prm_update(
        state, frozen, written, reward_B, cfg=cfg, model_cfg=model_cfg, tx=tx
    )
    return new_state, metrics | told


def prm_update(
    state: TrainState,
    frozen: Frozen,
    written: Rollout,
    reward_B: Array,
    *,
    cfg: PrmStage,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """One update of a PRM that learns alone, from rewarded responses of `frozen.reference`."""
    reference_BR = written.logprob_BR
    if cfg.prm.reference == "frozen":
        reference_BR, _ = policy.logprobs(frozen.reference, written, cfg.sample.whole, model_cfg)
    reward_B, bad = advantage.finite(reward_B)
    learner, _, metrics = prm.step(
        Learner(state.policy, state.opt_state),
        written,
        reference_BR,
        reward_B,
        None,
        step_key(state),
        cfg.prm,
        cfg.sample.whole,
        model_cfg,
        tx,
    )
    skipped = metrics["prm/skipped"]
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        policy=learner.params,
        opt_state=learner.opt_state,
        skipped=state.skipped + skipped,
        skipped_in_row=jnp.where(skipped > 0, state.skipped_in_row + 1, 0),
    )
    metrics |= {"reward/nonfinite": bad}
    return new_state, metrics | step_metrics.describe(written, reward_B, cfg.samples)


def supervised_step(
    state: TrainState, rows: Rollout, *, model_cfg: ModelConfig, tx: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One update on given responses (one per prompt): the sft and verifier stages.

    Loss: mean negative log-likelihood per response token.
    """

    tokens = jnp.maximum(jnp.sum(rows.length_B), 1).astype(jnp.float32)

    def objective(params: Params, prefix: model.Prefix, part: ragged.Part):
        logprob_BR, _, _ = policy.read(params, prefix, part, rows, PLAIN, model_cfg)
        return -jnp.sum(logprob_BR) / tokens, ({}, jnp.float32(0), ())

    grads, value, *_ = ragged.gradient(objective, state.policy, rows, model_cfg)
    new_state, grad_norm = policy_update.apply(state, grads, value, tx)
    new_state = dataclasses.replace(new_state, step=state.step + 1)
    return new_state, {
        "loss": value,
        "policy/grad_norm": grad_norm,
        "policy/skipped": new_state.skipped,
    }
