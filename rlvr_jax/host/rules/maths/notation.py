r"""Rewrite LaTeX and typography in one plain notation: \dfrac12, 1{,}000, 3½, x², − and ４２.

Only the notation changes, never the meaning.  `normalise` replaces text by text, mostly ASCII, and
every step is linear in the length of the text.  The result need not be a formula.
"""

from __future__ import annotations

import re
import unicodedata

from rlvr_jax.host.problems import number_words

_SIGNS = {
    **dict.fromkeys("\u2212\u2013\u2014\u2010\u2011\u2012\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00d7\u00b7\u22c5\u2217\u2219\u22c6", "*"),
    **{"\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u2236": ":", "\uff0c": ","},
    **{"\u221a": " \\sqrt ", "\u221e": " \\infty ", "\u00b1": " \\pm "},
    **{"\u2264": " <= ", "\u2265": " >= ", "\u2a7d": " <= ", "\u2a7e": " >= ", "\u2260": " != "},
    **{"\u222a": " \\cup ", "\u2229": " \\cap ", "\u2208": " \\in ", "\u2205": " \\emptyset "},
    **{"\u00b0": " \\degree ", "\u00ba": " \\degree ", "\u2032": "'", "\u2019": "'"},
    **{"\u27e8": "\\langle ", "\u27e9": " \\rangle", "\u2248": " ", "\u2245": " "},
    **{"\u211d": " \\R ", "\u2124": " \\Z ", "\u221b": " \\cbrt ", "\u2220": "\\angle "},
    **{"\u066b": ".", "\u066c": ",", "\u060c": ",", "\u3001": ", ", "\u3002": "."},
    "\u2228": " \\lor ",
    **{"\u2209": " \\notin ", "\u2216": " \\setminus ", "\u2032": "'", "\u2033": "''"},
}  # fmt: skip
_GREEK_LETTERS = (
    "\u03b1\u03b2\u03b3\u03b4\u03b5\u03f5\u03b6\u03b7\u03b8\u03d1\u03ba\u03bb\u03bc\u00b5\u03bd"
    "\u03be\u03c0\u03c1\u03c3\u03c4\u03c6\u03d5\u03c7\u03c8\u03c9\u0393\u0394\u2206\u0398\u039b\u039e\u03a3\u03a6\u03a8\u03a9\u03a9"
)
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon epsilon zeta eta theta vartheta kappa lambda mu mu nu xi pi "
    "rho sigma tau phi phi chi psi omega Gamma Delta Delta Theta Lambda Xi Sigma Phi Psi Omega "
    "Omega"
).split()
GREEK = dict(zip(_GREEK_LETTERS, _GREEK_NAMES, strict=True))
_GREEK_RUN = re.compile(f"[{_GREEK_LETTERS}\u0370-\u03ff\u1f00-\u1fff]+")
_FRACTIONS = {
    **{"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
    **{"\u2155": "1/5", "\u2156": "2/5", "\u2157": "3/5", "\u2158": "4/5", "\u2159": "1/6"},
    **{"\u215a": "5/6", "\u215b": "1/8", "\u215c": "3/8", "\u215d": "5/8", "\u215e": "7/8"},
}  # fmt: skip
_COMMANDS = (
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\\(?:left|right|bigg?[lr]?|Bigg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])", ""),
    (r"\\(?:cdot|times|ast)(?![A-Za-z])", "*"),
    (r"\\div(?![A-Za-z])", "/"),
    (r"\\(?:leq?|leqslant)(?![A-Za-z])", " <= "),
    (r"\\(?:geq?|geqslant)(?![A-Za-z])", " >= "),
    (r"\\lt(?![A-Za-z])", " < "),
    (r"\\gt(?![A-Za-z])", " > "),
    (r"\\(?:neq?|not\s*=)(?![A-Za-z])", " != "),
    (r"\\(?:approx|simeq)(?![A-Za-z])", " "),
    (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\circ(?![A-Za-z]))", r" \\degree "),
    (r"\\circ(?![A-Za-z])", r" \\degree "),
    (r"\\mathbb\s*\{?R\}?", r" \\R "),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
    (r"\\(?:lparen)(?![A-Za-z])", "("),
    (r"\\(?:rparen)(?![A-Za-z])", ")"),
    (r"\\(?:pounds|euro)(?![A-Za-z])", " "),
    (r"\\(?:underline|mathbf|boldsymbol|bm|mathit)(?![A-Za-z])", ""),
    (r"\\(?:lor|vee)(?![A-Za-z])", r" \\lor "),
    (r"\\(?:backslash|setminus|smallsetminus)(?![A-Za-z])", r" \\setminus "),
    (r"\\pmod\s*\{([^{}]*)\}", r" mod \1"),
    (r"\\[bp]?mod(?![A-Za-z])", " mod "),
    (r"\(\s*mod\s+([^()]*)\)", r" mod \1"),
    (r"\\mathbb\s*\{?Z\}?", r" \\Z "),
    (r"\{\s*:\s*\}", ":"),
    (r"\\(?:ldots|cdots|dots|dotsc)(?![A-Za-z])", "..."),
    (r"\\operatorname\*?\s*\{([A-Za-z]+)\}", r" \1 "),
    (r"\\(?:q?quad|enspace|thinspace)(?![A-Za-z])", " "),
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mbox|hbox|mathsf|emph|underline|mathbf|boldsymbol|bm|mathit)\s*\{([^{}]*)\}"
)
_SUPER = re.compile(r"(?:[\u00b2\u00b3\u00b9\u2070-\u207f])+")
_SUB = re.compile(r"[\u2080-\u208e]+")
_RECURRING = re.compile(r"(\d{1,15})\.(\d{0,15})\\(?:overline|bar|dot)\s*\{(\d{1,15})\}", re.ASCII)
_TRUNCATED = re.compile(r"(\d{1,15})\.(\d{1,30})\s*\.\.\.", re.ASCII)
_PERIOD = re.compile(r"(\d*?)(?:(\d)\2+|(\d{2,}?)\3+)")
_UNDERSCORED = re.compile(r"(?<![\w.])\d{1,3}(?:_\d{3})+(?!\w)", re.ASCII)
_DOTTED = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])", re.ASCII)
_INFIX = re.compile(r"\\(over|choose)(?![A-Za-z])")
_SIGN_WORD = re.compile(r"(?:negative|minus)\s+(?=[\d.(\\])", re.I)
MANY_DIGITS = 8  # from here on a truncated decimal may stand for its value
_GROUPED = re.compile(
    r"(?<![\d.,])(\d{1,3})((?:(?:\{,\}|\\,|\\ |\\!,|'| |\u00a0|\u2009|\u202f)\d{3})+)(?!\d)"
)  # noqa: E501


