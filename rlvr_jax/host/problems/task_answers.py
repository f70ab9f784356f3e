"""This module writes answers to the toy tasks, right or wrong on purpose, and grades answers.

The canonical form of an answer is reasoning-gym's own text ("12", "Yes", "father"). A surface form
is one of many ways to write it ("twelve legs", "the answer is 12", "(B)").
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping

from rlvr_jax.host.problems.number_words import MAX_WORDS, number_to_words, parse_number_words
from rlvr_jax.host.problems.tasks import TASKS, Task, find_unknown, parse_options
from rlvr_jax.host.text.accepted import accepted

MAX_LINE = 200  # an answer line longer than this is not an answer
MAX_TEXT = 4096  # only this many characters at the end of a completion are read

YES = ("yes", "true", "yes, it does", "it follows", "the answer is yes", "valid")
NO = ("no", "false", "no, it does not", "it does not follow", "the answer is no", "not valid")
CHOICE = ("({l})", "{l}", "{t}", "the {t}", "({l}) {t}", "the answer is {t}", "option {l}")
_MEANINGS = {
    "Yes": {"yes", "true", "valid", "correct", "it does", "it follows", "yes it does"}
    | {"yes it follows", "follows", "it does follow"},
    "No": {"no", "false", "invalid", "not valid", "not true", "incorrect", "it does not"}
    | {"it does not follow", "no it does not", "no it does not follow", "does not follow"},
}
_LEAD = re.compile(
    r"(?:so|thus|therefore|hence|equals|it's"
    r"|(?:the )?(?:final |correct )?(?:answer|result|solution|total)(?: is| equals)?"
    r"|(?:it|that|this|there|he|she) (?:is|are|has|equals))(?![\w'-]) ?[:=,]? ?|= ?"
)


def render(record: Mapping[str, str], answer: str, rng: random.Random) -> str:
    """Write a canonical answer to the record's question in a random surface form."""
    task = TASKS[record["task"]]
    if task.kind == "bool":
        return rng.choice(YES if answer == "Yes" else NO)
    if task.kind == "choice":
        letter = next(k for k, text in parse_options(record).items() if text == answer)
        return rng.choice(CHOICE).format(l=letter.upper(), t=answer)
    n = int(answer)
    number = number_to_words(n) if rng.random() < 0.5 and abs(n) <= MAX_WORDS else answer
    form = rng.choice(("{n}", "the answer is {n}", "answer: {n}", *task.forms))
    unit = task.unit[n != 1] if task.unit else ""
    return form.format(n=number, d=answer, u=unit, v=find_unknown(record))


def _last_line(text: object) -> str | None:
    """Return the last non-empty line in plain lower case; None if the line cannot be an answer."""
    if not isinstance(text, str):
        return None
    lines = text[-MAX_TEXT:].split("\n")
    if len(text) > MAX_TEXT:
        lines = lines[1:]  # the first line may have lost its beginning
    line = next((line for line in reversed(lines) if line.strip()), "")
    if len(line) > MAX_LINE:
        return None
    for char in line.strip():
        # NFKC would turn "1²" into "12"; control characters can hide or reorder text.
        tag = unicodedata.decomposition(char).partition(">")[0]
        if unicodedata.category(char)[0] == "C" or tag in ("<super", "<sub", "<circle"):
            return None
    line = unicodedata.normalize("NFKC", line).lower()
    line = re.sub("[\u2010-\u2015\u2212]", "-", line).replace("\u2019", "'")
    return " ".join(line.split()).strip(" *`\"'").rstrip(" .*`\"'")


def _parse_number(line: str, task: Task) -> str | None:
    if task.unit:
        line = re.sub(rf"(?<=\w) (?:{task.unit[1]}|{task.unit[0]})(?: in total)?$", "", line)
    if re.fullmatch(r"[+-]?(?:[0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,2})(?:\.0{1,9})?", line):
        return str(int(line.split(".")[0].replace(",", "")))
    value = parse_number_words(line)
    return None if value is None else str(value)


