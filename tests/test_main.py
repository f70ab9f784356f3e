"""`python -m rlvr_jax` and the script `rlvr`: the list of commands, their help and completion."""

import argparse
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr_jax import __main__ as commands
from rlvr_jax.host.runs import settings

ROOT = Path(__file__).parents[1]
PARSED = [name for name in commands.COMMANDS if name != "report"]  # its parser is elsewhere


def called(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlvr_jax", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


class Seen(Exception):
    """The parser of a command, on its way out."""


def parser_of(name: str, monkeypatch) -> argparse.ArgumentParser:
    def leave(parser, *_):
        raise Seen(parser)

    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, leave)
    with pytest.raises(Seen) as seen:
        importlib.import_module(f"rlvr_jax.{name}")._arguments([])
    return seen.value.args[0]


def test_every_command_is_listed_with_a_sentence(capsys) -> None:
    files = {path.stem: path.read_text("utf-8") for path in (ROOT / "rlvr_jax").glob("*.py")}
    starts = {name for name, text in files.items() if "\nif __name__ ==" in text}
    assert starts - {"__main__"} == set(commands.COMMANDS)
    assert commands.main([]) == commands.main(["--help"]) == 0
    said = capsys.readouterr().out
    for name, sentence in commands.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(sentence)}$", said, re.M)
        assert sentence[0].isupper() and sentence.endswith(".")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["trian"], "there is no command 'trian': take one of train, evaluate"),
        (["completion"], "name the shell"),
        (["completion", "fish"], "name the shell"),
    ],
)
def test_what_there_is_not_is_one_sentence(argv, words, capsys) -> None:
    assert commands.main(argv) == 2
    seen = capsys.readouterr()
    assert words in seen.err and seen.err.count("\n") == 1 and not seen.out


def test_a_command_gets_its_arguments_and_gives_its_exit_code(tmp_path) -> None:
    done = called("report", str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "error:" in done.stderr and "nowhere" in done.stderr
    done = called("report", "--help")
    assert done.returncode == 0 and "usage: python -m rlvr_jax.report" in done.stdout


@pytest.mark.parametrize("name", PARSED)
def test_its_help_says_what_each_option_means_and_what_it_is_without(name, monkeypatch) -> None:
    actions = parser_of(name, monkeypatch)._actions
    options = {action.option_strings[-1]: action for action in actions if action.option_strings}
    for option, action in options.items():
        assert action.help, option
        chosen = action.choices or isinstance(action.default, int | float)
        if chosen and action.default is not None and not isinstance(action.default, bool):
            assert re.search(r"\[.+\]", action.help), f"{option}: what is it by default?"
    known = set(commands.options_of(name))
    assert known == set(options) if name != "jobs" else known < set(options)


def test_the_help_of_train_has_allowed_values_and_defaults() -> None:
    said = settings.describe()
    assert re.search(r"^  optim\.decay \[constant\] +one of constant, linear, cosine: ", said, re.M)
    assert re.search(r"^  on_error \[stop\] +one of stop, zero: your own rule", said, re.M)
    assert re.search(r"^  log \[\] +one of wandb, mlflow, trackio: ", said, re.M)


def bash(words: str, count: int) -> list[str]:
    script = commands.completion("bash")
    script += f"COMP_WORDS=({words}); COMP_CWORD={count}; _rlvr; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_and_options() -> None:
    assert bash("rlvr ev", 1) == ["evaluate"]
    assert bash("rlvr evaluate --mo", 2) == ["--model"]
    assert bash("rlvr train --", 2) == ["--as", "--config", "--help", "--minutes"]
    assert set(commands.COMMANDS) < set(bash("rlvr ''", 1))


def test_zsh_completion_has_the_same_commands_and_options() -> None:
    script = commands.completion("zsh")
    assert script.startswith("#compdef rlvr\n")
    for name, sentence in commands.COMMANDS.items():
        assert f"'{name}:{sentence}'" in script and "'" not in sentence
        assert f"{name}) compadd -- {' '.join(commands.options_of(name))} ;;" in script
    if shutil.which("zsh"):
        done = subprocess.run(["zsh", "-n", "-c", script], capture_output=True, timeout=30)
        assert done.returncode == 0 and not done.stderr
