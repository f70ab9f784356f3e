"""Benchmarks: what their files say, and their reports against numbers computed by hand."""

import json
import math

import numpy as np
import pytest

from rlvr_jax.host.critiques.benchmark_reports import COUNTS, compute_report, roc_auc, score_ties
from rlvr_jax.host.critiques.benchmarks import SECTIONS, load_benchmark


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def pair(number, **columns):
    row = {"prompt": f"Why {number}?", "chosen": f"good {number}", "rejected": f"bad {number}"}
    return row | {"id": number} | columns


def place(benchmark, wanted):
    """Scores in the order of the items' responses: `wanted` gives the right ones' first."""
    out = []
    for entry, given in zip(benchmark.entries, wanted, strict=True):
        if given is None:
            out.append(None)
            continue
        values, scores = iter(given), [0.0] * len(given)
        wrong = [i for i in range(len(given)) if i not in entry.right]
        for i in [*entry.right, *wrong]:
            scores[i] = next(values)
        out.append(scores)
    return out


# -- RewardBench ----------------------------------------------------------------------------------

REWARDBENCH = [
    pair(0, subset="alpacaeval-easy"),
    pair(1, subset="alpacaeval-easy"),
    pair(2, subset="mt-bench-med"),
    pair(3, subset="llmbar-natural"),
    pair(4, subset="donotanswer"),
    pair(5, subset="math-prm"),
    pair(6, subset="hep-cpp"),
    pair(7, subset="anthropic_hhh"),
]


def test_rewardbench_weighs_subsets_by_their_counts(tmp_path):
    benchmark = load_benchmark("rewardbench", write(tmp_path / "filtered.jsonl", REWARDBENCH))
    assert len(benchmark.items) == 7 and benchmark.left_out == 0  # no prior set
    wanted = [(8, 2), (3, 3), (1, 9), (5, 4), None, (7, 1), (2, 6)]
    report = compute_report(benchmark, place(benchmark, wanted))
    chat = (0.75 * 100 + 0.0 * 40) / 140  # alpacaeval-easy: a win and a tie
    reasoning = 984 / (984 + 164)
    assert report.parts["Chat"] == pytest.approx(chat)
    assert report.parts["Chat Hard"] == 1.0 and report.parts["Safety"] == 0.5
    assert report.parts["Reasoning"] == pytest.approx(reasoning)
    assert report.score == pytest.approx((chat + 1 + 0.5 + reasoning) / 4)
    assert report.strict == pytest.approx((0.5 * 100 / 140 + 1 + 0 + reasoning) / 4)
    assert report.expected == pytest.approx((chat + 1 + 0 + reasoning) / 4)
    assert (report.ties, report.invalid) == (pytest.approx(1 / 7), pytest.approx(1 / 7))


def test_rewardbench_without_a_section_has_no_total(tmp_path):
    benchmark = load_benchmark("rewardbench", write(tmp_path / "a.jsonl", REWARDBENCH[:3]))
    report = compute_report(benchmark, place(benchmark, [(2, 1)] * 3))
    assert report.score is report.strict is None and report.parts["Chat"] == 1.0


def test_rewardbench_reads_its_filtered_rows_once(tmp_path):
    write(tmp_path / "data/raw.jsonl", [*REWARDBENCH, pair(99, subset="hep-go")])
    write(tmp_path / "data/filtered.jsonl", REWARDBENCH)
    assert len(load_benchmark("rewardbench", tmp_path).items) == 7
    write(tmp_path / "data/filtered2.jsonl", REWARDBENCH[:1])
    with pytest.raises(ValueError, match="the id '0' occurs twice"):
        load_benchmark("rewardbench", tmp_path)
    with pytest.raises(ValueError, match="line 1: RewardBench has no subset 'hep-cobol'"):
        load_benchmark("rewardbench", write(tmp_path / "b.jsonl", [pair(0, subset="hep-cobol")]))


def test_every_subset_of_a_section_has_a_weight():
    names = [name for subsets in SECTIONS.values() for name in subsets]
    assert sorted(names) == sorted(COUNTS) and len(names) == 23
    code = sum(COUNTS[name] for name in SECTIONS["Reasoning"] if name != "math-prm")
    assert COUNTS["math-prm"] == code == 984
    assert sum(COUNTS.values()) - 984 + 447 == 2985


# -- RewardBench 2 --------------------------------------------------------------------------------


