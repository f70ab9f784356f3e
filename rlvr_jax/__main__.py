"""All commands: `python -m rlvr_jax` lists them, and `rlvr COMMAND ...` runs one.

`rlvr train --config FILE` is `python -m rlvr_jax.train --config FILE`.  `rlvr completion bash` and
`rlvr completion zsh` print what a shell needs to complete commands and options.
"""

import importlib.util
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "train": "Run the stages of a config; run again to go on where it stopped.",
    "evaluate": "Measure a run, a model or an endpoint on problems, with intervals.",
    "generate": "Print one response of a model, or answer a file of prompts.",
    "convert": "Write what a stage trained as a Hugging Face folder.",
    "report": "Turn a run folder into one page that needs no network, or compare several.",
    "audit": "Attack the reward of a config.",
    "plan": "Compile a config for a slice that is not here: memory, time and cost.",
    "jobs": "Write the file that starts a run on a cluster.",
    "bench": "Time the training step on this machine.",
    "bench_device": "Time the step and the kernels on one GPU or TPU.",
}
USAGE = "usage: rlvr COMMAND ... (the same as python -m rlvr_jax.COMMAND ...)"
BASH = """\
_rlvr() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "$word" in
        -*) ;;
        *) compopt -o default; COMPREPLY=(); return ;;
    esac
    case "${{COMP_WORDS[1]}}" in
{options}
    esac
}}
complete -F _rlvr rlvr
"""
ZSH = """\
#compdef rlvr
_rlvr() {{
    if (( CURRENT == 2 )); then
        local -a commands=(
{commands}
        )
        _describe command commands
        return
    fi
    if [[ "$PREFIX" != -* ]]; then
        _files
        return
    fi
    case "$words[2]" in
{options}
    esac
}}
compdef _rlvr rlvr
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, or list the commands; return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(list_commands())
        return 0
    name, rest = args[0].replace("-", "_"), args[1:]
    if name == "completion" and len(rest) == 1 and rest[0] in ("bash", "zsh"):
        print(completion(rest[0]), end="")
        return 0
    if name == "completion":
        print("error: name the shell: rlvr completion bash, or zsh", file=sys.stderr)
        return 2
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: there is no command {args[0]!r}: take one of {known}", file=sys.stderr)
        return 2
    sys.argv = [name, *rest]
    # As `python -m` would: the module sets its signals before its long imports.
    runpy.run_module(f"rlvr_jax.{name}", run_name="__main__", alter_sys=True)
    return 0


def list_commands() -> str:
    """Return all commands with a sentence each."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{sentence}" for name, sentence in COMMANDS.items()]
    more = ["rlvr COMMAND --help lists its options; rlvr completion bash (or zsh) completes them."]
    return "\n".join([USAGE, "", *lines, "", *more])


def options_of(command: str) -> list[str]:
    """Return the options of a command as its source names them, without an import of jax.

    The report's are none, and those of `jobs` that depend on the kind of job are left out.
    """
    spec = importlib.util.find_spec(f"rlvr_jax.{command}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    named = re.findall(r"""\badd(?:_argument)?\(\s*"(--[a-z][\w-]*)\"""", source)
    return sorted({*named, "--help"})


def completion(shell: str) -> str:
    """Return the text that makes a shell complete commands, options and files."""
    if shell == "bash":
        words = {name: " ".join(options_of(name)) for name in COMMANDS}
        options = [
            f'        {name}) COMPREPLY=($(compgen -W "{known}" -- "$word")) ;;'
            for name, known in words.items()
        ]
        commands = " ".join([*COMMANDS, "completion"])
        return BASH.format(commands=commands, options="\n".join(options))
    lines = [f"            '{name}:{sentence}'" for name, sentence in COMMANDS.items()]
    options = [f"        {name}) compadd -- {' '.join(options_of(name))} ;;" for name in COMMANDS]
    return ZSH.format(commands="\n".join(lines), options="\n".join(options))


if __name__ == "__main__":
    sys.exit(main())
