"""The config of a run that takes seconds, for tests of what is refused and of what is harmed."""

from pathlib import Path

import yaml

TINY = {
    "name": "tiny",
    "data": {
        **{"tasks": ["sum"], "sft": 64, "label": 32, "train": 32, "test": 16},
        **{"prompt_columns": 40, "response_columns": 32, "check_columns": 64},
    },
    "model": {
        **{"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "head_size": 4},
        **{"feedforward": 32, "vocab": 320},
    },
    "stages": [
        {"stage": "tokenizer"},
        {"stage": "sft", "steps": 4, "batch": 8, "save_every": 2},
        {
            **{"stage": "rl", "steps": 4, "prompts": 4, "samples": 2, "save_every": 2},
            **{"reward": {"source": "rule"}},
        },
    ],
}
TINY["verifier"] = dict(TINY["model"])  # a copy: YAML would write one object as an alias


def write(folder: Path, **changes) -> Path:
    """A config file of TINY with some keys replaced, and its run folder in the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(TINY | {"runs": str(folder)} | changes), encoding="utf-8")
    return path


def plain(text: str) -> str:
    return " ".join(text.split())


def assert_refused(code: int, said: str, *words: str) -> None:
    """One error, in words, with exit code 2, and not a line of Python."""
    assert code == 2, said
    for word in words:
        assert word in said
    assert said.count("error:") == 1
    assert "Traceback" not in said and 'File "' not in said
    assert "Warning" not in said
