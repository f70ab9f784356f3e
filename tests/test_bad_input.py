"""Mistakes of users of the field: each ends in one sentence that says what to do, exit code 2.

The mistakes are in tables, tried in this process. What harms a run folder is in test_harm.py.
"""

import json
import re

import pytest
from make_tiny import TINY, assert_refused, plain, write

from rlvr_jax import train
from rlvr_jax.host import rules
from rlvr_jax.host.problems import sources
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.rules import user_file
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import check, own_rules

# ---- config and command line: refused before jax starts


def refuse(capsys, *argv: str) -> str:
    code = train.main(list(argv))
    seen = capsys.readouterr()
    said = plain(seen.err)
    assert_refused(code, said)
    assert "error:" not in seen.out
    return said


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rl.stepz=3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("modle.width=3", "unknown key 'modle'; did you mean 'model'?"),
        ("data.trian=3", "unknown key 'trian'; did you mean 'train'?"),
        ("rl.loss.kl_coeff=0", "unknown key 'kl_coeff'; did you mean 'kl_coef'?"),
        ("rl.steps=many", "steps: input should be a valid integer"),
        ("rl.steps=0", "steps must be at least 1, not 0"),
        ("model.width=[16]", "model.width: input should be a valid integer"),
        ("model=16", "model: input should be"),
        (
            "rl.reward.source=guess",
            "reward.source: input should be 'verifier', 'rule', 'rule_first', 'both', ",
        ),
        ("rl.sample.temperature=0", "greedy answers give nothing to learn"),
        ("rl.microbatches=3", "unknown key 'microbatches'"),
        ("model.kv_heads=3", "kv_heads 3 does not divide heads 2"),
        ("stages=[{stage: slf}]", "`stage: slf` is not a stage; did you mean 'sft'?"),
        ("stages=[sft]", "stages.0"),
        ("stages=[]", "stages is empty"),
        ("stages=rl", "stages"),
        ("stages=[{stage: sft}, {stage: sft}]", "two stages are named 'sft'"),
        ("data.tasks=[smu]", "unknown task 'smu'; did you mean 'sum'?"),
        ("data.tasks=[]", "the config names no problems"),
        ("data.train=-1", "train"),
        ("mesh.letters={X: []}", "'X' is not one of D, N, K, F, V"),
        ("mesh.data=0", "data must be at least 1"),
        ("steps", "not of the form key=value"),
        ("rl", "not of the form key=value"),
        ("rl=3", "name a key of the stage"),
        ("rl.steps=[", "not valid YAML"),
        ("name=", "name"),
        ("rl.steps=1" + "0" * 400, "not valid YAML"),
        ("sft.name=a/b", "name"),
        ("sft.name=..", "name"),
        ("rl.learning_rate=1e-5", "here it is `optim.lr` of a stage"),
        ("rl.num_generations=8", "here it is `samples` of an rl stage"),
        ("actor_rollout_ref.rollout.n=8", "here it is `samples` of an rl stage"),
        ("rl.max_completion_length=256", "here it is `data.response_columns`"),
        ("data.train_files=a.parquet", "list files in `data.sources`"),
        ("rl.kl_coef=0.1", "it is a key of a section: write loss.kl_coef"),
        ("steps=3", "it is a key of a stage: write it below `- stage: rl`"),
        ("model=some/model", "write `model: {weights: some/model}`"),
        ("rl.loss=grpo", "write `preset: grpo` in the stage"),
        ("data.sources=a.jsonl", "write `sources: [{file: a.jsonl}]`"),
        ("data.tasks=sum", "write `tasks: [sum]`"),
        ("rl.steps=1e3", "write 1000"),
        ("rl.steps=", "there is no value: give one"),
        ("name=7", 'write it in quotes, "7"'),
        ("data.chat=yes", "write true or false, not 'yes'"),
        ("rl.optim.lr=-1", "a finite lr >= 0"),
        ("rl.optim.lr=.nan", "a finite lr >= 0"),
        ("rl.optim.warmup=0.1", "valid integer"),
        ("rl.preset=drgrpo", "there is no preset 'drgrpo'; did you mean 'dr_grpo'?"),
        ("rl.advantage.baseline=gae", "here it is 'value'"),
        ("rl.reward={}", "no such stage: write `reward: {source: rule}`"),
        ("rl.reward.rule=mtah", "did you mean 'math'?"),
        ("model.weights=openai/gpt-oss-20b", "for a model of the hub, hub:OWNER/NAME"),
        ("tokenizer=tok.model", "nobody would read what stage tokenizer trains"),
        ("rl.samples=1", "needs samples of at least 2 per prompt"),
        ("rl.policy=rl", "list it before"),
        ("rl.reward.gates=[frmat]", "did you mean 'format'?"),
        ("data.response_columns=0", "response_columns must be at least 1"),
        ("model.kernels=cuda", "input should be 'auto', 'xla' or 'pallas'"),
        ("model.compute=bf16", "here it is 'bfloat16'"),
    ],
)
def test_override(override, sentence, tmp_path, capsys):
    config = write(tmp_path)
    said = refuse(capsys, "--config", str(config), override)
    assert sentence.lower() in said.lower()
    assert list(tmp_path.iterdir()) == [config], "a refused config leaves nothing behind"


