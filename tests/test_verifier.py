"""The verifier: what it sees of a response, how its reward comes about, and failing closed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import model, parameters, ragged, verifier
from rlvr_jax.config import ModelConfig, RewardConfig
from rlvr_jax.structs import Prompts, Rollout, Verdict

pytestmark = pytest.mark.usefixtures("strict_dtypes")

V, NEWLINE, BLANK, EOS, REJECT, ACCEPT = 24, 2, 3, 1, 10, 11
TAIL = [NEWLINE, 17, 18]
CFG = ModelConfig(
    layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=20, vocab=V, tied=False
)
SOFT, PAPER, BINARY = (RewardConfig(mode=mode) for mode in ("soft", "paper", "binary"))
Q, G, C, R = 2, 4, 5, 9

prefill = jax.jit(model.prefill, static_argnums=3)
score = jax.jit(verifier.score, static_argnums=(4, 5))
answer_mask = jax.jit(verifier.answer_mask)


@pytest.fixture(scope="module")
def params() -> dict:
    """Random parameters; the two verdict tokens get most of the probability, in varying shares."""
    rng = np.random.default_rng(0)
    params = {
        name: np.ones(x.shape, np.float32)
        if "norm" in name
        else rng.normal(0, 0.3, x.shape).astype(np.float32)
        for name, x in parameters.abstract(CFG).items()
    }
    # Width 0 is the same constant in every hidden state and raises the logits of the verdicts.
    params["embed_VD"][:, 0] = 3.0
    params["out_LNHD"][..., 0] = params["down_LFD"][..., 0] = 0.0
    params["head_VD"][:, 0] = 0.0
    params["head_VD"][[REJECT, ACCEPT], 0] = 3.0
    return params


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    ids = np.arange(V)
    return Verdict(
        tail_JC=np.array([TAIL], np.int32),
        tail_mask_JC=np.ones((1, len(TAIL)), bool),
        accept_J=np.array([ACCEPT], np.int32),
        reject_J=np.array([REJECT], np.int32),
        newline_V=ids == NEWLINE,
        blank_V=np.isin(ids, [0, EOS, NEWLINE, BLANK]),  # unknown, end, white space
        control_V=np.isin(ids, [0, EOS]),
    )


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    rng = np.random.default_rng(1)
    ids = rng.integers(4, V, (Q, C)).astype(np.int32)
    mask = np.arange(C)[None] >= np.array([[0], [2]])
    return Prompts(ids[:, :1], mask[:, :1], ids, mask)


def rollout(rows: list[list[int]], columns: int = R, truncated=(), filler: int = 7) -> Rollout:
    """A rollout of these rows, EOS included; filler tokens follow each row's end."""
    response = np.full((len(rows), columns), filler, np.int32)
    for b, row in enumerate(rows):
        response[b, : len(row)] = row
    return Rollout(
        prompt_QP=np.zeros((1, 1), np.int32),
        prompt_mask_QP=np.ones((1, 1), bool),
        response_BR=response,
        length_B=np.array([len(row) for row in rows], np.int32),
        truncated_B=np.isin(np.arange(len(rows)), truncated),
        logprob_BR=np.zeros((len(rows), columns), np.float32),
    )


def final_answer(row: list[int], verdict: Verdict) -> list[int]:
    """Indices of the answer: the last line with visible text, without blanks at its ends."""
    lines: list[list[int]] = [[]]
    for index, token in enumerate(row):
        if verdict.newline_V[token]:
            lines.append([])
        else:
            lines[-1].append(index)
    for line in reversed(lines):
        while line and verdict.blank_V[row[line[0]]]:
            line = line[1:]
        while line and verdict.blank_V[row[line[-1]]]:
            line = line[:-1]
        if line:
            return [index for index in line if not verdict.control_V[row[index]]]
    return []


