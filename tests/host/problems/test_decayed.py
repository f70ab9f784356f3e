"""Running means are what their definition says, summed up slowly."""

import json
import random

import pytest

from rlvr_jax.host.problems.decayed import DecayedMeans


def slow(values, decay, start):
    """One value after the other, each weighted by what the later ones leave of it."""
    if start is None:
        (first, count), *values = values
        weights, terms = [1.0], [first]
    else:
        weights, terms = [1.0], [start]
    for value, count in values:
        for _ in range(count):
            weights = [w * decay for w in weights] + [1 - decay]
            terms.append(value)
    return sum(w * t for w, t in zip(weights, terms, strict=True))


@pytest.mark.parametrize("start", [None, 0.0, 0.3])
def test_the_mean_is_the_weighted_sum_of_all_values(start) -> None:
    rng, means = random.Random(1), DecayedMeans(0.8, start)
    seen: dict[str, list[tuple[float, int]]] = {}
    for _ in range(40):
        name, value, count = rng.choice("abc"), rng.random(), rng.randint(1, 5)
        seen.setdefault(name, []).append((value, count))
        assert means.add(name, value, count) == means.get(name)
        assert means.get(name) == pytest.approx(slow(seen[name], 0.8, start), rel=1e-12)
    assert means.get("never") == start


def test_a_state_goes_on_to_the_same_bits() -> None:
    one, other = DecayedMeans(0.9), DecayedMeans(0.9)
    for value in (0.1, 0.7, 1 / 3):
        one.add("x", value)
    other.set_state(json.loads(json.dumps(one.get_state())))
    assert one.add("x", 0.2) == other.add("x", 0.2)
    assert other.add("y", 0.25) == 0.25
