"""A generative reward model as the reward: prompts, votes and sums against plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import make_round
from rlvr_jax import grm, judging, model, optim, parameters, ragged, sampling, sharding, step
from rlvr_jax.config import (
    CritiqueConfig,
    DataConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    RewardConfig,
    RlStage,
    SampleConfig,
    VoteConfig,
)
from rlvr_jax.host.critiques import prompt, reader
from rlvr_jax.structs import (
    Critic,
    Frozen,
    Prompts,
    Ranking,
    Rollout,
    Setup,
    Spelling,
    Verdict,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# A token of this vocabulary may be a whole box, so that a random model writes votes.
PIECES = (
    *("<unk>", "<eos>", "a", "b", "c", "[", "1]", "2]", "? ", "\n", "x"),
    *("\\boxed{1}", "\\boxed{5}", "\\boxed{8}", "\\boxed{10}", "\\boxed{11}"),
    *("\\boxed{3, 7}", "\\boxed{9, 2}", "\\boxed{6, 6}", "\\boxed{4, 4, 4}", "[2", "Yes", "No"),
)
EOS, FILLER = 1, PIECES.index("? ")
V = len(PIECES)
CFG = ModelConfig(layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=20, vocab=V)
Q, G, C, R, J = 2, 4, 5, 6, 7


def spelling_tables():
    texts = [b"" if piece in ("<unk>", "<eos>") else piece.encode() for piece in PIECES]
    table = np.zeros((V, max(map(len, texts))), np.uint8)
    for i, text in enumerate(texts):
        table[i, : len(text)] = np.frombuffer(text, np.uint8)
    return table, np.array([len(text) for text in texts], np.int32)


SPELLING = spelling_tables()


def critic(together: int) -> Critic:
    ids = np.arange(V)
    words = [PIECES.index(word) for word in ("Yes", "No")]
    meta = Verdict(
        tail_JC=np.array([[9, 10]], np.int32),
        tail_mask_JC=np.ones((1, 2), bool),
        accept_J=np.int32(words[:1]),
        reject_J=np.int32(words[1:]),
        newline_V=ids == 9,
        blank_V=np.isin(ids, [0, 1, 9]),
        control_V=ids < 2,
    )
    return Critic(
        spelling=Spelling(*SPELLING, np.zeros(0, np.uint8), np.bool_(True)),
        control_V=ids < 2,
        filler=np.int32(FILLER),
        before_NC=np.array([[5, 6], [20, 20]], np.int32)[:together],
        before_mask_NC=np.array([[True, True], [False, True]])[:together],
        after_NC=np.full((together, 1), 9, np.int32),
        after_mask_NC=np.ones((together, 1), bool),
        middle_C=np.array([9, 2], np.int32),
        tail_C=np.array([10, 3], np.int32),
        marks=("[",),
        meta=meta,
    )


def form(together=1, votes=3, principles="none", keep=0.5, temperature=1.5) -> grm.Form:
    data = DataConfig(response_columns=J)
    critique = CritiqueConfig(most=2, data=data, principles=principles, criteria_columns=3)
    own = VoteConfig(together=together, keep=keep, temperature=temperature)
    reward = RewardConfig(source="grm", votes=votes, grm=own)
    return grm.Form(CFG, critique, reward, (EOS,))


@pytest.fixture(scope="module")
def params() -> dict:
    return parameters.init(jax.random.key(3), CFG)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    rng = np.random.default_rng(1)
    ids = rng.integers(2, V, (Q, C)).astype(np.int32)
    mask = np.arange(C)[None] >= np.array([[0], [2]])
    return Prompts(ids[:, :1], mask[:, :1], np.where(mask, ids, 0), mask)


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    rng = np.random.default_rng(2)
    response = rng.integers(2, V, (Q * G, R)).astype(np.int32)
    length = np.array([3, 6, 1, 4, 2, 5, 3, 2], np.int32)
    response[np.arange(Q * G), length - 1] = EOS
    response[1, 5], response[5, 2] = 7, 0  # cut off; a control token inside
    response[4, 0], response[3, 1] = 5, 20  # signs of a frame
    truncated = np.arange(Q * G) == 1
    none = np.zeros((Q, 1), np.int32)
    return Rollout(none, none == 0, response, length, truncated, response * np.float32(0))


def shown(rollout: Rollout, row: int) -> list[int]:
    """The ids of a response as the host's prompter would show them."""
    ids = rollout.response_BR[row, : rollout.length_B[row]].tolist()
    return prompt.hide_marks([i for i in ids if i > 1], ("[",), SPELLING, FILLER)