def four(number, subset="Math", right=1, wrong=3, identity=None):
    return {
        "prompt": f"Why {number}?",
        "chosen": [f"good {number} {i}" for i in range(right)],
        "rejected": [f"bad {number} {i}" for i in range(wrong)],
        **{"num_correct": right, "subset": subset, "id": identity or str(number)},
    }


def tied(prompt, right):
    return four(prompt, "Ties", right, 2, f"tied:{prompt}")


def ref(prompt):
    return four(1000 + prompt, "Ties", 1, 2, f"ref:{prompt}")


def test_rewardbench2_is_the_mean_of_its_subsets(tmp_path):
    rows = [four(0), four(1), four(2, "Focus"), four(3, "Focus"), ref(0), tied(0, 2)]
    benchmark = load_benchmark("rewardbench2", write(tmp_path / "a.jsonl", rows))
    assert [len(e.right) for e in benchmark.entries] == [1, 1, 1, 1, 1, 2]
    wanted = [(9, 1, 2, 3), (5, 5, 5, 1), (2, 3, 1, 1), None, (8, 2, 1), (8, 7, 3, 2)]
    report = compute_report(benchmark, place(benchmark, wanted))
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(min(6, 4) / 1 - 1)
    assert report.parts["Math"] == pytest.approx((1 + 1 / 3) / 2)
    assert report.parts["Focus"] == pytest.approx((0 + 0.25) / 2)
    assert report.parts["Ties"] == pytest.approx(ties)
    assert report.score == pytest.approx((2 / 3 + 0.125 + ties) / 3)
    assert report.strict == pytest.approx((0.5 + 0 + ties) / 3)


def oracle_of_ties(groups):
    """The published formula in numpy: `groups` are (reference scores, tied scores, rights)."""
    margins_ref, margins_tied, spreads, right_ref, right_tied = [], [], [], [], []
    for reference, several, rights in groups:
        margins_ref.append(reference[0] - max(reference[1:]))
        margins_tied.append(min(several[:rights]) - max(several[rights:]))
        spreads.append(max(several[:rights]) - min(several[:rights]))
        right_ref.append(margins_ref[-1] > 0)
        right_tied.append(margins_tied[-1] > 0)
    low, spread = np.minimum(margins_ref, margins_tied), np.array(spreads)
    with np.errstate(all="ignore"):
        squashed = np.nan_to_num(np.tanh(low / spread - 1), nan=0.0)
    return (
        0.3 * np.mean(right_tied)
        + 0.3 * np.mean(right_ref)
        + 0.2 * np.mean(np.array(margins_tied) > spread)
        + 0.2 * np.mean(low > spread)
        + 0.01 * np.mean(squashed)
    )


def test_the_score_of_ties_is_the_published_formula(tmp_path):
    rng = np.random.default_rng(0)
    groups = [
        ([float(x) for x in rng.integers(1, 11, 3)], [float(x) for x in rng.integers(1, 11, 5)], 3)
        for _ in range(40)
    ]
    groups += [([8.0, 2.0, 2.0], [7.0, 7.0, 7.0, 1.0, 1.0], 3), ([2.0, 2.0, 2.0], [5.0] * 5, 3)]
    rows = [row for i in range(len(groups)) for row in (ref(i), tied(i, 3))]
    benchmark = load_benchmark("rewardbench2", write(tmp_path / "a.jsonl", rows))
    scores = place(benchmark, [x for reference, several, _ in groups for x in (reference, several)])
    assert score_ties(benchmark.entries, scores) == pytest.approx(oracle_of_ties(groups))
    nothing = place(benchmark, [None] * len(rows))
    assert score_ties(benchmark.entries, nothing) == 0.0
    assert score_ties(benchmark.entries[:1], scores[:1]) is None


