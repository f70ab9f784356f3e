"""Files that each process reads from a disk of its own have to be the same ones on all hosts.

One host with another rule would pay its rows otherwise, and one with another model or tokenizer
would compute with other numbers, without a word.  What only the first process reads, such as the
problems, is not looked at.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from rlvr_jax.config import Config
from rlvr_jax.host.runs import pins

SAMPLES, BYTES = 16, 1 << 14  # of a file; smaller ones are read whole


def describe_local(cfg: Config) -> dict[str, str]:
    """Return a mark of each file and folder that the config names, by a phrase with its name.

    Rules, templates and formulas are read whole, models and tokenizers in samples.
    """
    digests = {name: x for stage in cfg.stages for name, x in pins.compute_pins(stage, cfg).items()}
    places = {name: Path(name).expanduser() for name in _read_everywhere(cfg) if name}
    marks = {name: compute_mark(path) for name, path in places.items() if path.exists()}
    return {f"the content of {name}": mark[:16] for name, mark in (digests | marks).items()}


def _read_everywhere(cfg: Config) -> Iterator[str]:
    yield from (cfg.tokenizer, cfg.verifier_tokenizer)
    for model in (cfg.model, cfg.verifier, cfg.grm):
        yield from (model.weights, model.adapter.weights)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def compute_mark(path: Path) -> str:
    """Compute a hash of the names, sizes and samples of the files in a folder, or of one file.

    Hidden files are left out: a download leaves some that hold its time.

    Raises:
      OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    paths = [path]
    if path.is_dir():
        inside = (x for x in path.rglob("*") if not _is_hidden(x.relative_to(path)))
        paths = sorted(x for x in inside if x.is_file())
    for file in paths:
        size = file.stat().st_size
        total.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with file.open("rb") as opened:
            for place in {i * max(0, size - BYTES) // (SAMPLES - 1): None for i in range(SAMPLES)}:
                opened.seek(place)
                total.update(opened.read(BYTES))
    return total.hexdigest()
