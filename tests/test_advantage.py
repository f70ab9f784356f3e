"""Every estimator against its paper's formula, as loops over rows and tokens in float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_round import credit
from rlvr_jax import advantage, groups, returns, sharding
from rlvr_jax.config import AdvantageConfig, MeshConfig, OverlongConfig, RlStage

Q, G, R = 4, 3, 6
B = Q * G
FLOOR = 1e-4
LENGTHS = (6, 1, 3, 4, 2, 6, 5, 0, 3, 6, 6, 6)  # the last group never ended
MASK = np.arange(R) < np.array(LENGTHS)[:, None]
BETA = 0.07


@pytest.fixture
def given():
    rng = np.random.default_rng(11)
    reward = rng.uniform(-1, 2, B)
    reward[3:6] = 0.1  # a group that agrees
    return {
        "reward": reward,
        "kl": rng.normal(0, 0.5, (B, R)),
        "process": rng.normal(0, 0.3, (B, R)),
        "value": rng.normal(0, 0.5, (B, R)),
        "greedy": rng.uniform(0, 1, Q),
        "domain": rng.uniform(-1, 1, Q),
    }


def run(cfg, given, mask=MASK, samples=G, dtype=np.float64, **changes):
    """`assign_credit` in float64; the behind of a row is rubbish in every input."""
    x = {k: jnp.asarray(np.asarray(v, dtype)) for k, v in (given | changes).items()}
    found = credit(
        x["reward"],
        jnp.asarray(mask),
        samples,
        cfg,
        kl_BR=x["kl"],
        kl_coef=changes.get("beta", BETA),
        token_reward_BR=x["process"],
        value_BR=x["value"],
        greedy_Q=x["greedy"],
        baseline_Q=x["domain"],
    )
    return found


def x64(cfg, given, **more):
    with jax.enable_x64(True):
        found = run(cfg, given, **more)
        return np.asarray(found.advantage_BR), found


# ---- the formulas ----------------------------------------------------------------------------


def group(i, samples=G):
    return range(i // samples * samples, i // samples * samples + samples)


def std(values, ddof=1):
    mean = sum(values) / len(values)
    return (sum((v - mean) ** 2 for v in values) / (len(values) - ddof)) ** 0.5


def penalised(g):
    """R - beta * sum of KL, per row."""
    return [g["reward"][i] - BETA * sum(g["kl"][i, t] for t in range(LENGTHS[i])) for i in range(B)]


def rows(values):
    return [[values[i]] * R for i in range(B)]


def tokens(function):
    return [[function(i, t) if t < LENGTHS[i] else None for t in range(R)] for i in range(B)]


def whitened(x, ddof=1, keep_mean=False):
    """(a - mean) / std over all valid tokens, plus the mean where it is kept."""
    valid = [x[i][t] for i in range(B) for t in range(LENGTHS[i])]
    mean, spread = sum(valid) / len(valid), max(std(valid, ddof), FLOOR)
    return tokens(lambda i, t: (x[i][t] - mean) / spread + mean * keep_mean)


def z(values, of, ddof=1):
    """z-score of each value among those that `of(i)` numbers; 0 where all are equal."""
    out = []
    for i in range(B):
        peers = [values[j] for j in of(i)]
        flat = max(peers) == min(peers)
        spread = max(std(peers, ddof), FLOOR)
        out.append(0.0 if flat else (values[i] - sum(peers) / len(peers)) / spread)
    return out


def everyone(i):
    return range(B)


def reinforce(g, of=None):
    """R - beta log(pi / ref), R z-scored over the batch or the group where asked."""
    scored = list(g["reward"]) if of is None else z(g["reward"], of)
    kl = [g["reward"][i] - p for i, p in enumerate(penalised(g))]
    return rows([scored[i] - kl[i] for i in range(B)])


def rloo(g):
    r = penalised(g)
    return rows([r[i] - sum(r[j] for j in group(i) if j != i) / (G - 1) for i in range(B)])


def dr_grpo(g):
    r = penalised(g)
    return rows([r[i] - sum(r[j] for j in group(i)) / G for i in range(B)])


def lite(g):
    """(R - mean of group) / std of batch, without a penalty."""
    r, spread = g["reward"], std(g["reward"])
    return rows([(r[i] - sum(r[j] for j in group(i)) / G) / spread for i in range(B)])


def opo(g):
    r = penalised(g)
    out = []
    for i in range(B):
        tokens_of_group = sum(LENGTHS[j] for j in group(i))
        out.append(r[i] - sum(LENGTHS[j] * r[j] for j in group(i)) / tokens_of_group)
    return rows(out)


def remax(g):
    r = penalised(g)
    return rows([r[i] - g["greedy"][i // G] for i in range(B)])


def rae(g):
    r = penalised(g)
    return rows([r[i] - g["domain"][i // G] for i in range(B)])


def to_go(g):
    """R - beta * sum of KL from t on."""
    return tokens(
        lambda i, t: g["reward"][i] - BETA * sum(g["kl"][i, s] for s in range(t, LENGTHS[i]))
    )


def plus_plus(g, ddof=1):
    """The same, whitened (REINFORCE++)."""
    return whitened(to_go(g), ddof)


def max_rl(g):
    """(R - mean of group) / mean of group; 0 for a group without success."""
    out = []
    for i in range(B):
        mean = sum(g["reward"][j] for j in group(i)) / G
        flat = len({g["reward"][j] for j in group(i)}) == 1
        out.append(0.0 if flat or mean <= FLOOR else (g["reward"][i] - mean) / mean)
    return rows(out)


def pass_at_k(g, k, divide=True, samples=G):
    """Mean reward of the sets of k that a response is in, minus that of all sets; their std."""
    reward, out = g["reward"], []
    for i in range(len(reward)):
        sets = list(itertools.combinations(group(i, samples), k))
        best = [max(reward[j] for j in one) for one in sets]
        own = [value for one, value in zip(sets, best, strict=True) if i in one]
        centred = sum(own) / len(own) - sum(best) / len(best)
        flat = max(best) == min(best)
        out.append(0.0 if flat else centred / (max(std(best, 0), FLOOR) if divide else 1))
    return rows(out)


def plus_plus_baseline(g):
    r = g["reward"]
    centred = [r[i] - sum(r[j] for j in group(i)) / G for i in range(B)]
    return whitened(rows([0.0 if 3 <= i < 6 else c for i, c in enumerate(centred)]))


def discounted(g, gamma=0.9):
    """sum_{s>=t} gamma^(s-t) r_s, r the KL penalty and the outcome on the last token."""

    def reward(i, s):
        outcome = g["reward"][i] if s == LENGTHS[i] - 1 else 0.0
        return outcome - BETA * g["kl"][i, s]

    return tokens(lambda i, t: sum(gamma ** (s - t) * reward(i, s) for s in range(t, LENGTHS[i])))


def ppo(g, gamma=0.95, decay=0.9, process=0.0):
    """A_t = sum_l (gamma * lambda)^l delta_{t+l} (GAE, 1506.02438 eq. 16)."""

    def delta(i, t):
        last = t == LENGTHS[i] - 1
        reward = (g["reward"][i] if last else 0.0) - BETA * g["kl"][i, t]
        reward += process * g["process"][i, t]
        return reward + (0.0 if last else gamma * g["value"][i, t + 1]) - g["value"][i, t]

    return tokens(
        lambda i, t: sum((gamma * decay) ** (s - t) * delta(i, s) for s in range(t, LENGTHS[i]))
    )


def token_mean(g, i):
    return sum(g["process"][i, t] for t in range(LENGTHS[i])) / max(LENGTHS[i], 1)


def prime(g, kind, gamma=1.0, weight=1.0, scale=1.0):
    """Outcome plus process returns (papers.md 4.3), computed apart."""
    g = g | {"process": g["process"] * scale}
    mean = [token_mean(g, i) for i in range(B)]
    outcome = {"reinforce": reinforce, "rloo": rloo, "grpo": lambda g: reinforce(g, group)}[kind](g)

    def reward(i, s):
        r = g["process"][i, s]
        if kind == "rloo":
            return r - sum(mean[j] for j in group(i) if j != i) / (G - 1)
        if kind == "grpo":
            peers = [mean[j] for j in group(i)]
            return (r - sum(peers) / G) / std(peers)
        return r

    def process(i, t):
        return sum(gamma ** (s - t) * reward(i, s) for s in range(t, LENGTHS[i]))

    return tokens(lambda i, t: outcome[i][t] + weight * process(i, t))


def batch_norm(g):
    """1 / (max |reverse cumulative sum| + 1e-6)."""
    sums = [
        abs(sum(g["process"][i, s] for s in range(t, LENGTHS[i])))
        for i in range(B)
        for t in range(LENGTHS[i])
    ]
    return 1 / (max(sums) + 1e-6)


PLAIN = {"normalise": "none", "std_floor": FLOOR}
ESTIMATORS = {
    "REINFORCE": (dict(PLAIN, baseline="none"), reinforce),
    "REINFORCE batch": (dict(baseline="none"), lambda g: reinforce(g, everyone)),
    "REINFORCE group": (dict(normalise="group", baseline="none"), lambda g: reinforce(g, group)),
    "RLOO": (dict(PLAIN, baseline="rloo"), rloo),
    "GRPO": (
        dict(normalise="group", baseline="none"),
        lambda g: rows(z(g["reward"], group)),
    ),
    "GRPO ddof 0": (
        dict(normalise="group", baseline="none", ddof=0),
        lambda g: rows(z(g["reward"], group, 0)),
    ),
    "RLOO normalised": (
        dict(PLAIN, baseline="rloo", whiten="responses"),
        lambda g: rows(z([row[0] for row in rloo(g)], everyone)),
    ),
    "MaxRL": (dict(normalise="group-mean", baseline="none"), max_rl),
    "pass@2": (dict(normalise="group", baseline="none", pass_k=2), lambda g: pass_at_k(g, 2)),
    "pass@2, no std": (
        dict(PLAIN, baseline="mean", pass_k=2),
        lambda g: pass_at_k(g, 2, divide=False),
    ),
    "scaled": (
        dict(PLAIN, baseline="none", credit="token", whiten="tokens-keep-mean"),
        lambda g: whitened(to_go(g), keep_mean=True),
    ),
    "Dr. GRPO": (dict(PLAIN, baseline="mean"), dr_grpo),
    "GRPO batch std": (dict(normalise="batch", baseline="mean"), lite),
    "OPO": (dict(PLAIN, baseline="opo"), opo),
    "ReMax": (dict(PLAIN, baseline="greedy"), remax),
    "RAE": (dict(PLAIN, baseline="domain"), rae),
    "REINFORCE++": (dict(PLAIN, baseline="none", credit="token", whiten="tokens"), plus_plus),
    "REINFORCE++ ddof 0": (
        dict(PLAIN, baseline="none", credit="token", whiten="tokens", ddof=0),
        lambda g: plus_plus(g, 0),
    ),
    "REINFORCE++-baseline": (dict(PLAIN, baseline="mean", whiten="tokens"), plus_plus_baseline),
    "discounted": (dict(PLAIN, baseline="none", credit="token", discount=0.9), discounted),
    "PPO": (dict(PLAIN, baseline="value", discount=0.95, gae_lambda=0.9), ppo),
    "PPO whitened": (
        dict(PLAIN, baseline="value", whiten="tokens"),
        lambda g: whitened(ppo(g, 1.0, 1.0)),
    ),
    "PRIME REINFORCE": (
        dict(PLAIN, baseline="none", process_weight=1.0),
        lambda g: prime(g, "reinforce"),
    ),
    "PRIME RLOO": (dict(PLAIN, baseline="rloo", process_weight=1.0), lambda g: prime(g, "rloo")),
    "PRIME RLOO discounted": (
        dict(PLAIN, baseline="rloo", process_weight=0.4, discount=0.9),
        lambda g: prime(g, "rloo", 0.9, 0.4),
    ),
    "PRIME GRPO": (
        dict(normalise="group", baseline="none", process_weight=1.0),
        lambda g: prime(g, "grpo"),
    ),
    "PRIME PPO": (
        dict(PLAIN, baseline="value", process_weight=0.5),
        lambda g: ppo(g, 1.0, 1.0, 0.5),
    ),
    "PRIME's code": (
        dict(
            PLAIN, baseline="rloo", process_weight=1.0, process_scale="batch", whiten="tokens",
            ddof=1,
        ),
        lambda g: whitened(prime(g, "rloo", scale=batch_norm(g)), 1),
    ),
}  # fmt: skip
NO_KL = (
    *("GRPO", "GRPO ddof 0", "GRPO batch std", "REINFORCE++-baseline"),
    *("MaxRL", "pass@2", "pass@2, no std"),
)


def quiet(name, given):
    """The formulas of some have no KL in the reward."""
    return given | {"kl": np.zeros((B, R))} if name in NO_KL else given


@pytest.mark.parametrize("name", ESTIMATORS)
def test_it_is_the_formula(given, name):
    options, formula = ESTIMATORS[name]
    given = quiet(name, given)
    got, found = x64(AdvantageConfig(**options), given)
    want = formula(given)
    assert got.shape == (B, R) and int(found.nonfinite) == 0
    for i in range(B):
        for t in range(LENGTHS[i]):
            assert got[i, t] == pytest.approx(want[i][t], rel=1e-9, abs=1e-11), (name, i, t)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_in_float32_too(given, name):
    options, formula = ESTIMATORS[name]
    given = quiet(name, given)
    found = run(AdvantageConfig(**options), given, dtype=np.float32)
    got = np.asarray(found.advantage_BR)
    assert got.dtype == np.float32
    want = np.array([[0.0 if v is None else v for v in row] for row in formula(given)])
    np.testing.assert_allclose(got[MASK], want[MASK], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_lies_behind_a_row_plays_no_part(given, name):
    cfg = AdvantageConfig(**ESTIMATORS[name][0])
    got, _ = x64(cfg, given)
    rubbish = {k: np.where(MASK, given[k], np.nan) for k in ("kl", "process", "value")}
    again, found = x64(cfg, given | rubbish)
    assert int(found.nonfinite) == 0
    np.testing.assert_array_equal(got[MASK], again[MASK])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_order_of_rows_plays_no_part(given, name):
    """Prompts change places, and so do the samples of each."""
    cfg = AdvantageConfig(**ESTIMATORS[name][0])
    rng = np.random.default_rng(2)
    prompts = rng.permutation(Q)
    order = np.concatenate([q * G + rng.permutation(G) for q in prompts])
    got, _ = x64(cfg, given)
    of_prompts = ("greedy", "domain")
    moved = {k: v[prompts] if k in of_prompts else v[order] for k, v in given.items()}
    again, _ = x64(cfg, moved, mask=MASK[order])
    np.testing.assert_allclose(again[MASK[order]], got[order][MASK[order]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_is_never_nan(given, name):
    """No token at all, one row alone, broken rewards of every kind."""
    cfg = AdvantageConfig(**ESTIMATORS[name][0])
    empty = run(cfg, given, mask=np.zeros((B, R), bool), dtype=np.float32)
    assert np.all(np.isfinite(np.asarray(empty.advantage_BR)))
    broken = {k: v.copy() for k, v in given.items()}
    broken["reward"][[0, 4, 7]] = np.nan, np.inf, -np.inf
    broken["kl"][1, 0] = np.inf
    broken["process"][2, 0] = np.nan
    broken["value"][2, 1] = np.nan
    found = run(cfg, broken, dtype=np.float32)
    assert np.all(np.isfinite(np.asarray(found.advantage_BR)))
    assert int(found.nonfinite) == 5 + (cfg.baseline == "value")
    zeros = {k: np.where(np.isfinite(v), v, 0) for k, v in broken.items()}
    same = run(cfg, zeros, dtype=np.float32)
    np.testing.assert_array_equal(found.advantage_BR, same.advantage_BR)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_groups_of_one_are_finite(given, name):
    cfg = AdvantageConfig(**ESTIMATORS[name][0])
    got, _ = x64(cfg, given | {"greedy": np.zeros(B), "domain": np.zeros(B)}, samples=1)
    assert np.all(np.isfinite(got))
    if cfg.process_weight == 0 and (cfg.baseline in ("rloo", "mean", "opo")):
        assert np.all(got == 0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -2.0, 7.0])
@pytest.mark.parametrize(
    "name", [n for n, (o, _) in ESTIMATORS.items() if o["baseline"] in ("rloo", "mean", "opo")]
)
def test_a_group_that_agrees_is_exactly_zero(given, name, value):
    options = ESTIMATORS[name][0] | {"whiten": "none", "process_weight": 0.0}
    options |= {"process_scale": "none", "discount": 1.0}
    given["reward"][3:6] = value
    given["kl"][:] = 0
    found = run(AdvantageConfig(**options), given, dtype=np.float32)
    assert np.all(np.asarray(found.advantage_BR)[3:6] == 0)
    assert np.all(np.asarray(found.advantage_BR)[:3] != 0)


@pytest.mark.parametrize(
    "name", [n for n, (o, _) in ESTIMATORS.items() if "whiten" in o and n != "scaled"]
)
def test_a_batch_that_agrees_is_whitened_to_zero(given, name):
    options = ESTIMATORS[name][0] | {"process_weight": 0.0, "process_scale": "none"}
    given |= {"reward": np.full(B, 0.1), "kl": np.zeros((B, R)), "value": np.zeros((B, R))}
    found = run(AdvantageConfig(**options), given, dtype=np.float32)
    assert np.all(np.asarray(found.advantage_BR) == 0)


def test_token_rewards_that_agree_in_the_group_are_zero(given):
    """sigma of their means is 0: GRPO's form has no signal, also where tokens differ."""
    given["process"][3:6] = np.tile([0.3, -0.3], 3)
    mask = MASK.copy()
    mask[3:6] = np.arange(R) < 2
    cfg = AdvantageConfig("group", "none", process_weight=1.0)
    got, _ = x64(cfg, given | {"kl": np.zeros((B, R))}, mask=mask)
    assert np.all(got[3:6][mask[3:6]] == 0)


