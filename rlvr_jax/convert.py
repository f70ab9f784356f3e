"""`python -m rlvr_jax.convert SRC DST [--dtype bfloat16]`: write a Hugging Face model folder.

An adapter is merged into its base; with `--adapter` it is written alone, in PEFT's format.

SRC is a Hugging Face folder, a .gguf file, package:NAME, or RUNS/NAME:STAGE for the model that
a finished stage of a run has trained; RUNS/NAME:STAGE:best is the best step of an rl stage with a
`keep_best`.  `--tokenizer PATH` writes another tokenizer than that of
SRC, such as a tokenizer.json for a .gguf file whose own is not read.  Exit codes: 0 done; 2 SRC,
DST, the tokenizer or the run needs a change.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import adapters, parameters, sharding
from rlvr_jax.config import BEST, MeshConfig, ModelConfig, stage_of
from rlvr_jax.host import weights
from rlvr_jax.host.runs import log, settings
from rlvr_jax.host.runs.checkpoint import CheckpointError, restore_params
from rlvr_jax.host.runs.paths import tokenizer_path
from rlvr_jax.host.text.tokenizer import Tokenizer, open_tokenizer
from rlvr_jax.host.weights import new_folder, peft
from rlvr_jax.stages.models import PRETRAINED, Origin, best_step, digest, origin
from rlvr_jax.stages.programs import Layout
from rlvr_jax.structs import Params


class Source(NamedTuple):
    """A Source holds a model, the path of its config.json or GGUF file, and its tokenizer.

    `params` has the matrices of an adapter beside those of its base; `base` identifies the latter.
    """

    params: Params
    cfg: ModelConfig
    path: Path | None
    tokenizer: Tokenizer
    base: peft.Base | None = None  # None: no adapter


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _arguments(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be too small for float32
    try:
        form = Form(args.dtype, args.adapter, args.tokenizer)
        convert(args.source, args.folder.absolute(), form)
    except KeyboardInterrupt:
        return 130
    except (ValueError, CheckpointError, OSError) as error:
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
    load = _load_trained if _is_run(source) else _load_pretrained
    loaded = load(source, form.tokenizer)
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


def _is_run(source: str) -> bool:
    """Return whether a source is RUNS/NAME:STAGE, and not the path of a file with a colon."""
    folder, colon, _ = source.rpartition(":")
    return bool(colon) and folder != "package" and not Path(source).exists()


def _load_pretrained(source: str, other: str) -> Source:
    path = weights.find_model(source)
    cfg = ModelConfig(**weights.load_architecture(path))
    tokenizer = open_tokenizer(other or path)  # before the large files: it may be missing
    params = weights.load(path, cfg, _layout().shardings(parameters.abstract(cfg)), log.say)
    return Source(params, cfg, path, tokenizer)


def _load_trained(source: str, other: str) -> Source:
    """Load the model that a stage trained: a policy, a verifier, a GRM or a meta RM."""
    folder, left = _parts(source)
    run, name = settings.load(Path(folder) / "config.resolved.yaml"), stage_of(left)
    stages = {stage.name: stage for stage in run.stages}
    if name not in stages:
        raise ValueError(f"{folder} has no stage {name!r}; its stages are {', '.join(stages)}")
    if not (Path(folder) / "stages" / f"{name}.json").exists():
        raise ValueError(f"stage {name} of {folder} has not finished: run it to its end first")
    if "scalar" in stages[name].leaves:
        raise ValueError(
            f"stage {name} of {folder} leaves a scalar reward model, and a model folder has no "
            "place for its value head: only the stages of other models are converted"
        )
    cfg: ModelConfig = getattr(run, stages[name].trains or "model")
    made = origin(run, left, cfg)
    params = _restore(Path(folder), left, parameters.abstract_learned(cfg))
    base = None
    if made.adapter:
        below = _load_base(Path(folder), made, cfg)
        base = peft.Base(made.weights or f"{folder}:{made.base}", digest(below))
        _check_base(Path(folder), made, base)
        params = below | params
    path = weights.find_model(cfg.weights) if cfg.weights else None
    tokenizer = open_tokenizer(other or tokenizer_path(run, Path(folder)))
    return Source(params, cfg, path, tokenizer, base)


def _parts(source: str) -> tuple[str, str]:
    """Return the run folder and the stage of RUNS/NAME:STAGE or RUNS/NAME:STAGE:best."""
    folder, _, name = source.rpartition(":")
    if f":{name}" == BEST and _is_run(folder):
        folder, _, name = folder.rpartition(":")
        name += BEST
    return folder, name


def _restore(folder: Path, left: str, shapes: dict[str, jax.ShapeDtypeStruct]) -> Params:
    """Load what a finished stage of the run in `folder` left."""
    marker = folder / "stages" / f"{stage_of(left)}.json"
    step = best_step(left, json.loads(marker.read_text(encoding="utf-8")))
    checkpoints = folder / "checkpoints" / stage_of(left)
    return restore_params(checkpoints, _layout().abstract(shapes), step=step)


def _load_base(folder: Path, made: Origin, cfg: ModelConfig) -> Params:
    """Load the parameters below the adapter of a stage, in the dtype in which the run held them."""
    shapes = parameters.abstract_frozen(cfg, cfg.frozen_dtype)
    if made.base != PRETRAINED:
        return _restore(folder, made.base, shapes)
    dtypes = {key: x.dtype for key, x in shapes.items()}
    path = weights.find_model(made.weights)
    return weights.load(path, cfg, _layout().shardings(shapes), log.say, dtypes=dtypes)


def _check_base(folder: Path, made: Origin, base: peft.Base) -> None:
    """Refuse pretrained weights other than those that the run stored a digest of."""
    file = folder / "bases.json"
    if made.base != PRETRAINED or not file.exists():
        return
    known = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(known, dict) or known.get(made.weights) != base.digest:
        raise ValueError(
            f"the weights of {made.weights} are not those that the adapter of {folder} lies on: "
            "put them back"
        )


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
        "source", metavar="SRC", help="folder, .gguf file, package:NAME or RUNS/NAME:STAGE"
    )
    parser.add_argument("folder", metavar="DST", type=Path, help="a new or empty folder")
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