# -- what it is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, answer",
    [
        ([8, 9, EOS], [0, 1]),
        ([8, NEWLINE, 9, EOS], [2]),
        ([8, 9, NEWLINE, EOS], [0, 1]),
        ([8, NEWLINE, BLANK, NEWLINE, EOS], [0]),
        ([8, NEWLINE, BLANK, 9, BLANK, 8, BLANK, EOS], [3, 4, 5]),
        ([NEWLINE, NEWLINE, EOS], []),
        ([BLANK, EOS], []),
        ([EOS], []),
        ([], []),
        ([8, NEWLINE, 9, 8, 8, 8, 8, 8, 8], [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_the_answer_is_the_last_line_that_shows_something(verdict, row, answer) -> None:
    mask = np.asarray(answer_mask(rollout([row] * 4), verdict))
    assert final_answer(row, verdict) == answer
    assert np.flatnonzero(mask[0]).tolist() == answer
    assert np.all(mask == mask[0])


def test_answers_of_random_rows(verdict) -> None:
    rng = np.random.default_rng(2)
    tokens = [NEWLINE, BLANK, 0, 8, 9]
    rows = [rng.choice(tokens, rng.integers(0, 9)).tolist() for _ in range(400)]
    rows = [row + [EOS] * bool(i % 3) for i, row in enumerate(rows)]
    # What stands after the end must not count: fill it with text, then with line ends.
    for filler in (8, NEWLINE):
        masks = np.asarray(answer_mask(rollout(rows, 9, filler=filler), verdict))
        for row, mask in zip(rows, masks, strict=True):
            assert np.flatnonzero(mask).tolist() == final_answer(row, verdict), row


def test_a_token_that_ends_a_line_is_never_part_of_an_answer() -> None:
    """Some vocabularies have tokens such as `.` + new line, which also show something."""
    ids = np.arange(V)
    verdict = Verdict(
        None, None, None, None, newline_V=np.isin(ids, [2, 4]), blank_V=ids < 3, control_V=ids < 0
    )
    masks = np.asarray(answer_mask(rollout([[8, 4, 9, EOS], [8, 9, 4, EOS]] * 2), verdict))
    assert np.flatnonzero(masks[0]).tolist() == [2]
    assert np.flatnonzero(masks[1]).tolist() == [0, 1]


ROWS = [
    [8, 9, EOS],
    [8, 9, NEWLINE, 12, 13, EOS],
    [20, NEWLINE, 14, BLANK, 15, BLANK, NEWLINE, EOS],
    [19, EOS],
    [12, 13, EOS],
    [9, 9, 9, 9, 9, 9, 9, 9, EOS],
    [21, 22, 23, EOS],
    [NEWLINE, BLANK, 5, EOS],
]


def by_hand(params, prompts: Prompts, rows, verdict: Verdict) -> np.ndarray:
    """Logits for the verdict after context, answer and tail as one row without padding."""
    texts = [
        [
            *prompts.check_QC[b // G, prompts.check_mask_QC[b // G]],
            *[row[i] for i in final_answer(row, verdict)],
            *TAIL,
        ]
        for b, row in enumerate(rows)
    ]
    width = C + R + len(TAIL)
    ids, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for b, text in enumerate(texts):
        ids[b, -len(text) :], mask[b, -len(text) :] = text, True
    hidden, _ = prefill(params, ids, mask, CFG)
    return np.asarray(hidden[:, -1], np.float64) @ params["head_VD"].T.astype(np.float64)


def test_score_is_the_verdict_on_the_plain_text(params, prompts, verdict) -> None:
    got = score(params, prompts, rollout(ROWS), verdict, SOFT, CFG)
    prob = np.exp(by_hand(params, prompts, ROWS, verdict))
    prob /= prob.sum(-1, keepdims=True)
    p1, p0 = prob[:, ACCEPT], prob[:, REJECT]
    assert np.all(p1 + p0 > 0.55) and np.ptp(p1 / (p1 + p0)) > 0.05
    np.testing.assert_allclose(got.reward_B, p1 / (p1 + p0), atol=1e-5)
    np.testing.assert_allclose(got.p1_B, p1, atol=1e-5)
    np.testing.assert_allclose(got.mass_B, p1 + p0, atol=1e-5)
    assert not np.any(got.ambiguous_B) and not np.any(got.blocked_B)
    assert got.reward_B.dtype == jnp.float32


def test_score_does_not_depend_on_padding_position_or_batch(params, prompts, verdict) -> None:
    want = np.asarray(score(params, prompts, rollout(ROWS), verdict, SOFT, CFG).reward_B)

    # Other tokens after the end, and lines in front of the last one.
    other = rollout([[16, NEWLINE, *row] if len(row) < 6 else row for row in ROWS], filler=12)
    got = score(params, prompts, other, verdict, SOFT, CFG).reward_B
    np.testing.assert_allclose(got, want, atol=2e-6)

    # Rows and prompts in reverse order: another slot, other neighbours.
    turned = jax.tree.map(lambda x: x[::-1], (prompts, rollout(ROWS)))
    got = score(params, *turned, verdict, SOFT, CFG).reward_B
    np.testing.assert_allclose(got[::-1], want, atol=2e-6)

    # One prompt, one row, more columns, a wider context.
    wide = [(0, 0), (3, 0)]
    check, mask = (np.pad(x[1:], wide) for x in (prompts.check_QC, prompts.check_mask_QC))
    one = Prompts(check[:, :1], mask[:, :1], check, mask)
    got = score(params, one, rollout(ROWS[6:7], R + 4), verdict, SOFT, CFG).reward_B
    np.testing.assert_allclose(got, want[6:7], atol=2e-6)


@pytest.mark.parametrize("per_part", [8, 3])
def test_the_template_reaches_the_model_unchanged(
    params, prompts, verdict, monkeypatch, per_part
) -> None:
    """Every row ends in the tail; of the response only the answer's own tokens are visible."""
    seen = []

    def extend(params, token, mask, prefix, owner, cfg):
        jax.debug.callback(lambda *read: seen.append([*map(np.asarray, read)]), token, mask, owner)
        return jnp.zeros((*token.shape, cfg.width))

    prefix = model.Prefix(None, None, None)
    monkeypatch.setattr(model, "extend", extend)
    monkeypatch.setattr(ragged, "read_prompts", lambda *args: (prefix, 0))
    rows = [[17, 18, ACCEPT, EOS], [*TAIL, ACCEPT, EOS], [EOS], [17, NEWLINE, *TAIL, EOS]] * 2
    cfg = dataclasses.replace(CFG, part_tokens=per_part * R)
    verifier.score(params, prompts, rollout(rows), verdict, SOFT, cfg)
    jax.effects_barrier()
    answers = [[row[i] for i in final_answer(row, verdict)] for row in rows]
    order = sorted(range(len(rows)), key=lambda b: -len(answers[b]))  # longest first, in order
    order = [b for b in order if answers[b]]  # a row without an answer is not read
    token, mask, owner = (np.concatenate(x) for x in zip(*seen, strict=True))
    assert not mask[len(order) :, :R].any()
    for at, b in enumerate(order):
        assert token[at, R:].tolist() == TAIL and mask[at, R:].all()
        assert token[at, :R][mask[at, :R]].tolist() == answers[b]
        assert owner.reshape(-1)[at] == b // G


def in_parts(params, prompts, verdict, rows, per_part: int) -> verifier.Score:
    cfg = dataclasses.replace(CFG, part_tokens=per_part * R)
    cautious = RewardConfig(min_mass=0.0)
    return jax.tree.map(
        np.asarray, score(params, prompts, rollout(rows, truncated=[2]), verdict, cautious, cfg)
    )


def test_score_does_not_depend_on_the_parts_it_is_read_in(params, prompts, verdict) -> None:
    rows = [*ROWS[:5], [EOS], ROWS[6], [NEWLINE, BLANK, EOS]]
    answered = np.array([bool(final_answer(row, verdict)) for row in rows])
    want = in_parts(params, prompts, verdict, rows, 8)
    for per_part in (1, 2, 3):
        got = in_parts(params, prompts, verdict, rows, per_part)
        np.testing.assert_allclose(got.reward_B, want.reward_B, atol=2e-6)
        np.testing.assert_array_equal(got.blocked_B, want.blocked_B)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x[answered], y[answered], atol=2e-6)


def test_what_is_told_of_a_row_without_an_answer_does_not_depend_on_its_neighbours(
    params, prompts, verdict
) -> None:
    rows = [*ROWS[:7], [EOS]]
    alone, among = (in_parts(params, prompts, verdict, rows, n) for n in (1, 8))
    for x, y in zip(alone, among, strict=True):
        np.testing.assert_allclose(x[7], y[7], atol=2e-6)


def test_no_gradient_reaches_the_verifier(params, prompts, verdict) -> None:
    @jax.jit
    def grad(params):
        def total(params):
            return jnp.sum(verifier.score(params, prompts, rollout(ROWS), verdict, SOFT, CFG)[0])

        return jax.grad(total)(params)

    assert all(np.all(np.asarray(x) == 0) for x in grad(params).values())


def test_without_a_finished_answer_the_reward_is_zero(params, prompts, verdict) -> None:
    rows = [*ROWS[:4], [EOS], [NEWLINE, BLANK, EOS], [9] * R, [9, EOS]]
    got = score(params, prompts, rollout(rows, truncated=[1, 6]), verdict, SOFT, CFG)
    assert got.blocked_B.tolist() == [False, True, False, False, True, True, True, False]
    reward = np.asarray(got.reward_B)
    assert np.all(reward[got.blocked_B] == 0) and np.all(reward[~got.blocked_B] > 0)


# -- how it is read -------------------------------------------------------------------------------


def read(logits, verdict: Verdict, cfg: RewardConfig, blocked=None) -> verifier.Score:
    logits = jnp.asarray(logits, jnp.float32)
    blocked = np.zeros(len(logits), bool) if blocked is None else np.array(blocked)
    words = verdict.accept_J, verdict.reject_J
    return jax.tree.map(np.asarray, verifier.score_logits(logits, blocked, *words, cfg))


def soft_oracle(row, cfg: RewardConfig) -> float:
    """The three reward modes in float64, for finite logits without ties at the top."""
    row = np.asarray(row, np.float64)
    prob = np.exp(row - row.max())
    prob = prob / prob.sum()
    p1, p0 = prob[ACCEPT], prob[REJECT]
    if cfg.mode == "paper":
        top = int(np.argmax(row))
        return p1 if top == ACCEPT else 1 - p0 if top == REJECT else 0.0
    if p1 + p0 < cfg.min_mass:
        return 0.0
    # The ratio from the logits, so that probabilities of 1e-4000 do not underflow.
    soft = 1 / (1 + np.exp(np.clip(row[REJECT] - row[ACCEPT], -700, 700)))
    return soft if cfg.mode == "soft" else float(row[ACCEPT] > row[REJECT])


@pytest.mark.parametrize("mode", ["soft", "paper", "binary"])
@pytest.mark.parametrize("min_mass", [0.0, 0.3, 0.5, 0.99])
def test_readings_of_random_logits(verdict, mode, min_mass) -> None:
    cfg = RewardConfig(mode=mode, min_mass=min_mass)
    rng = np.random.default_rng(4)
    rows = rng.normal(0, 1, (60, V))
    rows[:, [REJECT, ACCEPT]] += rng.normal(2.5, 2, (60, 2))
    rows = np.concatenate([rows, rows * 20, rows * 1e4]).astype(np.float32)
    got = read(rows, verdict, cfg)
    want = [soft_oracle(row, cfg) for row in rows]
    np.testing.assert_allclose(got.reward_B, want, atol=1e-6, rtol=0)
    assert np.all((got.reward_B >= 0) & (got.reward_B <= 1))
    if mode != "binary":
        assert got.ambiguous_B.any() == (min_mass > 0 or mode == "paper")
    assert np.all(got.reward_B[got.ambiguous_B] == 0)


def verdict_logits(**at) -> np.ndarray:
    row = np.full(V, at.pop("rest", 0.0))
    for name, value in at.items():
        row[{"one": ACCEPT, "zero": REJECT, "third": 20}[name]] = value
    return row


@pytest.mark.parametrize(
    "row, soft, paper, binary",
    [
        (verdict_logits(one=1e4, rest=-1e4), 1, 1, 1),
        (verdict_logits(zero=1e4, rest=-1e4), 0, 0, 0),
        (verdict_logits(one=1e4, zero=1e4, rest=-1e4), 0.5, 0.5, 0),
        (verdict_logits(third=1e4, rest=-1e4), 0, 0, 0),
        (verdict_logits(), 0, 0, 0),  # all equal: mass 2/24, and the most probable is id 0
        (verdict_logits(one=-np.inf, zero=20), 0, 0, 0),
        (verdict_logits(zero=-np.inf, one=20), 1, 1, 1),
        (verdict_logits(one=-np.inf, zero=-np.inf), 0, 0, 0),
        (verdict_logits(rest=-np.inf), 0, 0, 0),
        (verdict_logits(one=np.inf), 0, 0, 0),
        (verdict_logits(one=np.nan), 0, 0, 0),
        (verdict_logits(one=50, third=np.nan), 0, 0, 0),
        (verdict_logits(rest=np.nan), 0, 0, 0),
    ],
)
@pytest.mark.parametrize("min_mass", [0.0, 0.5])
def test_readings_of_extreme_logits(verdict, row, soft, paper, binary, min_mass) -> None:
    if min_mass == 0 and np.all(np.isfinite(row)) and row[ACCEPT] == row[REJECT] < 1e4:
        soft = 0.5  # asked for no mass, two equal verdicts are a soft 0.5 whatever else there is
    for mode, want in (("soft", soft), ("paper", paper), ("binary", binary)):
        got = read([row], verdict, RewardConfig(mode=mode, min_mass=min_mass))
        assert got.reward_B[0] == pytest.approx(want, abs=1e-6), mode
        if not np.isfinite(got.mass_B[0]):
            assert got.reward_B[0] == 0 and got.ambiguous_B[0]


def test_mass_threshold_is_inclusive_and_counted(verdict) -> None:
    """Six equal tokens: the two verdicts hold a third of the mass."""
    row = np.full(V, -np.inf)
    row[[4, 5, 6, 7, ACCEPT, REJECT]] = 0.0
    row[ACCEPT] = np.log(1.5)
    row[REJECT] = np.log(0.5)
    for min_mass, want in ((0.33, 0.75), (0.34, 0.0)):
        got = read([row], verdict, RewardConfig(min_mass=min_mass))
        assert got.reward_B[0] == pytest.approx(want, abs=1e-6)
        assert got.ambiguous_B[0] == (want == 0)
        assert got.mass_B[0] == pytest.approx(1 / 3) and got.p1_B[0] == pytest.approx(0.25)
    row[[4, 5, 6, 7]] = -np.inf
    assert not read([row], verdict, RewardConfig(min_mass=0.999)).ambiguous_B[0]


@pytest.mark.parametrize("cfg", [SOFT, PAPER, BINARY])
def test_blocked_rows_get_exactly_zero(verdict, cfg) -> None:
    rows = [verdict_logits(one=30), verdict_logits(one=30), verdict_logits(one=np.nan)]
    got = read(rows, verdict, cfg, [True, False, True])
    assert got.reward_B[0] == 0 and got.reward_B[1] > 0.99 and got.reward_B[2] == 0
    assert got.blocked_B.tolist() == [True, False, True]
    assert got.ambiguous_B.tolist() == [False, False, True]


def test_paper_branches(verdict) -> None:
    """1 on top: p(1).  0 on top: 1 - p(0), which also counts other tokens.  Neither: 0."""
    for top, want in (({"one": 0.6, "zero": 0.1}, 0.6), ({"one": 0.1, "zero": 0.6}, 0.4)):
        row = np.log(np.full(V, 0.3 / (V - 2)))
        row[ACCEPT], row[REJECT] = np.log(top["one"]), np.log(top["zero"])
        assert read([row], verdict, PAPER).reward_B[0] == pytest.approx(want, abs=1e-6)
    row[20] = np.log(0.9)
    got = read([row], verdict, PAPER)
    assert got.reward_B[0] == 0 and got.ambiguous_B[0]
