"""Files of preferences: known layouts become items, and what ranks nothing is refused."""

import json

import pytest

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems import preference, sources
from rlvr_jax.host.problems.sources import files, origin
from rlvr_jax.host.problems.sources.layouts import parse_records
from rlvr_jax.host.problems.sources.preference_rows import parse_items


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


TALK = [user("Hi"), answer("Hello"), user("Why?")]
RMB_CHOSEN = {"llm_name": "a", "answer": "good"}
HUMAN = {"language": "English"}
ONE = {
    "text": dict(prompt="Why?", chosen="good", rejected="bad"),
    "messages": dict(prompt=[user("Why?")], chosen=[answer("good")], rejected=[answer("bad")]),
    "TRL, no prompt": dict(
        chosen=[user("Why?"), answer("good")], rejected=[user("Why?"), answer("bad")]
    ),
    "as text": dict(
        chosen=json.dumps([user("Why?"), answer("good")]),
        rejected=json.dumps([user("Why?"), answer("bad")]),
    ),
    "UltraFeedback binarized": dict(
        prompt="Why?",
        chosen=[user("Why?"), answer("good")],
        rejected=[user("Why?"), answer("bad")],
        score_chosen=8.5,
        score_rejected=7.0,
    ),
    "HelpSteer2": dict(prompt="Why?", response_1="bad", response_2="good", preference_strength=2),
    "HelpSteer2, first": dict(
        prompt="Why?", response_1="good", response_2="bad", preference_strength=-2
    ),
    "HelpSteer3": dict(
        context=[user("Why?")], response1="bad", response2="good", overall_preference=2
    ),
    "UltraFeedback": dict(
        instruction="Why?",
        completions=[
            {"response": "bad", "overall_score": 3.0},
            {"response": "good", "overall_score": 8.0},
        ],
    ),
    "UltraFeedback, aspects": dict(
        instruction="Why?",
        completions=[
            {"response": "good", "annotations": {"a": {"Rating": "5"}, "b": {"Rating": "4"}}},
            {"response": "bad", "annotations": {"a": {"Rating": "5"}, "b": {"Rating": "3"}}},
        ],
    ),
    "RewardBench": dict(prompt="Why?", chosen="good", rejected="bad", subset="math-prm", id=3),
    "RewardBench 2": dict(prompt="Why?", chosen=["good"], rejected=["bad"], num_correct=1),
    "RMB pair": dict(
        conversation_input=[user("Why?") | HUMAN], chosen=RMB_CHOSEN, reject={"answer": "bad"}
    ),
    "RMB best of n": dict(
        conversation_input=[user("Why?")], bon_best=RMB_CHOSEN, loser_list=[{"answer": "bad"}]
    ),
    "PPE": dict(prompt="Why?", response_1="good", response_2="bad", winner="model_a"),
    "PPE correctness": dict(
        prompt="Why?",
        response_1="x",
        response_2="bad",
        response_3="good",
        scores=[True, False, True],
        sampled_conflict_pairs=[[2, 1]],
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_a_layout_becomes_an_item(name):
    (item,) = parse_items(ONE[name])
    assert item.query == "Why?" and sorted(item.responses) == ["bad", "good"]
    assert item.responses[item.best] == "good"
    if item.quality:
        assert preference.best_of(item.quality) == item.best
    (record,) = parse_records(ONE[name], "file:mine")
    assert preference.parse_item(record).best == item.best
    assert record["task"] == "preference"
    assert record["domain"] == ("math-prm" if name == "RewardBench" else "mine")


def test_strength_ratings_and_subsets_are_kept():
    assert [parse_items(ONE["HelpSteer2"])[0].strength for _ in "x"] == ["better"]
    for strength, words in ((1, "slightly better"), (-3, "much better")):
        row = ONE["HelpSteer3"] | {"overall_preference": strength, "domain": "code"}
        (item,) = parse_items(row)
        assert (item.best, item.strength, item.domain) == (int(strength > 0), words, "code")
    (item,) = parse_items(ONE["UltraFeedback, aspects"])
    assert item.quality == (4.5, 4.0)
    scores = dict(zip(*(getattr(parse_items(ONE["UltraFeedback binarized"])[0], name)
                        for name in ("responses", "quality")), strict=True))  # fmt: skip
    assert scores == {"good": 8.5, "bad": 7.0}


def test_a_conversation_keeps_its_turns():
    row = dict(chosen=[*TALK, answer("good")], rejected=[*TALK, answer("bad")], source="chat")
    (item,) = parse_items(row)
    assert (item.query, list(item.messages), item.domain) == ("Why?", TALK, "chat")
    spelled = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhy?"
    (item,) = parse_items(ONE["HelpSteer2"] | {"prompt": spelled})
    assert list(item.messages) == TALK
    (item,) = parse_items(ONE["HelpSteer3"] | {"context": TALK})
    assert list(item.messages) == TALK


def test_a_response_that_is_json_stays_text():
    for text in ('{"answer": 4}', "[1, 2]", '[{"role": "user", "content": "x"}]'):
        (item,) = parse_items(dict(prompt="Why?", chosen=text, rejected="bad"))
        assert item.responses[item.best] == text


def test_several_losers_and_several_pairs():
    row = ONE["RMB best of n"] | {"loser_list": [{"answer": x} for x in ("bad", "worse")]}
    (item,) = parse_items(row)
    assert len(item.responses) == 3 and item.responses[item.best] == "good"
    row = ONE["PPE correctness"] | {"sampled_conflict_pairs": [[2, 1], [1, 0]]}
    first, second = parse_items(row)
    assert first.responses == ("good", "bad") and second.responses == ("bad", "x")
    assert (first.best, second.best) == (0, 1)
    assert len({record["key"] for record in parse_records(row, "file:x")}) == 2


@pytest.mark.parametrize(
    "row, best",
    [
        (dict(input="Do it.", llm_response="done", label="no_error"), 1),
        (dict(input="Do it.", llm_response="done", error_label="error"), 0),
        (dict(prompt="Do it.", completion="done", label=True), 1),
        (dict(prompt=[user("Do it.")], completion=[answer("done")], label=False), 0),
    ],
)
def test_one_response_is_right_or_wrong(row, best):
    (item,) = parse_items(row)
    assert (item.query, item.responses, item.best) == ("Do it.", ("done",), best)


def test_the_place_of_the_best_depends_on_the_texts_alone():
    rows = [dict(prompt="Why?", chosen=f"good {i}", rejected=f"bad {i}") for i in range(400)]
    places = [parse_items(row)[0].best for row in rows]
    assert 150 < sum(places) < 250
    assert places == [parse_items(row)[0].best for row in rows]


PAIR = ONE["text"]
UNRANKED = {
    "equal": PAIR | {"rejected": "good"},
    "empty": PAIR | {"rejected": " "},
    "tied scores": ONE["UltraFeedback binarized"] | {"score_rejected": 8.5},
    "same": ONE["HelpSteer2"] | {"preference_strength": 0},
    "tied ratings": dict(
        instruction="Why?",
        completions=[{"response": x, "overall_score": 5} for x in ("a", "b")],
    ),
    "battle": ONE["PPE"] | {"winner": "tie (bothbad)"},
    "several right": dict(prompt="Why?", chosen=["a", "b"], rejected=["c"], num_correct=2),
    "equal scores": ONE["PPE correctness"] | {"sampled_conflict_pairs": [[0, 2]]},
}
REFUSED = {
    "one": (dict(prompt="Why?", chosen="a", rejected=[]), "one response and nothing says"),
    "one completion": (
        dict(instruction="Why?", completions=[{"response": "a", "score": 1}]),
        "at least two",
    ),
    "no losers": (ONE["RMB best of n"] | {"loser_list": []}, "list of responses"),
    "no prompt": (dict(chosen="a", rejected="b"), "no prompt"),
    "no score": (dict(instruction="Why?", completions=[{"response": "a"}] * 2), "no score"),
    "NaN": (
        dict(instruction="Why?", completions=[{"response": "a", "score": "N/A"}] * 2),
        "'N/A', not a number",
    ),
    "wrong way round": (ONE["UltraFeedback binarized"] | {"score_rejected": 9}, "greater score"),
    "other prompt": (ONE["UltraFeedback binarized"] | {"prompt": "How?"}, "prompt is not the one"),
    "other talk": (
        dict(chosen=[user("a"), answer("x")], rejected=[user("b"), answer("y")]),
        "differ before",
    ),
    "a user's": (dict(chosen=[user("a"), user("x")], rejected=[user("a"), user("y")]), "role"),
    "strength": (ONE["HelpSteer2"] | {"preference_strength": 7}, "from -3 to 3"),
    "half a strength": (ONE["HelpSteer2"] | {"preference_strength": 1.5}, "from -3 to 3"),
    "winner": (ONE["PPE"] | {"winner": "a"}, "not model_a"),
    "pair": (ONE["PPE correctness"] | {"sampled_conflict_pairs": [[0, 7]]}, "no score"),
    "label": (dict(input="Do it.", llm_response="done", label="maybe"), "neither right nor wrong"),
    "number": (PAIR | {"chosen": 4}, "must be text, not int"),
    "NUL": (PAIR | {"chosen": "a\0"}, "NUL"),
    "surrogate": (PAIR | {"chosen": "\ud800"}, "not Unicode"),
    "template mark": (PAIR | {"rejected": "\ufdd0"}, "U\\+FDD0"),
    "system last": (PAIR | {"prompt": [{"role": "system", "content": "x"}]}, "end with a user"),
}


@pytest.mark.parametrize("name", UNRANKED)
def test_rows_that_rank_nothing_are_refused_or_dropped_on_demand(name, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(UNRANKED[name]) + "\n")
    with pytest.raises(preference.UnrankedError, match="^(it|two) "):
        parse_items(UNRANKED[name])
    with pytest.raises(ValueError, match="mine.jsonl, line 2: (it|two) "):
        list(files.load_records(path, "file:mine"))
    assert len(list(files.load_records(path, "file:mine", drop_unranked=True))) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_are_no_items_are_refused(name, tmp_path):
    row, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        parse_items(row)
    assert not isinstance(caught.value, preference.UnrankedError) and "\n" not in str(caught.value)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match="mine.jsonl, line 1: .*"):
        list(files.load_records(path, "file:mine", drop_unranked=True))


def test_problems_stay_problems():
    for row in (
        dict(prompt="Why?", completion="because", label="8"),
        dict(prompt="Why?", reward_model={"ground_truth": "8"}, chosen="a", rejected="b"),
        dict(question="Why?", answer="8", scores=[1]),
    ):
        (record,) = parse_records(row, "file:mine")
        assert record["task"] == "file:mine" and record["reference"] == "8"


def test_the_items_of_one_query_come_into_one_split(tmp_path):
    rows = [
        dict(prompt=f"Why {i}?", chosen=f"good {j}", rejected=f"bad {j}")
        for i in range(60)
        for j in range(3)
    ]
    more = [dict(prompt=f"Why {i}?", chosen="fine", rejected="awful") for i in range(60)]
    for name, part in (("a", rows), ("b", more), ("held", more[:5])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    mix = (
        SourceConfig(file=str(tmp_path / "a.jsonl"), weight=3.0),
        SourceConfig(
            file=str(tmp_path / "b.jsonl"), test_file=str(tmp_path / "held.jsonl"), weight=1.0
        ),
    )
    splits = sources.build_splits(DataConfig(sources=mix), {"sft": 40, "train": 40, "test": 8}, 0)
    queries = {name: {row["question"] for row in part} for name, part in splits.items()}
    assert {name: len(part) for name, part in splits.items()} == {"sft": 40, "train": 40, "test": 8}
    assert not queries["sft"] & queries["train"]
    assert not queries["test"] & (queries["sft"] | queries["train"])
    assert not {f"Why {i}?" for i in range(5)} & (queries["sft"] | queries["train"])
    assert len(queries["sft"]) < 40  # some queries have several items


def test_a_source_is_described_as_before_unless_it_drops(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PAIR))
    data = DataConfig(sources=(SourceConfig(file=str(path)),))
    (described,) = origin.compute_origin(data, {}, 0)["config"]["sources"]
    assert "unranked" not in described
    data = DataConfig(sources=(SourceConfig(file=str(path), unranked="drop"),))
    (described,) = origin.compute_origin(data, {}, 0)["config"]["sources"]
    assert described["unranked"] == "drop"
    with pytest.raises(ValueError, match="unranked belongs"):
        SourceConfig(gym="chain_sum", unranked="drop")
