"""Small reasoning-gym problems with free-text references, and the oracle that grades them.

A record is a dict of strings: question, reference, answer, demonstration, domain, task, key, and
messages and extra, which are empty here.
`answer` is reasoning-gym's gold answer, letter for letter; `reference` and `demonstration` are that
answer in two surface forms drawn independently ("12", "twelve legs", "the answer is 12", "(B)"), so
string equality between them says little: the reason to have a verifier.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, str]
LETTERS = "ABC"
MAX_LINE = 200  # an answer line longer than this is not an answer
MAX_TEXT = 4096  # characters of a completion that are looked at, from its end
MAX_WORDS = 9999  # larger numbers are written in digits only
PATIENCE = 5000  # draws in a row without a usable problem before a task counts as exhausted
RELATIONS = ("husband", "wife", "father", "mother", "son", "daughter")
# Few names and nouns, so that a small vocabulary spells each in a piece or two.
MEN = "James John Robert David Peter Henry Jack Noah Lucas Owen".split()
WOMEN = "Mary Linda Susan Sarah Emma Lisa Anna Alice Lucy Zoe".split()
NOUNS = frozenset(
    "humans children adults parents students teachers doctors artists chefs dogs cats birds fish "
    "bees ants spiders horses lions tigers whales".split()
)


@dataclass(frozen=True)
class Task:
    """One kind of problem: where it comes from, how it reads and how its answer is written.

    `shorten` turns an entry into (question, key), or None to skip it. The key is what is asked
    without the wording, and decides the split; empty, it is the question itself: the few hundred
    facts below `sum`, `equation` and `siblings` recur across splits in other questions. `unit` is
    (singular, plural); `forms` are more surface forms: {n} is the number in digits or words, {d}
    in digits, {u} its unit and {v} the unknown.
    """

    domain: str
    dataset: str
    shorten: Callable[[dict[str, Any]], tuple[str, str] | None]
    kind: str = "number"  # number | choice (options in the question) | bool
    unit: tuple[str, str] | None = None
    forms: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)


def _sum(entry: dict[str, Any]) -> tuple[str, str]:
    return f"What is {entry['metadata']['expression']}?", ""


def _equation(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["question"], ""


def _legs(entry: dict[str, Any]) -> tuple[str, str]:
    question = entry["question"].split("Now, ")[1].strip()
    animals = sorted(entry["metadata"]["animals"].items())
    return question[0].upper() + question[1:], ", ".join(f"{n} {name}" for name, n in animals)


def _siblings(entry: dict[str, Any]) -> tuple[str, str]:
    text = entry["question"].replace("she also has ", "")
    # One template asks about a man who was never introduced: say that he is the brother meant.
    sister = text.split()[0]
    text = re.sub(rf"does (?!{sister}'s)(\w+)'s brother have", r"does her brother \1 have", text)
    return text, ""


def _family(entry: dict[str, Any]) -> tuple[str, str]:
    story, _, rest = entry["question"].partition("\n\n")
    meta = entry["metadata"]
    story = story.replace(". They have a child called", "; their child is")
    question = f"{story} {rest.split('?')[0]}?"
    return question, f"{story} {meta['person1']} to {meta['person2']}"


def _syllogism(entry: dict[str, Any]) -> tuple[str, str] | None:
    meta = entry["metadata"]
    first, second, then = meta["premise1"], meta["premise2"], meta["conclusion"]
    # reasoning-gym forgets that the middle term must be distributed ("All cats are pets. Some pets
    # are not dogs." proves nothing about cats and dogs), so some of its "Yes" are wrong: skip them.
    loose = not first.startswith("No") and " not " not in first and second.startswith("Some")
    if meta["type"] == "syllogism" and entry["answer"] == "Yes" and loose:
        return None
    nouns = set(f"{first} {second}".split()) - {"All", "No", "Some", "are", "not"}
    if not nouns <= NOUNS:
        return None
    question = f"{first}. {second}. Does it follow that {then[0].lower()}{then[1:]}?"
    return question, "; ".join(sorted((first, second))) + " => " + then


TASKS: dict[str, Task] = {
    "sum": Task(
        *("arithmetic", "chain_sum", _sum),
        forms=("= {n}", "it equals {n}"),
        params=dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1),
    ),
    "chain": Task(
        *("arithmetic", "chain_sum", _sum),
        params=dict(min_terms=4, max_terms=5, min_digits=1, max_digits=1),
    ),
    "equation": Task(
        *("algebra", "simple_equations", _equation),
        forms=("{v} = {n}", "{v} is {n}"),
        params=dict(min_terms=1, max_terms=1, max_value=10),
    ),
    "legs": Task(
        *("gsm", "leg_counting", _legs),
        unit=("leg", "legs"),
        forms=("{n} {u}", "there are {n} {u}"),
        params=dict(min_animals=1, max_animals=2, max_instances=5),
    ),
    "siblings": Task(
        *("gsm", "aiw", _siblings),
        unit=("sister", "sisters"),
        forms=("{n} {u}", "he has {n} {u}"),
        params=dict(task_type_weights=[1.0, 0.0, 0.0], max_entities=20),
    ),
    # Families of three: with a fourth person reasoning-gym calls a daughter-in-law "mother-in-law".
    "family": Task(
        *("logic", "family_relationships", _family),
        kind="choice",
        params=dict(min_family_size=3, max_family_size=3, male_names=MEN, female_names=WOMEN),
    ),
    "syllogism": Task(
        *("logic", "syllogism", _syllogism), kind="bool", params=dict(invalid_ratio=0.5)
    ),
}

YES = ("yes", "true", "yes, it does", "it follows", "the answer is yes", "valid")
NO = ("no", "false", "no, it does not", "it does not follow", "the answer is no", "not valid")
CHOICE = ("({l})", "{l}", "{t}", "the {t}", "({l}) {t}", "the answer is {t}", "option {l}")
_SAYS = {
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
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


def words(n: int) -> str:
    """The integer in English: "minus twenty-three", "one hundred and five"."""
    if n < 0:
        return f"minus {words(-n)}"
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_ONES[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = n % size
    link = " " if rest >= 100 else " and "
    return f"{words(n // size)} {name}" + (f"{link}{words(rest)}" if rest else "")


@functools.cache
def _numbers() -> dict[str, int]:
    # Reading is a lookup of everything `words` can write: what it cannot write is not a number.
    return {words(n).replace(" and ", " ").replace("-", " "): n for n in range(MAX_WORDS + 1)}


def _options(record: Mapping[str, str]) -> dict[str, str]:
    found = re.findall(r" ([A-Z])\) (-?\w+)", record["question"])
    return {letter.lower(): text for letter, text in found}


def _unknown(record: Mapping[str, str]) -> str:
    match = re.search(r": .*?([a-z])", record["question"])
    return match[1] if match else ""


def render(record: Mapping[str, str], answer: str, rng: random.Random) -> str:
    """Write a canonical answer to this record's question in a random surface form."""
    task = TASKS[record["task"]]
    if task.kind == "bool":
        return rng.choice(YES if answer == "Yes" else NO)
    if task.kind == "choice":
        letter = next(k for k, text in _options(record).items() if text == answer)
        return rng.choice(CHOICE).format(l=letter.upper(), t=answer)
    n = int(answer)
    number = words(n) if rng.random() < 0.5 and abs(n) <= MAX_WORDS else answer
    form = rng.choice(("{n}", "the answer is {n}", "answer: {n}", *task.forms))
    unit = task.unit[n != 1] if task.unit else ""
    return form.format(n=number, d=answer, u=unit, v=_unknown(record))


