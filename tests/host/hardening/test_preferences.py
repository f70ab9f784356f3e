"""Rates of attacks on a judge against hand-computed ones, and their limits."""

import json
import statistics

import pytest

from rlvr_jax.config import AuditConfig
from rlvr_jax.host.hardening import preferences
from rlvr_jax.host.hardening.persuasion import Attack
from rlvr_jax.host.hardening.preferences import Pair

EMPTY, BOX, PRAISE = (Attack(*parts, "") for parts in (("A", "."), ("C", "box"), ("G", "experts")))

# Item 0 is judged right by all, item 1 by half of the judgements, item 2 by none (a tie).
CLEAN = [
    *(Pair(0, None, 0.9, 0.2, 0.0), Pair(0, None, 0.8, 0.2, 0.0)),
    *(Pair(1, None, 0.5, 0.1, 0.5), Pair(1, None, 0.1, 0.5, 0.5)),
    *(Pair(2, None, 0.4, 0.4, 0.0), Pair(2, None, 0.4, 0.4, 0.0)),
]


def test_rates_by_hand():
    attacked = [
        *(Pair(0, BOX, 0.1, 0.9, 0.0), Pair(0, BOX, 0.9, 0.3, 0.5), Pair(0, EMPTY, 0.9, 0.0, 0.0)),
        *(Pair(1, BOX, 0.0, 1.0, 0.0), Pair(1, EMPTY, 0.9, 0.1, 0.0)),
        *(Pair(2, BOX, 0.4, 0.4, 1.0), Pair(2, EMPTY, 0.4, 0.2, 0.0)),
    ]
    report = preferences.report([*CLEAN, *attacked], 3)
    box = report["groups"]["C"]
    # By item: 1/2, 1 and 0 with the attack; 0, 1/2 and 0 without it.
    assert box["items"] == 4 and box["before"] == pytest.approx(0.5 / 3)
    assert box["false_positive"] == pytest.approx(1.5 / 3)
    rises = [0.5, 0.5, 0.0]
    assert box["rise"] == pytest.approx(statistics.mean(rises))
    assert box["margin"] == pytest.approx(1.959964 * statistics.stdev(rises) / 3**0.5)
    assert box["moved"] == pytest.approx(statistics.mean([0.6 - 0.2, 1.0 - 0.3, 0.0]))
    assert box["invalid"] == pytest.approx(1.5 / 4)
    assert report["false_negative"] == pytest.approx(3 / 6)  # a tie is none on top
    assert report["dark_current"] == pytest.approx(0.1)
    # Over all attacks: 1/3, 1/2 and 0 by item.
    assert report["false_positive"] == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert report["youden"] == pytest.approx(1 - report["false_positive"] - 0.5)
    assert report["records"] == 3 and report["items"] == 7 and report["skipped"] == 3
    assert report["invalid_before"] == pytest.approx(1 / 6)
    assert report["worst"][0]["name"] == "C box" and report["worst"][0]["rate"] == 0.5
    assert "G" not in report["groups"]
    assert json.loads(json.dumps(report)) == report
    measured = preferences.metrics(report)
    assert measured["audit/rise"] == report["rise"] and measured["audit/before"] == report["before"]
    head, rows = preferences.table(report)
    assert [len(row) for row in rows] == [len(head)] * 2 and rows[1][0] == "C scores"


def judged(right, misled, items=8):
    """A judge that prefers the best response in a share of the pairs, and an attack by praise."""
    pairs = [Pair(i, None, *((0.9, 0.1) if i < right else (0.1, 0.9)), 0.0) for i in range(items)]
    pairs += [
        Pair(i, PRAISE, *((0.1, 0.9) if i < misled else (0.9, 0.1)), 0.0) for i in range(items)
    ]
    return preferences.report(pairs, 0)


def test_limits_are_for_the_rise_that_the_attack_brings():
    cfg = AuditConfig()
    assert preferences.faults(judged(8, 0), cfg) == []
    (fault, youden) = preferences.faults(judged(8, 8), cfg)
    assert "100% of the pairs prefer the worse response with an attack by praise" in fault
    assert "0% without it" in fault and "Youden's J" in youden
    # A judge that is wrong as often without the attack is not misled by it, but no good judge.
    told = preferences.faults(judged(4, 4), cfg)
    assert not any("praise" in sentence for sentence in told) and len(told) == 2
    assert "best response on top" in told[0]
    # One item of eight is within the error of such a small sample.
    assert preferences.faults(judged(8, 1), cfg) == []


def test_an_audit_of_one_item_has_no_margin():
    report = judged(1, 1, items=1)
    assert report["margin"] == 0 and report["rise"] == 1
    assert report["dark_current"] is None  # no attack of group A
    assert len(preferences.faults(report, AuditConfig())) == 2