def test_worked_values():
    """R = [1, 0, 0, 1] (papers.md 1.8), and REINFORCE++ of it over ragged rows."""
    reward, sign = jnp.float32([1, 0, 0, 1]), np.array([1, -1, -1, 1])
    mask = jnp.arange(4) < jnp.array([[1], [4], [2], [3]])
    for options, size in (
        ({"normalise": "none", "baseline": "rloo"}, 2 / 3),
        ({"normalise": "group", "baseline": "none"}, 0.75**0.5),
        ({"normalise": "group", "baseline": "none", "ddof": 0}, 1.0),
        ({"normalise": "group-mean", "baseline": "none"}, 1.0),
        ({"normalise": "none", "baseline": "mean"}, 0.5),
    ):
        got = credit(reward, mask, 4, AdvantageConfig(**options)).advantage_BR
        np.testing.assert_allclose(got, size * sign[:, None] * np.ones(4), atol=1e-6)
    cfg = AdvantageConfig("none", "none", whiten="tokens", ddof=0)  # 4 of 10 tokens have reward 1
    got = np.asarray(credit(reward, mask, 4, cfg).advantage_BR)
    assert got[0, 0] == pytest.approx(0.6 / 0.24**0.5) and got[1, 3] == pytest.approx(
        -0.4 / 0.24**0.5
    )


