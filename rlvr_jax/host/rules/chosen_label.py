"""Read the label that an answer chooses: C, (C), "I choose C.", "C because ...", "答案：C".

An answer chooses a label if one of its clauses begins with an affirmation ("the answer is C", "C is
correct", "it must be C", or the bare label).  The other clauses may name other labels only to
reject them ("A is a distractor", "not A").  An answer chooses no label if it asks, guesses, offers
several labels, rejects the chosen label or gives the text of another option.  A label that is read
from a hedge would reward hedging.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from rlvr_jax.host.text.normal_form import normal_form

_FONT = re.compile(r"\\(?:text\w*|math\w+|operatorname|boxed|fbox|mbox|bf|rm|it)\b\s*")
_SPACE = re.compile(r"\\[ ,;:!~()\[\]]|~|\\q?quad\b|\\(?:left|right|displaystyle)\b")
_SIGNS = re.compile(r"[{}$*`_]|\\(?=\W|$)")
# What surrounds an answer without a meaning: quotes, arrows, ticks (but no crosses).
_WRAPS = (
    " \t\n\"'\u201c\u201d\u2192\u21d2\u27a1\u279c\u2705\u2713\u2714\u2611\ufe0f\U0001f449\U0001f389"
)
_TAG = re.compile(r"</?[A-Za-z]\w*>")

_HEDGE = re.compile(
    r"[?]|\b(?:maybe|perhaps|possibly|probably|unsure|not sure|guess(?:ing)?|not only|either"
    r"|any of|all of|none of)\b",
    re.I,
)
_CONDITION = re.compile(r"\b(?:if|unless|suppose|supposing|assuming|whether|when)\b", re.I)
_NEGATION = re.compile(r"\b(?:not|never|no|cannot|nor|neither)\b|n't\b|不|非", re.I)
_REJECTION = re.compile(
    r"\b(?:wrong|incorrect|false|invalid|distract\w*|eliminat\w*|rul(?:e|es|ed|ing) out|exclud\w*"
    r"|reject\w*|discard\w*|unlike|rather than|instead of|trap|mislead\w*|tempting|fails?)\b|错|誤",
    re.I,
)
_BREAK = re.compile(
    r"[,;!\u3001\u3002\n]|\.(?=\s|$)|:(?=\s)|\s[-\u2013\u2014]+\s"
    r"|\s(?=(?:but|while|whereas|because|since|rather than|instead of|not)\b)",
    re.I,
)
_CLAIM_END = re.compile(rf"{_BREAK.pattern}|\s\(", re.I)
_CONNECTOR = re.compile(
    r"(?:\s|(?:so|thus|hence|therefore|then|but|and|because|since|as|finally|overall|clearly"
    r"|in conclusion|consequently|that|i (?:think|believe|conclude)|we conclude"
    r"|i(?:'m| am) (?:confident|sure|certain)"
    r"|donc|daher|por lo tanto|por tanto|portanto|quindi|dunque|итак|значит"
    r"|因此|所以|综上|故|よって|따라서)(?![a-z]))*",
    re.I,
)

_NOUN = (
    r"(?:(?:the|my|our|its)\s+)?(?:(?:final|correct|right|best|only|most|likely|appropriate)\s+)*"
    r"(?:answer|option|choice|solution)(?:\s+(?:to|for)\s+(?:this|the)\s+(?:question|problem))?"
)
_IS = (
    r"(?:is|are|would be|must be|should be|has to be|will be)"
    r"(?:\s+(?:therefore|thus|then|clearly|indeed|simply|definitely))?"
)
# The noun and the verb of "the answer is" in other languages; each may stand without the verb.
_FOREIGN = (
    r"(?:(?:la|el|die|il|a|het|de|o)\s+)?(?:(?:bonne|richtige|goede|juiste)\s+)?"
    r"(?:r[ée]ponse|respuesta|resposta|antwort|lösung|risposta|antwoord|svar(?:et)?|vastaus|odpowied[źz]"
    r"|odpov[ěe][ďd]|v[áa]lasz|r[ăa]spuns(?:ul)?|cevap|yan[ıi]t|jawaban(?:nya)?|đáp án|ответ"
    r"|відповідь|отговор|απάντηση|תשובה|الإجابة|الجواب|جواب|پاسخ|उत्तर|जवाब|উত্তর|คำตอบ)"
    r"(?:\s+(?:correcte|correcta|correta|corretta|finale?|final|exacte|correct[oa]?))?"
    r"(?:\s+(?:est|es|é|ist|lautet|è|is|är|er|on|to|je|adalah|là|είναι|هو|هي|है|คือ|[-\u2013\u2014]))?"
)
_CHINESE = (
    r"(?:我)?(?:正确|正確|最终|最終|最佳|应|應|应该|應該)?的?"
    r"(?:(?:答案|选项|選項|答)(?:应该?是|應該?是|就?是|为|為|选|選)?|选择?|選擇?)"
)
_JAPANESE, _KOREAN = r"(?:正解|答え|答|解答|回答)は?", r"(?:정답|답)(?:은|는)?"
_PRONOUN = r"(?:it|this|that)(?:'s|\u2019s|\s+(?:corresponds to|matches|" + _IS + r"))"
_VERB = (
    r"(?:(?:i|we)(?:['\u2019](?:d|ll)|\s+(?:would|will|shall|must|therefore|thus|hence))?\s+)?"
    r"(?:choose|chose|pick|picked|select|selected|go with|went with|opt for|settle on|mark|say"
    r"|get|arrive at)"
)
_RIGHT = (
    r"\s+" + _IS + r"\s+(?:(?:the|only|most)\s+)*(?:(?:correct|right|best|true|appropriate|accurate"
    r"|valid)\b(?:\s+(?:answer|option|choice|one|statement))?|answer\b)"
)
_KIND = r"(?:(?:option|choice|answer|letter)\s+)?"
_REASON = (
    r"(?:because|since|as|for|so|and|but|while|whereas|rather|instead|not|given|due|based)\b"
    r"|です|だ|で|である|입니다|이다|번"
)
_END = r"\s*$|\s*[,;!\u3001\u3002]|\s*\.(?=\s|$)"
_AUXILIARY = (
    r"is|was|are|isn|wasn|aren|and|or|nor|seems|looks|works|fits|would|could|might|may|can|cannot"
    r"|should|has|does|doesn|did|also|too|alone|instead|because|since|as|fails|says|gives|by"
)


class Chosen(NamedTuple):
    """A Chosen is the label that a clause affirms.

    It also says whether the label stands without words of affirmation (`bare`), and at which
    character the affirmation ends.
    """

    label: str
    bare: bool
    end: int


class _Patterns(NamedTuple):
    affirmed: re.Pattern[str]
    mentioned: re.Pattern[str]


def plain_text(text: str) -> str:
    """Return a text in NFKC characters, without the fonts, spacing and emphasis of LaTeX."""
    text = _TAG.sub(" ", unicodedata.normalize("NFKC", text))
    text = _SIGNS.sub("", _SPACE.sub(" ", _FONT.sub("", text)))
    return text.strip(_WRAPS)


def parse_chosen(
    answer: str, numeric: bool = False, options: Mapping[str, str] | None = None
) -> str | None:
    """Return the one label that an answer chooses; None if it chooses no label or several.

    Args:
      answer: the extracted answer.
      numeric: whether labels are numbers instead of letters.
      options: the normal form of each option's text by its label, as far as the options are known.
    """
    text, options = plain_text(answer), options or {}
    if _HEDGE.search(text):
        return None
    patterns = _patterns(numeric)
    for start in (0, *(match.end() for match in _BREAK.finditer(text))):
        chosen = _affirmed(text, start, patterns)
        if chosen is not None:
            break
    else:
        return None
    before, after = text[:start], _without_claim(text, chosen, options)
    if after is None or _CONDITION.search(before):
        return None
    if chosen.bare and not _CONNECTOR.fullmatch(_BREAK.sub(" ", before)):
        return None
    if chosen.bare and (comma := re.match(r"\s*[,;\u3001]\s*", after)):
        if patterns.mentioned.match(after, comma.end()):
            return None  # a list
    clauses = [part for side in (before, after) for part in _BREAK.split(side) if part.strip()]
    if any(_contradicts(clause, chosen.label, patterns, options) for clause in clauses):
        return None
    return chosen.label


def _affirmed(text: str, start: int, patterns: _Patterns) -> Chosen | None:
    lead = _CONNECTOR.match(text, start)
    match = patterns.affirmed.match(text, lead.end() if lead else start)
    if match is None:
        return None
    label = next(part for part in match.group("right", "led", "bracket", "bare") if part)
    return Chosen(label.upper(), match["right"] is None and match["lead"] is None, match.end())


def _without_claim(text: str, chosen: Chosen, options: Mapping[str, str]) -> str | None:
    """Return the text after a choice without its option's text; None if the two contradict."""
    rest = text[chosen.end :]
    in_brackets = text[chosen.end - 1] in ")]" and re.match(r"\s+\S", rest)
    marked = in_brackets or re.match(r"\s*[:.)\]]\s*\S", rest)
    wanted = options.get(chosen.label)
    if not marked or not wanted:
        return rest
    claim = re.sub(r"^[\s:.)\]]+", "", rest)
    ends = [len(claim), *(match.start() for match in _CLAIM_END.finditer(claim))]
    for end in ends:
        if normal_form(claim[:end].rstrip(" .")) == wanted:
            return claim[end:]
    is_sentence = re.match(r"\s*\.", rest) and not chosen.bare
    return rest if is_sentence or re.match(_REASON, claim, re.I) else None


