"""Every loss, ratio, KL form and correction against loops over tokens in float64.

The oracle is written from the formulas and differentiated by central differences; where a formula
has a stop-gradient, it reads the log-probs at which the slope is taken (`still`).
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_round import policy_loss
from rlvr_jax import loss, token_choice
from rlvr_jax.config import LossConfig

B, R = 6, 5
LENGTHS = (5, 1, 3, 4, 0, 5)
MASK = np.arange(R) < np.array(LENGTHS)[:, None]
AGGREGATES = ("token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "constant")


@pytest.fixture
def numbers():
    """Log-probs far enough from the behaviour's to be cut on both sides."""
    rng = np.random.default_rng(4)
    behaviour = -rng.exponential(1, (B, R))
    return {
        "logprob": np.minimum(behaviour + rng.normal(0, 0.4, (B, R)), -0.01),
        "behaviour": behaviour,
        "reference": behaviour + rng.normal(0, 0.5, (B, R)),
        "sampler": behaviour + rng.normal(0, 0.3, (B, R)),
        "entropy": rng.exponential(1, (B, R)),
        "advantage": rng.normal(0, 1, (B, R)),
        "draw": rng.uniform(0, 1, (B, R)),
    }


def total(aggregate, b):
    return {
        "token-mean": sum(LENGTHS),
        "token-sum": 1,
        "seq-mean-token-mean": B * LENGTHS[b],
        "seq-mean-token-sum": B,
        "constant": B * R,
    }[aggregate]


def clamp(x, low, high):
    return min(max(x, low), high)


def gain(x, still, n, b, t, cfg):
    """What one token adds to J, by the papers."""
    lp, old = x["logprob"][b], x["behaviour"][b]
    a, low, high = x["advantage"][b, t], 1 - cfg.clip_low, 1 + cfg.clip_high
    span = range(LENGTHS[b])
    if cfg.objective == "plain":
        return a * lp[t]
    if cfg.objective == "gmpo":
        logs = []
        for s in span:
            ahead = x["advantage"][b, s] > 0
            log = lp[s] - old[s]
            logs.append(min(log, cfg.clip_high) if ahead else max(log, -cfg.clip_low))
        return a * math.prod(math.exp(v) for v in logs) ** (1 / n)
    ratio = math.exp(lp[t] - old[t])
    if cfg.objective == "cispo":
        return clamp(math.exp(still[b, t] - old[t]), low, high) * a * lp[t]
    if cfg.objective == "clip-cov" and left_out(x, still, cfg)[b, t]:
        return 0.0
    if cfg.objective == "kl-cov":
        held = cfg.cov_kl * abs(lp[t] - old[t]) if held_back(x, still, cfg)[b, t] else 0.0
        return ratio * a - held
    if cfg.objective.startswith("dppo"):
        p, q = math.exp(still[b, t]), math.exp(old[t])
        far = p - q if a > 0 else q - p
        if cfg.objective == "dppo-kl" and far > 0:
            far = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        bound = min(p / q, cfg.dual_clip) if cfg.dual_clip else p / q
        return 0.0 if far > (cfg.clip_high if a > 0 else cfg.clip_low) else bound * a * lp[t]
    if cfg.objective == "sapo":
        tau = cfg.gate_positive if a > 0 else cfg.gate_negative
        return a * 4 / tau / (1 + math.exp(-tau * (ratio - 1)))
    if cfg.ratio == "sequence":
        ratio = math.exp(sum(lp[s] - old[s] for s in span) / n)
    elif cfg.ratio == "product":
        ratio = math.exp(sum(lp[s] - old[s] for s in span))
    elif cfg.ratio == "sequence-token":
        whole = math.exp(sum(still[b, s] - old[s] for s in span) / n)
        ratio = whole * math.exp(lp[t] - still[b, t])
    value = min(ratio * a, clamp(ratio, low, high) * a)
    return max(value, cfg.dual_clip * a) if cfg.dual_clip and a < 0 else value


def everywhere():
    return [(b, t) for b in range(B) for t in range(LENGTHS[b])]


