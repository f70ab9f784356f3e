"""`python -m rlvr_jax.evaluate --model MODEL --data DATA`: measure a model on problems.

MODEL is a run (its folder, or RUN:STAGE), a model folder, a GGUF file, package:NAME, or the address
of an OpenAI-compatible endpoint.  The answers are graded by a rule and, with `--verifier`, by a
verifier too.  The result is a table, and NAME.json, NAME.md and the answers in NAME.jsonl in the
folder `--out`.

Exit codes: 0 done; 2 a person must change something; 130 stopped by Ctrl-C.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import contextlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from rlvr_jax.config import Config, EvaluateStage, JudgeConfig
from rlvr_jax.config.fields import check_file_name
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.processes import place
from rlvr_jax.host.runs import compiles, evaluation_table, log
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.verdicts.judge.endpoint import Endpoint, JudgeError
from rlvr_jax.stages import asked, evaluate
from rlvr_jax.stages.answers import Answers
from rlvr_jax.stages.candidates import Asked, Candidate, open_candidate
from rlvr_jax.stages.model_of_run import find_model_of_run

TOKENS = 512  # budget of an answer of a model that is no run
ENDPOINTS = ("http://", "https://")
# The keys of a judge's config, as this command calls them.
CALLED = {
    "judge.url": "--model",
    "judge.model": "--served",
    "judge.key_env": "--key-env",
    "judge.body": "the request",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
        place.refuse_several("evaluate")
        _check(args)
        result, lines = run(args)
        _write(args, result, lines)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RunError, CheckpointError, OSError) as error:
        log.say_aside(f"error: {_in_our_words(error)}")
        return 2
    _show(args, result)
    return 0


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Evaluate by a parsed command line; return the result, and the lines of the answers.

    Raises:
      ValueError, RunError, CheckpointError or OSError: the message says what to change.
    """
    began, endpoint = time.monotonic(), _endpoint(args)
    with contextlib.closing(endpoint) if endpoint else contextlib.nullcontext():
        candidate = open_candidate(_asked(args))
        with jax.set_mesh(candidate.ws.mesh):
            sampled, greedy = _answer(candidate, endpoint, args.system)
    ws, stage = candidate.ws, candidate.stage
    result = {"name": args.name, **_facts(args, ws.cfg, stage)}
    result |= {"dropped_problems": ws.dropped.get("test", 0)}
    result |= evaluate.summary(stage, sampled, greedy)
    result |= {"seconds": time.monotonic() - began}
    return result, evaluate.kept_lines(sampled, greedy)


def _answer(
    candidate: Candidate, endpoint: Endpoint | None, system: str
) -> tuple[Answers, Answers]:
    ws, stage, params, judge, problems = candidate
    if endpoint:
        return asked.answer(stage, ws, endpoint, judge, problems, system)
    return evaluate.answer(stage, ws, params, judge, problems)


def _facts(args: argparse.Namespace, cfg: Config, stage: EvaluateStage) -> dict[str, Any]:
    """Return what was asked of whom, for the result."""
    return {
        "model": f"{args.served} at {args.model}" if args.served else args.model,
        "data": " ".join(args.data) or "the held-out problems of the run",
        "rule": stage.rule or "the rule of each task",
        "verifier": args.verifier,
        "prm": stage.prm,
        "temperature": stage.sample.temperature,
        "top_k": stage.sample.top_k,
        "top_p": stage.sample.top_p,
        "tokens": cfg.data.response_columns,
        "seed": cfg.seed,
    }


def _asked(args: argparse.Namespace) -> Asked:
    sample = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    stage = {"samples": args.samples, "batch": args.batch, "rule": args.rule, "prm": args.prm}
    from_run = not args.served
    return Asked(
        model=args.model if from_run else "",
        data=tuple(args.data),
        problems=args.problems,
        verifier=args.verifier,
        tokenizer=args.tokenizer,
        verifier_tokenizer=args.verifier_tokenizer,
        system=args.system,
        raw=args.raw,
        stage={**stage, "sample": sample},
        tokens=args.tokens,
        overrides=(f"seed={args.seed}", *args.overrides),
    )


def _endpoint(args: argparse.Namespace) -> Endpoint | None:
    """Return the endpoint that `--model` names; None if it names no address."""
    if not args.served:
        return None
    more = {"top_p": args.top_p} if args.top_p < 1 else {}
    more |= {"top_k": args.top_k} if args.top_k else {}
    cfg = JudgeConfig(
        kind="endpoint",
        url=args.model,
        model=args.served,
        key_env=args.key_env,
        body=more,
        tokens=args.tokens or TOKENS,
        concurrency=args.concurrency,
        seconds=args.seconds,
    )
    return Endpoint(cfg, args.out / f"{args.name}.replies.jsonl")