def asked(prompts: Prompts, rollout: Rollout, rows: list[int], more=()) -> list[int]:
    """The ids of a prompt that shows these responses, built by a plain loop."""
    tables, query = critic(len(rows)), rows[0] // G
    ids = prompts.check_QC[query][prompts.check_mask_QC[query]].tolist() + list(more)
    for place, row in enumerate(rows):
        ids += tables.before_NC[place][tables.before_mask_NC[place]].tolist()
        ids += [*shown(rollout, row), *tables.after_NC[place].tolist()]
    return ids + tables.tail_C.tolist()


@jax.jit
def read_whole(params, token, mask):
    """The logits that follow a text, read in one full forward pass."""
    hidden, _ = model.prefill(params, token, mask, CFG)
    return model.logits(params, hidden[:, -1], CFG)


def next_logits(params, ids: list[int]):
    """As `read_whole`, of ids that are padded on the left, so that one compile serves all."""
    token = np.zeros((1, 64), np.int32)
    token[0, 64 - len(ids) :] = ids
    return read_whole(params, token, np.arange(64)[None] >= 64 - len(ids))


def judgement(params, ids: list[int], key, stream, cfg: grm.Form) -> tuple[list[int], bool]:
    """A judgement that a plain loop samples from full forward passes, and whether it was cut."""
    written: list[int] = []
    for position in range(J):
        logits = next_logits(params, ids + written)
        of_token = jax.random.fold_in(jax.random.fold_in(key, stream), position)
        sample = SampleConfig(temperature=cfg.reward.grm.temperature)
        written.append(int(sampling.sample(logits, of_token[None], sample)[0][0]))
        if written[-1] == EOS:
            return written, False
    return written, True


score = jax.jit(grm.score, static_argnames="form")


def test_what_is_shown_is_what_the_host_shows(rollout):
    seen = grm.show(rollout, critic(1))
    for row in range(Q * G):
        ids = seen.token_BR[row, : seen.length_B[row]].tolist()
        assert ids == shown(rollout, row)
    assert seen.token_BR[4, 0] == FILLER and seen.token_BR[3, 1] == FILLER