def covariances(x, still):
    """(log pi - mean) (A - mean), by token."""
    means = [sum(v[i] for i in everywhere()) / sum(LENGTHS) for v in (still, x["advantage"])]
    return {i: (still[i] - means[0]) * (x["advantage"][i] - means[1]) for i in everywhere()}


def marked(places):
    out = np.zeros((B, R), bool)
    for place in places:
        out[place] = True
    return out


def count_of(share):
    return max(math.floor(share * sum(LENGTHS)), 1)


def held_back(x, still, cfg):
    cov = covariances(x, still)
    return marked(sorted(cov, key=lambda i: -cov[i])[: count_of(cfg.cov_share)])


def left_out(x, still, cfg):
    """Some of the tokens that covary and are not clipped, in the order of their draws."""
    free = []
    for i, cov in covariances(x, still).items():
        ratio, a = math.exp(still[i] - x["behaviour"][i]), x["advantage"][i]
        cut = ratio > 1 + cfg.clip_high if a > 0 else ratio < 1 - cfg.clip_low
        if cfg.cov_low < cov < cfg.cov_high and not cut:
            free.append(i)
    return marked(sorted(free, key=lambda i: x["draw"][i])[: count_of(cfg.cov_share)])


def uncertain(x, share):
    """Tokens at or above the quantile 1 - share of the entropy (linear between two tokens)."""
    least = np.quantile([x["entropy"][i] for i in everywhere()], 1 - share)
    return marked(i for i in everywhere() if x["entropy"][i] >= least)


def distance(form, d):
    return {
        "k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1, "abs": abs(d),
    }[form]  # fmt: skip


def kl_term(x, still, b, t, cfg):
    d = x["logprob"][b, t] - x["reference"][b, t]
    form = "k3" if cfg.kl_form == "auto" else cfg.kl_form
    if form.endswith("+"):
        was = still[b, t] - x["reference"][b, t]
        value = distance(form[:2], was) + distance("k2", d) - distance("k2", was)
    else:
        value = distance(form, d)
    return (
        value * math.exp(x["logprob"][b, t] - x["behaviour"][b, t]) if cfg.kl_corrected else value
    )


def trust(x, still, n, b, t, cfg):
    """The weight that corrects for the sampler, and 0 for rows that are too far away."""
    old, drawn = x["behaviour"][b], x["sampler"][b]
    span = range(LENGTHS[b])
    if cfg.stale_kl and x["advantage"][b, t] < 0:
        if sum(drawn[s] - still[b, s] for s in span) / n > cfg.stale_kl:
            return 0.0
    if cfg.top_entropy < 1 and not uncertain(x, cfg.top_entropy)[b, t]:
        return 0.0
    if cfg.reject != "none":
        logs = [old[s] - drawn[s] for s in span]
        level = {"token": logs[t], "sequence": sum(logs), "geometric": sum(logs) / n}[cfg.reject]
        if not cfg.reject_low <= math.exp(level) <= cfg.reject_high:
            return 0.0
    return corrected(x, n, b, t, cfg)


def corrected(x, n, b, t, cfg, mean_one=True):
    old, drawn = x["behaviour"][b], x["sampler"][b]
    span, weight = range(LENGTHS[b]), 1.0
    if cfg.correct == "none":
        return weight
    if cfg.correct_normalise and mean_one:
        weight = corrected(x, n, b, t, cfg, False)
        if cfg.correct.startswith("sequence"):
            every = [corrected(x, LENGTHS[i], i, 0, cfg, False) for i in range(B) if LENGTHS[i]]
        else:
            every = [corrected(x, LENGTHS[i], i, s, cfg, False) for i, s in everywhere()]
        return weight / (sum(every) / len(every))
    if cfg.correct in ("truncate", "mask"):
        weight = math.exp(old[t] - drawn[t])
    elif cfg.correct == "geometric-mask":
        weight = math.exp(sum(old[s] - drawn[s] for s in span) / n)
    else:
        weight = math.prod(math.exp(old[s] - drawn[s]) for s in span)
    if cfg.correct.endswith("truncate"):
        return clamp(weight, cfg.correct_low, cfg.correct_high)
    if not cfg.correct_low <= weight <= cfg.correct_high:
        return 0.0
    return 1.0 if cfg.correct == "geometric-mask" else weight