def _check(args: argparse.Namespace) -> None:
    """Fill in what was left out, and refuse options that do not go together.

    Raises:
      ValueError: the message says what to change.
    """
    at_address = args.model.startswith(ENDPOINTS)
    if at_address != bool(args.served):
        raise ValueError(
            "--served NAME says which model of an endpoint answers: give it with the address of "
            "one, as in --model http://localhost:8000/v1 --served NAME, and only then"
        )
    if at_address and (args.prm or args.raw or args.tokenizer):
        raise ValueError("--prm, --raw and --tokenizer are for models that run here, no endpoint")
    if min(args.samples, args.problems, args.tokens) < 0 or args.batch < 1:
        raise ValueError("needs --samples, --problems and --tokens at least 0, --batch at least 1")
    if at_address or find_model_of_run(args.model) is None:
        args.tokens = args.tokens or TOKENS
    args.name = args.name or _default_name(args)
    check_file_name(args.name)
    done = args.out / f"{args.name}.json"
    if done.exists():
        raise ValueError(f"{done} is there already: give another --name or --out, or remove it")


def _default_name(args: argparse.Namespace) -> str:
    """Make a name of the last words of model and data."""
    model = args.served or Path(args.model).name
    words = [model, *(Path(re.sub(r"[{}]", "", name)).stem for name in args.data)]
    return re.sub(r"[^\w.-]+", "-", "-".join(words)).strip("-.")[:80] or "evaluation"


def _write(args: argparse.Namespace, result: dict[str, Any], lines: str) -> None:
    """Write answers, page and result; the result comes last, as it says that all is there."""
    args.out.mkdir(parents=True, exist_ok=True)
    whole_file.write_whole(args.out / f"{args.name}.jsonl", lines)
    whole_file.write_whole(args.out / f"{args.name}.md", evaluation_table.markdown(result))
    log.write_json(args.out / f"{args.name}.json", result)


def _show(args: argparse.Namespace, result: dict[str, Any]) -> None:
    log.table(f"{result['model']} on {result['data']}", *evaluation_table.overview(result))
    head, rows = evaluation_table.of_domains(result, short=True)
    if rows:
        log.table("by domain", head, rows)
    log.say(f"answers, table and numbers: {args.out / args.name}.jsonl, .md and .json")


def _in_our_words(error: Exception) -> str:
    text = str(error)
    if isinstance(error, JudgeError):
        for key, option in CALLED.items():
            text = text.replace(key, option)
    return text


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.evaluate",
        description="Measure a model on problems: accuracy, pass@k, majority, by domain, with "
        "intervals.",
        epilog="Keys of the config may follow, as in evaluate.on_error=zero, "
        "data.check_templates=[strict] or mesh.tensor=4.",
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        help="RUN, RUN:STAGE[@STEP], model folder, GGUF file, package:NAME, URL",
    )
    add(
        "--data",
        action="append",
        default=[],
        help="problems: FILE.jsonl, .json or .parquet, CONFIG.yaml (its test split), task:NAME, "
        "gym:NAME, or a source as in '{tfds: gsm8k, folder: DIR}'; may be repeated [the held-out "
        "ones of the run]",
    )
    add("--problems", type=int, default=0, help="most problems of each source [0: all, or 200]")
    add("--rule", default="", help="kind of rule or FILE.py [the run's, or that of each task]")
    add("--verifier", default="", help="model folder, GGUF file, RUN or RUN:STAGE[@STEP] [none]")
    add("--verifier-tokenizer", default="", help="tokenizer file, where the verifier has none")
    add("--prm", default="", help="stage of the run whose PRM weighs votes [none]")
    add("--samples", type=int, default=4, help="answers per problem, 0: greedy only [4]")
    add("--temperature", type=float, default=1.0, help="of the samples, above or at 0 [1]")
    add("--top-k", type=int, default=0, help="0 keeps all tokens [0]")
    add("--top-p", type=float, default=1.0, help="above 0, 1 keeps all tokens [1]")
    add("--tokens", type=int, default=0, help=f"limit of an answer [the run's, or {TOKENS}]")
    add("--batch", type=int, default=50, help="problems at a time [50]")
    add("--seed", type=int, default=0, help="of the sampling and of drawn problems [0]")
    add("--system", default="", help="system message of chats that have none [none]")
    add("--raw", action="store_true", help="prompts without the model's chat template")
    add("--tokenizer", default="", help="tokenizer file, where the model has none")
    add("--served", default="", help="endpoint: name of the model on the server")
    add("--key-env", default="", help="endpoint: environment variable with the API key [no key]")
    add("--concurrency", type=int, default=8, help="endpoint: requests at the same time [8]")
    add("--seconds", type=float, default=600.0, help="endpoint: limit of one reply [600]")
    add("--out", type=Path, default=Path("eval"), help="folder of the results [eval]")
    add("--name", default="", help="name of the results [from model and data]")
    add("overrides", nargs="*", metavar="key=value", help="e.g. evaluate.on_error=zero")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