@pytest.mark.parametrize("right, k", [(1, 2), (3, 4), (7, 2), (5, 4), (8, 3), (0, 3)])
def test_pass_at_k_of_rewards_0_and_1_is_the_papers_formula(right, k):
    """2508.10751, analytical derivation, in the numbers of wrong responses and of all."""
    n, wrong = 8, 8 - right
    mean = 1 - math.comb(wrong, k) / math.comb(n, k)
    spread = (mean * (1 - mean)) ** 0.5
    ahead = (1 - mean) / spread if spread else 0.0
    if spread:  # of a wrong response: the sets of it and k - 1 others that are all wrong fail
        behind = (1 - mean - math.comb(wrong - 1, k - 1) / math.comb(n - 1, k - 1)) / spread
    else:
        behind = 0.0
    reward = np.random.default_rng(1).permutation([1.0] * right + [0.0] * wrong)
    got = groups.best_of_sets(jnp.float32(reward)[None], k, FLOOR)[0]
    np.testing.assert_allclose(got, np.where(reward > 0, ahead, behind), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong, k", [(1, 2), (2, 3), (6, 7), (0, 2)])
def test_pass_at_k_where_every_set_has_the_same_best_is_exactly_zero(wrong, k):
    """Rounding of a deviation of 0 would be divided by the floor, and taught."""
    reward = jnp.float32([0.3] * wrong + [0.7] * (16 - wrong))
    assert not np.any(groups.best_of_sets(reward[None], k, FLOOR))
    assert np.any(groups.best_of_sets(reward.at[wrong:].set(0.3).at[-1].set(0.7)[None], k, FLOOR))


def test_pass_at_k_of_sizes_that_have_no_choice_is_zero():
    for size, k in ((1, 2), (3, 3), (2, 4)):
        assert not np.any(groups.best_of_sets(jnp.arange(float(size))[None], k, FLOOR))


def test_maxrl_weighs_a_rare_success_by_its_rarity():
    got = groups.over_mean(jnp.float32([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]), FLOOR)
    np.testing.assert_allclose(got, [[3, -1, -1, -1], [1, 1, -1, -1], [0, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pass_k": 0}, "pass_k must be at least 1"),
        ({"pass_k": 2, "normalise": "batch"}, "compares with the group itself"),
        ({"pass_k": 2, "normalise": "group", "baseline": "rloo"}, "compares with the group itself"),
        ({"normalise": "group-mean", "baseline": "rloo"}, "subtracts the group's mean"),
        (
            {"normalise": "group-mean", "baseline": "none", "process_weight": 1.0},
            "process_weight 0",
        ),
        ({"whiten": "responses", "credit": "token"}, "each whole response"),
        ({"whiten": "responses", "baseline": "value"}, "each whole response"),
        ({"whiten": "responses", "process_weight": 1.0}, "each whole response"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AdvantageConfig(**options)


def test_generalised_advantages_step_over_what_is_not_the_policys(given):
    """With columns left out of the middle it is as if they were not there."""
    mask = np.array([[1, 0, 1, 1, 0, 1]], bool)
    reward, value = given["kl"][:1], given["value"][:1]
    with jax.enable_x64(True):
        got, target = returns.gae(jnp.asarray(reward), jnp.asarray(value), mask, 0.9, 0.8)
        dense = [jnp.asarray(x[mask][None]) for x in (reward, value)]
        want, _ = returns.gae(*dense, np.ones((1, 4), bool), 0.9, 0.8)
    np.testing.assert_allclose(np.asarray(got)[mask], np.asarray(want)[0], rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(target)[mask], (np.asarray(got) + value)[mask], rtol=1e-12
    )
    assert np.all(np.asarray(got)[~mask] == 0) and np.all(np.asarray(target)[~mask] == 0)


def test_the_last_token_bears_the_outcome():
    mask = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1]], bool)
    got = np.asarray(returns.on_last_token(jnp.float32([2, 3, 4, 5]), jnp.asarray(mask)))
    np.testing.assert_array_equal(got, [[0, 2, 0], [0, 0, 0], [0, 0, 4], [0, 0, 5]])


# ---- several rewards -------------------------------------------------------------------------

WEIGHTS = {"correct": 1.0, "format": 0.25, "length": -0.5}


@pytest.fixture
def named(given):
    rng = np.random.default_rng(3)
    return {
        "correct": given["reward"],
        "format": (rng.random(B) < 0.5).astype(float),
        "length": rng.uniform(0, 40, B),
    }


def mixed(named, cfg, dtype=np.float64):
    reward = {k: jnp.asarray(np.asarray(v, dtype)) for k, v in named.items()}
    return credit(reward, jnp.asarray(MASK), G, cfg)


def test_rewards_are_added_before_normalisation(named):
    cfg = AdvantageConfig("group", "none", weights=WEIGHTS)
    with jax.enable_x64(True):
        got = np.asarray(mixed(named, cfg).advantage_BR)[:, 0]
    both = [sum(w * named[name][i] for name, w in WEIGHTS.items()) for i in range(B)]
    np.testing.assert_allclose(got, z(both, group), rtol=1e-9)


def test_or_after_it(named):
    """GDPO: each z-scored in its group, their weighted sum over the batch."""
    cfg = AdvantageConfig("group", "none", weights=WEIGHTS, mix="after")
    with jax.enable_x64(True):
        got = np.asarray(mixed(named, cfg).advantage_BR)[:, 0]
    each = {name: z(named[name], group) for name in WEIGHTS}
    both = [sum(w * each[name][i] for name, w in WEIGHTS.items()) for i in range(B)]
    np.testing.assert_allclose(got, z(both, everyone), rtol=1e-9)
    loud = named | {"length": named["length"] * 1000}
    with jax.enable_x64(True):  # no reward drowns in another's spread
        again = np.asarray(mixed(loud, cfg).advantage_BR)[:, 0]
    np.testing.assert_allclose(again, got, rtol=1e-9)


@pytest.mark.parametrize("mix", ["before", "after"])
def test_one_broken_reward_counts_as_zero(named, mix):
    named["format"][2] = np.nan
    cfg = AdvantageConfig("group", "none", weights=WEIGHTS, mix=mix)
    found = mixed(named, cfg, np.float32)
    named["format"][2] = 0.0
    assert int(found.nonfinite) == 1
    np.testing.assert_array_equal(found.advantage_BR, mixed(named, cfg, np.float32).advantage_BR)


def test_rewards_without_a_weight_are_refused(named):
    cfg = AdvantageConfig(weights={"correct": 1.0})
    with pytest.raises(ValueError, match="'format', 'length'.* but advantage.weights"):
        mixed(named, cfg, np.float32)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"baseline": "greedy"}, "baseline greedy needs the reward of a greedy answer"),
        ({"baseline": "domain"}, "baseline domain needs a running mean for each prompt"),
        ({"baseline": "value"}, "baseline value needs a value of each token"),
        ({"process_weight": 1.0}, "process_weight needs a reward of each token"),
    ],
)
def test_what_an_estimator_needs_is_asked_for(options, words):
    cfg = AdvantageConfig(**({"normalise": "none"} | options))
    with pytest.raises(ValueError, match=words):
        credit(jnp.zeros(B), jnp.asarray(MASK), G, cfg)


