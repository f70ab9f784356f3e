"""How the page names the answers of evaluations."""

import json

import pytest

from rlvr_jax.host.report import evaluations


@pytest.mark.parametrize(
    ("samples", "shown"),
    [
        ([0, 0], {"accuracy": "greedy", "exact_match": "exact match"}),
        ([0, 4], evaluations.WAYS),
        ([None], evaluations.WAYS),  # of an older run
        ([], evaluations.WAYS),
    ],
)
def test_greedy_answers_alone_are_called_greedy(samples, shown, tmp_path):
    for number, k in enumerate(samples):
        row = {"name": f"e{number}", "samples": k, "accuracy": {"all": 0.5}}
        (tmp_path / f"e{number}.json").write_text(json.dumps(row))
    assert evaluations.shown_ways(evaluations.load_evaluations(tmp_path)) == shown