def _last_line(text: object) -> str | None:
    """The last non-empty line, folded to plain lower case; None when it cannot be an answer."""
    if not isinstance(text, str):
        return None
    lines = text[-MAX_TEXT:].split("\n")
    if len(text) > MAX_TEXT:
        lines = lines[1:]  # the cut may have gone through the first one
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


def _read_number(line: str, task: Task) -> str | None:
    if task.unit:
        line = re.sub(rf"(?<=\w) (?:{task.unit[1]}|{task.unit[0]})(?: in total)?$", "", line)
    if re.fullmatch(r"[+-]?(?:[0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,2})(?:\.0{1,9})?", line):
        return str(int(line.split(".")[0].replace(",", "")))
    value = read_words(line)
    return None if value is None else str(value)


def read_words(line: str) -> int | None:
    """The integer that a text in lower case writes as `words` does; None if it writes none."""
    sign, rest = re.fullmatch(r"(minus |negative )?(.*)", line, re.S).groups()  # type: ignore
    rest = re.sub(r"^an? (?=hundred|thousand)", "one ", rest)
    rest = re.sub(r"\b(hundred|thousand) and\b", r"\1", rest)
    value = _numbers().get(re.sub(r"(?<=\w)-(?=\w)", " ", rest))
    return -value if sign and value is not None else value