def test_estimates_are_constants(given):
    def sum_of(x):
        options = {"process_weight": 1.0, "whiten": "tokens", "credit": "token"}
        found = credit(
            x["reward"], jnp.asarray(MASK), G, AdvantageConfig(**options), kl_BR=x["kl"],
            kl_coef=BETA, token_reward_BR=x["process"],
        )  # fmt: skip
        return jnp.sum(found.advantage_BR * jnp.arange(R))

    grads = jax.grad(sum_of)({k: jnp.float32(v) for k, v in given.items()})
    assert all(np.all(np.asarray(g) == 0) for g in grads.values())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"ddof": 2}, "ddof is 0 or 1"),
        ({"discount": 0.0}, "0 < discount <= 1"),
        ({"discount": 0.9}, "discount needs"),
        ({"gae_lambda": 0.9}, "gae_lambda needs baseline: value"),
        ({"process_weight": -1.0}, "process_weight >= 0"),
        ({"process_scale": "batch"}, "needs a process_weight"),
        ({"baseline": "greedy"}, "greedy is of plain outcomes"),
        ({"baseline": "domain"}, "domain is of plain outcomes"),
        ({"baseline_decay": 0.9}, "baseline_decay needs baseline: domain"),
        (
            {"normalise": "none", "baseline": "domain", "baseline_decay": 1.0},
            "0 <= baseline_decay < 1",
        ),
        ({"weights": {"a": 0.0}}, "finite and not 0"),
        ({"mix": "after"}, "two or more rewards"),
        ({"mix": "after", "normalise": "none", "weights": WEIGHTS}, "needs a normalisation"),
    ],
)
def test_options_without_meaning_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AdvantageConfig(**options)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"normalise": "group", "baseline": "none"}, "normalise group needs samples"),
        ({"normalise": "none", "baseline": "mean"}, "baseline mean needs samples"),
        ({"normalise": "none", "baseline": "opo"}, "baseline opo needs samples"),
    ],
)
def test_groups_of_one_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RlStage(samples=1, advantage=AdvantageConfig(**options))


