"""The workspace: problems that fit, the tokenizer that fits."""

import json

import jax
import numpy as np
import pytest

from rlvr_jax import sharding
from rlvr_jax.config import (
    Config,
    DataConfig,
    EvaluateStage,
    MeshConfig,
    ModelConfig,
    RlStage,
    SourceConfig,
)
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.text import tokenizer
from rlvr_jax.stages.workspace import Workspace

SUMS = SourceConfig(
    gym="chain_sum", params=dict(min_terms=2, max_terms=3, min_digits=1, max_digits=1)
)
ASKS = (EvaluateStage(policy="pretrained", verifier=""),)
ASKED = len("State the final answer to the following arithmetic problem: 1 + 2 =") + 1


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(vocab=259, stages=ASKS, verifier=ModelConfig(), name="run", **data) -> Workspace:  # noqa: B008
        fields = dict(sources=(SUMS,), sft=0, label=0, train=40, test=8) | data
        cfg = Config(
            name=name,
            runs=str(tmp_path),
            tokenizer="byte",
            data=DataConfig(**fields),
            model=ModelConfig(vocab=vocab),
            verifier=verifier,
            stages=stages,
        )
        mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
        for run in opened:
            run.unlock()  # as if its process had ended
        opened.append(Run(cfg))
        ws = Workspace(opened[-1], mesh)
        ws.write_problems()
        return ws

    return make


def test_problems_that_fit_are_all_there(make):
    ws = make(prompt_columns=ASKED + 10)
    assert len(ws.problems("train")) == 40 and not ws.dropped
    assert ws.columns([ws.problems("train")[0]]).prompt_QP.shape == (1, ASKED + 10)


def test_problems_that_are_too_long_are_refused(make):
    words = f"raise data.prompt_columns to at least {ASKED + 4}, or set data.too_long: drop"
    with pytest.raises(RunError, match=words):
        make(prompt_columns=ASKED).problems("train")


def test_problems_that_are_too_long_are_dropped_and_counted_when_asked(make):
    """Two terms fit, three do not."""
    ws = make(prompt_columns=ASKED, too_long="drop")
    kept = ws.problems("train")
    assert ws.dropped == {"train": 40 - len(kept)} and 0 < len(kept) < 40
    lengths = [len(ws.tokenizer.encode(kept[i]["question"])) + 1 for i in range(len(kept))]
    assert max(lengths) <= ASKED
    assert ws.problems("train") is kept, "the split is read and counted once"


def test_a_split_of_which_nothing_fits_is_refused(make):
    with pytest.raises(RunError, match="all 40 problems of split train.* drop leaves none: raise"):
        make(prompt_columns=5, too_long="drop").problems("train")