def oracle(x, still, cfg):
    value = 0.0
    for b in range(B):
        n = LENGTHS[b]
        for t in range(n):
            token = -gain(x, still, n, b, t, cfg) * trust(x, still, n, b, t, cfg)
            if cfg.kl_coef and cfg.kl_in == "loss":
                token += cfg.kl_coef * kl_term(x, still, b, t, cfg)
            token -= cfg.entropy_coef * x["entropy"][b, t]
            value += token / total(cfg.aggregate, b)
    return value


def slopes(x, cfg, step=1e-5):
    grad, still = np.zeros((B, R)), x["logprob"]
    for b in range(B):
        for t in range(R):
            ends = []
            for way in (step, -step):
                moved = still.copy()
                moved[b, t] += way
                ends.append(oracle(x | {"logprob": moved}, still, cfg))
            grad[b, t] = (ends[0] - ends[1]) / (2 * step)
    return grad


def choice(x, cfg, mask=MASK):
    """What `token_choice` chooses among all tokens of an update."""
    names = ("logprob", "entropy", "behaviour", "sampler", "reference", "advantage")
    x = {k: jnp.asarray(v) for k, v in x.items()}
    advantage = jnp.broadcast_to(x["advantage"].reshape(len(mask), -1), mask.shape)
    tokens = loss.Tokens(*(x[k] for k in names[:-1]), advantage, jnp.asarray(mask))
    return token_choice.choose(tokens, x.get("draw"), cfg)._asdict()


def run(x, cfg, mask=MASK, weight=None, grad=True, **more):
    if not more.keys() & {"chosen_BR"}:
        more = choice(x, cfg, mask) | more
    x = {k: jnp.asarray(v) for k, v in x.items()}
    weight = loss.row_weights(jnp.asarray(mask), cfg) if weight is None else weight

    def objective(logprob):
        return policy_loss(
            logprob,
            x["behaviour"],
            x["reference"],
            x["advantage"],
            jnp.asarray(mask),
            weight.astype(logprob.dtype),
            cfg,
            sampler_BR=x["sampler"],
            entropy_BR=x["entropy"],
            **more,
        )

    if not grad:
        return objective(x["logprob"])
    (value, sums), slope = jax.value_and_grad(objective, has_aux=True)(x["logprob"])
    return float(value), np.asarray(slope), {k: float(v) for k, v in sums.items()}