# ---- length ----------------------------------------------------------------------------------


def test_overlong_responses_lose_reward_evenly():
    """DAPO's three cases, for a budget of 20 tokens of which the last 4 cost."""
    cfg = OverlongConfig(buffer=4, penalty=0.5)
    lengths = np.array([0, 1, 16, 17, 18, 20])
    want = [0 if n <= 16 else 0.5 * (n - 16) / 4 for n in lengths]
    np.testing.assert_allclose(advantage.overlong_penalty(jnp.asarray(lengths), 20, cfg), want)
    assert not np.any(advantage.overlong_penalty(jnp.asarray(lengths), 20, OverlongConfig()))


# ---- on a mesh -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_mesh_changes_no_advantage(given, name):
    cfg = AdvantageConfig(**ESTIMATORS[name][0])
    rows = {k: np.float32(v) for k, v in quiet(name, given).items()} | {"mask": MASK}

    def estimate(x):
        return credit(
            x["reward"], x["mask"], G, cfg, kl_BR=x["kl"], kl_coef=BETA,
            token_reward_BR=x["process"], value_BR=x["value"], greedy_Q=x["greedy"],
            baseline_Q=x["domain"],
        ).advantage_BR  # fmt: skip

    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        spread = jax.jit(estimate)(sharding.place_rows(rows, mesh))
    np.testing.assert_allclose(spread, jax.jit(estimate)(rows), rtol=2e-5, atol=2e-5)


