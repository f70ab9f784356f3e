"""`python -m rlvr_jax.evaluate`: numbers that the kept answers give, and sentences for mistakes."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from make_endpoint import Server
from safetensors.numpy import load_file

from rlvr_jax import evaluate, parameters
from rlvr_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    PrmStage,
    RewardConfig,
    SftStage,
    VerifierStage,
)
from rlvr_jax.host import weights
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.runs import compiles, settings
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.verdicts.judge import endpoint
from rlvr_jax.host.weights import layout

SIZE = dict(
    layers=1, width=8, heads=2, kv_heads=1, head_size=4, feedforward=8, vocab=259, tied=False
)
KEYS = (
    *("problem", "question", "domain", "reference", "text", "answer", "score", "status"),
    *("finished", "greedy", "sample"),
)
# Answers that are cut off count as wrong; of the others this takes about every second one.
RULE = """
def score(completion, record):
    if record["question"].startswith("3 "):
        raise SystemExit
    return float(sum(map(ord, completion)) % 2 == 0)
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    monkeypatch.setattr(endpoint, "FIRST", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model whose tokens are bytes, problems of two domains, and a rule."""
    place = tmp_path_factory.mktemp("evaluate")
    cfg, tok = ModelConfig(**SIZE, context=128), open_tokenizer("byte")
    params = parameters.init(jax.random.key(0), cfg)
    params["head_VD"] = params["head_VD"].at[np.array(tok.eos)].multiply(30)  # answers end
    weights.save(place / "model", params, cfg, extra={"eos_token_id": list(tok.eos)})
    rows = [
        {"question": f"{i} + {i}?", "answer": str(2 * i), "domain": "even" if i % 2 else "odd"}
        for i in range(6)
    ]
    (place / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "even.py").write_text(RULE)
    return place


@pytest.fixture(scope="module")
def run(place) -> Path:
    """A run whose stages sft and verifier have finished."""
    one = ModelConfig(**SIZE)
    data = DataConfig(tasks=("sum",), test=6, response_columns=8, check_question=False)
    stages = (SftStage(), VerifierStage(verdicts="sft"))
    cfg = Config(name="demo", tokenizer="byte", data=data, model=one, verifier=one, stages=stages)
    folder = place / "demo"
    (folder / "stages").mkdir(parents=True)
    (folder / "config.resolved.yaml").write_text(settings.dump(cfg))
    for key, name in enumerate(("sft", "verifier")):
        with Checkpoints(folder / "checkpoints" / name) as checkpoints:
            checkpoints.save(1, {"params": parameters.init(jax.random.key(key), one)}, {})
        marker = {"metrics_bytes": 0, "steps": 1}
        (folder / "stages" / f"{name}.json").write_text(json.dumps(marker))
    dataset.prepare(folder / "data", {"test": files.load_records(place / "p.jsonl", "file:p")}, "p")
    return folder


def measured(out: Path, name: str) -> tuple[dict, list[dict]]:
    """The result and the answers of an evaluation."""
    rows = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
    assert all(tuple(row) == KEYS for row in rows)
    return json.loads((out / f"{name}.json").read_text()), rows


def by_hand(rows: list[dict], name: str, greedy: bool, domain: str = "all") -> float:
    kept = [r for r in rows if r["greedy"] is greedy and domain in ("all", r["domain"])]
    return float(np.mean([float(r[name]) for r in kept]))


def test_a_folder_by_a_rule_of_ones_own_with_one_program(place, tmp_path, capsys) -> None:
    counted = compiles.Compiles()
    argv = ["--model", place / "model", "--tokenizer", "byte", "--data", place / "p.jsonl"]
    argv += ["--rule", place / "even.py", "--tokens", 8, "--samples", 0, "--batch", 4]
    argv += ["evaluate.on_error=zero"]
    assert evaluate.main([*map(str, argv), "--out", str(tmp_path), "--name", "one"]) == 0
    assert counted.count("write") == 1
    told, rows = measured(tmp_path, "one")
    assert [row["question"] for row in rows] == [f"{i} + {i}?" for i in range(6)]
    assert {row["sample"] for row in rows} == {0} and all(row["greedy"] for row in rows)
    for domain in ("all", "even", "odd"):
        assert told["accuracy"][domain] == pytest.approx(by_hand(rows, "score", True, domain))
        assert told["cut_off"][domain] == pytest.approx(1 - by_hand(rows, "finished", True, domain))
        low, high = told["intervals"]["accuracy"][domain]
        assert low <= told["accuracy"][domain] <= high
    for row in rows:
        said = row["text"]
        good = row["finished"] and sum(map(ord, said)) % 2 == 0
        crashed = row["finished"] and row["question"].startswith("3 ")
        want = "crashed" if crashed else "right" if good else "wrong"
        assert row["status"] == (want if row["finished"] else "cut off")
        assert row["score"] == (want == "right" and row["finished"])
    assert told["crashed"]["all"] == pytest.approx(
        np.mean([row["status"] == "crashed" for row in rows])
    )
    page, shown = (tmp_path / "one.md").read_text(), capsys.readouterr().out
    share = f"{told['accuracy']['all']:.1%}"
    assert f"| avg@1 = pass@1 | {share} |" in page and share in shown and "by domain" in shown


def test_a_stage_of_a_run_with_a_verifier_of_a_run(run, tmp_path, capsys) -> None:
    """Its problems are those that the run holds out, and nothing of the run changes."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    argv = ["--model", f"{run}:sft", "--verifier", str(run), "--samples", "0", "--batch", "6"]
    assert evaluate.main([*argv, "--out", str(tmp_path), "--name", "v"]) == 0
    told, rows = measured(tmp_path, "v")
    assert (told["n"], told["samples"], told["tokens"], len(rows)) == (6, 0, 8, 6)
    assert told["data"] == "the held-out problems of the run"
    assert told["accuracy"] == told["greedy"]
    assert 0 <= told["verifier_reward"]["all"] <= 1 and "false_positive" in told["verifier"]
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert "mean reward of the verifier" in capsys.readouterr().out


def test_a_prm_that_is_its_reference_prefers_no_answer(run, tmp_path) -> None:
    """Its token rewards are then 0, so the best of an equal four is the first."""
    cfg = settings.load(run / "config.resolved.yaml")
    stages = (cfg.stages[0], PrmStage(reward=RewardConfig(source="rule")))
    new = run.with_name("with_prm")
    shutil.copytree(run, new)
    (new / "config.resolved.yaml").write_text(
        settings.dump(dataclasses.replace(cfg, name="with_prm", stages=stages))
    )
    for folder in ("checkpoints", "stages"):
        for path in (new / folder).glob("verifier*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(new / "checkpoints" / "sft", new / "checkpoints" / "prm")
    shutil.copy(new / "stages" / "sft.json", new / "stages" / "prm.json")
    argv = ["--model", f"{new}:sft", "--prm", "prm", "--rule", str(run.parent / "even.py")]
    argv += ["--samples", "4", "--batch", "6", "--data", str(run.parent / "p.jsonl")]
    argv += ["evaluate.on_error=zero"]
    assert evaluate.main([*argv, "--out", str(tmp_path), "--name", "p"]) == 0
    told, rows = measured(tmp_path, "p")
    first = [row["score"] for row in rows if not row["greedy"] and row["sample"] == 0]
    assert told["prm"] == "prm" and len(first) == 6
    assert told["best_of_k_sum"]["all"] == told["best_of_k_min"]["all"] == np.mean(first)


def test_a_gguf_file_says_what_its_folder_says(place, tmp_path) -> None:
    made = runpy.run_path(str(Path(__file__).parent / "host" / "weights" / "test_gguf.py"))
    cfg, found = ModelConfig(**SIZE, context=128), {}
    plain, hf = load_file(place / "model" / "model.safetensors"), layout.hf_places(cfg)
    for ours in parameters.names(cfg):
        parts = dict(layout.tensors(ours, hf[ours], cfg.sizes))
        for at, tensor in layout.tensors(ours, layout.GGUF[ours], cfg.sizes):
            found[tensor] = made["converted"]("llama", ours, plain[parts[at]], cfg)
    said = made["metadata"]("llama", cfg)
    said |= {"tokenizer.ggml.eos_token_id": open_tokenizer("byte").eos[0]}
    path = made["write"](tmp_path / "m.gguf", "llama", said, found)
    for model, name in ((place / "model", "folder"), (path, "file")):
        argv = ["--model", model, "--tokenizer", "byte", "--data", place / "p.jsonl"]
        argv += ["--rule", place / "even.py", "--tokens", 8, "--samples", 1, "--batch", 6]
        argv += ["evaluate.on_error=zero", "--out", tmp_path, "--name", name]
        assert evaluate.main([*map(str, argv)]) == 0
    of_folder, of_file = (measured(tmp_path, name) for name in ("folder", "file"))
    assert of_file[1] == of_folder[1] and of_file[0]["accuracy"] == of_folder[0]["accuracy"]


@pytest.fixture
def server():
    server = Server(lambda body, number: body["messages"][-1]["content"].partition(" ")[0])
    yield server
    server.close()


def ask(server, place, out, *more: str) -> int:
    argv = ["--model", server.url, "--served", "big", "--data", str(place / "p.jsonl")]
    return evaluate.main([*argv, "--out", str(out), "--name", "far", "--samples", "2", *more])


def test_an_endpoint_answers_and_what_it_said_is_asked_for_once(server, place, tmp_path) -> None:
    """It says the first number of the question: right for 0 + 0 only; long ones are cut off."""
    server.finish = lambda body: "length" if "5" in body["messages"][-1]["content"] else "stop"
    assert ask(server, place, tmp_path, "--system", "Think.") == 0
    told, rows = measured(tmp_path, "far")
    assert len(server.seen) == 18  # 2 samples and a greedy answer each
    assert server.seen[0]["messages"][0] == {"role": "system", "content": "Think."}
    assert sorted({body["temperature"] for body in server.seen}) == [0, 1]
    assert all(body["model"] == "big" and body["max_tokens"] == 512 for body in server.seen)
    assert {r["question"] for r in rows if r["status"] == "right"} == {"0 + 0?"}
    assert {r["question"] for r in rows if r["status"] == "cut off"} == {"5 + 5?"}
    assert told["accuracy"]["all"] == pytest.approx(1 / 6) == told["majority"]["all"]
    assert told["cut_off"]["even"] == pytest.approx(1 / 3) and told["measure"] == "accuracy"
    (tmp_path / "far.json").unlink()
    assert ask(server, place, tmp_path, "--system", "Think.") == 0
    assert len(server.seen) == 18 and measured(tmp_path, "far")[1] == rows


def test_graded_scores_are_a_mean_score(server, place, tmp_path, capsys) -> None:
    server.say = lambda body, number: "0 or so"
    assert ask(server, place, tmp_path, "--rule", "jaccard") == 0
    told, _ = measured(tmp_path, "far")
    assert told["measure"] == "mean score" and 0 < told["accuracy"]["all"] < 1
    shown = capsys.readouterr().out + (tmp_path / "far.md").read_text()
    scores = [r["score"] for r in measured(tmp_path, "far")[1] if not r["greedy"]]
    best = np.reshape(scores, (6, 2)).max(1).mean()
    assert told["pass_at"]["2"]["all"] == pytest.approx(best)
    assert "mean score of 2" in shown and "accuracy" not in shown and "pass@" not in shown


def test_a_verifier_weighs_the_votes_of_an_endpoint(server, place, run, tmp_path) -> None:
    server.say = lambda body, number: f"it is\n{number % 2}"
    assert ask(server, place, tmp_path, "--verifier", str(run)) == 0
    told, rows = measured(tmp_path, "far")
    assert {"weighted_verifier", "best_of_k_verifier", "majority"} <= set(told["intervals"])
    assert told["best_of_k_verifier"]["all"] <= told["pass_at_k"]["all"]
    assert 0 <= told["verifier_reward"]["all"] <= 1 and len(rows) == 18


def test_an_endpoint_that_fails_leaves_what_it_said(server, place, tmp_path, capsys) -> None:
    server.codes = [200, 400]
    assert ask(server, place, tmp_path, "--concurrency", "1") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "did not answer" in said and "answers so far are kept" in said
    assert ask(server, place, tmp_path) == 0 and measured(tmp_path, "far")[0]["n"] == 6


def test_a_wrong_key_names_the_option(server, place, tmp_path, capsys) -> None:
    server.codes = [401]
    assert ask(server, place, tmp_path) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "correct --model, --served" in said and "judge." not in said


@pytest.mark.parametrize(
    "change, words",
    [
        (["--model", "nowhere"], "there is no model at nowhere"),
        (["--model", "demo:label"], "has no stage 'label' that trains the model: name one of"),
        (["--model", "demo", "--prm", "sft"], "--prm names the stage 'sft', which leaves no PRM"),
        (["--prm", "prm"], "--prm names the stage 'prm', which leaves no PRM"),
        (["--model", "http://localhost:1/v1"], "--served NAME says which model"),
        (["--served", "big"], "--served NAME says which model"),
        (["--data", "absent.jsonl"], "absent.jsonl is not there"),
        (["--data", "gsm8k"], "'gsm8k' names no problems: give a file"),
        (["--data", "task:smu"], "did you mean 'sum'"),
        (["--data", "{tfsd: gsm8k}"], "tfsd"),
        (["--rule", "mtah"], "mtah"),
        (["--verifier", "nobody"], "there is no model at nobody"),
        (["--samples", "-1"], "--samples"),
        (["--temperature", "-1"], "temperature >= 0"),
        (["--tokens", "128"], "leave no room for a prompt"),
        (["--name", "a/b"], "a/b"),
        (["evaluate.stepz=1"], "unknown key 'stepz'"),
        (["--seed", "-1"], "seed must be from 0"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    place, run, tmp_path, monkeypatch, capsys, change, words
) -> None:
    monkeypatch.chdir(place)
    argv = ["--model", "model", "--tokenizer", "byte", "--tokens", "8", "--out", str(tmp_path)]
    argv += [] if "--data" in change else ["--data", "p.jsonl"]
    assert evaluate.main([*argv, *change]) == 2
    seen = capsys.readouterr()
    said = " ".join(seen.err.split())
    assert said.startswith("error: ") and words in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_results_are_never_written_over(place, tmp_path, capsys) -> None:
    (tmp_path / "x.json").write_text("{}")
    argv = ["--model", str(place / "model"), "--data", "p.jsonl", "--out", str(tmp_path)]
    assert evaluate.main([*argv, "--name", "x"]) == 2
    assert "is there already" in capsys.readouterr().err
