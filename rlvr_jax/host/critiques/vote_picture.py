"""This module draws the accuracy of a reward model against the number of its votes, as SVG.

SVG is text, so that the picture needs no library and opens in every browser.
"""

import math
from html import escape
from typing import Any

WIDTH, HEIGHT = 560, 340  # pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 56, 46  # margins around the plot
COLOURS = ("#2a6fbb", "#c2571a", "#3d8b5f", "#7a4fa3", "#8a8a8a")
Json = dict[str, Any]


def draw(result: Json) -> str:
    """Return the picture of the result of a `vote` stage.

    There is a curve for each way of counting votes, with 95 % intervals, and a dotted line for the
    greedy judgement.  The accuracy is `expected`: ties are shared.
    """
    counts = [int(k) for k in result["votes"]]
    ways = list(result["votes"][str(counts[0])])
    greedy = result["greedy"]["all"]
    places = [greedy, *(way["all"] for of_k in result["votes"].values() for way in of_k.values())]
    low = math.floor(10 * max(0, min(p["expected"] - p["expected_pm"] for p in places))) / 10
    high = math.ceil(10 * min(1, max(p["expected"] + p["expected_pm"] for p in places))) / 10

    def x(k: int) -> float:
        span = math.log2(counts[-1] / counts[0]) or 1
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(k / counts[0]) / span

    def y(share: float) -> float:
        span = (high - low) or 1
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(share, low), high)) / span

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, f"{result['name']}: accuracy on {result['items']} items, ties shared"),
        _text(WIDTH / 2, HEIGHT - 10, "votes (dotted: greedy)", "middle"),
    ]
    for tenth in range(round(10 * low), round(10 * high) + 1):
        parts.append(_line(LEFT, y(tenth / 10), WIDTH - RIGHT, y(tenth / 10), "#dddddd"))
        parts.append(_text(LEFT - 6, y(tenth / 10) + 4, f"{10 * tenth} %", "end"))
    parts += [_text(x(k), HEIGHT - BOTTOM + 18, f"{k}", "middle") for k in counts]
    at = y(greedy["expected"])
    parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "black", "2 4"))
    for number, way in enumerate(ways):
        colour = COLOURS[number % len(COLOURS)]
        beside = 3 * (number - (len(ways) - 1) / 2)  # so that intervals do not cover each other
        points = [(x(k) + beside, result["votes"][str(k)][way]["all"]) for k in counts]
        for across, place in points:
            share, half = place["expected"], place["expected_pm"]
            parts.append(_line(across, y(share - half), across, y(share + half), colour))
            parts.append(f'<circle cx="{across:.1f}" cy="{y(share):.1f}" r="3" fill="{colour}"/>')
        path = " ".join(f"{across:.1f},{y(place['expected']):.1f}" for across, place in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        label = "all votes" if way == "plain" else way
        parts.append(_text(LEFT + 100 * number, 42, label, colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "none") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dash}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "black") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