def _parse_choice(line: str, options: Mapping[str, str]) -> str | None:
    line = line.removeprefix("option ")
    match = re.fullmatch(r"\(?([a-z])[).:]?(?: (.+))?", line)
    if match and match[1] in options and match[2] in (None, options[match[1]]):
        return options[match[1]]
    line = line.removeprefix("the ")  # "a" stays: it may be the letter
    return line if line in options.values() else None


def canonical(text: str, record: Mapping[str, str]) -> str | None:
    """Return the answer on a text's last non-empty line in canonical form.

    The result is None unless the line has exactly one reading.
    """
    task = TASKS.get(record.get("task", ""))
    line = _last_line(text)
    if task is None or not line:
        return None
    for _ in range(4):
        lead = _LEAD.match(line)
        line = line[lead.end() :].lstrip("*`\"'") if lead else line
    if task.kind == "number":
        own = rf"{find_unknown(record) or '(?!)'}(?: is(?![\w-])| ?=)"
        return _parse_number(re.sub(f"^(?:{own}) ?", "", line), task)
    if task.kind == "choice":
        return _parse_choice(line, parse_options(record))
    plain = re.sub(r"\bdoesn't\b", "does not", line).replace(",", "")
    return next((answer for answer, forms in _MEANINGS.items() if plain in forms), None)


def score(completion: str, record: Mapping[str, str]) -> float:
    """Grade a completion by the oracle: 1.0 if its answer is the gold answer, else 0.0.

    The oracle never raises: a record that is not of a toy task gives 0.0.
    """
    try:
        answer = canonical(completion, record)
        return float(answer is not None and answer == record["answer"])
    except (KeyError, TypeError, AttributeError, ValueError):
        return 0.0


def mistake(record: Mapping[str, str], rng: random.Random) -> str:
    """Return a wrong but plausible answer in canonical form: a near miss, or another option."""
    gold = record["answer"]
    kind = TASKS[record["task"]].kind
    if kind == "bool":
        return "No" if gold == "Yes" else "Yes"
    if kind == "choice":
        return rng.choice([text for text in parse_options(record).values() if text != gold])
    # Only sums can be negative: elsewhere a sign would give the mistake away.
    signed = record["task"] in ("sum", "chain")
    return rng.choice([x for x in near_misses(int(gold)) if signed or not x.startswith("-")])


def near_misses(n: int) -> list[str]:
    """Return n - 10, n - 2, n - 1, n + 1, n + 2, n + 10 and -n as texts, in ascending order.

    Each number occurs once, and n itself is omitted.
    """
    return [str(m) for m in sorted({n - 10, n - 2, n - 1, n + 1, n + 2, n + 10, -n} - {n})]


def demonstrate(record: Mapping[str, str], error_rate: float, rng: random.Random) -> str:
    """Write a demonstration of the answer, wrong with probability `error_rate`.

    It is one line in a random surface form; for the task `chain`, it shows each step of the sum.
    """
    wrong = rng.random() < error_rate
    if record["task"] == "chain":
        return _work_out(record["question"], rng if wrong else None)
    return render(record, mistake(record, rng) if wrong else record["answer"], rng)


def _work_out(question: str, slip: random.Random | None) -> str:
    """Write a sum with one line for each step and one for the answer.

    With `slip`, one random step has a wrong result, and the later steps go on from it.
    """
    terms = [int(x.replace(" ", "")) for x in re.findall(r"[+-]? ?\d+", question)]
    at = slip.randrange(1, len(terms)) if slip else 0
    total, lines = terms[0], []
    for i, term in enumerate(terms[1:], 1):
        result = total + term + (slip.choice((-2, -1, 1, 2)) if slip and i == at else 0)
        lines.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {result}")
        total = result
    return "\n".join([*lines, str(total)])


def exact_match(completion: str, record: Mapping[str, str]) -> float:
    """Return 1.0 if the last line of a completion is a reference, letter for letter, else 0.0."""
    lines = completion.strip().rsplit("\n", 1)
    return float(lines[-1].strip() in accepted(record))
