"""Bands follow the pass rates, and problems are drawn as often as the weights say."""

import itertools
import json
import math
import random

import numpy as np
import pytest

from rlvr_jax.config import BANDS, DifficultyConfig
from rlvr_jax.host.problems import difficulty
from rlvr_jax.host.problems.difficulty import DifficultyStream

# A pass rate of each band.
RATES = {"unsolved": 0.0, "hard": 0.125, "middle": 0.5, "easy": 0.875, "solved": 1.0}


def problems(count):
    return [{"key": f"{i:04d}"} for i in range(count)]


def keys(records):
    return [int(record["key"]) for record in records]


def stream(bands, batch, weights, seed=0, decay=0.5):
    """A stream over one problem for each name of a band, which it is in already."""
    source = problems(len(bands))
    made = DifficultyStream(source, batch, seed, DifficultyConfig(weights, decay))
    seen = [i for i, band in enumerate(bands) if band != "unseen"]
    made.learn([source[i] for i in seen], [RATES[bands[i]] for i in seen])
    return made


def chances(weights, count):
    """The chance of each problem to be among `count` that are drawn one after the other."""
    out = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), count):
        chance, left = 1.0, sum(weights)
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        out[list(order)] += chance
    return out


# ---- bands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [4, 8, 16])
def test_every_number_of_right_answers_has_its_band(samples) -> None:
    names = [BANDS[difficulty.band_of(right / samples)] for right in range(samples + 1)]
    assert names[0] == "unsolved" and names[-1] == "solved" and names[samples // 2] == "middle"
    assert names == sorted(names, key=BANDS.index)
    assert {names[1], names[-2]} == {"hard", "easy"} and BANDS[difficulty.band_of(None)] == "unseen"
    assert names.count("unsolved") == names.count("solved") == 1


def test_rates_bands_and_metrics_are_those_of_a_slow_count() -> None:
    """Against sums over all that was ever seen of a problem."""
    rng, source, decay = random.Random(3), problems(12), 0.7
    made = DifficultyStream(source, 4, 0, DifficultyConfig({"hard": 3}, decay))
    seen: dict[int, list[float]] = {}

    def band(number):
        values = seen.get(number)
        if not values:
            return "unseen"
        n = len(values)
        rate = values[0] * decay ** (n - 1)
        rate += sum((1 - decay) * decay ** (n - 1 - j) * values[j] for j in range(1, n))
        below = [0.05, 1 / 3, 2 / 3, 0.95, math.inf]
        return BANDS[1 + next(i for i, edge in enumerate(below) if rate < edge)]

    for _ in range(30):
        drawn = keys(made.take(4))
        was = [band(i) for i in drawn]
        rates = [rng.choice([0, 0, 1, 1, rng.random()]) for _ in drawn]
        metrics = made.learn([source[i] for i in drawn], rates)
        for i, rate in zip(drawn, rates, strict=True):
            seen.setdefault(i, []).append(rate)
        now = [band(i) for i in range(12)]
        for name in BANDS:
            assert metrics[f"difficulty/drawn_{name}"] == was.count(name) / 4
            assert metrics[f"difficulty/{name}"] == now.count(name) / 12
    assert len(set(now)) > 2, "the test has seen some bands"


# ---- draws ---------------------------------------------------------------------------------


def test_each_band_gets_its_share_of_the_draws() -> None:
    """Of 20,000 single draws, within four standard deviations; other weights would be outside."""
    weights = {"unseen": 1.0, "unsolved": 0.5, "hard": 2.0, "middle": 4.0, "easy": 1.0, "solved": 0}
    sizes = {"unseen": 40, "unsolved": 60, "hard": 30, "middle": 10, "easy": 20, "solved": 50}
    bands = [name for name in BANDS for _ in range(sizes[name])]
    made, count = stream(bands, 1, weights), 20_000
    drawn = np.bincount([keys(made.take(1))[0] for _ in range(count)], minlength=len(bands))
    got = {name: sum(drawn[i] for i, b in enumerate(bands) if b == name) / count for name in BANDS}

    def distance(weights):
        """The largest distance of a share from what it should be, in standard deviations."""
        total = sum(weights[name] * sizes[name] for name in BANDS)
        want = {name: weights[name] * sizes[name] / total for name in BANDS}
        return max(
            abs(got[name] - p) / math.sqrt(p * (1 - p) / count) for name, p in want.items() if p
        )

    assert got["solved"] == 0 and distance(weights) < 4
    for name in ("unseen", "unsolved", "hard", "middle", "easy"):
        assert distance(weights | {name: 1.2 * weights[name]}) > 4, name
    # Within a band all problems are equal: a chi-square of 39 degrees of freedom.
    unseen = drawn[: sizes["unseen"]]
    assert 15 < float(((unseen - unseen.mean()) ** 2 / unseen.mean()).sum()) < 80


def test_without_putting_back_the_chances_are_those_of_all_orders() -> None:
    bands = ["unseen", "hard", "hard", "middle", "solved", "solved"]
    weights = {"hard": 3.0, "middle": 6.0, "solved": 0.25}
    made, count = stream(bands, 3, weights), 8000
    drawn = np.zeros(6)
    for _ in range(count):
        taken = keys(made.take(3))
        assert len(set(taken)) == 3
        drawn[taken] += 1
    want = chances([weights.get(band, 1.0) for band in bands], 3)
    deviation = np.sqrt(want * (1 - want) / count)
    assert np.all(np.abs(drawn / count - want) < 4 * deviation)
    wrong = chances([1, 3, 3, 4, 0.25, 0.25], 3)
    assert np.any(np.abs(drawn / count - wrong) > 4 * deviation)


def test_a_step_of_several_rounds_repeats_no_problem_while_others_are_left() -> None:
    made = stream(["unseen"] * 10, 4, {"hard": 2})
    for _ in range(20):
        taken = keys(made.take(8))
        assert len(set(taken)) == 8
        taken = keys(made.take(12))  # ten problems do not fill three rounds
        assert all(len(set(taken[i : i + 4])) == 4 for i in (0, 4, 8))
        made.give_back([{"key": "0000"}])
        assert len(made) == 0


def test_problems_of_weight_0_are_drawn_only_where_nothing_else_is_left_and_counted() -> None:
    bands = ["solved"] * 8 + ["hard"] * 3
    made = stream(bands, 4, {"solved": 0})
    source = problems(11)
    for _ in range(20):
        taken = keys(made.take(4))
        assert {8, 9, 10} < set(taken) and len(set(taken)) == 4
        assert made.learn([source[9]], [0.125])["difficulty/forced"] == 1
    made = stream(bands, 3, {"solved": 0})
    assert {i for _ in range(20) for i in keys(made.take(3))} == {8, 9, 10}
    assert made.learn([source[9]], [0.125])["difficulty/forced"] == 0


def test_a_pass_rate_stays_within_0_and_1() -> None:
    made, source = stream(["unseen"] * 2, 1, {"hard": 2}), problems(2)
    made.learn(source, [7.0, -3.0])
    assert made.get_state()["rates"] == {"0000": 1.0, "0001": 0.0}


def test_a_state_goes_on_with_the_same_draws_and_seeds_differ() -> None:
    def go_on(made, rng, steps):
        out = []
        for _ in range(steps):
            taken = made.take(6)
            out.append(keys(taken))
            made.learn(taken, [rng.choice([0, 0.25, 1]) for _ in taken])
        return out

    def make(seed=5):
        return DifficultyStream(problems(30), 3, seed, DifficultyConfig({"hard": 4, "solved": 0.1}))

    one, rng = make(), random.Random(0)
    go_on(one, rng, 7)
    other, state = make(), json.loads(json.dumps(one.get_state()))
    other.set_state(state)
    again = random.Random()
    again.setstate(rng.getstate())
    assert go_on(one, rng, 7) == go_on(other, again, 7)
    assert one.get_state() == other.get_state()
    assert go_on(make(), random.Random(0), 3) == go_on(make(), random.Random(0), 3)
    assert go_on(make(), random.Random(0), 3) != go_on(make(6), random.Random(0), 3)


def test_the_draws_of_a_seed_never_change() -> None:
    """A run that goes on after an upgrade must draw what it would have drawn."""
    made = DifficultyStream(problems(1000), 4, 7, DifficultyConfig({"hard": 2}))
    assert [keys(made.take(4)) for _ in range(2)] == [[897, 224, 871, 818], [111, 159, 500, 305]]


def test_too_few_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="3 records, too few for one batch of 4"):
        DifficultyStream(problems(3), 4, 0, DifficultyConfig({"hard": 2}))