# ---- of whole responses, by hand ---------------------------------------------------------------


def combine(reward, penalty, samples, cfg) -> np.ndarray:
    rewards, length_B = {"reward": jnp.float32(reward)}, jnp.ones(len(reward), jnp.int32)
    return np.asarray(
        advantage.response_advantages(rewards, jnp.float32(penalty), length_B, samples, cfg)
    )


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
def test_published_values() -> None:
    """Rewards 1, 0, 0, 1: RLOO 2/3, GRPO sqrt(3)/2 (sample deviation), Dr. GRPO 1/2."""
    sign = np.array([1, -1, -1, 1])
    for normalise, baseline, size in (
        ("none", "rloo", 2 / 3),
        ("group", "none", 0.75**0.5),
        ("none", "mean", 0.5),
        ("group", "mean", 0.75**0.5),
        ("group", "rloo", 4 / 3 * 0.75**0.5),
    ):
        cfg = AdvantageConfig(normalise, baseline)
        got = combine([1, 0, 0, 1], np.zeros(4), 4, cfg)
        np.testing.assert_allclose(got, size * sign, atol=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
def test_the_penalty_is_not_normalised() -> None:
    """r~ = zscore(r) - penalty: rewards times ten change nothing, the penalty times ten does."""
    cfg = AdvantageConfig("batch", "none")
    reward, penalty = np.array([1.0, 0, 0, 0]), np.array([0.5, 0, 0, 0.25])
    want = np.array([1.5, -0.5, -0.5, -0.5])
    np.testing.assert_allclose(combine(reward, penalty, 2, cfg), want - penalty, atol=1e-6)
    np.testing.assert_allclose(combine(reward * 10, penalty, 2, cfg), want - penalty, atol=1e-6)
    np.testing.assert_allclose(
        combine(reward, penalty * 10, 2, cfg), want - 10 * penalty, atol=1e-6
    )


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1 / 3, 0.7])
@pytest.mark.parametrize("size", [3, 7, 128])
def test_equal_rewards_give_exactly_zero(value, size) -> None:
    equal = np.full(2 * size, value, np.float32)
    for normalise in ("batch", "group", "none"):
        for baseline in ("rloo", "mean") if normalise == "none" else ("rloo", "mean", "none"):
            cfg = AdvantageConfig(normalise, baseline)
            assert np.all(combine(equal, np.zeros(2 * size), size, cfg) == 0)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