OBJECTIVES = {
    "clip": {},
    "clip-higher": {"clip_high": 0.28},
    "dual clip": {"dual_clip": 1.3},
    "two-sided": {"dual_clip": 4.0, "clip_high": 0.28},
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "gspo wide": {"ratio": "sequence", "clip_low": 0.1, "clip_high": 0.2},
    "gspo-token": {"ratio": "sequence-token", "clip_low": 0.1, "clip_high": 0.2},
    "product": {"ratio": "product"},
    "product dual": {"ratio": "product", "dual_clip": 1.5},
    "cispo": {"objective": "cispo", "clip_low": 1.0, "clip_high": 0.28},
    "cispo both sides": {"objective": "cispo"},
    "sapo": {"objective": "sapo"},
    "sapo steep": {"objective": "sapo", "gate_positive": 2.0, "gate_negative": 5.0},
    "gmpo": {"objective": "gmpo", "clip_low": 0.4, "clip_high": 0.4},
    "plain": {"objective": "plain"},
    "clip-cov": {"objective": "clip-cov", "cov_share": 0.15, "cov_low": 0.05, "cov_high": 3.0},
    "kl-cov": {"objective": "kl-cov", "cov_share": 0.3, "cov_kl": 0.7},
    "dppo-tv": {"objective": "dppo-tv", "clip_low": 0.05, "clip_high": 0.08, "dual_clip": 1.3},
    "dppo-kl": {"objective": "dppo-kl", "clip_low": 0.01, "clip_high": 0.02},
}
KLS = {form: {"kl_form": form} for form in ("auto", "k2", "k3", "abs", "k1+", "k3+")}
KLS |= {f"{form} corrected": KLS[form] | {"kl_corrected": True} for form in KLS}
KLS["k1 corrected"] = {"kl_form": "k1", "kl_corrected": True}
CORRECTIONS = {
    "truncate": {"correct_high": 1.2},
    "mask": {"correct_low": 0.8, "correct_high": 1.25},
    "sequence-truncate": {"correct_low": 0.7, "correct_high": 1.1},
    "sequence-mask": {"correct_low": 0.6, "correct_high": 1.6},
    "geometric-mask": {"correct_low": 0.95, "correct_high": 1.05},
}
ONE = {"correct_normalise": True}
CASES = {f"{n} {a}": o | {"aggregate": a} for n, o in OBJECTIVES.items() for a in AGGREGATES}
CASES |= {f"KL {n}": o | {"kl_in": "loss", "kl_coef": 0.3} for n, o in KLS.items()}
CASES |= {n: o | {"correct": n} for n, o in CORRECTIONS.items()}
CASES |= {
    "stale": {"stale_kl": 0.05},
    "top entropy": {"top_entropy": 0.4},
    "top entropy of chosen": {"top_entropy": 0.7} | OBJECTIVES["clip-cov"],
    "token weights of mean 1": {"correct": "truncate", "correct_high": 1.2} | ONE,
    "row weights of mean 1": {"correct": "sequence-mask", "correct_low": 0.6} | ONE,
    "token rejected": {"reject": "token", "reject_low": 0.8, "reject_high": 1.25},
    "sequence rejected": {"reject": "sequence", "reject_low": 0.6, "reject_high": 1.6},
    "geometric rejected": {"reject": "geometric", "reject_low": 0.95, "reject_high": 1.05},
    "weighted and rejected": {
        "correct": "truncate", "correct_high": 1.2, "reject": "geometric", "reject_low": 0.9,
    } | ONE,
    "entropy": {"entropy_coef": 0.2, "aggregate": "seq-mean-token-mean"},
    "everything": {
        "ratio": "sequence", "clip_low": 0.05, "clip_high": 0.05, "kl_coef": 0.1, "kl_in": "loss",
        "kl_form": "k3+", "entropy_coef": 0.1, "correct": "truncate", "stale_kl": 0.1,
        "aggregate": "seq-mean-token-mean",
    },
    "gmpo, corrected": {"objective": "gmpo", "correct": "sequence-truncate"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_formula(numbers, name):
    cfg = LossConfig(**CASES[name])
    with jax.enable_x64(True):
        value, grad, _ = run(numbers, cfg)
    assert value == pytest.approx(oracle(numbers, numbers["logprob"], cfg), rel=1e-6)
    np.testing.assert_allclose(grad, slopes(numbers, cfg), rtol=1e-6, atol=1e-8)
    assert np.all(grad[~MASK] == 0)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("name", CASES)
def test_in_float32_too(numbers, name):
    cfg = LossConfig(**CASES[name])
    value, grad, _ = run({k: np.float32(v) for k, v in numbers.items()}, cfg)
    assert value == pytest.approx(oracle(numbers, numbers["logprob"], cfg), rel=2e-5)
    np.testing.assert_allclose(grad, slopes(numbers, cfg), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_parts_and_order_play_no_part(numbers, name):
    """Weights come from the whole batch: a loss is the sum over any split of any order of rows."""
    cfg = LossConfig(**CASES[name])
    order = np.array([3, 0, 5, 4, 1, 2])
    with jax.enable_x64(True):
        whole, grad, sums = run(numbers, cfg)
        weight = np.asarray(loss.row_weights(jnp.asarray(MASK), cfg))
        every = choice(numbers, cfg)

        def part(rows, columns=slice(None)):
            chosen = {k: v if v is None else v[rows][:, columns] for k, v in every.items()}
            x = {k: v[rows][:, columns] for k, v in numbers.items()}
            return run(x, cfg, MASK[rows][:, columns], jnp.asarray(weight[rows]), **chosen)

        parts = [part(i) for i in (order[:1], order[1:4], order[4:])]
        narrow = part(slice(1, 3), slice(3))
    assert sum(p[0] for p in parts) == pytest.approx(whole, rel=1e-9)
    pieces = np.concatenate([p[1] for p in parts])
    np.testing.assert_allclose(pieces, grad[order], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(narrow[1], grad[1:3, :3], rtol=1e-9, atol=1e-15)
    for key, total in sums.items():
        assert sum(p[2][key] for p in parts) == pytest.approx(total, rel=1e-6, abs=1e-9), key


@pytest.mark.parametrize("name", CASES)
def test_neither_rubbish_nor_empty_rows_nor_distance_breaks_it(numbers, name):
    cfg = LossConfig(**CASES[name])
    x = {k: np.float32(v) for k, v in numbers.items()}
    value, grad, _ = run(x, cfg)
    dirty = {k: np.where(MASK, v, np.nan) for k, v in x.items() if k != "advantage"}
    again, same, _ = run(x | dirty, cfg)
    assert again == value and np.array_equal(grad, same)
    nothing, flat, sums = run(x, cfg, np.zeros((B, R), bool))
    assert nothing == 0 and np.all(flat == 0) and not any(sums.values())
    for name, far in (("logprob", 1000), ("logprob", -1000), ("sampler", 1000), ("sampler", -1000)):
        value, grad, _ = run(x | {name: x[name] + np.float32(far)}, cfg)
        assert np.isfinite(value) and np.all(np.isfinite(grad)), (name, far)


@pytest.mark.parametrize("ratio", ["sequence", "sequence-token"])
def test_both_forms_of_gspo_agree_where_a_row_has_one_advantage(numbers, ratio):
    """2507.18071, section 4.3: same value, same clipping, same gradient."""
    numbers["advantage"] = numbers["advantage"][:, 0]
    options = {"clip_low": 0.1, "clip_high": 0.1, "aggregate": "seq-mean-token-mean"}
    with jax.enable_x64(True):
        value, grad, sums = run(numbers, LossConfig(ratio=ratio, **options))
        other, want, same = run(numbers, LossConfig(ratio="sequence", **options))
    assert value == pytest.approx(other, rel=1e-12) and sums == pytest.approx(same)
    np.testing.assert_allclose(grad, want, rtol=1e-9, atol=1e-15)
    rows = [b for b in range(B) if LENGTHS[b]]
    ratios = [np.exp((numbers["logprob"] - numbers["behaviour"])[b, : LENGTHS[b]].mean())
              for b in rows]  # fmt: skip
    gains = [
        min(s * numbers["advantage"][b], clamp(s, 0.9, 1.1) * numbers["advantage"][b])
        for s, b in zip(ratios, rows, strict=True)
    ]
    assert value == pytest.approx(-sum(gains) / B, rel=1e-6)  # the paper's (1 / G) sum_i


# Those of whole rows have a test of their own, and clip-cov leaves out tokens here too.
OTHER = ("gmpo", "product", "clip-cov")
ON_POLICY = {n: o for n, o in OBJECTIVES.items() if not n.startswith(OTHER)}


@pytest.mark.parametrize("name", ON_POLICY)
def test_at_ratio_one_all_are_the_policy_gradient(numbers, name):
    """The first update on fresh rows: -w A for every token, whatever bounds the ratio."""
    numbers["advantage"] = numbers["advantage"][:, 0]
    aggregate = "seq-mean-token-mean"
    numbers["behaviour"] = numbers["logprob"]
    with jax.enable_x64(True):
        _, grad, sums = run(numbers, LossConfig(**OBJECTIVES[name], aggregate=aggregate))
    want = [[-numbers["advantage"][b] / total(aggregate, b) if t < LENGTHS[b] else 0
             for t in range(R)] for b in range(B)]  # fmt: skip
    np.testing.assert_allclose(grad, want, rtol=1e-6)
    assert sums["policy/clip_frac"] == 0 and sums["policy/approx_kl"] == 0


@pytest.mark.parametrize("name", ["gmpo", "product"])
def test_so_are_those_of_whole_rows(numbers, name):
    numbers["advantage"] = numbers["advantage"][:, 0]
    numbers["behaviour"] = numbers["logprob"]
    cfg = LossConfig(**OBJECTIVES[name], aggregate="seq-mean-token-mean")
    with jax.enable_x64(True):
        _, grad, _ = run(numbers, cfg)
    for b in range(B):  # product: the score of the whole response, n times that of GMPO's mean
        share = 1 if name == "product" else 1 / max(LENGTHS[b], 1)
        want = np.where(MASK[b], -numbers["advantage"][b] / B * share, 0)
        np.testing.assert_allclose(grad[b], want, rtol=1e-6)


def test_several_epochs_with_stored_log_probs(numbers):
    """Gradient steps on one batch: improvement that the clip range bounds, then a standstill."""
    x = numbers | {"logprob": numbers["behaviour"].copy()}
    sign = np.sign(x["advantage"])
    with jax.enable_x64(True):
        for _ in range(60):
            _, grad, sums = run(x, LossConfig())
            x["logprob"] = x["logprob"] - 0.5 * grad
    drift = (x["logprob"] - x["behaviour"]) * sign
    assert np.all(drift[MASK] > 0) and sums["policy/clip_frac"] > MASK.sum() / 2
    assert drift.max() < np.log(1.2) + 0.2


def test_dual_clip_is_the_two_sided_cap():
    """min(min(ratio, c) A, clip(ratio) A) is the same function of ratio and A."""
    ratio = np.exp(np.linspace(-4, 4, 201))
    for a in (-1.7, 0.6):
        got, _ = loss.clip(jnp.log(ratio), jnp.full(201, a), LossConfig(dual_clip=3.0))
        want = np.minimum(np.minimum(ratio, 3.0) * a, np.clip(ratio, 0.8, 1.2) * a)
        np.testing.assert_allclose(got, want, rtol=1e-5)


# ---- KL --------------------------------------------------------------------------------------


def test_kl_forms_by_hand():
    d = np.array([[0.0, 1.0, -1.0, 0.1]], np.float32)
    zero = jnp.zeros_like(d)
    want = {"k1": d, "k1+": d, "k2": d * d / 2, "abs": abs(d)}
    want["k3"] = want["k3+"] = np.exp(-d) + d - 1
    for form, value in want.items():
        np.testing.assert_allclose(loss.kl(jnp.asarray(d), zero, form), value, atol=1e-6)


@pytest.mark.parametrize("form", ["k1+", "k2", "k3+", "k1 corrected", "k3 corrected"])
def test_gradient_of_the_kl(form):
    """Over all tokens of a table policy these have the KL's gradient; plain k1 and k3 have not."""
    rng = np.random.default_rng(8)
    table, other = rng.normal(0, 1, (2, 7))
    name, _, corrected = form.partition(" ")

    def exact(table):
        p = jax.nn.softmax(table)
        return jnp.sum(p * (jax.nn.log_softmax(table) - jax.nn.log_softmax(other)))

    def sampled(table, name, corrected):
        lp, ref = jax.nn.log_softmax(table), jax.nn.log_softmax(other)
        still = jax.lax.stop_gradient(lp)
        value = loss.kl(lp, ref, name) * (jnp.exp(lp - still) if corrected else 1)
        return jnp.sum(jnp.exp(still) * value)

    with jax.enable_x64(True):
        want = jax.grad(exact)(table)
        got = jax.grad(sampled)(table, name, corrected)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
        for plain in ("k1", "k3"):
            assert not np.allclose(jax.grad(sampled)(table, plain, False), want, atol=1e-3)


def test_auto_is_k1_in_the_reward_and_k3_in_the_loss():
    assert loss.kl_form(LossConfig()) == "k1"
    assert loss.kl_form(LossConfig(kl_in="loss")) == "k3"
    assert loss.kl_form(LossConfig(kl_in="loss", kl_form="k2")) == "k2"


def test_the_coefficient_adapts():
    """beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon)."""
    cfg = LossConfig(kl_coef=0.1, kl_target=5.0, kl_horizon=1e4)
    for kl, factor in ((6.0, 1.002), (60.0, 1.002), (5.5, 1.001), (0.0, 0.998), (5.0, 1.0)):
        got = loss.adapt_kl(jnp.float32(0.1), jnp.float32(kl), 100, cfg)
        assert float(got) == pytest.approx(0.1 * factor, rel=1e-6)
    assert loss.adapt_kl(jnp.float32(0.1), jnp.float32(np.nan), 8, cfg) == np.float32(0.1)


def test_a_coefficient_of_the_state_replaces_the_configs(numbers):
    one, two = (LossConfig(kl_coef=c, kl_in="loss") for c in (0.1, 0.4))
    with jax.enable_x64(True):
        assert run(numbers, one, kl_coef=jnp.asarray(0.4))[0] == run(numbers, two)[0]


# ---- what cannot be meant --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"clip_low": 3e-4, "clip_high": 4e-4}, "are for ratio: sequence"),
        ({"objective": "gmpo", "ratio": "sequence"}, "a ratio of its own"),
        ({"objective": "plain", "ratio": "product"}, "a ratio of its own"),
        ({"dual_clip": 0.5}, "must be above 1"),
        ({"dual_clip": 3.0, "objective": "sapo"}, "needs objective: clip"),
        ({"dual_clip": 0.5, "objective": "dppo-tv"}, "must be above 1"),
        ({"objective": "dppo-kl", "ratio": "sequence"}, "a ratio of its own"),
        ({"objective": "clip-cov", "clip_high": 4e-4}, "are for ratio: sequence"),
        ({"aggregate_length": 9}, "needs aggregate: constant"),
        ({"aggregate": "constant", "aggregate_length": -1}, "must be above 0"),
        ({"top_entropy": 0.0}, "0 < top_entropy <= 1"),
        ({"top_entropy": 0.2, "objective": "gmpo"}, "of whole responses"),
        ({"top_entropy": 0.2, "ratio": "product"}, "of whole responses"),
        ({"cov_share": 0.0}, "0 < cov_share"),
        ({"cov_low": 5.0, "cov_high": 1.0}, "cov_low < cov_high"),
        ({"cov_kl": math.nan}, "cov_kl >= 0"),
        ({"correct_normalise": True}, "needs importance weights"),
        ({"correct_normalise": True, "correct": "geometric-mask"}, "needs importance weights"),
        ({"reject_low": 1.1}, "reject_low <= 1"),
        ({"kl_form": "k3+"}, "need kl_in: loss"),
        ({"kl_corrected": True}, "need kl_in: loss"),
        ({"kl_form": "k1", "kl_in": "loss"}, "pulls nowhere"),
        ({"entropy_coef": -0.1}, "entropy_coef >= 0"),
        ({"stale_kl": math.nan}, "stale_kl >= 0"),
        ({"gate_negative": 0.0}, "gate_negative > 0"),
        ({"correct_low": 1.5}, "correct_low <= 1"),
        ({"correct_high": 0.5}, "1 <= correct_high"),
    ],
)
def test_options_without_meaning_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LossConfig(**options)


@pytest.mark.parametrize(
    "ratio, advantage, gain, slope",
    [
        # (ratio, A) -> what counts, and whether it still pulls
        (1.5, 1.0, 1.25, 0.0),
        (1.5, -1.0, -1.5, -1.5),
        (0.5, 1.0, 0.5, 0.5),
        (0.5, -1.0, -0.9, 0.0),
        (1.1, 2.0, 2.2, 2.2),
        (0.95, -2.0, -1.9, -1.9),
    ],
)
def test_clipping_by_hand(ratio, advantage, gain, slope) -> None:
    cfg = LossConfig(clip_low=0.1, clip_high=0.25)
    one = np.ones((1, 1), np.float32)
    x = dict(logprob=np.log(ratio) * one, behaviour=0 * one, reference=0 * one, sampler=0 * one)
    x |= dict(entropy=0 * one, advantage=advantage * one)
    with jax.numpy_dtype_promotion("strict"):
        value, grad, sums = run(x, cfg, np.ones((1, 1), bool))
    assert value == pytest.approx(-gain, rel=1e-5)
    assert grad[0, 0] == pytest.approx(-slope, rel=1e-5)
    assert sums["policy/clip_frac"] == (slope == 0)
    assert sums["policy/approx_kl"] == pytest.approx(-np.log(ratio), rel=1e-5)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_row_weights(aggregate) -> None:
    weight = np.asarray(loss.row_weights(jnp.asarray(MASK), LossConfig(aggregate=aggregate)))
    assert weight.shape == (B,) and weight.dtype == np.float32
    for b in range(B):
        if LENGTHS[b]:
            assert weight[b] == pytest.approx(1 / total(aggregate, b), rel=1e-6)
    # The weights of all tokens add up to 1 where the loss is a mean over tokens.
    rows = sum(n > 0 for n in LENGTHS) / B  # an empty row has no tokens to be of any weight
    want = {
        "seq-mean-token-mean": rows,
        "seq-mean-token-sum": sum(LENGTHS) / B,
        "constant": sum(LENGTHS) / (B * R),
        "token-sum": sum(LENGTHS),
    }
    assert (weight[:, None] * MASK).sum() == pytest.approx(want.get(aggregate, 1.0), rel=1e-6)


def test_a_constant_of_ones_own_stands_for_the_columns():
    weight = loss.row_weights(
        jnp.asarray(MASK), LossConfig(aggregate="constant", aggregate_length=9)
    )
    np.testing.assert_allclose(weight, np.full(B, 1 / (9 * B)), rtol=1e-6)


@pytest.mark.parametrize("form", ["k2", "k3", "abs", "k1+", "k3+"])
@pytest.mark.parametrize("corrected", [False, True])
def test_at_distance_0_the_kl_pulls_nowhere(numbers, form, corrected):
    """Its gradient is exactly 0, so that a first update with equal rewards moves nothing."""
    cfg = LossConfig(kl_coef=0.3, kl_in="loss", kl_form=form, kl_corrected=corrected)
    x = {k: np.float32(v) for k, v in numbers.items()}
    x |= {"reference": x["logprob"], "advantage": 0 * x["advantage"]}
    value, grad, _ = run(x, cfg)
    assert value == 0 and np.all(grad == 0)


def test_k3() -> None:
    """exp(-d) + d - 1: 0 at 0, never negative, finite where the two are worlds apart."""
    d = np.array([[0.0, 1.0, -1.0, 0.1, 1e4, -1e4]], np.float32)
    got = np.asarray(loss.k3(jnp.asarray(d), jnp.zeros_like(d)))[0]
    np.testing.assert_allclose(got[:4], [0, np.exp(-1), np.e - 2, np.exp(-0.1) - 0.9], atol=1e-6)
    assert np.all(got >= 0) and np.all(np.isfinite(got))


def test_kl_in_the_reward_stays_out_of_the_loss(numbers):
    with_kl = run(numbers, LossConfig(kl_coef=0.5, kl_in="reward"))
    without = run(numbers, LossConfig())
    assert with_kl[0] == without[0]
    np.testing.assert_array_equal(with_kl[1], without[1])
    assert "policy/kl" in with_kl[2]


def test_on_policy_gradient_is_the_policy_gradient_theorem() -> None:
    """All 3^2 responses of a table policy, weighted by their probability: grad of E[r].

    A baseline that does not depend on the response must not change it.
    """
    vocab, columns = 3, 2
    rng = np.random.default_rng(5)
    table = rng.normal(0, 1, (1 + vocab, vocab))  # first token; second token given the first
    texts = np.array(list(itertools.product(range(vocab), repeat=columns)))
    reward = rng.uniform(0, 1, len(texts))
    cfg = LossConfig(aggregate="seq-mean-token-sum")
    mask = np.ones(texts.shape, bool)

    def logprobs(table):
        rows = jax.nn.log_softmax(table)
        first = rows[0][texts[:, 0]]
        return jnp.stack([first, rows[1 + texts[:, 0], texts[:, 1]]], 1)

    with jax.enable_x64(True):
        probability = np.exp(np.asarray(logprobs(table)).sum(1))
        assert probability.sum() == pytest.approx(1, abs=1e-12)
        want = jax.grad(lambda x: -jnp.sum(jnp.exp(logprobs(x).sum(1)) * reward))(table)
        for baseline in (0.0, 0.37):
            # One row per response: its probability times the rows stands for how often it is drawn.
            advantage = (reward - baseline) * probability * len(texts)

            def objective(table, advantage=advantage):
                logprob = logprobs(table)
                still = jax.lax.stop_gradient(logprob)
                weight = loss.row_weights(mask, cfg).astype(logprob.dtype)
                return policy_loss(logprob, still, still, advantage, mask, weight, cfg)[0]

            np.testing.assert_allclose(jax.grad(objective)(table), want, rtol=1e-6, atol=1e-8)
