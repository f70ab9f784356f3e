"""Sources: every layout is read, every bad row is named, and mixes are disjoint and repeatable."""

import collections
import json
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rlvr_jax.config import DataConfig
from rlvr_jax.config.data import COLUMNS
from rlvr_jax.host.problems import dataset, sources, task_answers
from rlvr_jax.host.problems.sources import downloads, files, layouts, toy

SYSTEM = {"role": "system", "content": "Think first."}


def source(**changes):
    empty = {"gym": "", "params": {}, "file": "", "test_file": "", "tfds": "", "folder": ""}
    other = {
        "weight": 1.0,
        "domain": "",
        "unranked": "refuse",
        "suffix": "",
        "splits": (),
        "hub": "",
        "test_split": "",
        "columns": {},
    }
    return SimpleNamespace(**empty | other | changes)


def user(text):
    return {"role": "user", "content": text}


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def plain(count, start=0):
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(start, count)]


def read(path):
    return list(files.load_records(path, "file:mine"))


# -- layouts ------------------------------------------------------------------------------------

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [SYSTEM, user("2 + 2?")],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 7},
}
# row -> what its record says
LAYOUTS = {
    "verl": (
        VERL,
        {"question": "2 + 2?", "reference": "4", "domain": "openai/gsm8k"}
        | {"messages": json.dumps([SYSTEM, user("2 + 2?")])}
        | {"extra": json.dumps({"split": "train", "index": 7, "ability": "math"})},
    ),
    "verl, text and number": (
        {"prompt": "2 + 2?", "reward_model": {"ground_truth": 4}, "ability": "math"},
        {"question": "2 + 2?", "reference": "4", "domain": "math", "messages": ""},
    ),
    "verl, list": (
        VERL | {"reward_model": {"ground_truth": ["4", "four"]}},
        {"reference": "4"},
    ),
    "verl, flat": (
        {"prompt": [user("2 + 2?")], "reward_model.ground_truth": "4", "reward_model.style": "r"}
        | {"extra_info.index": 3},
        {"question": "2 + 2?", "reference": "4", "domain": "mine", "extra": '{"index": 3}'},
    ),
    "work A": (
        {"query": [SYSTEM, user("Capital of France?")], "label": "Paris", "subject": "Geography"},
        {"question": "Capital of France?", "reference": "Paris", "domain": "Geography"}
        | {"messages": json.dumps([SYSTEM, user("Capital of France?")])},
    ),
    "open-instruct": (
        {"messages": [user("2 + 2?")], "ground_truth": ["4"], "dataset": ["gsm8k"]},
        {"question": "2 + 2?", "reference": "4", "domain": "gsm8k", "messages": ""},
    ),
    "open-instruct, answered": (
        {"messages": [user("2 + 2?"), {"role": "assistant", "content": "It is 4."}]}
        | {"ground_truth": "4"},
        {"question": "2 + 2?", "reference": "4", "demonstration": "It is 4.", "messages": ""},
    ),
    "TRL": (
        {"prompt": [user("a?"), {"role": "assistant", "content": "b"}, user("c?")]}
        | {"solution": r"So $\boxed{\frac{1}{2}}$."},
        {"question": "c?", "reference": r"\frac{1}{2}"}
        | {"demonstration": r"So $\boxed{\frac{1}{2}}$."},
    ),
    "TRL, ground_truth": ({"prompt": "a?", "ground_truth": 2.0}, {"reference": "2"}),
    "TRL, label": ({"prompt": "a?", "label": True}, {"reference": "true"}),
    "TRL, reference": ({"prompt": "a?", "reference": "x"}, {"reference": "x"}),
    "plain": (
        {"question": "a?", "answer": "b", "solution": "because b"},
        {"question": "a?", "reference": "b", "answer": "b", "demonstration": "because b"},
    ),
    "plain, gsm8k": (
        {"question": "a?", "answer": "1000 + 12 <<1000+12=1012>>\n#### 1,012"},
        {"reference": "1012", "demonstration": "1000 + 12 <<1000+12=1012>>\n#### 1,012"},
    ),
    "math": (
        {"problem": "a?", "solution": r"\boxed{3}", "type": "Algebra", "level": "Level 5"},
        {"question": "a?", "reference": "3", "domain": "Algebra"},
    ),
}


