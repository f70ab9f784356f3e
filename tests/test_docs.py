"""The pages name what exists: paths, modules, functions and config keys."""

import ast
import dataclasses
import importlib
import re
import shlex
import sys
import typing
from pathlib import Path

import pytest
import yaml
from make_blocks import MARKS, read_blocks

from rlvr_jax import config, structs
from rlvr_jax.host.runs import config_text, settings
from rlvr_jax.host.runs.rounds import expand_rounds

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIRST = DOCS / "data.md"  # its files are there when later pages are read
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
HEADERS = sorted((ROOT / "configs").glob("*.yaml"))
FOLDERS = ("configs", "docs", "jobs", "kernels", "rlvr_jax", "tests")
SHORT = ("", "rlvr_jax", "docs")  # folders that a path in backticks may be relative to
CODE = (".py", ".md", ".yaml", ".png", ".jsonl")
# Paths that are not of this repository: rule files of users, files of data sets and runs.
OF_USERS = (
    *("rules/parity.py", "rules/near.py", "data/", "models/", "judge/", "build/jobs/"),
    *("metrics.jsonl", "train.jsonl", "test.jsonl", "config.resolved.yaml"),
    *("runs/NAME/", "checkpoints/STAGE/", "mine.yaml", "eval/NAME"),
)
# Dotted names that are not of this repository: files of models and runs, columns, functions of jax.
FOREIGN = r"""
    general\.architecture | reward_model\.ground_truth | lax\.switch
    | (actor_rollout_ref|algorithm|trainer)\..* | reward\.custom_reward_function\.path
    | data\.(train_files|val_files|train_batch_size|max_prompt_length|max_response_length
      |filter_overlong_prompts|apply_chat_template_kwargs)
    | .*\.(json|html|gguf|model|safetensors|jinja|lock)
"""


def spans(text: str) -> list[str]:
    """The words in single backticks, outside fenced and indented blocks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"^    .*$", "", text, flags=re.M)
    return [word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()]


def paths(text: str) -> set[str]:
    """Everything in a text that starts like a path of the repository."""
    found = re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*", text)
    return {path.rstrip(".") for path in found}


def links(text: str) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def modules() -> dict[str, list[str]]:
    """Last part of a dotted name -> the modules that it may mean: `log` and `runs.log`."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "rlvr_jax").rglob("*.py")):
        parts = ["rlvr_jax", *path.relative_to(ROOT / "rlvr_jax").with_suffix("").parts]
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), []).append(".".join(parts))
    return found


MODULES = modules()


def has(thing: object, names: list[str]) -> bool:
    for name in names:
        if name in getattr(thing, "__dataclass_fields__", {}):
            return True
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