def _read_choice(line: str, options: Mapping[str, str]) -> str | None:
    line = line.removeprefix("option ")
    match = re.fullmatch(r"\(?([a-z])[).:]?(?: (.+))?", line)
    if match and match[1] in options and match[2] in (None, options[match[1]]):
        return options[match[1]]
    line = line.removeprefix("the ")  # "a" stays: it may be the letter
    return line if line in options.values() else None


def canonical(text: str, record: Mapping[str, str]) -> str | None:
    """Read the answer on the last non-empty line; None unless it says exactly one thing."""
    task = TASKS.get(record.get("task", ""))
    line = _last_line(text)
    if task is None or not line:
        return None
    for _ in range(4):
        lead = _LEAD.match(line)
        line = line[lead.end() :].lstrip("*`\"'") if lead else line
    if task.kind == "number":
        own = rf"{_unknown(record) or '(?!)'}(?: is(?![\w-])| ?=)"
        return _read_number(re.sub(f"^(?:{own}) ?", "", line), task)
    if task.kind == "choice":
        return _read_choice(line, _options(record))
    plain = re.sub(r"\bdoesn't\b", "does not", line).replace(",", "")
    return next((says for says, forms in _SAYS.items() if plain in forms), None)


def score(completion: str, record: Mapping[str, str]) -> float:
    """The oracle: 1.0 when the completion's answer is the gold answer, else 0.0; never raises."""
    try:
        found = canonical(completion, record)
        return float(found is not None and found == record["answer"])
    except (KeyError, TypeError, AttributeError, ValueError):  # a record that is not one of ours
        return 0.0


def mistake(record: Mapping[str, str], rng: random.Random) -> str:
    """A wrong but plausible answer in canonical form: a near miss, or another option."""
    gold = record["answer"]
    kind = TASKS[record["task"]].kind
    if kind == "bool":
        return "No" if gold == "Yes" else "Yes"
    if kind == "choice":
        return rng.choice([text for text in _options(record).values() if text != gold])
    # Only sums can be negative: elsewhere a sign would give the mistake away.
    signed = record["task"] in ("sum", "chain")
    return rng.choice([x for x in _near(int(gold)) if signed or not x.startswith("-")])


def _near(n: int) -> list[str]:
    """Near misses of a number."""
    return [str(m) for m in sorted({n - 10, n - 2, n - 1, n + 1, n + 2, n + 10, -n} - {n})]


def demonstrate(record: Mapping[str, str], error_rate: float, rng: random.Random) -> str:
    """An answer in a random surface form, wrong with probability `error_rate`."""
    wrong = rng.random() < error_rate
    if record["task"] == "chain":
        return worked(record["question"], rng if wrong else None)
    return render(record, mistake(record, rng) if wrong else record["answer"], rng)


def worked(question: str, slip: random.Random | None) -> str:
    """A sum, a line for each of its steps and one for the answer; a slip spoils what follows it."""
    terms = [int(x.replace(" ", "")) for x in re.findall(r"[+-]? ?\d+", question)]
    at = slip.randrange(1, len(terms)) if slip else 0
    total, lines = terms[0], []
    for i, term in enumerate(terms[1:], 1):
        found = total + term + (slip.choice((-2, -1, 1, 2)) if slip and i == at else 0)
        lines.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {found}")
        total = found
    return "\n".join([*lines, str(total)])


def exact(completion: str, record: Mapping[str, str]) -> float:
    """What a rule without a reader does: is the last line, letter for letter, the reference?"""
    lines = completion.strip().rsplit("\n", 1)
    return float(lines[-1].strip() == record["reference"])