@pytest.mark.parametrize(
    "row, words",
    [
        (four(0) | {"chosen": "text"}, "lists of responses"),
        (four(0) | {"num_correct": 2}, "another num_correct"),
        (four(0, "Ties", 2), "neither ref:ID nor tied:ID"),
    ],
)
def test_rows_of_rewardbench2_that_contradict_themselves_are_refused(row, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_benchmark("rewardbench2", write(tmp_path / "a.jsonl", [row]))


# -- RMB ------------------------------------------------------------------------------------------


def asked(number):
    return {"conversation_input": [{"role": "user", "content": f"Why {number}?"}]}


def rmb(number, losers=1, best=True):
    texts = [{"llm_name": "x", "answer": f"bad {number} {i}"} for i in range(losers)]
    good = {"llm_name": "y", "answer": f"good {number}"}
    if best:
        return asked(number) | {"bon_best": good, "loser_list": texts}
    return asked(number) | {"chosen": good, "reject": texts[0]}


def test_rmb_is_the_mean_of_four_pooled_numbers(tmp_path):
    root = tmp_path / "RMB_dataset"
    write(root / "BoN_set/Helpfulness/Chat/a.json", [rmb(0, 2), rmb(1, 3)])
    write(root / "BoN_set/Helpfulness/Code/b.json", [rmb(2, 2)])
    write(root / "BoN_set/Harmlessness/S1.json", [rmb(3, 2)])
    write(root / "Pairwise_set/Helpfulness/Chat/a.json", [rmb(i, best=False) for i in (4, 5)])
    write(root / "Pairwise_set/Harmlessness/S1.json", [rmb(6, best=False)])
    benchmark = load_benchmark("rmb", root)
    by_query = {
        "Why 0?": (9, 3, 2),  # beats every loser
        "Why 1?": (9, 3, 9, 1),  # ties with one of them
        "Why 2?": (9, 3, 2),
        "Why 3?": (1, 3, 2),
        "Why 4?": (7, 5),
        "Why 5?": (5, 5),
        "Why 6?": None,
    }
    wanted = [by_query[item.query] for item in benchmark.items]
    report = compute_report(benchmark, place(benchmark, wanted))
    assert report.parts == {
        "harmlessness, best of n": 0.0,
        "harmlessness, pair": 0.0,
        "helpfulness, best of n": pytest.approx(2 / 3),
        "helpfulness, pair": 0.5,
    }
    assert report.score == report.strict == pytest.approx((2 / 3 + 0.5) / 4)
    assert report.expected == pytest.approx((2.5 / 3 + 0.75) / 4)


def test_a_loser_that_occurs_twice_counts_once(tmp_path):
    row = rmb(0, 2) | {"category_path": "BoN_set/Harmlessness/S1"}
    row["loser_list"].append(row["loser_list"][0] | {"llm_name": "z"})
    benchmark = load_benchmark("rmb", write(tmp_path / "a.jsonl", [row]))
    assert len(benchmark.items[0].responses) == 3
    with pytest.raises(ValueError, match="Helpfulness or Harmlessness"):
        load_benchmark("rmb", write(tmp_path / "a.jsonl", [rmb(0)]))


# -- PPE ------------------------------------------------------------------------------------------


def test_ppe_preference_leaves_battles_without_a_winner_out(tmp_path):
    rows = [
        {"prompt": f"Why {i}?", "response_1": "a", "response_2": "b", "winner": winner}
        for i, winner in enumerate(("model_a", "model_b", "tie", "tie (bothbad)", "model_b"))
    ]
    benchmark = load_benchmark("ppe_preference", write(tmp_path / "a.jsonl", rows))
    assert [entry.right for entry in benchmark.entries] == [(0,), (1,), (1,)]
    report = compute_report(benchmark, [[7, 3], [7, 3], [4, 4]])
    assert (report.score, report.strict, report.left_out) == (0.5, pytest.approx(1 / 3), 2)


def test_ppe_correctness_is_the_mean_of_five_sources(tmp_path):
    names = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
    for number, name in enumerate(names):
        row = {"prompt": f"Why {number}?", "scores": [True, False, False]}
        row |= {f"response_{i + 1}": f"answer {i}" for i in range(3)}
        pairs = [[0, 1], [2, 0]] if name == "GPQA" else [[1, 0]]
        write(tmp_path / f"PPE-{name}-Best-of-K/data/train.jsonl", [row | {"sampled_conflict_pairs": pairs}])  # fmt: skip # noqa: E501
    benchmark = load_benchmark("ppe_correctness", tmp_path)
    won = {"mmlu_pro": [1], "math": [0], "gpqa": [1, 0], "mbpp_plus": [0], "ifeval": [1]}
    wanted = [(2, 1) if won[entry.part].pop(0) else (1, 2) for entry in benchmark.entries]
    report = compute_report(benchmark, place(benchmark, wanted))
    assert report.items == 6 and report.parts["gpqa"] == 0.5
    assert report.score == pytest.approx((1 + 0 + 0.5 + 0 + 1) / 5)
    one = tmp_path / "PPE-MATH-Best-of-K"
    benchmark = load_benchmark("ppe_correctness", one)
    report = compute_report(benchmark, place(benchmark, [(2, 1)]))
    assert report.score is None and report.parts == {"math": 1.0}
    with pytest.raises(ValueError, match="names not one of mmlu_pro"):
        load_benchmark("ppe_correctness", write(tmp_path / "other/x.jsonl", [pair(0)]))


# -- ReaLMistake ----------------------------------------------------------------------------------


def test_realmistake_is_the_area_under_the_curve(tmp_path):
    labels = ["no_error", "error", "no_error", "error", "error"]
    rows = [{"input": f"Do {i}.", "llm_response": "done", "label": x} for i, x in enumerate(labels)]
    write(tmp_path / "data/maths/gpt.jsonl", rows[:3])
    write(tmp_path / "data/facts/gpt.jsonl", rows[3:])
    benchmark = load_benchmark("realmistake", tmp_path)
    by_query = {"Do 0.": [8], "Do 1.": [5], "Do 2.": [5], "Do 3.": [6], "Do 4.": [1]}
    report = compute_report(benchmark, [by_query[item.query] for item in benchmark.items])
    # Right 8 and 5 against wrong 5, 6 and 1: 3 wins, and half a win and one.
    assert report.score == pytest.approx(4.5 / 6)
    assert report.parts == {"maths": pytest.approx(1.5 / 2)}  # all facts are wrong: no curve
    assert report.ties == 0.0


def test_the_area_agrees_with_a_plain_double_loop(tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 60)
    rows = [
        {"input": f"Do {i}.", "llm_response": "done", "label": "no_error" if x else "error"}
        for i, x in enumerate(labels)
    ]
    entries = load_benchmark("realmistake", write(tmp_path / "a.jsonl", rows)).entries
    scores = [None if i % 13 == 0 else [int(x)] for i, x in enumerate(rng.integers(1, 11, 60))]
    total = 0.0
    for i in np.flatnonzero(labels):
        for j in np.flatnonzero(1 - labels):
            if scores[i] is not None and scores[j] is not None:
                total += np.heaviside(scores[i][0] - scores[j][0], 0.5)
    pairs = labels.sum() * (1 - labels).sum()
    assert roc_auc(entries, scores) == pytest.approx(total / pairs)


# -- files of preferences, and bad input ----------------------------------------------------------


def test_preferences_have_a_part_for_each_domain(tmp_path):
    write(tmp_path / "chat.jsonl", [pair(0), pair(1), pair(2) | {"rejected": "good 2"}])
    write(tmp_path / "code.jsonl", [pair(3, domain="rust")])
    benchmark = load_benchmark("preferences", tmp_path)
    report = compute_report(benchmark, place(benchmark, [(2, 1), (1, 1), (1, 2)]))
    assert report.parts == {"chat": 0.75, "rust": 0.0} and report.score == 0.5
    assert (report.left_out, report.items) == (1, 3)


def test_one_bad_row_in_a_hundred_is_left_out_and_more_are_refused(tmp_path):
    rows = [pair(i, subset="hep-go") for i in range(99)]
    bad = pair(99, subset="hep-go", chosen="")
    benchmark = load_benchmark("rewardbench", write(tmp_path / "a.jsonl", [*rows, bad]))
    assert (len(benchmark.items), benchmark.left_out) == (99, 1)
    with pytest.raises(
        ValueError, match="2 of 101 rows of rewardbench .*line 100: it has an empty"
    ):
        more = [*rows, bad, pair(100, subset="hep-go", rejected=" ")]
        load_benchmark("rewardbench", write(tmp_path / "a.jsonl", more))
    single = {"prompt": "Why?", "completion": "so", "label": True}
    with pytest.raises(ValueError, match="nothing to rank it against"):
        load_benchmark("preferences", write(tmp_path / "a.jsonl", [single]))
    with pytest.raises(ValueError, match="each row needs one"):
        load_benchmark("realmistake", write(tmp_path / "a.jsonl", [pair(0)]))


def test_names_paths_and_scores_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'rewardbench'"):
        load_benchmark("reward_bench", tmp_path)
    with pytest.raises(ValueError, match="has no .jsonl, .json, .parquet file"):
        load_benchmark("rmb", tmp_path)
    prior = write(tmp_path / "a.jsonl", [pair(0, subset="shp")])
    with pytest.raises(ValueError, match="no item of rewardbench"):
        load_benchmark("rewardbench", prior)
    benchmark = load_benchmark("preferences", write(tmp_path / "a.jsonl", [pair(0)]))
    for scores, words in (
        ([], "0 lists of scores for 1 items"),
        ([[1, 2, 3]], "3 scores for 2 responses"),
        ([[1, math.nan]], "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            compute_report(benchmark, scores)
