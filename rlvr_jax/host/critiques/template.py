"""A template holds the texts around a query and its responses, read from a YAML file.

The file maps names to texts with holes such as {query}; `templates/scores.yaml` shows them all.
Our own templates are named without a path; a user names a file of his own, for example with the
published wording.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlvr_jax.host.text.holes import HOLE, fill, find_file, named

FOLDER = Path(__file__).parent / "templates"
OURS = named(FOLDER)
# Text -> the holes that it must have, and those that it may have.
HOLES: dict[str, tuple[set[str], set[str]]] = {
    "query": ({"query"}, set()),
    "reference": ({"reference"}, set()),
    "criteria": ({"criteria"}, set()),
    "response": ({"index", "response"}, set()),
    "hint": ({"best"}, set()),
    "strength": (set(), {"strength"}),
    "ask": (set(), {"criteria_line", "count"}),
    "ask_one": (set(), {"criteria_line", "count"}),
    "meta": (set(), {"accept", "reject"}),
}


@dataclass(frozen=True)
class Template:
    """A Template is one wording of the prompt of a generative reward model."""

    form: str  # scores: each response gets a score; pick: the number of the best one is named
    instructions: str  # before the query
    query: str
    reference: str  # shown if the config asks for it and the item has a reference
    criteria: str  # shown if criteria are given
    ask_criteria: str  # asks for criteria alone
    response: str  # the frame of one response
    hint: str  # names the best response, for hinted sampling
    strength: str  # follows the hint if the data say how much better the best response is
    criteria_line: str  # asks for criteria as a part of the judgement
    ask: str  # asks for a judgement of several responses
    ask_one: str  # asks whether a single response is right
    meta: str  # asks the meta RM whether a judgement is sound

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the texts by which frames are known, such as "[Response" and "[End of response".

        A response is shown without them, so that it can neither close its frame nor open another.
        """
        parts = self.response.split("{response}")
        found = [part.partition("{index}")[0].strip().lower() for part in parts]
        return tuple(dict.fromkeys(filter(None, found)))

    def framed(self, index: int) -> tuple[str, str]:
        """Return the texts before and after the response with this index, counted from 0."""
        before, _, after = self.response.partition("{response}")
        return fill(before, index=index + 1), fill(after, index=index + 1)


def load_template(name: str, form: str) -> Template:
    """Load one of our templates by its name, or a template from a file.

    Raises:
      ValueError: the file cannot be read, lacks a text or a hole, or is of the other form; the
        message is one sentence.
    """
    path = find_file(name, FOLDER, "critique.template")
    try:
        texts = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"template {path} cannot be read: {reason}") from error
    names = {field.name for field in dataclasses.fields(Template)}
    if not isinstance(texts, dict) or set(texts) != names:
        odd = ", ".join(sorted(map(str, set(texts or ()) ^ names)))
        raise ValueError(f"template {path} must have exactly the texts of templates/*: see {odd}")
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"template {path} must map names to texts: put quotes around the values")
    template = Template(**texts)
    _check(template, path, form)
    return template


def _check(template: Template, path: Path, form: str) -> None:
    if template.form != form:
        raise ValueError(
            f"template {path} has the form {template.form!r} and critique.form is {form!r}: "
            "choose another template or form"
        )
    for name, (needed, allowed) in HOLES.items():
        text = getattr(template, name)
        holes = HOLE.findall(text)
        missing = needed - set(holes)
        if missing or any(holes.count(hole) > 1 for hole in needed - {"index"}):
            raise ValueError(
                f"template {path}: {name} needs the hole {{{sorted(missing or needed)[0]}}} once"
            )
        if odd := set(holes) - needed - allowed - {"scores"}:
            raise ValueError(f"template {path}: {name} has an unknown hole {{{sorted(odd)[0]}}}")
    before = template.response.partition("{response}")[0]
    if not before.partition("{index}")[0].strip() or "{index}" not in before:
        raise ValueError(
            f"template {path}: response needs a sign and {{index}} before {{response}}, such as "
            '"[Response {index}]"'
        )
    if not all(mark.isascii() for mark in template.marks):
        raise ValueError(f"template {path}: write the frame of a response in ASCII")
