"""`python -m rlvr_jax.convert SRC DST [--dtype bfloat16]`: write a Hugging Face model folder.

An adapter is merged into its base; with `--adapter` it is written alone, in PEFT's format.

SRC is a Hugging Face folder, a .gguf file, package:NAME, or RUNS/NAME:STAGE for the model that
a finished stage of a run has trained.  RUNS/NAME:STAGE@12 is that of step 12, also of a stage that
has not finished, and RUNS/NAME:STAGE@best that of the best step of an rl stage with a `keep_best`;
RUNS/NAME alone lists the stages and steps that there are.  `--tokenizer PATH` writes another
tokenizer than that of SRC, such as a tokenizer.json for a .gguf file whose own is not read.  Exit
codes: 0 done; 2 SRC, DST, the tokenizer or the run needs a change.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import adapters, parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig, parse_left
from rlvr_jax.host import weights
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.weights import new_folder, peft
from rlvr_jax.stages import left, trained
from rlvr_jax.stages.programs import Layout
from rlvr_jax.stages.trained import Source


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _arguments(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be too small for float32
    try:
        form = Form(args.dtype, args.adapter, args.tokenizer)
        if args.folder is None:
            log.say(left.describe(_run_of(args.source)))
        else:
            convert(args.source, args.folder.absolute(), form)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RunError, CheckpointError, OSError) as error:
        log.say_aside(f"error: {error}")
        return 2
    return 0


class Form(NamedTuple):
    """A Form says how a model is written."""

    dtype: str = "float32"
    adapter: bool = False  # only the adapter, in PEFT's format
    tokenizer: str = ""  # path of another tokenizer than that of SRC


def convert(source: str, folder: Path, form: Form) -> None:
    """Load the model SRC and write it, with its tokenizer, to a new or empty folder.

    Raises ValueError, CheckpointError or OSError where SRC or the folder cannot be used.
    """
    new_folder.check_free(folder)  # before the work of loading
    if left.is_run(source):
        loaded = trained.load(source, _layout(), form.tokenizer)
    else:
        loaded = _load_pretrained(source, form.tokenizer)
    if loaded.tokenizer.vocab > loaded.cfg.vocab:
        raise ValueError(
            f"the tokenizer of {form.tokenizer or source} has {loaded.tokenizer.vocab} tokens and "
            f"the model {loaded.cfg.vocab}: they do not belong together"
        )
    if form.adapter:
        if loaded.base is None:
            raise ValueError(f"{source} has no adapter: leave --adapter out")
        peft.save(folder, loaded.params, loaded.cfg, loaded.base, form.dtype)
    else:
        _write_model(source, folder, loaded, form.dtype)
    log.say(f"{folder}: done")


def _run_of(source: str) -> Path:
    """Return the run folder of a source, the steps of which are listed where DST is left out."""
    folder = parse_left(source).run or source
    if not left.is_run(source):
        raise ValueError(f"{source} is no run: name a new folder DST for the model")
    return Path(folder)


def _write_model(source: str, folder: Path, loaded: Source, dtype: str) -> None:
    params = adapters.merge(loaded.params, loaded.cfg, jnp.float32)
    size = sum(x.size for x in params.values())
    log.say(f"{source}: {loaded.cfg.family}, {size / 1e6:.1f} M parameters")
    weights.save(
        folder,
        params,
        loaded.cfg,
        loaded.path,
        dtype=dtype,  # type: ignore[arg-type]  # argparse has checked it
        extra=_special_ids(loaded) if loaded.path is None else {},
        also=loaded.tokenizer.save,
        say=lambda text: log.say(f"{folder}: {text}"),
    )


def _load_pretrained(source: str, other: str) -> Source:
    path = weights.find_model(source)
    cfg = ModelConfig(**weights.load_architecture(path))
    tokenizer = open_tokenizer(other or path)  # before the large files: it may be missing
    params = weights.load(path, cfg, _layout().shardings(parameters.abstract(cfg)), log.say)
    return Source(params, cfg, path, tokenizer)


def _layout() -> Layout:
    """Return the layout of arrays that lie on one device."""
    one = MeshConfig()
    return Layout(sharding.make_mesh(one, jax.devices()[:1]), one)


def _special_ids(loaded: Source) -> dict[str, Any]:
    """Return the ids of special tokens as a config.json has them."""
    ends = list(loaded.tokenizer.eos)
    ids: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else ends}
    return ids if loaded.tokenizer.bos is None else ids | {"bos_token_id": loaded.tokenizer.bos}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.convert",
        description="Write a model as a Hugging Face folder, its tokenizer with it.",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="folder, .gguf file, package:NAME, RUNS/NAME:STAGE[@STEP], or RUNS/NAME to see which "
        "there are",
    )
    parser.add_argument("folder", metavar="DST", type=Path, nargs="?", help="a new or empty folder")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="as written [float32]"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="write only the adapter, in PEFT's format"
    )
    parser.add_argument("--tokenizer", default="", metavar="PATH", help="in place of that of SRC")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
