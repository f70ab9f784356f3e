"""A sentence about a file that is not there names the folder of a relative path."""

import pytest

from rlvr_jax.config import SourceConfig
from rlvr_jax.host import rules, weights
from rlvr_jax.host.critiques import template
from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.problems import sources
from rlvr_jax.host.text.tokenizer import open_tokenizer

FINDERS = {
    "model": lambda path: weights.find_model(path),
    "rule": lambda path: rules.check_rule(f"{path}.py"),
    "data": lambda path: sources.check_source(SourceConfig(file=f"{path}.jsonl")),
    "download": lambda path: sources.check_source(SourceConfig(tfds="gsm8k", folder=path)),
    "tokenizer": lambda path: open_tokenizer(f"{path}.json"),
    "template": lambda path: template.load_template(f"{path}.yaml", "scores"),
}


@pytest.mark.parametrize("kind", FINDERS)
def test_relative_paths_name_the_folder(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f" in {tmp_path}"):
        FINDERS[kind]("no/where")
    with pytest.raises(ValueError) as error:
        FINDERS[kind]("/no/where")
    assert str(tmp_path) not in str(error.value)


def test_only_relative_paths_were_looked_up_somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked_up("a/b") == f" in {tmp_path}"
    assert looked_up(tmp_path / "a") == ""