def is_code(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one: `step.train_step`."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        for module in MODULES.get(".".join(parts[:end]), []):
            if has(importlib.import_module(module), parts[end:]):
                return True
    if parts[0] in sys.stdlib_module_names and parts[0] not in MODULES:  # `math.isclose`
        return has(importlib.import_module(parts[0]), parts[1:])
    return has(structs, parts)


def keys_of(kind: type, prefix: str = "") -> set[str]:
    """The dotted names of all keys of a config type; a key with free keys below it ends in `.`."""
    found = set()
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        name, hint = prefix + item.name, hints[item.name]
        found.add(name)
        if dataclasses.is_dataclass(hint):
            found |= keys_of(typing.cast(type, hint), f"{name}.")
        elif typing.get_origin(hint) is dict:
            found.add(f"{name}.")
    return found


def config_keys() -> set[str]:
    found = keys_of(config.Config)
    for tag, kind in settings.STAGES.items():
        found |= keys_of(kind) | keys_of(kind, f"{tag}.")
    return found


KEYS = config_keys()


def is_key(name: str) -> bool:
    return name in KEYS or any(key.endswith(".") and name.startswith(key) for key in KEYS)


def wrong_names(text: str) -> list[str]:
    """The dotted names in backticks that are neither code nor config keys of this repository."""
    found = []
    for word in spans(text):
        name = re.sub(r"\(.*|=.*|[,:;]$", "", word)
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", name):
            continue
        other = name.endswith(CODE) or re.fullmatch(FOREIGN, name, re.X)
        if not other and not is_code(name) and not is_key(name):
            found.append(name)
    return found


def wrong_paths(text: str) -> list[str]:
    """The paths that do not exist: those below our folders, and file names in backticks."""
    found = [path for path in paths(text) if not list(ROOT.glob(path.rstrip("/")))]
    for word in spans(text):
        word = word.rstrip(",:;")
        ours = not word.startswith(OF_USERS) and re.fullmatch(r"[\w./-]+", word)
        if ours and (word.endswith(CODE) or (word.endswith("/") and "/" in word[:-1])):
            found += [] if any((ROOT / folder / word).exists() for folder in SHORT) else [word]
    return found


def test_wrong_names_are_found():
    assert spans("a `b.c d` e\n```\n`no`\n```\n    `nor`\n") == ["b.c", "d"]
    good = "`step.train_step` `structs.Rollout.truncated_B` `Round.filled_B` `rl.loss.kl_coef=0`"
    assert wrong_names(f"{good} `answers.extract(x)` `mesh.letters.K` `host.runs.log`") == []
    bad = ["step.no_such", "train_step.train_step", "policy.generate", "loss.no_key", "rl.filter.x"]
    assert wrong_names(" ".join(f"`{name}`" for name in bad)) == bad
    assert wrong_paths("`host/text/answers.py` configs/debug.yaml tests/golden/") == []
    assert wrong_paths("tests/test_no.py") == ["tests/test_no.py"]
    assert wrong_paths("`host/data.py` `no_such.py`") == ["host/data.py", "no_such.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text("utf-8")
    assert wrong_paths(text) == []
    assert wrong_names(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page):
    for target in links(page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_and_imports_exist(page):
    text = page.read_text("utf-8")
    for module in re.findall(r"python -m (rlvr_jax[\w.]*)", text):
        assert module in MODULES, module
    for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlvr_jax"):
                for alias in node.names:
                    assert is_code(f"{node.module}.{alias.name}"), alias.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_are_run_by_a_test_or_say_what_they_need(page):
    for block in read_blocks(page):
        where = f"{page.name}, line {block.line}"
        assert not block.commands or block.mark.startswith(MARKS), where
        assert not block.runs or block.commands, where
        for command in block.commands:
            assert "rlvr_jax.train" not in command or readable(command, block.words, page), where


def readable(command: str, words: list[str], page: Path) -> bool:
    """Whether a training command names a config and overrides that exist."""
    argv = shlex.split(command)
    name = argv[argv.index("--config") + 1]
    if name == "CONFIG":
        return True
    files = [b for b in read_blocks(page) + read_blocks(FIRST) if b.mark == f"file: {name}"]
    tree = config_text.parse_yaml(files[0].text if files else (ROOT / name).read_text("utf-8"))
    overrides = [word for word in [*argv, *words] if re.match(r"[\w.]+=", word)]
    return bool(settings.build(expand_rounds(tree), overrides, sizes=None))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_yaml_has_keys_that_exist(page):
    """A block is a config, some sections of one, stages, or sections of a stage."""
    keys = {item.name for item in dataclasses.fields(config.Config)}
    for block in read_blocks(page):
        if block.kind != "yaml":
            continue
        tree = yaml.safe_load(block.text)
        if isinstance(tree, list) or "stage" in tree:
            tree = {"stages": tree if isinstance(tree, list) else [tree]}
        elif not set(tree) <= keys:
            fits = [tag for tag, kind in settings.STAGES.items() if set(tree) <= keys_of(kind)]
            assert fits, f"{page.name}, line {block.line}"
            tree = {"stages": [{"stage": "rl" if "rl" in fits else fits[0]} | tree]}
        unknown = [line for line in refusal(tree).splitlines() if "unknown key" in line]
        assert not unknown, f"{page.name}, line {block.line}: {unknown}"


def refusal(tree: dict) -> str:
    """Why a tree of config values is refused, or nothing."""
    try:
        settings.parse(expand_rounds({"stages": [{"stage": "tokenizer"}]} | tree))
    except config_text.ConfigError as error:
        return str(error)
    return ""


def test_a_wrong_key_in_yaml_is_found():
    assert "unknown key 'stepps'" in refusal({"stages": [{"stage": "rl", "stepps": 1}]})
    assert refusal({"data": {"train": 8}}) == ""


def test_marks_and_commands_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- runs with: a=1 -->\n```sh\npython x \\\n  y   # why\ntext\n```\n\n"
        "<!-- file: a/b.py -->\n```python\nprint()\n```\n\nwords\n\n    $ make it\n"
    )
    first, second, third = read_blocks(page)
    assert (first.commands, first.words, first.runs) == (["python x y"], ["a=1"], True)
    assert (second.mark, second.text, second.commands) == ("file: a/b.py", "print()\n", [])
    assert (third.kind, third.mark, third.commands) == ("indented", "", ["make it"])


def test_the_sentences_of_troubleshooting_are_those_of_the_code():
    said = []
    for path in (ROOT / "rlvr_jax").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        said += [x.value for x in ast.walk(tree) if isinstance(x, ast.Constant)]
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    table = text[text.index("| the sentence says") : text.index("Exit code 1")]
    cells = [row.split("|")[1] for row in table.splitlines()[2:] if row]
    words = [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
    assert len(words) > 8
    for word in words:
        assert any(word in text for text in said if isinstance(text, str)), word


def test_the_index_names_every_page():
    named = {target.partition("#")[0] for target in links((DOCS / "README.md").read_text("utf-8"))}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= named


def test_the_glossary_has_every_letter_of_the_key():
    doc = structs.__doc__ or ""
    key = doc[doc.index("    Q  prompts") : doc.index("In `index_SM`")]
    letters = set(re.findall(r"(?<!\w)([A-Z])  (?=\w)", key))
    assert {"Q", "V", "B", "U", "J"} <= letters
    page = (DOCS / "glossary.md").read_text("utf-8")
    assert letters == set(re.findall(r"^\| ([A-Z]) \|", page, re.M))


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.stem)
def test_the_paths_in_the_header_of_a_config_exist(path):
    lines = path.read_text("utf-8").splitlines()
    assert wrong_paths("\n".join(x for x in lines if x.startswith("#"))) == []


def test_the_tree_shows_every_module_and_wing():
    text = (ROOT / "README.md").read_text("utf-8")
    tree = text[text.index("## The tree") : text.index("## A run")]
    named = set(re.findall(r"[\w.]+\.py\b", tree))
    assert {path.name for path in (ROOT / "rlvr_jax").glob("*.py")} - {"__init__.py"} == named
    wings = {path.parent.name for path in (ROOT / "rlvr_jax" / "host").glob("*/__init__.py")}
    assert wings <= set(re.findall(r"(\w+)/", tree))


def test_the_page_on_design_is_one_link_away_and_answers_ten_questions():
    assert "docs/design.md" in links((ROOT / "README.md").read_text("utf-8"))
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    answers = re.split(r"^\*\*\d+\. ", text[text.index("## Ten questions") :], flags=re.M)[1:]
    assert len(answers) == 10
    for answer in answers:
        assert any(is_code(name) for name in spans(answer) if "." in name), answer[:40]
