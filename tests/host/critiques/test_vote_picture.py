"""The picture of the votes: it parses, and its points stand where the numbers say."""

import xml.etree.ElementTree as xml

import pytest

from rlvr_jax.host.critiques import vote_picture

SVG = "{http://www.w3.org/2000/svg}"


def place(expected: float, half: float = 0.05) -> dict:
    return {"all": {"expected": expected, "expected_pm": half}}


def result(**ways: tuple[float, ...]) -> dict:
    counts = ("1", "2", "4")[: len(next(iter(ways.values())))]
    of_k = {
        k: {way: place(values[i]) for way, values in ways.items()} for i, k in enumerate(counts)
    }
    return {"name": "vote <a>", "items": 20, "greedy": place(0.6), "votes": of_k}


def circles(text: str) -> list[tuple[float, float]]:
    found = xml.fromstring(text).iter(f"{SVG}circle")
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in found]


def test_a_point_stands_where_its_number_says():
    points = circles(vote_picture.draw(result(plain=(0.5, 0.6, 0.7))))
    (x1, y1), (x2, y2), (x4, y4) = points
    assert x2 - x1 == pytest.approx(x4 - x2, abs=0.2)  # the axis is logarithmic
    assert y1 - y2 == pytest.approx(y2 - y4, abs=0.2)
    assert y1 > y2 > y4


def test_each_way_of_counting_has_its_curve_and_its_name():
    ways = {"plain": (0.5, 0.6), "meta 0.5": (0.5, 0.7), "weighted": (0.4, 0.6)}
    tree = xml.fromstring(vote_picture.draw(result(**ways)))
    assert len(list(tree.iter(f"{SVG}polyline"))) == 3
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"all votes", "meta 0.5", "weighted"} <= set(texts)
    assert texts[0] == "vote <a>: accuracy on 20 items, ties shared"


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_is_always_or_never_right_is_drawn_too(share):
    drawn = result(plain=(share,))
    drawn["greedy"] = place(share, 0.0)
    ((x, y),) = circles(vote_picture.draw(drawn))
    assert 0 < x < vote_picture.WIDTH and 0 < y < vote_picture.HEIGHT