def _contradicts(clause: str, label: str, patterns: _Patterns, options: Mapping[str, str]) -> bool:
    """Return whether a clause rejects the label, or says that another option is right."""
    form = normal_form(clause.rstrip(" ."))
    if any(form == text for other, text in options.items() if other != label and text):
        return options.get(label) != form
    again = _affirmed(clause, 0, patterns)
    if again is not None and not again.bare and again.label != label:
        return True
    labels = _labels(clause, patterns, options)
    signs = bool(_NEGATION.search(clause)) + bool(_REJECTION.search(clause))
    if label in labels and (again is None or again.bare):
        return signs > 0
    return bool(labels - {label}) and signs != 1


def _labels(clause: str, patterns: _Patterns, options: Mapping[str, str]) -> set[str]:
    """Return the labels that a clause names."""
    labels = {
        (match["bracket"] or match["bare"]).upper() for match in patterns.mentioned.finditer(clause)
    }
    return labels & set(options) if len(options) > 1 else labels


@functools.cache
def _patterns(numeric: bool) -> _Patterns:
    upper, either = ("[0-9]{1,2}", "[0-9]{1,2}") if numeric else ("(?-i:[A-Z])", "[A-Za-z]")
    close = r"""["'\u201d]?"""
    follow = rf"(?={_END}|\s*[:)\]]|\s+[-\u2013\u2014]+\s|\s*(?:{_REASON}))"
    led = "|".join(
        [
            rf"(?:{_NOUN})\s*(?:{_IS}\b)?",
            rf"(?:{_FOREIGN})",
            *(_CHINESE, _JAPANESE, _KOREAN),
            *(_PRONOUN, _VERB, "option", "choice"),
        ]
    )
    affirmed = (
        rf"{_KIND}[(\[]?(?P<right>{upper})[)\]]?{_RIGHT}"
        rf"|(?P<lead>(?:{led})(?!(?-i:[a-z]))\s*[:=]?\s*)?{_KIND}[\"'\u201c]?"
        rf"(?:[(\[]\s*(?P<bracket>{either})\s*[)\]]{close}"
        rf"|(?P<led>{upper}){close}{follow}|(?P<bare>{either}){close}(?={_END}))"
    )
    mentioned = rf"[(\[]\s*(?P<bracket>{either})\s*[)\]]|(?<![\w'\u2019.\\-])(?P<bare>{upper})"
    if numeric:
        mentioned += r"(?![\w%]|[.,/:]\d)"
    else:
        mentioned += (
            r"(?![\w'\u2019-]|\s*[=+^<>/])"
            rf"(?<!A(?=\s(?!(?:{_AUXILIARY})\b)[a-z]))(?<!I(?=\s(?!is\b)[a-z]))"
        )
    return _Patterns(re.compile(affirmed, re.I), re.compile(mentioned))
