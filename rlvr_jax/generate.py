"""Print one response of a model: `python -m rlvr_jax.generate --model DIR_OR_GGUF --prompt TEXT`.

`--prompts FILE --out FILE` answers all prompts of a file: a line of text each, or JSON with the key
`prompt` or `messages`.  A prompt goes through the model's chat template if it has one; `--raw`
continues the bare text instead.  Sampling uses the code and the random numbers of training, so that
training, with the same model, prompt and key, would draw the same tokens.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from rlvr_jax import engine
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.host import weights
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.problems.sources import prompt_files
from rlvr_jax.host.processes import place
from rlvr_jax.host.runs import compiles, log
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text.tokenizer import Tokenizer, open_tokenizer
from rlvr_jax.stages import left, responses
from rlvr_jax.structs import Params


def main(argv: Sequence[str] | None = None) -> int:
    """Generate by the command line `argv`; return the exit code, 2 for a user error."""
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
        place.refuse_several("generate")
        if args.tokens < 1 or args.batch < 1:
            raise ValueError("--tokens must be at least 1, and --batch too")
        if not 0 <= args.seed < 2**31:
            raise ValueError("--seed must be from 0 to 2**31 - 1")
        if (args.prompts is None) != (args.out is None):
            raise ValueError("--prompts FILE and --out FILE belong together: give both")
        sample = SampleConfig(args.temperature, args.top_k, args.top_p)
        if args.prompts is None:
            _say_one(args, sample)
        else:
            _answer_file(args, sample)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RunError, CheckpointError, OSError) as error:
        log.say_aside(f"error: {error}")
        return 2
    return 0


def _say_one(args: argparse.Namespace, sample: SampleConfig) -> None:
    """Print one response as it is drawn."""
    params, cfg, tok = _open(args)
    prompt = _encode_prompt(args, tok)
    room = cfg.longest - len(prompt) if cfg.longest else args.tokens
    if room < 1:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens and the model was made for {cfg.longest}"
        )
    began, stamps, budget = time.monotonic(), [], min(args.tokens, room)
    key, push = jax.random.key(args.seed), tok.stream()
    show = log.visible if sys.stdout.isatty() else str  # a model may write control sequences
    for token in responses.generate_tokens(params, cfg, prompt, tok.eos, budget, sample, key):
        print(show(push(token)), end="", flush=True)
        stamps.append(time.monotonic() - began)
    print(show(push(None)))
    log.say_aside(_speed(stamps))


def _answer_file(args: argparse.Namespace, sample: SampleConfig) -> None:
    """Answer the prompts of a file, and write a line of JSON for each, in their order."""
    rows = prompt_files.read_prompts(args.prompts)
    if args.out.exists():
        raise ValueError(f"{args.out} is there already: name another file, or remove it")
    params, cfg, tok = _open(args)
    ids = [prompt_files.encode(row, tok, args.system, args.raw) for row in rows]
    for number, prompt in enumerate(ids, 1):
        if cfg.longest and len(prompt) + args.tokens > cfg.longest:
            raise ValueError(
                f"prompt {number} of {args.prompts} has {len(prompt)} tokens, and with --tokens "
                f"{args.tokens} more than the {cfg.longest} that the model was made for"
            )
    sampler = engine.Sampler(jax.random.key(args.seed), tok.eos, 1, args.tokens, sample)
    answered: dict[int, dict] = {}
    with contextlib.closing(log.Bar("generate", len(ids), 0, "prompt")) as bar:
        for number, tokens, finished in responses.generate_batches(
            params, cfg, ids, args.batch, sampler
        ):
            said = {"text": tok.decode(tokens), "tokens": len(tokens), "finished": finished}
            answered[number] = rows[number] | said
            bar.step(len(answered), {})
    lines = [json.dumps(answered[i], ensure_ascii=False) + "\n" for i in range(len(rows))]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    whole_file.write_whole(args.out, "".join(lines))
    log.say(f"{args.out}: {len(rows)} answers")


def _open(args: argparse.Namespace) -> tuple[Params, ModelConfig, Tokenizer]:
    """Load the model that a command line names, and its tokenizer or the one that is named.

    Raises:
      ValueError, RunError, CheckpointError or OSError: they are not there, or do not fit together.
    """
    if left.is_run(args.model):
        params, cfg, tok = responses.load_trained(args.model, args.tokenizer)
    else:
        path = weights.find_model(args.model)
        tok = open_tokenizer(args.tokenizer or path)
        params, cfg = responses.load_model(path)
    if tok.vocab > cfg.vocab:
        raise ValueError(f"the tokenizer has {tok.vocab} tokens and the model {cfg.vocab}")
    return params, cfg, tok


def _speed(stamps: list[float]) -> str:
    """Describe the speed of generation.

    `stamps` has for each token the seconds since the start; the first two include compilation.
    """
    first, rest = stamps[:2][-1], stamps[2:]
    rate = f", then {len(rest) / (rest[-1] - first):.0f} tokens/s" if rest else ""
    return f"{len(stamps)} tokens; {first:.1f} s to compile and begin{rate}"


def _encode_prompt(args: argparse.Namespace, tok: Tokenizer) -> list[int]:
    text = sys.stdin.read() if args.prompt == "-" else args.prompt
    return prompt_files.encode({"prompt": text}, tok, args.system, args.raw)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    default = {field.name: field.default for field in dataclasses.fields(SampleConfig)}
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.generate",
        description="Print one response of a model as it is generated, or answer a file.",
    )
    models = "model folder, GGUF file, package:NAME or RUN:STAGE[@STEP]"
    parser.add_argument("--model", required=True, help=models)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="text; - reads it from standard input")
    asked.add_argument(
        "--prompts",
        type=Path,
        help="FILE.jsonl with `prompt` or `messages`, or a "
        "text file with a prompt on each line; needs --out",
    )
    parser.add_argument("--out", type=Path, help="file for the answers to --prompts, in JSON lines")
    parser.add_argument("--batch", type=int, default=16, help="--prompts: prompts at a time [16]")
    parser.add_argument("--raw", action="store_true", help="continue the text, without a chat")
    parser.add_argument("--system", default="", help="system message of the chat")
    parser.add_argument("--tokenizer", default="", help="tokenizer file, where the model has none")
    parser.add_argument("--tokens", type=int, default=256, help="limit of the response [256]")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy [0]")
    parser.add_argument("--top-k", type=int, default=default["top_k"], help="0 keeps all [0]")
    parser.add_argument("--top-p", type=float, default=default["top_p"], help="1 keeps all [1]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling [0]")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