def test_an_equal_group_has_no_signal_beside_others() -> None:
    reward = np.concatenate([np.full(128, 0.1), np.linspace(0, 1, 128)]).astype(np.float32)
    for normalise in ("batch", "group", "none"):
        got = combine(reward, np.zeros(256), 128, AdvantageConfig(normalise, "rloo"))
        assert np.all(got[:128] == 0) and np.all(got[128:140] < 0) and np.all(got[-9:] > 0)
    # Over the batch and without a baseline it does: it is a bad group, and equally so.
    got = combine(reward, np.zeros(256), 128, AdvantageConfig("batch", "none"))
    assert len(set(got[:128].tolist())) == 1 and got[0] < -0.5


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("spread", [1e-6, 1e-5])
def test_below_the_floor_noise_stays_noise(spread) -> None:
    x = jnp.float32([0, spread, 0, spread])
    np.testing.assert_allclose(
        groups.zscore(x, FLOOR), np.array([-1, 1, -1, 1]) * spread / 2 / FLOOR, rtol=1e-4
    )


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
def test_above_the_floor_it_plays_no_part() -> None:
    x = np.float32([0, 2e-3, 0, 2e-3])
    np.testing.assert_allclose(groups.zscore(x, FLOOR, 0), [-1, 1, -1, 1], rtol=1e-5)
    np.testing.assert_allclose(groups.zscore(x, 2e-3, 0), [-0.5, 0.5, -0.5, 0.5], rtol=1e-5)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
def test_zscore_over_an_axis() -> None:
    x = np.random.default_rng(1).normal(3, 2, (4, 5)).astype(np.float32)
    x[2] = 0.1
    got = np.asarray(groups.zscore_groups(x, FLOOR))
    for row, scored in zip(x.astype(np.float64), got, strict=True):
        want = (row - row.mean()) / row.std(ddof=1) if row.std() > 1e-9 else 0 * row
        np.testing.assert_allclose(scored, want, atol=1e-5)
    assert np.all(got[2] == 0)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("samples", [2, 3, 16])
def test_leave_one_out_is_the_scaled_distance_to_the_mean(samples) -> None:
    x = np.random.default_rng(2).uniform(0, 1, (5, samples)).astype(np.float32)
    got = np.asarray(groups.leave_one_out(jnp.asarray(x)))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        got, samples / (samples - 1) * (wide - wide.mean(1, keepdims=True)), atol=1e-6
    )
    for q in range(5):
        for g in range(samples):
            others = np.delete(wide[q], g)
            assert got[q, g] == pytest.approx(wide[q, g] - others.mean(), abs=1e-6)