@pytest.mark.parametrize("write", [jsonl, parquet], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name, write):
    row, says = LAYOUTS[name]
    (record,) = read(write(tmp_path / ("mine." + write.__name__), [row]))
    assert set(record) == set(dataset.FIELDS)
    assert {field: record[field] for field in says} == says
    assert record["task"] == "file:mine"
    dataset.prepare(tmp_path / "out", {"train": [record]}, "toy")
    assert dataset.open_split(tmp_path / "out", "train")[0] == record


def test_json_arrays_objects_and_lines(tmp_path):
    path = tmp_path / "mine.json"
    for text in (json.dumps(plain(2), indent=1), "".join(json.dumps(r) + "\n" for r in plain(2))):
        path.write_text("\ufeff" + text, "utf-8")
        assert [r["reference"] for r in read(path)] == ["1", "2"]
    path.write_text(json.dumps(plain(1)[0], indent=1))
    assert [r["reference"] for r in read(path)] == ["1"]


def test_marks_line_ends_and_blank_lines_do_not_matter(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps(row | {"question": row["question"] + " \u00fc"}) for row in plain(3)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n \n")
    assert [r["reference"] for r in read(path)] == ["1", "2", "3"]


BAD = {
    "no reference": ({"question": "a?", "answer": None}, "no reference"),
    "blank reference": ({"question": "a?", "answer": " "}, "no reference"),
    "empty list": ({"question": "a?", "answer": []}, "no reference"),
    "empty prompt": ({"question": " ", "answer": "b"}, "not empty"),
    "no messages": ({"prompt": [], "answer": "b"}, "not empty"),
    "not a prompt": ({"prompt": 3, "answer": "b"}, "must be text or a list"),
    "last is system": ({"prompt": [user("a"), SYSTEM], "answer": "b"}, "end with a user"),
    "a role": ({"prompt": [{"role": "me", "content": "a"}], "answer": "b"}, "'me'"),
    "parts": ({"prompt": [{"role": "user", "content": ["a"]}], "answer": "b"}, "list"),
    "NUL": ({"question": "a\x00?", "answer": "b"}, "NUL"),
    "no character": ({"question": "a?", "answer": "\ufdd0"}, "U.FDD0"),
    "NUL before": ({"prompt": [user("\x00"), user("a")], "answer": "b"}, "NUL"),
    "columns": ({"text": "a", "meta": "b"}, "columns .text, meta. are no known layout"),
    "verl": ({"prompt": "a", "reward_model": {"style": "rule"}}, "no reference"),
}


OTHER = {"text": "2 + 2?", "info": {"gold": "4"}, "level": "easy", "answer": "no"}
# Rows that are a problem by themselves, or an item of preferences.
RIVALS = [
    {"prompt": "templated", "final_answer": "9", "data_source": "x"},
    {"prompt": "templated", "reward_model": {"ground_truth": "9"}, "type": "x"},
    {"query": "templated", "label": "9", "subject": "x"},
    {"messages": [user("templated")], "ground_truth": "9", "ability": "x"},
    {"prompt": "templated", "chosen": "9", "rejected": "8", "dataset": "x"},
]


@pytest.mark.parametrize("write", [jsonl, parquet], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("rival", [{}, *RIVALS])
def test_columns_that_a_source_names_stand_for_all_others(tmp_path, write, rival):
    path = write(tmp_path / ("mine." + write.__name__), [rival | OTHER])
    columns = {"question": "text", "answer": "info.gold", "domain": "level"}
    (row,) = sources.load_all(source(file=str(path), columns=columns))
    assert (row["question"], row["reference"], row["domain"]) == ("2 + 2?", "4", "easy")


def test_a_source_may_name_what_rows_are_read_for():
    assert {*COLUMNS} == layouts.NAMED.keys()


def test_a_column_that_is_not_there_is_named(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", [OTHER])
    for name, part in (("solution", "solution"), ("info.old", "old"), ("text.gold", "gold")):
        with pytest.raises(ValueError, match=f"line 1: .* names '{name}', and it has no '{part}'"):
            sources.load_all(source(file=str(path), columns={"answer": name}))


def test_a_solution_beside_the_answer_is_the_demonstration(tmp_path):
    rows = [{"q": "2 + 2?", "gold": "4", "how": "2 and 2 are 4", "solution": "other"}]
    path = jsonl(tmp_path / "mine.jsonl", rows)
    columns = {"question": "q", "answer": "gold"}
    (row,) = sources.load_all(source(file=str(path), columns=columns))
    assert (row["reference"], row["demonstration"]) == ("4", "other")
    (row,) = sources.load_all(source(file=str(path), columns=columns | {"solution": "how"}))
    assert (row["reference"], row["demonstration"]) == ("4", "2 and 2 are 4")


@pytest.mark.parametrize("write", [jsonl, parquet], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(tmp_path, name, write):
    row, message = BAD[name]
    path = write(tmp_path / ("mine." + write.__name__), [row, row])
    place = "line 1" if write is jsonl else "row 1"
    with pytest.raises(ValueError, match=message) as caught:
        sources.mix_sources([source(file=str(path))], {"train": 1}, 0)
    assert str(caught.value).startswith(f"{path}, {place}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"question": "a", "answer": "\xff"}', "line 2: byte 75 of the file is not UTF-8"),
        (b"{question: 1}", "line 2: not JSON"),
        (b'{"question": "a", "answer": "b"', "line 2: not JSON"),
        (b'{"question": "a", "answer": NaN}', "line 2: not JSON .NaN is not a number"),
        (b'{"question": "a", "answer": "\\ud800"}', "line 2: its reference is not Unicode"),
        (b"[1]", "line 2: a row must be an object, not list"),
        (b"\x00", "line 2: not JSON"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "line 2: not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    good = json.dumps(plain(1)[0]).encode()
    assert len(good) == 45
    path.write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_parquet_is_named(tmp_path):
    path = parquet(tmp_path / "mine.parquet", plain(3))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="mine.parquet is not readable parquet"):
        read(path)


def test_bad_text_in_parquet_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    raw = pyarrow.array([b"a", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"question": raw, "answer": ["1", "2"]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match="mine.parquet, row 2: not UTF-8"):
        read(tmp_path / "mine.parquet")


def test_parquet_without_its_package(tmp_path, monkeypatch):
    path = parquet(tmp_path / "mine.parquet", plain(3))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[parquet\]'"):
        sources.check_source(source(file=str(path)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"file": "nowhere.jsonl"}, "the file nowhere.jsonl is not there in "),
        ({"file": "a.csv"}, "must be one of .jsonl, .json, .parquet: convert it or rename it.$"),
        ({"file": "openai/gsm8k"}, "or write {hub: openai/gsm8k} for a data set of the hub"),
        ({"gym": "chain_sum", "test_file": "a.jsonl"}, "needs a `file`"),
        ({"file": "a.jsonl", "params": {"a": 1}}, "takes no params"),
        ({"tfds": "gsm"}, "did you mean 'gsm8k'"),
        ({"tfds": "zzzz"}, "take one of gsm8k, math"),
        ({"tfds": "gsm8k", "folder": "nowhere"}, "put train.jsonl and test.jsonl of github"),
        ({"gym": "chain_summ"}, "did you mean 'chain_sum'"),
        ({"gym": "polynomial_multiplication"}, "not known to be safe.*products"),
        ({"gym": "products", "params": {"digits": 3}}, "refuses .'digits': 3"),
        ({"gym": "products", "params": {"min_digits": 9}}, "max_digits must be >="),
        ({"gym": "products", "params": {"seed": 3}}, "set seed: leave it out"),
    ],
)
def test_check_refuses_early(changes, message):
    if "gym" in changes:
        pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match=message) as caught:
        sources.check_source(source(**changes))
    assert "\n" not in str(caught.value)


# -- mixes --------------------------------------------------------------------------------------


def refs(rows):
    return {row["reference"] for row in rows}


def keys(rows):
    return {row["key"] for row in rows}


def test_one_function_builds_the_splits_of_sources_and_of_tasks(tmp_path):
    counts = {"sft": 20, "train": 12}
    mix = (source(file=str(jsonl(tmp_path / "a.jsonl", plain(200)))),)
    data = SimpleNamespace(sources=mix, tasks=(), demonstration_errors=0.5)
    assert sources.build_splits(data, counts, 3) == sources.mix_sources(mix, counts, 3)
    pytest.importorskip("reasoning_gym")
    data = DataConfig(tasks=("sum", "legs"), demonstration_errors=0.5)
    built = sources.build_splits(data, counts, 3)
    generated, rng = toy.generate_splits(data.tasks, counts, 3), random.Random(3)
    assert built["train"] == generated["train"]
    for row, plain_row in zip(built["sft"], generated["sft"], strict=True):
        text = task_answers.demonstrate(plain_row, 0.5, rng)
        assert row == plain_row | {"demonstration": text}
    right = sum(task_answers.score(row["demonstration"], row) for row in built["sft"])
    assert 0 < right < 20


def test_a_file_is_split_by_its_problems(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", plain(200))
    counts = {"sft": 20, "train": 60, "test": 20}
    out = sources.mix_sources([source(file=str(path))], counts, 0)
    assert {split: len(rows) for split, rows in out.items()} == counts
    everything = [row["key"] for rows in out.values() for row in rows]
    assert len(set(everything)) == 100
    assert out == sources.mix_sources([source(file=str(path))], counts, 0)
    other = sources.mix_sources([source(file=str(path))], counts, 1)
    assert other != out
    for a in counts:
        for b in set(counts) - {a}:
            assert not keys(out[a]) & keys(other[b])  # no seed moves a problem


def test_held_out_problems_are_in_no_other_split(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", plain(100))
    test = jsonl(tmp_path / "test.jsonl", plain(140, start=80))
    more = jsonl(tmp_path / "more.jsonl", plain(300, start=100))
    mix = [source(file=str(train), test_file=str(test)), source(file=str(more))]
    for counts in ({"train": 100, "test": 40}, {"train": 100}):
        out = sources.mix_sources(mix, counts, 0)
        mine = [row for row in out["train"] if row["task"] == "file:train"]
        assert refs(mine) <= {str(i) for i in range(1, 81)} and len(mine) == 50
        assert not refs(out["train"]) & {str(i) for i in range(81, 141)}
    tested = [row for row in sources.mix_sources(mix, {"test": 40}, 0)["test"]]
    assert len([row for row in tested if 81 <= int(row["reference"]) <= 140]) >= 20


def test_repeats_and_rewordings_of_case_and_space_are_one_problem(tmp_path):
    rows = plain(9) + [{"question": f"  WHAT is  {i} + 1?", "answer": "0"} for i in range(9)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert len(keys(sources.mix_sources([source(file=str(path))], {"train": 9}, 0)["train"])) == 9
    message = "a.jsonl has too few distinct problems: 9 of 10 for the split 'train'"
    with pytest.raises(ValueError, match=message):
        sources.mix_sources([source(file=str(path))], {"train": 10}, 0)
    with pytest.raises(ValueError, match="non-empty list"):
        sources.mix_sources([], {"train": 1}, 0)


def test_weights_round_by_largest_remainder():
    assert sources._shares(10, [1, 1, 1]) == [4, 3, 3]
    assert sources._shares(7, [0.5, 3, 1]) == [1, 5, 1]
    assert sources._shares(0, [1, 2]) == [0, 0]
    for n in range(40):
        parts = sources._shares(n, [0.1, 0.2, 0.7, 1e-9])
        assert sum(parts) == n and parts[3] <= 1


def test_weights_domains_and_suffix(tmp_path):
    a = jsonl(tmp_path / "a.jsonl", [VERL | {"prompt": [SYSTEM, user(f"{i}?")]} for i in range(99)])
    b = jsonl(tmp_path / "b.jsonl", plain(99))
    mix = [source(file=str(a), weight=3.0, suffix="Answer with a number.")]
    mix += [source(file=str(b), domain="sums", suffix="\n\nBriefly.")]
    rows = sources.mix_sources(mix, {"train": 40, "test": 8}, 0)
    for split, share in (("train", 10), ("test", 2)):
        tasks = collections.Counter(row["task"] for row in rows[split])
        assert tasks == {"file:a": 3 * share, "file:b": share}
    for row in rows["train"]:
        if row["task"] == "file:a":
            assert row["question"].endswith("? Answer with a number.")
            assert json.loads(row["messages"]) == [SYSTEM, user(row["question"])]
            assert row["domain"] == "openai/gsm8k"
        else:
            assert row["question"].endswith("?\n\nBriefly.")
            assert (row["messages"], row["domain"]) == ("", "sums")
    bare = sources.mix_sources([source(file=str(b))], {"train": 9}, 0)["train"]
    asked = sources.mix_sources([source(file=str(b), suffix="x")], {"train": 9}, 0)["train"]
    assert [row["key"] for row in bare] == [row["key"] for row in asked]  # wording is no problem


# -- reasoning-gym ------------------------------------------------------------------------------

DIGITS = {"min_digits": 1, "max_digits": 1}


def gym_mix():
    pytest.importorskip("reasoning_gym")
    return [
        source(gym="products", params=DIGITS, weight=0.5),
        source(gym="chain_sum", params=DIGITS | {"min_terms": 2, "max_terms": 3}),
        source(gym="gcd", params={"max_value": 30}, domain="number theory"),
        source(gym="letter_counting", params={"min_words": 2, "max_words": 4}, suffix="A number."),
    ]


def test_gym_mix():
    from rlvr_jax.host import rules

    counts = {"train": 210, "test": 35}
    out = sources.mix_sources(gym_mix(), counts, 0)
    rows = out["train"] + out["test"]
    assert len(keys(rows)) == len(rows) == 245
    tasks = collections.Counter(row["task"] for row in rows)
    assert tasks == {"gym:products": 35} | {
        f"gym:{name}": 70 for name in ("chain_sum", "gcd", "letter_counting")
    }
    assert {row["domain"] for row in rows} >= {"products", "number theory", "letter_counting"}
    for row in rows:
        assert rules.score_record(f"2 steps\n{row['answer']}", row) == 1.0
        assert rules.score_record(f"{row['answer']} or 99999", row) == 0.0
        assert json.loads(row["extra"])["metadata"]["source_dataset"] in row["task"]
    assert sources.mix_sources(gym_mix(), counts, 1) != out
    other = sources.mix_sources(gym_mix(), counts, 1)
    assert not keys(out["train"]) & keys(other["test"])


def test_gym_mix_is_the_same_in_another_process():
    mix = gym_mix()
    here = json.dumps(sources.mix_sources(mix, {"train": 20, "test": 8}, 3))
    code = (
        "import sys, json; from types import SimpleNamespace\n"
        f"sys.path[:0] = {[entry for entry in sys.path if entry]!r}\n"
        "from rlvr_jax.host.problems import sources\n"
        f"mix = [SimpleNamespace(**each) for each in {[vars(each) for each in mix]!r}]\n"
        "sys.stdout.write(json.dumps(sources.mix_sources(mix, {'train': 20, 'test': 8}, 3)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert run.stdout == here


def test_a_tiny_split_is_waited_for():
    pytest.importorskip("reasoning_gym")
    counts = {"train": 9000, "test": 1}
    out = sources.mix_sources([source(gym="chain_sum", params={"max_terms": 3})], counts, 2)
    assert {split: len(rows) for split, rows in out.items()} == counts


def test_a_small_gym_set_runs_out_in_words():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match="'products' has too few distinct problems: "):
        sources.mix_sources([source(gym="products", params=DIGITS)], {"train": 101}, 0)


# -- downloaded data sets -----------------------------------------------------------------------


def gsm8k(i):
    return {"question": f"Ann has {i} eggs?", "answer": f"She has <<{i}={i}>>{i}.\n#### {i},000"}


def math_row(i):
    box = rf"\boxed{{\frac{{{i}}}{{7}}}}"
    return {"problem": f"Find {i}/7.", "level": "Level 1", "type": "Algebra", "solution": box}


def subject(i):
    return {"query": [SYSTEM, user(f"Who was {i}?")], "label": f"No {i}", "subject": "History"}


def eurus(i):
    code = {"ability": "code", "reward_model": {"ground_truth": '{"inputs": []}'}}
    row = VERL | {"data_source": "numina_olympiads", "prompt": [SYSTEM, user(f"Prove {i}.")]}
    return row | code if i % 3 == 0 else row | {"reward_model": {"ground_truth": f"x_{i}"}}


def tree(folder, rows):
    for i, row in enumerate(rows):
        path = folder / ("algebra" if i % 2 else "geometry") / f"{i}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row, indent=1))


def shards(folder, split, rows):
    for i in range(2):
        parquet(folder / f"{split}-0000{i}-of-00002.parquet", rows[i::2])


SETS = {
    "gsm8k": (gsm8k, {"reference": "15000", "domain": "gsm8k", "messages": ""}),
    "math": (math_row, {"reference": r"\frac{15}{7}", "domain": "Algebra"}),
    "multi_subject_rlvr": (subject, {"reference": "No 15", "domain": "History"}),
    "math_rlvr": (subject, {"reference": "No 15", "question": "Who was 15?"}),
    "eurus_2_rl_data": (eurus, {"reference": "x_16", "domain": "numina_olympiads"}),
}


def lay_out(folder, name, parts):
    """The files as they are downloaded: from the authors, or from the hub."""
    make, _ = SETS[name]
    for split, (start, end) in parts.items():
        rows = [make(i) for i in range(start, end)]
        called = "validation" if name.startswith("eurus") and split == "test" else split
        if name == "gsm8k":
            jsonl(folder / f"{called}.jsonl", rows)
        elif name == "math":
            tree(folder / "math" / called, rows)
        else:
            shards(folder / "data", called, rows)


@pytest.mark.parametrize("name", SETS)
def test_downloads(tmp_path, name):
    lay_out(tmp_path, name, {"train": (0, 30), "test": (15, 18)})
    out = sources.mix_sources(
        [source(tfds=name, folder=str(tmp_path))], {"train": 12, "test": 2}, 0
    )
    held = list(downloads.load_records(name, tmp_path, "test"))
    assert keys(out["test"]) <= keys(held) and not keys(out["train"]) & keys(held)
    assert {row["task"] for row in out["train"] + out["test"]} == {f"tfds:{name}"}
    says = SETS[name][1]
    assert says in [{field: row[field] for field in says} for row in held]
    assert len(held) == (2 if name.startswith("eurus") else 3)  # programs are left out


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_downloads_from_the_hub(tmp_path, name):
    make, folder = SETS[name][0], "main" if name == "gsm8k" else "algebra"
    for split in ("train", "test"):
        shards(tmp_path / name / folder, split, [make(i) for i in range(4)])
    assert len(list(downloads.load_records(name, tmp_path, "train"))) == 4


def test_missing_downloads_say_what_to_put_where(tmp_path):
    jsonl(tmp_path / "train.jsonl", [gsm8k(1)])
    with pytest.raises(ValueError, match=f"no 'test' files of gsm8k in {tmp_path} .*test.jsonl"):
        sources.check_source(source(tfds="gsm8k", folder=str(tmp_path)))
    shards(tmp_path / "data", "train", [subject(i) for i in range(4)])
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="data has 1 of 2 files like train-00001"):
        downloads.check_download("math_rlvr", tmp_path)


def test_a_release_may_have_few_unusable_rows(tmp_path):
    rows = [gsm8k(i) for i in range(200)]
    path = jsonl(tmp_path / "train.jsonl", rows + [{"question": "a?", "answer": "no end"}] * 2)
    assert len(list(downloads.load_records("gsm8k", tmp_path, "train"))) == 200
    jsonl(path, rows[:9] + [{"question": "a?", "answer": "no end"}])
    with pytest.raises(ValueError, match="1 of 10 rows .* line 10: its answer has no final line"):
        list(downloads.load_records("gsm8k", tmp_path, "train"))
    tree(tmp_path / "math" / "train", [math_row(1) | {"solution": "3"}])
    with pytest.raises(ValueError, match=r"0.json: its solution has no .boxed"):
        list(downloads.load_records("math", tmp_path, "train"))


@pytest.mark.parametrize("name", SETS)
def test_tfds_builders(tmp_path, name):
    import tensorflow_datasets as tfds

    lay_out(tmp_path / "manual", name, {"train": (0, 7), "test": (15, 18)})
    builder = downloads.builder(name, data_dir=tmp_path / "out")
    offline = tfds.download.DownloadConfig(
        manual_dir=tmp_path / "manual", try_download_gcs=False, register_checksums=False
    )
    builder.download_and_prepare(download_dir=tmp_path / "cache", download_config=offline)
    rows = dataset.open_split(tmp_path / "out", "train")
    assert list(dataset.each(rows)) == list(
        downloads.load_records(name, tmp_path / "manual", "train")
    )
    assert type(tfds.builder(f"rlvr_{name}", data_dir=tmp_path)) is type(builder)
    assert list((tmp_path / "out").rglob("*.array_record*"))
    with pytest.raises(ValueError, match="did you mean"):
        downloads.builder(name + "s")


# -- a part of a split --------------------------------------------------------------------------


def test_keep_is_a_view():
    rows = [dict.fromkeys(dataset.FIELDS, str(i)) for i in range(9)]
    part = dataset.keep(rows, [5, 0, 8])
    assert [row["key"] for row in dataset.each(part)] == ["5", "0", "8"]
    assert len(part) == 3 and part[-1]["key"] == "8"
    assert sorted(row["key"] for row in next(dataset.batches(part, 3, 0))) == ["0", "5", "8"]
    with pytest.raises(IndexError):
        part[3]
    for bad in ([9], [-1], [1, 1]):
        with pytest.raises(ValueError, match="distinct and at least 0 and below 9"):
            dataset.keep(rows, bad)


@pytest.mark.parametrize(
    "row, reference",
    [
        ({"answer": r"\boxed{5}"}, "5"),
        ({"answer": "#### 1,000"}, "1000"),
        ({"solution": r"It is \boxed{7}.", "final_answer": "7"}, "7"),
        ({"answer": '["34"]'}, "34"),
        ({"answer": "[1, 2]"}, "[1, 2]"),
        ({"answer": ["34"]}, "34"),
        ({"answer": ["34", "thirty-four"]}, "34"),
        ({"answer": [[1, 2], [3]]}, "[[1, 2], [3]]"),
        ({"answer": [{"a": 1}, {"b": 2}]}, '[{"a": 1}, {"b": 2}]'),
    ],
)
def test_references_as_data_sets_write_them(row, reference):
    assert files.parse_record({"question": "q?"} | row, "file:x")["reference"] == reference


def test_a_reference_that_is_an_object_is_refused():
    with pytest.raises(ValueError, match="its reference is an object"):
        files.parse_record({"question": "q?", "answer": {"target": ["Paris"]}}, "file:x")


def test_half_a_surrogate_in_a_question_is_named():
    with pytest.raises(ValueError, match="its prompt is not Unicode"):
        files.parse_record({"question": "q\ud800", "answer": "1"}, "file:x")


# -- all that is there --------------------------------------------------------------------------


def test_all_of_a_file_is_dealt_and_numbers_are_exact(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", plain(200))
    counts = {"train": "all", "test": "all"}
    splits = sources.mix_sources([source(file=str(path))], counts, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 182, "test": 18}
    keys = {row["key"] for rows in splits.values() for row in rows}
    assert len(keys) == 200
    again = sources.mix_sources([source(file=str(path))], counts, seed=5)
    for name, rows in splits.items():  # a seed orders problems and moves none
        assert sorted(x["key"] for x in rows) == sorted(x["key"] for x in again[name])
        assert rows != again[name]
    counts = {"sft": 30, "train": "all", "test": 50}
    splits = sources.mix_sources([source(file=str(path))], counts, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "sft": 30,
        "train": 120,
        "test": 50,
    }


def test_all_of_a_large_file_leaves_few_for_tests_and_all_of_a_file_of_tests(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", plain(9000))
    tests = jsonl(tmp_path / "tests.jsonl", plain(9700, 8999))
    counts = {"train": "all", "test": "all"}
    splits = sources.mix_sources([source(file=str(path))], counts, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8600, "test": 400}
    whole = [source(file=str(path), test_file=str(tests))]
    splits = sources.mix_sources(whole, counts, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8999, "test": 701}


def test_what_a_file_does_not_have_is_said(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", plain(20))
    for counts in ({"train": 20, "test": "all"}, {"train": 30, "test": "all"}):
        with pytest.raises(
            ValueError, match="too few distinct problems: 20, .* lower data.train, or"
        ):
            sources.mix_sources([source(file=str(path))], counts, seed=0)
    pair = [source(file=str(path)), source(gym="chain_sum", params={})]
    with pytest.raises(ValueError, match="data.train is all, and reasoning-gym's .* give a number"):
        sources.mix_sources(pair, {"train": "all"}, seed=0)