def normalise(text: str) -> str:
    """Return a text in the plain notation that `formula` and `parser` read."""
    text = re.sub(r"(?<=\d),\\!\s*(?=\d{3})", "", text)
    text = re.sub(r"(?<!\\)\\\s*$", "", text)  # of \boxed{\ 46\ }, which is stripped
    text = _RECURRING.sub(_recurring, text)
    text = _GROUPED.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _UNDERSCORED.sub(lambda m: m[0].replace("_", ""), text)
    text = _DOTTED.sub(lambda m: m[0].replace(".", ""), text)
    text = _GREEK_RUN.sub(_greek, text)
    text = "".join(map(_character, _spread_out(text)))
    for _ in range(2):  # \textbf{\text{x}}
        text = _TEXT.sub(r" \1 ", text)
    for old, new in _COMMANDS:
        text = re.sub(old, new, text)
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\$", "$").replace("\\&", "&")
    text = re.sub(r"(?<!\\)\\[,;:! ]|~", " ", text).replace("\\#", "#")
    text = re.sub(r"(?<!\\)\\[\[\]()]", " ", text)
    text = _TRUNCATED.sub(_truncated, _without_infix(text))
    text = " ".join(text.split())
    sign = _SIGN_WORD.match(text)
    return "-" + text[sign.end() :] if sign else text


def digits_for_words(text: str) -> str:
    """Return a number in English words as digits, such as "42" for "forty-two".

    Other texts are returned unchanged.
    """
    value = number_words.parse_number_words(text.lower().strip(". "))
    return text if value is None else str(value)


def _greek(match: re.Match[str]) -> str:
    """Return one or two Greek letters as LaTeX; longer ones are a word in Greek."""
    run = match[0]
    if len(run) > 2 or any(char not in GREEK for char in run):
        return run
    return "".join(f" \\{GREEK[char]} " for char in run)


def _without_infix(text: str) -> str:
    r"""Return {1 \over 2} as \frac{1}{2} and {n \choose k} as \binom{n}{k}."""
    for _ in range(8):
        match = _INFIX.search(text)
        if match is None:
            return text
        begin, end = _enclosing_braces(text, match.start())
        left, right = text[begin : match.start()].strip(), text[match.end() : end].strip()
        command = {"over": "frac", "choose": "binom"}[match[1]]
        text = f"{text[:begin]}\\{command}{{{left}}}{{{right}}}{text[end:]}"
    return text


def _enclosing_braces(text: str, at: int) -> tuple[int, int]:
    """Return where the content of the innermost braces around a place begins and ends."""
    depth, begin, end = 0, at, at
    while begin > 0 and depth >= 0:
        begin -= 1
        depth += {"}": 1, "{": -1}.get(text[begin], 0)
    begin, depth = begin + (depth < 0), 0
    while end < len(text) and depth >= 0:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += depth >= 0
    return begin, end


def _truncated(match: re.Match[str]) -> str:
    """Return 0.333... as a fraction if its digits repeat, or a long decimal without the dots.

    Another truncated decimal stays unchanged, because its value is not certain.
    """
    whole, digits = match.groups()
    if period := _PERIOD.fullmatch(digits):
        return _fraction(whole, period[1], period[2] or period[3])
    return f"{whole}.{digits}" if len((whole + digits).lstrip("0")) >= MANY_DIGITS else match[0]


def _recurring(match: re.Match[str]) -> str:
    """Return a recurring decimal as a fraction: 0.1\\overline{6} as (15/90)."""
    return _fraction(*match.groups())


def _fraction(whole: str, fixed: str, period: str) -> str:
    top = int(whole + fixed + period) - int(whole + fixed)
    return f"({top}/{10 ** len(fixed) * (10 ** len(period) - 1)})"


def _spread_out(text: str) -> str:
    """Return x² as x^{2}, a₁ as a_{1} and 3½ as 3 1/2; NFKC would glue them to x2, a1 and 31/2."""
    text = re.sub(
        "|".join(_FRACTIONS), lambda m: ("" if m.start() == 0 else " ") + _FRACTIONS[m[0]], text
    )
    text = _SUPER.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    return _SUB.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}", text)


def _character(char: str) -> str:
    if char.isascii():
        return char
    if char in _SIGNS:
        return _SIGNS[char]
    folded = unicodedata.normalize("NFKC", char)
    digits = [str(unicodedata.decimal(c)) if unicodedata.decimal(c, -1) >= 0 else c for c in folded]
    return "".join(_SIGNS.get(c, c) for c in digits)
