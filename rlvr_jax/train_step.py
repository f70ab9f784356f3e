"""The fused step, and the parts it is made of.

    prompts -> rollout -> reward -> advantage -> loss -> update

`train_step` is one jitted program.  `rollout`, `reward` and `update` are its parts: jitted one by
one they are the split step, for rewards that only the host can compute.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import (
    advantage,
    filter,
    loss,
    model,
    optim,
    policy,
    prm,
    reading,
    sharding,
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


class Lesson(NamedTuple):
    """What the policy is told of each token it wrote; constants for the gradient."""

    advantage_BR: Array
    reference_BR: Array  # log-probs
    behaviour_BR: Array | None = None  # log-probs; None: those of the parameters that learn
    value_BR: Array | None = None  # of the value head before this rollout's updates, and
    target_BR: Array | None = None  # what it is taught
    held_B: Array | None = None  # bool, rows that a filter filled; None: all


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
        policy_params = model.with_value(policy_params)
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
            return sharding.rows(jax.lax.dynamic_slice_in_dim(x, number * size, size))

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
        held, fate_Q = filter.sift(held, written, reward_B, cfg.samples, cfg.filter)
        fate_X = jax.lax.dynamic_update_slice_in_dim(fate_X, fate_Q, start, 0)
        return held, jax.tree.map(jnp.add, sums, found), fate_X

    written, reward_B, found = jax.eval_shape(once, jnp.int32(0))
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
    fate_X = jnp.full(cfg.filter.rounds * cfg.prompts, filter.UNTRIED)
    begun = (filter.nothing(written, reward_B), sums, fate_X)
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


def reward(
    frozen: Frozen, prompts: Prompts, written: Rollout, *, cfg: Sampling, verifier_cfg: ModelConfig
) -> tuple[Array, Metrics]:
    """The verifier's outcome reward [B] and what to log of its verdicts."""
    score = verifier.score(
        frozen.verifier, prompts, written, frozen.verdict, cfg.reward, verifier_cfg
    )
    return score.reward_B, verdicts(score)


def verdicts(score: verifier.Score) -> Metrics:
    """What to log of a verifier's verdicts."""
    return {
        "verifier/p1_mean": jnp.mean(score.p1_B),
        "verifier/mass01": jnp.mean(score.mass_B),
        "verifier/ambiguous_frac": jnp.mean(score.ambiguous_B.astype(jnp.float32)),
        "verifier/blocked_frac": jnp.mean(score.blocked_B.astype(jnp.float32)),
    }


def filtered_update(
    state: TrainState,
    frozen: Frozen,
    held: filter.Held,
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
    return new_state, advantage_B, metrics | filter.describe(held)


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
        of_best, worse = advantage.finite(best[1])
        lost_Q = advantage.overlong(best[0].length_B, mask_BR.shape[1], cfg.overlong)
        greedy_Q = advantage.total(advantage.less(of_best, lost_Q), cfg.advantage)
        bad = bad + worse
        learned |= {"reward/greedy": jnp.mean(advantage.outcome(of_best))}
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
    lesson = Lesson(
        found.advantage_BR, reference_BR, behaviour_BR, value_BR, found.target_BR, held_B
    )
    if cfg.overlong.leave_out:  # a row without tokens is not read
        length_B = jnp.where(written.truncated_B, 0, written.length_B)
        taught = dataclasses.replace(written, length_B=length_B)
    new_state, metrics = improve(state, taught, lesson, kl_coef, cfg, model_cfg, tx)
    new_state = dataclasses.replace(new_state, step=state.step + 1, prm=learner)
    if learner:  # a PRM that cannot learn ends the run as a policy does
        in_row = jnp.where(
            learned["prm/skipped"] > 0, state.skipped_in_row + 1, new_state.skipped_in_row
        )
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
        # Every response's first token is drawn from its prompt, without a row decoded for it.
        "perf/rollout_useful": jnp.where(
            decoded > 0, jnp.sum(mask_BR[:, 1:]) / jnp.maximum(decoded, 1), 1.0
        ),
    }
    if isinstance(rewards, dict):
        each = {name: jnp.mean(x_B, where=counted_B) for name, x_B in rewards.items()}
        metrics |= {f"reward/{name}": each[name] for name in cfg.also}
    if found.target_BR is not None:
        assert value_BR is not None
        metrics |= advantage.explained(value_BR, found.target_BR, mask_BR)
    if found.process_BR is not None:
        metrics |= advantage.describe(found, mask_BR)
    metrics |= of_rows("advantage", advantage_B, counted_B)
    return new_state, advantage_B, metrics | describe(written, reward_B, cfg.samples, counted_B)


