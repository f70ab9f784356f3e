r"""The audit of a user's rule learns in which form the rule takes answers: `#### 42`, tags, a box.

The candidates are the forms in which the demonstrations of the data write their reference, and some
common ones.  The rule itself decides: its form is the first in which it accepts most references.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rlvr_jax.host.hardening.attacks import Item, gold_answer

ROWS = 6  # records whose references are tried in each form
_TAGS = re.compile(r"<([A-Za-z_][\w-]*)>\s*([^<>]*?)\s*</\1>\s*\Z")
_MARK = re.compile(r"(?m)^[ \t]*(#{1,6}[ \t]*|[A-Za-z][A-Za-z ]{0,20}:[ \t]*)([^\n]*?)\s*\Z")
_BOX = re.compile(r"\\boxed\{")
Ask = Callable[[Mapping[str, str], str], bool]  # whether the rule accepts a text for a record


class Form(NamedTuple):
    """A Form is what stands before and behind an answer."""

    before: str
    behind: str = ""

    def write(self, answer: str) -> str:
        """Return the answer in this form."""
        return f"{self.before}{answer}{self.behind}"


COMMON = (
    *(Form(""), Form("\\boxed{", "}"), Form("#### "), Form("<answer>", "</answer>")),
    *(Form("Answer: "), Form("The answer is "), Form("$", "$")),
)


def learn(records: Sequence[Mapping[str, str]], ask: Ask) -> Form | None:
    """Return the form in which a rule accepts most references; None if it accepts none."""
    some = records[:ROWS]
    seen = Counter(form for record in some for form in _shown(record))
    for form in dict.fromkeys([*(form for form, _ in seen.most_common()), *COMMON]):
        taken = sum(ask(r, f"We look at it.\n{form.write(gold_answer(r))}") for r in some)
        if 2 * taken > len(some):
            return form
    return None


def dress(items: Iterable[Item], record: Mapping[str, str], form: Form) -> Iterator[Item]:
    """Yield the items of a record as answers to a rule that takes answers in a form.

    Right answers have the form.  Wrong ones come as they are and, if they are one line without a
    box, in the form too.
    """
    right = gold_answer(record)
    for item in items:
        if not item.right:
            yield item
            line = item.text.strip() and "\n" not in item.text and "boxed" not in item.text
            if line and item.finished and form.before:
                yield item._replace(name=f"{item.name}, in the form", text=form.write(item.text))
    yield Item("F", "in the form", form.write(right), True)
    yield Item("F", "in the form, after a line", f"We look at it.\n{form.write(right)}", True)
    if record["demonstration"] not in ("", right):
        yield Item("F", "as the data write it", record["demonstration"], True)


def _shown(record: Mapping[str, str]) -> Iterator[Form]:
    """Yield the forms in which the end of a demonstration writes its reference."""
    text, right = record["demonstration"].strip(), gold_answer(record)
    if (tags := _TAGS.search(text)) and _same(tags[2], right):
        yield Form(f"<{tags[1]}>", f"</{tags[1]}>")
    if (mark := _MARK.search(text)) and _same(mark[2], right):
        yield Form(mark[1])
    if any(text.startswith(right + "}", match.end()) for match in _BOX.finditer(text)):
        yield Form("\\boxed{", "}")


def _same(text: str, right: str) -> bool:
    return text.replace(",", "").strip() == right.replace(",", "").strip()