def build(name: str, entry: dict[str, Any], rng: random.Random) -> Record | None:
    """The record of one reasoning-gym entry; None when the entry is not usable."""
    task = TASKS[name]
    short = task.shorten(entry)
    if short is None:
        return None
    question, key = short
    gold = entry["answer"]
    if name == "sum":  # the candidates are there to make many questions of few facts
        texts = [gold, *rng.sample(_near(int(gold)), 2)]
        rng.shuffle(texts)
        question += " " + " or ".join(texts)
    if task.kind == "choice":
        texts = [gold, *rng.sample([x for x in RELATIONS if x != gold], len(LETTERS) - 1)]
        rng.shuffle(texts)
        question += "".join(f" {k}) {text}" for k, text in zip(LETTERS, texts, strict=True))
    record = {"question": question, "answer": entry["answer"]}
    record |= {"domain": task.domain, "task": name, "key": key or question}
    record |= {"messages": "", "extra": ""}
    for side in ("reference", "demonstration"):
        record[side] = render(record, entry["answer"], rng)
    if task.kind == "choice":  # a reader who does not see the options needs both in the reference
        letter = next(k for k, text in _options(record).items() if text == entry["answer"])
        form = rng.choice(("({l}) {t}", "{l}) {t}", "option {l} {t}", "the answer is ({l}) {t}"))
        record["reference"] = form.format(l=letter.upper(), t=entry["answer"])
    return record


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def entries(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of reasoning-gym entries for one task."""
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ValueError("the tasks need a package: pip install reasoning-gym") from error
    # Item i of seed s is item i - 1 of seed s + 1: hash, so that streams do not overlap.
    start = _hash(f"{name}/{seed}") >> 32
    task = TASKS[name]
    dataset = reasoning_gym.create_dataset(task.dataset, seed=start, size=1, **task.params)
    yield from map(dataset.__getitem__, itertools.count())


def _split(name: str, key: str, counts: Mapping[str, int]) -> str:
    # Only the problem itself decides, so no seed ever moves a problem into another split.
    place = _hash(f"{name}\n{key}") / 2**64 * sum(counts.values())
    edges = itertools.accumulate(counts.values())
    return next(split for split, edge in zip(counts, edges, strict=True) if place <= edge > 0)


def _fill(
    name: str, counts: Mapping[str, int], shares: Mapping[str, int], seed: int
) -> dict[str, list[Record]]:
    rng = random.Random(f"{name}/{seed}")
    rows: dict[str, list[Record]] = {split: [] for split in counts}
    seen: set[str] = set()
    missing, idle = sum(counts.values()), 0
    stream = entries(name, seed)
    while missing:
        idle += 1
        if idle > PATIENCE:
            found = sum(map(len, rows.values()))
            raise ValueError(
                f"Task {name!r} has too few distinct problems for {sum(counts.values())} rows "
                f"in {len(counts)} splits ({found} found): ask for fewer rows or more tasks."
            )
        record = build(name, next(stream), rng)
        if record is None or record["key"] in seen:
            continue
        seen.add(record["key"])
        split = _split(name, record["key"], shares)
        if len(rows[split]) < counts[split]:
            rows[split].append(record)
            missing, idle = missing - 1, 0
    return rows


def known(name: str) -> None:
    """Refuse a name that is not a task's, with the nearest one that is."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}."
        raise ValueError(f"Unknown task {name!r}; {hint}")


def generate(tasks: Sequence[str], counts: Mapping[str, int], seed: int) -> dict[str, list[Record]]:
    """Splits of distinct problems in equal parts from each task, shuffled; same seed, same rows.

    No problem (`key`) occurs twice, within a split or across splits. With the same `counts`, rows
    of different seeds keep to their splits too.
    """
    for name in tasks:
        known(name)
    if not tasks or len(set(tasks)) < len(tasks) or any(n < 0 for n in counts.values()):
        raise ValueError("Tasks must be a non-empty list without repeats, and counts at least 0.")
    out: dict[str, list[Record]] = {split: [] for split in counts}
    for i, name in enumerate(tasks):
        part = {split: (n + len(tasks) - 1 - i) // len(tasks) for split, n in counts.items()}
        for split, rows in _fill(name, part, counts, seed).items():
            out[split] += rows
    for split, rows in out.items():
        random.Random(f"{split}/{seed}").shuffle(rows)
    return out