def improve(
    state: TrainState,
    written: Rollout,
    lesson: Lesson,
    kl_coef: Array,
    cfg: RlStage,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """The policy's updates on one rollout: one, or one for each mini-batch of each epoch.

    What is told of tokens is their mean over one epoch.
    """

    def once(state: TrainState, written: Rollout, lesson: Lesson):
        found = gradient(state.policy, written, lesson, kl_coef, cfg, model_cfg)
        taught = None if lesson.held_B is None else jnp.any(lesson.held_B)
        state, norm = apply(state, found.grads, found.value, tx, taught)
        return state, (found.value, found.sums, found.most, found.run, norm)

    if cfg.updates == 1:
        state, found = once(state, written, lesson)
        return state, of_tokens(written, cfg.epochs, *found)
    # Of the trainer, not the sampler: what sets these two apart is not the policy's doing.
    if lesson.behaviour_BR is None:
        behaviour_BR, _ = policy.logprobs(state.policy, written, cfg.sample, model_cfg)
        lesson = lesson._replace(behaviour_BR=behaviour_BR)
    shards, prompts = sharding.data_shards(), written.prompt_QP.shape[0]
    # Every n-th prompt: the same ones however many shards they lie on.
    number_NM = jnp.arange(prompts // shards, dtype=jnp.int32).reshape(-1, cfg.minibatches).T
    number_NSM = jnp.tile(number_NM[:, None], (cfg.epochs, shards, 1))

    def body(state: TrainState, number_SM: Array):
        rows = (number_SM[..., None] * cfg.samples + jnp.arange(cfg.samples)).reshape(shards, -1)

        def some(x):
            return sharding.take(x, number_SM if x.shape[0] == prompts else rows)

        return once(state, *jax.tree.map(some, (written, lesson)))

    state, (value_N, sums_N, gap_N, run_N, norm_N) = jax.lax.scan(body, state, number_NSM)
    sums = jax.tree.map(lambda x_N: jnp.sum(x_N) / cfg.epochs, sums_N)
    all_of = jnp.mean(value_N), sums, jnp.max(gap_N), jnp.sum(run_N), jnp.mean(norm_N)
    return state, of_tokens(written, cfg.epochs, *all_of)


def of_tokens(
    written: Rollout, epochs: int, value: Array, sums: Metrics, gap: Array, run: Array, norm: Array
) -> Metrics:
    """What to log of the updates: the loss, sums over the tokens of an epoch as their means, the
    largest gap between sampler and trainer, the useful share of row-columns, the gradient's norm.
    """
    read = jnp.maximum(jnp.sum(written.length_B), 1).astype(jnp.float32)
    asked = jnp.sum(written.prompt_mask_QP)
    means = {name: total / read for name, total in sums.items()}
    square = means.pop("mismatch/ratio_square")
    return means | {
        "mismatch/ess": means["mismatch/ratio"] ** 2 / jnp.maximum(square, 1e-12),
        "policy/loss": value,
        "policy/grad_norm": norm,
        "mismatch/logprob_diff_max": gap,
        "perf/update_useful": epochs * (read + asked) / jnp.maximum(run, 1),
    }


def gradient(
    params: Params,
    written: Rollout,
    lesson: Lesson,
    kl_coef: Array,
    cfg: RlStage,
    model_cfg: ModelConfig,
) -> reading.Gradient:
    """What `reading.gradient` gives for the policy's loss on a rollout."""
    weight_B = loss.row_weights(written.response_mask_BR, cfg.loss, lesson.held_B)

    def objective(params: Params, prefix: model.Prefix, part: reading.Part):
        before_BRD, mask_BR = policy.before(params, prefix, part, written, model_cfg)
        token_BR = part.pick(written.response_BR)
        logprob_BR, entropy_BR = policy.said(
            params, before_BRD, token_BR, mask_BR, cfg.sample, model_cfg
        )
        behaviour_BR, sampler_BR = jax.lax.stop_gradient(logprob_BR), part.pick(written.logprob_BR)
        if lesson.behaviour_BR is not None:
            behaviour_BR = part.pick(lesson.behaviour_BR)
        value, sums = loss.policy_gradient(
            logprob_BR,
            behaviour_BR,
            part.pick(lesson.reference_BR),
            part.pick(lesson.advantage_BR),
            mask_BR,
            part.pick(weight_B),
            cfg.loss,
            sampler_BR=sampler_BR,
            entropy_BR=entropy_BR,
            kl_coef=kl_coef,
        )
        if lesson.target_BR is not None:
            assert lesson.value_BR is not None
            error, told = loss.value_error(
                model.value(params, before_BRD),
                part.pick(lesson.value_BR),
                part.pick(lesson.target_BR),
                mask_BR,
                part.pick(weight_B),
                cfg.loss,
            )
            value, sums = value + error, sums | told
        gap_BR = jnp.where(mask_BR, jnp.abs(behaviour_BR - sampler_BR), 0.0)
        sums = sums | {
            "policy/entropy": jnp.sum(entropy_BR),
            "mismatch/logprob_diff_mean": jnp.sum(gap_BR),
        }
        return value, (sums, jnp.max(gap_BR), ())

    return reading.gradient(objective, params, written, model_cfg)


def apply(
    state: TrainState,
    grads: Params,
    value: Array,
    tx: optax.GradientTransformation,
    taught: Array | None = None,
) -> tuple[TrainState, Array]:
    """One optimizer step, left out and counted when loss or gradient is not finite.

    Where no row `taught` (None: some did) it is left out and not counted: zeros would still move
    by momentum and decay.
    """
    params, opt_state, grad_norm, finite = optim.step(
        state.policy, state.opt_state, grads, value, tx, taught
    )
    new_state = dataclasses.replace(
        state,
        policy=params,
        opt_state=opt_state,
        skipped=state.skipped + (~finite).astype(jnp.int32),
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    return new_state, grad_norm


def of_rows(name: str, x_B: Array, held_B: Array | None) -> Metrics:
    """Mean and range over the rows that are `held` (None: all)."""
    return {
        f"{name}/mean": jnp.mean(x_B, where=held_B),
        f"{name}/min": jnp.min(x_B, initial=jnp.inf, where=held_B),
        f"{name}/max": jnp.max(x_B, initial=-jnp.inf, where=held_B),
    }


def describe(
    written: Rollout, reward_B: Array, samples: int, held_B: Array | None = None
) -> Metrics:
    """Statistics of a batch of rollouts, for the log; of the rows that are `held` (None: all)."""
    reward_QG = reward_B.reshape(-1, samples)
    equal_B = jnp.repeat(jnp.max(reward_QG, 1) - jnp.min(reward_QG, 1) < 1e-6, samples)
    length_B = written.length_B.astype(jnp.float32)
    bins = jnp.clip((reward_B * 10).astype(jnp.int32), 0, 9)
    if held_B is not None:
        bins = jnp.where(held_B, bins, 10)  # of no bin
    ranges = of_rows("reward", reward_B, held_B) | of_rows("length", length_B, held_B)
    ranges = {name.replace("length/", "completion/length_"): x for name, x in ranges.items()}
    return ranges | {
        "reward/std": jnp.std(reward_B, where=held_B),
        "reward/frac_zero_std": jnp.mean(equal_B.astype(jnp.float32), where=held_B),
        "reward/histogram": jnp.sum(jax.nn.one_hot(bins, 10), 0),
        "completion/truncated_frac": jnp.mean(
            written.truncated_B.astype(jnp.float32), where=held_B
        ),
        "completion/tokens": jnp.sum(length_B),
        "completion/identical_frac": identical(written),
    }


def identical(written: Rollout) -> Array:
    """The share of responses that are the most frequent one, by a hash of their tokens."""
    wrote_B = written.length_B > 0  # where a filter left places unfilled, nobody did
    columns = written.response_BR.shape[1]
    odd_R = jnp.arange(columns, dtype=jnp.uint32) * jnp.uint32(2654435761) * 2 + 1
    mixed_BR = (written.response_BR.astype(jnp.uint32) + 1) * jnp.uint32(2246822519)
    mixed_BR = (mixed_BR ^ (mixed_BR >> 15)) * odd_R
    hash_B = jnp.sum(jnp.where(written.response_mask_BR, mixed_BR, 0), -1, dtype=jnp.uint32)
    sorted_B = jnp.sort(hash_B)
    behind_B = jnp.searchsorted(sorted_B, hash_B, side="right")
    count_B = behind_B - jnp.searchsorted(sorted_B, hash_B, side="left")
    most = jnp.max(jnp.where(wrote_B, count_B, 0)).astype(jnp.float32)
    return most / jnp.maximum(jnp.sum(wrote_B), 1)


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
    return new_state, metrics | describe(written, reward_B, cfg.samples)


def supervised_step(
    state: TrainState, rows: Rollout, *, model_cfg: ModelConfig, tx: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One update on given responses (one per prompt): the sft and verifier stages.

    Loss: mean negative log-likelihood per response token.
    """

    tokens = jnp.maximum(jnp.sum(rows.length_B), 1).astype(jnp.float32)

    def objective(params: Params, prefix: model.Prefix, part: reading.Part):
        logprob_BR, _, _ = policy.read(params, prefix, part, rows, PLAIN, model_cfg)
        return -jnp.sum(logprob_BR) / tokens, ({}, jnp.float32(0), ())

    grads, value, *_ = reading.gradient(objective, state.policy, rows, model_cfg)
    new_state, grad_norm = apply(state, grads, value, tx)
    new_state = dataclasses.replace(new_state, step=state.step + 1)
    return new_state, {
        "loss": value,
        "policy/grad_norm": grad_norm,
        "policy/skipped": new_state.skipped,
    }