@pytest.mark.parametrize(
    "rule, tests",
    [("code", json.dumps(["assert f(1) == 2"])), ("json", json.dumps({"type": "object"}))],
)
@pytest.mark.parametrize("without, kept", [(1, 200), (3, None)])
def test_rows_without_tests_are_refused_above_one_percent(
    make, tmp_path, without, kept, rule, tests
):
    rows = [
        {"question": f"Write f number {i}.", "answer": "words" if i < without else tests}
        for i in range(200 + without if kept else 200)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    stages = (EvaluateStage(policy="pretrained", verifier="", rule=rule),)
    fields = dict(sources=(SourceConfig(file=str(path)),), train=0, test=len(rows))
    ws = make(stages=stages, prompt_columns=40, **fields)
    if kept:
        assert len(ws.problems("test")) == kept
        return
    with pytest.raises(
        RunError, match=f"3 of 200 problems cannot be graded; problem .* rule {rule} cannot grade"
    ):
        ws.problems("test")


def write_sums(path, answers) -> None:
    rows = [{"question": f"{i} + 1 =", "answer": str(answer)} for i, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def from_file(make, tmp_path):
    path = tmp_path / "sums.jsonl"
    write_sums(path, [9] * 60)

    def open_run() -> Workspace:
        return make(sources=(SourceConfig(file=str(path)),), train=20, test=4)

    return path, open_run


def origin(ws: Workspace):
    return ws.run.origin_file(ws.data)


def test_a_corrected_data_file_is_read(from_file):
    path, open_run = from_file
    ws = open_run()
    assert {ws.problems("train")[i]["reference"] for i in range(20)} == {"9"}
    (ws.run.folder / "stages").mkdir()
    ws.run.tokenizer_file.write_text("trained on the old text")
    write_sums(path, range(1, 61))
    ws = open_run()
    train = ws.problems("train")
    assert all(
        r["reference"] == str(int(r["question"].split()[0]) + 1) for r in dataset.each(train)
    )
    assert not ws.run.tokenizer_file.exists(), "what was made of the old problems goes with them"


def test_the_same_data_are_not_made_again(from_file):
    path, open_run = from_file
    before = origin(open_run()).stat().st_mtime_ns
    path.touch()
    assert origin(open_run()).stat().st_mtime_ns == before


def test_data_that_change_after_a_stage_began_are_refused_by_name(from_file):
    path, open_run = from_file
    ws = open_run()
    (ws.run.folder / "checkpoints" / "sft" / "step_000001").mkdir(parents=True)
    open_run()
    write_sums(path, range(1, 61))
    with pytest.raises(RunError, match=r"data file \S+sums.jsonl has changed since .* start over"):
        open_run()
    write_sums(path, [9] * 60)
    open_run()
    origin(ws).write_text("{")
    with pytest.raises(RunError, match="origin.json is damaged"):
        open_run()


def test_a_folder_without_an_origin_opens(from_file):
    """An older version wrote none: a run goes on if it has begun, else its problems are new."""
    path, open_run = from_file
    ws = open_run()
    origin(ws).unlink()
    write_sums(path, range(1, 61))
    assert open_run().problems("train")[0]["reference"] != "9"
    (ws.run.folder / "eval").mkdir()
    (ws.run.folder / "eval" / "before.json").write_text("{}")
    origin(ws).unlink()
    write_sums(path, [9] * 60)
    assert open_run().problems("train")[0]["reference"] != "9"
    assert not origin(ws).exists()


def test_a_tokenizer_larger_than_the_model_is_refused(make):
    with pytest.raises(RunError, match="has 259 pieces and model.vocab is 258"):
        _ = make(vocab=258).tokenizer


def test_a_model_may_have_more_tokens_than_the_tokenizer(make):
    ws = make(vocab=300)
    assert ws.tokenizer.vocab == 259
    verdict = ws.verdict()
    assert verdict.control_V.shape == (300,) and np.all(verdict.control_V[259:])


def test_a_verifier_with_another_tokenizer_is_refused(make, tmp_path):
    """Equal vocabularies do not make equal ids."""
    folder = tmp_path / "verifier"
    texts = [f"What is {a} + {b}?" for a in range(30) for b in range(30)]
    folder.mkdir()
    tokenizer.train(texts, 300, folder / "tokenizer.model")
    judged = (RlStage(policy="pretrained", verifier="pretrained"),)
    with pytest.raises(RunError, match="gives other ids than the policy's"):
        _ = make(300, judged, ModelConfig(vocab=300, weights=str(folder))).verifier_prompt
    (folder / "tokenizer.model").unlink()
    ws = make(300, judged, ModelConfig(vocab=300, weights=str(folder)), "b")
    assert ws.judge_tokenizer is ws.tokenizer, "a verifier without a tokenizer: nothing to compare"


def test_a_verifier_speaks_through_the_chat_template_beside_its_weights(make, tmp_path):
    folder = tmp_path / "verifier"
    folder.mkdir()
    judged = (RlStage(policy="pretrained", verifier="pretrained"),)
    verifier = ModelConfig(vocab=300, weights=str(folder))
    record = {"question": "1 + 1?", "reference": "2", "messages": ""}
    tokenizer.open_tokenizer("byte").save(folder)
    framed = make(300, judged, verifier)
    [(before, after)] = framed.verifier_prompt.around(record)
    said = "".join(framed.tokenizer.pieces([*before, *after]))
    assert said.count("<|im_start|>assistant") == 7, "six examples, and the turn of the verdict"
    assert framed.encode_prompt(record) == framed.tokenizer.raw_prompt("1 + 1?\n")
    plain = make(300, judged, ModelConfig(vocab=300), "b")
    [(before, after)] = plain.verifier_prompt.around(record)
    assert plain.tokenizer.decode([*before, *after]) == "1 + 1?\nReference: 2\nAnswer: \nCorrect:"