def test_a_prefix_that_was_lengthened_is_that_of_the_whole_text(params, prompts):
    rng = np.random.default_rng(5)
    more = rng.integers(2, V, (4, 3)).astype(np.int32)
    exists = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    owner = np.array([[0, 0, 1, 1]], np.int32)
    read, _ = ragged.read_prompts(params, prompts.check_QC, prompts.check_mask_QC, CFG)
    long = model.lengthen(params, more, exists, read, owner, CFG)
    ids = np.concatenate([prompts.check_QC[owner[0]], more], 1)
    mask = np.concatenate([prompts.check_mask_QC[owner[0]], exists], 1)
    _, whole = model.prefill(params, ids, mask, CFG)
    np.testing.assert_array_equal(long.mask_QP, mask)
    np.testing.assert_allclose(long.last_QD, whole.last_QD, atol=2e-6)
    for ours, theirs in zip(jax.tree.leaves(long.kv), jax.tree.leaves(whole.kv), strict=True):
        exists = mask[:, None, :, None]
        ours, theirs = (np.where(exists, np.asarray(x), 0) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("together", [1, 2])
def test_rewards_are_those_of_a_plain_loop(params, prompts, rollout, together):
    cfg, key = form(together), jax.random.key(7)
    judged = score(grm.Judge(params, critic(together), {}), prompts, rollout, key, form=cfg)
    content = grm._content(
        grm.show(rollout, critic(together)),
        grm._hash(prompts.check_QC, prompts.check_mask_QC),
        together,
    )
    order = np.asarray(grm._orders(content, key, 3, together))
    assert len({tuple(places) for places in order.tolist()}) == together  # orders are drawn
    streams = np.asarray(grm._streams(content, 3))
    total, count = np.zeros(Q * G), np.zeros(Q * G, int)
    read = []
    for x, stream in enumerate(streams):
        rows = [x // 3 * together + i for i in order[x]]
        of_votes = jax.random.fold_in(key, grm.STREAM)
        ids, cut = judgement(params, asked(prompts, rollout, rows), of_votes, stream, cfg)
        length = int(judged.judgements.length_B[x])
        assert judged.judgements.response_BR[x, :length].tolist() == ids
        text = "".join(PIECES[i] for i in ids if i > 1)
        scores = None if cut else reader.read_scores(text, together)
        read.append(scores is not None)
        for place, row in enumerate(rows):
            if scores is not None:
                total[row] += scores[place]
                count[row] += 1
    assert judged.valid_X.tolist() == read
    assert 0 < sum(read) < len(read)
    expected = np.where(count > 0, (total / np.maximum(count, 1) - 1) / 9, 0)
    expected[[1, 2]] = 0  # one was cut off, one is empty
    np.testing.assert_allclose(judged.reward_B, expected, atol=1e-6)
    np.testing.assert_array_equal(judged.votes_B, count)


def test_criteria_from_the_query_stand_before_the_responses(params, prompts, rollout):
    cfg, key = form(principles="from_query"), jax.random.key(8)
    judge = grm.Judge(params, critic(1), {})
    judged = score(judge, prompts, rollout, key, form=cfg)
    query = grm._hash(prompts.check_QC, prompts.check_mask_QC)
    decode = parameters.for_decoding(params, CFG)
    context, _ = jax.jit(grm._read_context, static_argnums=4)(decode, prompts, key, critic(1), cfg)
    streams = np.asarray(grm._streams(grm._content(grm.show(rollout, critic(1)), query, 1), 3))
    criteria = []
    for q in range(Q):
        seen = context.rows.token_YW[q][context.rows.mask_YW[q]].tolist()
        own = int(prompts.check_mask_QC[q].sum())
        assert seen[-2:] == [9, 2]  # what stands between criteria and responses
        criteria.append(seen[own:])
    assert criteria[0] != criteria[1]
    for x in (0, 5, 13):
        ids = asked(prompts, rollout, [x // 3], criteria[x // 3 // G])
        of_votes = jax.random.fold_in(key, grm.STREAM)
        written, _ = judgement(params, ids, of_votes, streams[x], cfg)
        length = int(judged.judgements.length_B[x])
        assert judged.judgements.response_BR[x, :length].tolist() == written


def reversed_rows(prompts: Prompts, rollout: Rollout) -> tuple[Prompts, Rollout]:
    """The same problems and responses in reverse order."""
    ids, mask = prompts.check_QC[::-1], prompts.check_mask_QC[::-1]
    turned = Rollout(
        rollout.prompt_QP,
        rollout.prompt_mask_QP,
        rollout.response_BR[::-1],
        rollout.length_B[::-1],
        rollout.truncated_B[::-1],
        rollout.logprob_BR,
    )
    return Prompts(ids[:, :1], mask[:, :1], ids, mask), turned


def test_a_vote_depends_neither_on_place_nor_on_neighbours(params, prompts, rollout):
    judge, key = grm.Judge(params, critic(1), {}), jax.random.key(9)
    forward = score(judge, prompts, rollout, key, form=form())
    back = score(judge, *reversed_rows(prompts, rollout), key, form=form())
    np.testing.assert_allclose(forward.reward_B, back.reward_B[::-1], atol=1e-6)
    ids = [np.asarray(x.judgements.response_BR).reshape(-1, 3, J) for x in (forward, back)]
    np.testing.assert_array_equal(ids[0], ids[1][::-1])
    assert len(np.unique(ids[0].reshape(-1, J), axis=0)) > 12  # of 24
    other = score(judge, prompts, rollout, jax.random.key(10), form=form())
    assert not np.array_equal(ids[0].reshape(-1, J), other.judgements.response_BR)


@pytest.mark.parametrize("together", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_votes_are_the_same_on_a_mesh(params, prompts, rollout, together):
    judge, key = grm.Judge(params, critic(together), params), jax.random.key(9)
    plain = score(judge, prompts, rollout, key, form=form(together))
    mesh = sharding.make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    with jax.set_mesh(mesh):
        rows = (sharding.place_rows(x, mesh) for x in (prompts, rollout))
        split = score(judge, *rows, key, form=form(together))
        shared = form(together)
        shared = shared._replace(model=dataclasses.replace(CFG, decode_tensor=2))
        rows = (sharding.place_rows(x, mesh) for x in (prompts, rollout))
        view = score(judge, *rows, key, form=shared)
    for on_mesh in (split, view):
        np.testing.assert_allclose(on_mesh.reward_B, plain.reward_B, atol=1e-6)
        np.testing.assert_array_equal(on_mesh.votes_B, plain.votes_B)


def test_votes_from_an_int8_cache_are_votes(params, prompts, rollout):
    """Criteria too are written from one; what continues them is read in compute dtype."""
    judge, key, plain = grm.Judge(params, critic(1), {}), jax.random.key(9), form()
    plain = form(principles="from_query")
    int8 = plain._replace(model=dataclasses.replace(CFG, cache_dtype="int8"))
    exact, held = (score(judge, prompts, rollout, key, form=x).judgements for x in (plain, int8))
    # A judgement may differ from some token on: compare up to there.
    same = np.cumprod(np.asarray(exact.response_BR == held.response_BR), 1) > 0
    same &= np.asarray(exact.response_mask_BR)
    gap = np.abs(np.asarray(exact.logprob_BR) - np.asarray(held.logprob_BR))[same]
    assert same.mean() > 0.3 and 1e-6 < gap.max() < 0.05


def test_the_meta_rm_chooses_the_votes_that_count(params, prompts, rollout):
    meta, key = parameters.init(jax.random.key(4), CFG), jax.random.key(11)
    every = score(grm.Judge(params, critic(1), {}), prompts, rollout, key, form=form())
    chosen = score(grm.Judge(params, critic(1), meta), prompts, rollout, key, form=form(keep=0.3))
    yes, no = (PIECES.index(word) for word in ("Yes", "No"))
    for row in range(Q * G):
        best, kept = -1.0, None
        for vote in range(3):
            x = 3 * row + vote
            if not every.valid_X[x]:
                continue
            length = int(every.judgements.length_B[x]) - 1
            written = every.judgements.response_BR[x, :length].tolist()
            ids = [*asked(prompts, rollout, [row]), *written, 9, 10]
            probability = jax.nn.softmax(next_logits(meta, ids))[0]
            if probability[yes] > best:
                text = "".join(PIECES[i] for i in written if i > 1)
                best, kept = float(probability[yes]), reader.read_scores(text, 1)
        assert no != yes
        expected = 0.0 if kept is None or row in (1, 2) else (kept[0] - 1) / 9
        assert float(chosen.reward_B[row]) == pytest.approx(expected, abs=1e-6)
        assert int(chosen.votes_B[row]) == (kept is not None)


def test_the_best_share_of_valid_votes_is_kept():
    valid = jnp.array([1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1], bool)
    sound = jnp.array([0.2, 0.9, 1.0, 0.5, 0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5])
    assert grm.keep_best(valid, sound, 4, 0.5).astype(int).tolist() == [
        *(0, 1, 0, 1),
        *(0, 0, 0, 0),
        *(1, 1, 0, 0),
    ]
    assert grm.keep_best(valid, sound, 4, 0.3).sum() == 4  # of 4 votes 1.2 are 2
    np.testing.assert_array_equal(grm.keep_best(valid, sound, 4, 1.0), valid)


def test_scores_are_summed_by_response():
    score_XN = jnp.array([[9.0, 2, 0], [4, 7, 0], [1, 8, 0], [5, 5, 0]])
    order = jnp.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    kept = jnp.array([True, True, False, True])
    total, count = grm.sum_votes(score_XN, kept, order, 2)
    assert total.tolist() == [2 + 4, 9 + 7, 5, 5]
    assert count.tolist() == [2, 2, 1, 1]


def test_no_gradient_flows_through_the_reward(params, prompts, rollout):
    def total(params):
        judged = grm.score(
            grm.Judge(params, critic(1), {}), prompts, rollout, jax.random.key(0), form(votes=1)
        )
        return jnp.sum(judged.reward_B)

    for gradient in jax.tree.leaves(jax.jit(jax.grad(total))(params)):
        assert not np.any(gradient)


def preference_setup(**options) -> Setup:
    stage = RlStage(reward=RewardConfig(source="preference"), prompts=Q, samples=2, **options)
    data = DataConfig(response_columns=2)
    critique = CritiqueConfig(most=2, data=data)
    return Setup(
        stage, CFG, CFG, 2, (EOS,), optim.make_optimizer(stage.optim, 1), grm=CFG, critique=critique
    )


def judgements() -> tuple[Prompts, Rollout]:
    """Two items with two judgements each: right, tied; right (of one response), truncated."""
    boxes = ["\\boxed{3, 7}", "\\boxed{6, 6}", "\\boxed{1}", "\\boxed{1}"]
    response = np.array([[PIECES.index(box), EOS] for box in boxes], np.int32)
    ids = np.full((Q, 1), 2, np.int32)
    ranking = Ranking(
        np.array([[True, True], [True, False]]), np.array([1, 1], np.int32), np.array([False, True])
    )
    truncated = np.array([False, False, False, True])
    length = np.full(4, 2, np.int32)
    rollout = Rollout(ids, ids > 0, response, length, truncated, response * np.float32(0))
    return Prompts(ids, ids > 0, ids[:, :0], ids[:, :0] > 0, ranking), rollout


def test_a_judgement_is_paid_by_the_truth_of_its_item():
    prompts, rollout = judgements()
    frozen = Frozen({}, {}, critic=critic(2))
    setup = preference_setup()
    reward, metrics = judging.judge(frozen, prompts, rollout, jax.random.key(0), setup)
    assert reward.tolist() == [1, 0, 1, 0]
    assert float(metrics["grm/valid_frac"]) == 0.75 and float(metrics["grm/tie_frac"]) == 0.25
    with pytest.raises(ValueError, match="preference items"):
        judging.judge(Frozen({}, {}), prompts, rollout, jax.random.key(0), setup)
    asked = dataclasses.replace(prompts, ranking=None)
    with pytest.raises(ValueError, match="preference items"):
        judging.judge(frozen, asked, rollout, jax.random.key(0), setup)


def test_right_and_wrong_judgements_are_worth_plus_and_minus_one(params):
    _, rollout = judgements()
    setup = preference_setup(loss=LossConfig(kl_coef=0.0))
    state = step.init_state(jax.random.key(0), params, setup.tx)
    held = make_round.held(rollout, jnp.array([1.0, 0, 1, 0]))
    signals = step.observe(state, Frozen({}, {}), held.round, held.outcome, setup)
    assert signals.rewards["reward"].tolist() == [1, -1, 1, -1]


def test_criteria_of_an_item_are_written_into_its_prompt(params, prompts):
    data = DataConfig(response_columns=J)
    critique = CritiqueConfig(most=2, data=data, principles="from_query", criteria_columns=3)
    asked = grm.Asked(CFG, critique, SampleConfig(temperature=1.5), (EOS,))
    rest = np.array([[0, 6, 7], [5, 6, 7]], np.int32)
    item = dataclasses.replace(prompts, prompt_QP=rest, prompt_mask_QP=rest > 0)
    key = jax.random.key(5)
    whole = grm.with_criteria(params, item, key, critic(2), asked)
    query = grm._hash(prompts.check_QC, prompts.check_mask_QC)
    of_criteria = jax.random.fold_in(key, grm.STREAM + 1)
    for q in range(Q):
        ids = whole.prompt_QP[q][whole.prompt_mask_QP[q]].tolist()
        own = prompts.check_QC[q][prompts.check_mask_QC[q]].tolist()
        written: list[int] = []
        for position in range(3):
            logits = next_logits(params, own + written)
            of_token = jax.random.fold_in(jax.random.fold_in(of_criteria, query[q]), position)
            written.append(int(sampling.sample(logits, of_token[None], asked.sample)[0][0]))
            if written[-1] == EOS:
                break
        shown_ids = prompt.hide_marks([i for i in written if i > 1], ("[",), SPELLING, FILLER)
        assert ids == [*own, *shown_ids, *rest[q][rest[q] > 0].tolist()]
    plain = grm.Asked(CFG, CritiqueConfig(most=2, data=data), asked.sample, (EOS,))
    assert grm.with_criteria(params, item, key, critic(2), plain) is item