def test_an_override_changes_one_thing(tmp_path):
    """`verifier: *size` is YAML for the same values, not for the same model."""
    config = tmp_path / "config.yaml"
    lines = ["model: &size {layers: 1, width: 16}", "verifier: *size"]
    config.write_text("\n".join([*lines, "stages: [{stage: tokenizer}]"]))
    cfg = settings.load(config, ["model.layers=2"])
    assert (cfg.model.layers, cfg.verifier.layers) == (2, 1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: [", "is not valid YAML"),
        (b"", "must hold a mapping"),
        (b"- a\n- b\n", "must hold a mapping"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        (b"name: demo\n", "stages is empty"),
        (b"name: demo\nname: demo\nstages: [{stage: tokenizer}]\n", "'name' is given twice"),
        (b"name: demo\nstages: [{stage: tokenizer}]\nmodle: {}\n", "unknown key"),
        (b"1: 2\nstages: [{stage: tokenizer}]\n", "1"),
        (b"stages: [{stage: [1]}]\n", "is not a stage"),
    ],
)
def test_config_file(content, sentence, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert sentence in refuse(capsys, "--config", str(path), f"runs={tmp_path}")


def test_config_file_that_cannot_be_read(tmp_path, capsys):
    assert "there is no config file" in refuse(capsys, "--config", str(tmp_path / "none.yaml"))
    assert "cannot read config" in refuse(capsys, "--config", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        train.main([])
    assert stop.value.code == 2 and "--config" in capsys.readouterr().err


# ---- files of problems


def rows(count=200, **columns) -> str:
    """Lines of JSON; {} in a text is the number of the row."""

    def value(i, x):
        return x.replace("{}", str(i)) if isinstance(x, str) else x

    return "".join(
        json.dumps({name: value(i, x) for name, x in columns.items()}) + "\n" for i in range(count)
    )


GOOD = rows(question="{} + 1?", answer="{}")
FEW = rows(120, question="{} + 1?", answer="{}")
USER = [{"role": "user", "content": "1 + 1?"}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.jsonl", None, "none.jsonl is not there: check the path"),
        ("folder.jsonl", "", "folder.jsonl is a folder: check the path"),
        ("a.csv", "question,answer\n1,2\n", "must be one of .jsonl, .json, .parquet: convert it"),
        ("a.jsonl.gz", GOOD, "must be one of .jsonl, .json, .parquet: convert it"),
        ("a.jsonl", "", "0 of 64 for the split 'sft'"),
        ("a.jsonl", GOOD[:1000], ": not JSON"),
        ("a.jsonl", "{'question': '1', 'answer': '2'}", "line 1: not JSON"),
        ("a.jsonl", GOOD + '{"question": "x", "answer": NaN}', "line 201: not JSON (NaN is not"),
        (
            "a.json",
            '{"train": []}',
            "columns (train) are no known layout: say which is the question and the answer",
        ),
        ("a.parquet", "no parquet", "is not readable parquet after row 0"),
        ("a.jsonl", '{"question": "\u00e9?"}'.encode("latin-1"), "is not UTF-8"),
        (
            "a.jsonl",
            rows(question="{}?"),
            "layout: say which is the answer, as `columns: {answer: COLUMN}`",
        ),
        ("a.jsonl", rows(answer="{}"), "say which is the question, as"),
        ("a.jsonl", rows(instruction="{}?", output="{}"), "(instruction, output) are no known"),
        ("a.jsonl", rows(messages=USER), "see the layouts in docs/data.md"),
        ("a.jsonl", rows(prompt=USER, data_source="x"), "(prompt, data_source) are no known"),
        ("a.jsonl", rows(prompt=USER, reward_model={}), "it has no reference answer: fill it in"),
        ("a.jsonl", rows(question="{}?", answer=None), "it has no reference answer: fill it in"),
        ("a.jsonl", rows(question="{}?", answer=""), "it has no reference answer"),
        ("a.jsonl", rows(question="", answer="{}"), "line 1: "),
        ("a.jsonl", rows(question="{}?", choices=["a", "b"], answer="C"), "none of its 2 options"),
        (
            "a.jsonl",
            rows(5, question="{}?", answer="{}"),
            "'sft' (a hash deals its 5 to the splits)",
        ),
        ("a.jsonl", rows(question="same?", answer="1"), "1 of 64 for the split 'sft'"),
        ("a.jsonl", FEW, "lower data.sft, data.label, data.train, data.test to "),
    ],
)
def test_file_of_problems(name, content, sentence, tmp_path):
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        build(tmp_path, path)
    said = str(error.value)
    assert sentence in said and str(path) in said and "\n" not in said


def build(folder, path, share=1.0) -> dict:
    """The splits of a file, with the counts of TINY or a share of them."""
    counts = {key: int(share * TINY["data"][key]) for key in ("sft", "label", "train", "test")}
    data = TINY["data"] | {"tasks": [], "sources": [{"file": str(path)}]} | counts
    cfg = settings.load(write(folder, data=data), [], None)
    check.check_config(cfg)
    return sources.build_splits(cfg.data, counts, 0)


def test_what_the_sentence_about_few_problems_proposes_is_enough(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(FEW)
    with pytest.raises(ValueError) as error:
        build(tmp_path, path)
    (percent,) = re.findall(r"to (\d+) %", str(error.value))
    build(tmp_path, path, int(percent) / 100)


# ---- reward files

IMPORTED = {  # what is wrong as soon as the file is read
    "def score(completion, record)\n    return 1.0": "SyntaxError: expected ':' (mine.py line 1)",
    "def score(completion, record):\nreturn 1.0": "(mine.py line 2)",
    "\0": "SyntaxError: source code string cannot contain null bytes",
    "import nonesuch\ndef score(c, r): return 1.0": "No module named 'nonesuch' (mine.py line 1)",
    "from . import x\ndef score(c, r): return 1.0": "attempted relative import",
    "\nx = {}['a']\ndef score(c, r): return 1.0": "KeyError: 'a' (mine.py line 2)",
    "import sys\nsys.exit(3)": "SystemExit: 3 (mine.py line 2)",
    "": "has no function score(completion, record)",
    "score = 1.0": "has no function score(completion, record)",
    "def reward(completion, record): return 1.0": "record): give reward this name",
    "def score(completion): return 1.0": "score(completion) cannot be called as score(completion",
    "def score(c, r, other): return 1.0": "cannot be called as score(completion, record)",
    "async def score(completion, record): return 1.0": "score is `async`",
    "def a(completions): ...\ndef b(completions): ...": "several of TRL's form: a, b",
}


@pytest.mark.parametrize("text", IMPORTED)
def test_reward_file_that_cannot_be_read(text, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    score, status, said = user_file.check(str(path))
    assert (score, status) == (0.0, "error")
    assert IMPORTED[text] in said and f"the rule {path}" in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import os\nos._exit(0)", "cannot be imported: its worker died"),
        ("while True: pass", "is not imported after 0.5 s of processor time"),
        ("x = 1 / 0", "cannot be imported: ZeroDivisionError: division by zero (mine.py line 1)"),
    ],
)
def test_reward_file_that_does_harm_when_it_is_read(text, sentence, tmp_path, capsys, monkeypatch):
    """The whole command: the file is imported in a process that can be killed."""
    monkeypatch.setattr(rules, "IMPORT_SECONDS", 0.5)
    (tmp_path / "mine.py").write_text(text)
    config = write(tmp_path)
    code = train.main(["--config", str(config), f"rl.reward.rule={tmp_path}/mine.py"])
    said = plain(capsys.readouterr().err)
    assert code == 2 and said.count("error:") == 1 and "Traceback" not in said
    assert sentence in said and not (tmp_path / "tiny").exists()


ROW = "def score(completion, record):\n    return "
LIST = "def score_all(completions, **columns):\n    return "
TRIED = {  # what is wrong when it is called
    ROW + "record['ground_truth']": "failed, KeyError: 'ground_truth' (mine.py line 2): mend it",
    ROW + "record['nonesuch']": "a record has the keys ",
    ROW + "__import__('json').loads('{')": "(mine.py line 2): mend it, or set reward.on_error",
    ROW + "float(open('answers.json').read())": "No such file or directory: 'answers.json'",
    ROW + "score(completion, record)": "RecursionError: maximum recursion depth exceeded",
    ROW + "None": "it returned None, which is no number",
    ROW + "'1.0'": "it returned '1.0', which is no number",
    ROW + "(1.0, 'ok')": "it returned (1.0, 'ok'), which is no number",
    ROW + "[1.0]": "it returned [1.0], which is no number",
    ROW + "(yield)": "it returned <generator object score",
    ROW + "float('nan')": "the score nan is not in [0, 1], and would count as 0: scale it",
    ROW + "5": "the score 5.0 is not in [0, 1], and would count as 0: scale it",
    ROW + "-1": "the score -1.0 is not in [0, 1]",
    LIST + "[1.0, 0.0]": "it returned [1.0, 0.0], not a list of one number per completion",
    LIST + "1.0": "it returned 1.0, not a list of one number per completion",
    LIST + "[c[0]['content'] for c in completions]": "a text here, not a list of messages",
    "def f(completions, nonesuch): return [1.0]": "it wants 'nonesuch', and there are only ",
    "def compute_score(solution_str, ground_truth): return {}": "a dict without `score`",
    ROW + "__import__('os')._exit(1)": "crashed, its worker died: it must neither end its process",
    ROW + "len('x' * 10**11)": "crashed, MemoryError (mine.py line 2)",
    ROW + "[0 for _ in iter(int, 1)]": "was not done after 0.4 s of processor time: mend a loop",
}


@pytest.fixture(scope="module")
def workers():
    with pool.Pool(1, 0.4) as workers:
        yield workers


@pytest.fixture(scope="module")
def records():
    rows = [{"question": f"{i} + 2?", "answer": str(i)} for i in (1, 2)]
    return [files.parse_record(row, "file:a") for row in rows]


def use(path, stops=True) -> own_rules.Use:
    return own_rules.Use(str(path), "train", 0.4, stops)


@pytest.mark.parametrize("text", TRIED)
def test_reward_file_that_fails_on_the_first_row(text, tmp_path, workers, records):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(RunError) as error:
        own_rules.try_rule(use(path), records, workers)
    said = str(error.value)
    assert TRIED[text] in said and "\n" not in said
    assert f"the rule {path}" in said
    assert "It was tried on '1 + 2?' with the answer '1' and the reference '1'" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ROW + "float(completion == '2')", "gives 0 and 1 to '1' and '2', right answers made of"),
        (ROW + "float(completion.split()[-1] == 'x')", "warning: on an empty answer the rule "),
        ("def score(c, r):\n    print('x' * 10**6)\n    return 1.0", "gives 1 and 1 to"),
    ],
)
def test_reward_file_that_works(text, sentence, tmp_path, workers, records, capsys):
    (tmp_path / "mine.py").write_text(text)
    own_rules.try_rule(use(tmp_path / "mine.py"), records, workers)
    said = plain(capsys.readouterr().out)
    assert sentence in said and len(said) < 1000


def test_a_reward_file_may_fail_where_errors_are_zeros(tmp_path, workers, records, capsys):
    (tmp_path / "mine.py").write_text(ROW + "1 / 0")
    own_rules.try_rule(use(tmp_path / "mine.py", stops=False), records, workers)
    said = plain(capsys.readouterr().out)
    assert said.startswith("warning: the rule ") and "reward.on_error" not in said
