r"""Formulas as small trees: a reader of LaTeX and plain formulas that evaluates nothing.

Trees are tuples: ("num", Fraction, is_decimal), ("var", name), (operator, tree, ...).  The reader
is a recursive descent with a bound on length and depth, so hostile text ends in Unreadable, fast.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 600  # characters of one formula
MAX_DEPTH = 40  # of brackets, powers and signs inside one another
MAX_DIGITS = 60  # of one written number

Tree = tuple

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,4}(?![\w.]))?|\.\d+)|(\\[A-Za-z]+|\\[{}|])|([A-Za-z]+)|(.))"
)
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt cbrt floor ceil "
    "abs lg asin acos atan".split()
)
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho "
    "sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell".split()
)
_OPEN = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_NAMES = ("pi", "theta", "alpha", "beta", "lambda")


class Unreadable(ValueError):
    """The text is not one formula."""


def read(text: str) -> Tree:
    """The tree of a formula in plain spelling.

    Raises:
      Unreadable: it is not one formula, or too long or too deep to be an answer.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable("too long")
    reader = _Reader(_tokens(text))
    tree = reader.sum(0)
    if reader.next:
        raise Unreadable(reader.next)
    return tree


def names(tree: Tree) -> set[str]:
    """The variables of a tree."""
    if tree[0] == "var":
        return {tree[1]}
    return set().union(*(names(part) for part in tree[1:] if isinstance(part, tuple)))


def has_decimal(tree: Tree) -> bool:
    """Whether a number with a decimal point is written anywhere in it."""
    if tree[0] == "num":
        return tree[2]
    return any(has_decimal(part) for part in tree[1:] if isinstance(part, tuple))


def _tokens(text: str) -> list[str]:
    out: list[str] = []
    for match in _TOKEN.finditer(text.replace("**", "^").strip()):
        number, command, word, sign = match.groups()
        if word:
            out += _word(word)
        elif found := (number or command or sign):
            out.append(found)
    return out


def _word(word: str) -> list[str]:
    """A function, a greek name, or up to three variables side by side."""
    out: list[str] = []
    while word:
        known = sorted(
            (f for f in (*FUNCTIONS, *_NAMES) if word.startswith(f)), key=len, reverse=True
        )
        if known:
            out.append("\\" + known[0])
            word = word[len(known[0]) :]
        else:
            out.append(word[0])
            word = word[1:]
        if len(out) > 3:
            raise Unreadable("a word")
    return out


class _Reader:
    def __init__(self, tokens: list[str]):
        self.tokens, self.at = tokens, 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.next
        if not token or wanted and token != wanted:
            raise Unreadable(f"{wanted or 'something'} is missing")
        self.at += 1
        return token

    def sum(self, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        tree = self.product(depth)
        while self.next in ("+", "-"):
            tree = (self.take(), tree, self.product(depth))
        return tree

    def product(self, depth: int) -> Tree:
        tree = self.signed(depth)
        while True:
            if self.next in ("*", "/"):
                tree = (self.take(), tree, self.signed(depth))
            elif self.starts_factor():
                tree = self.beside(tree, depth)
            else:
                return tree

    def beside(self, left: Tree, depth: int) -> Tree:
        """Two factors side by side: a product, or a mixed number such as 3 1/2."""
        fraction = self.next == "\\frac"
        number_again = self.next[0].isdigit() or self.next[0] == "."
        right = self.power(depth)
        whole = left[0] == "num" and left[1].denominator == 1 and not left[2]
        if number_again:
            if not (whole and right[0] == "num" and self.next == "/"):
                raise Unreadable("two numbers side by side")
            self.take()
            right = ("/", right, self.power(depth))
            return ("+", left, _proper(right))
        if whole and fraction and right[0] == "/" and _is_proper(right):
            return ("+", left, right)
        return ("*", left, right)

    def starts_factor(self) -> bool:
        token = self.next
        if not token:
            return False
        if token in ("(", "[", "{", "\\{", "\\lfloor", "\\lceil") or token[0].isalnum():
            return token.isascii()
        command = token[1:]
        return token[0] == "\\" and (
            command in FUNCTIONS
            or command in _GREEK
            or command in ("frac", "pi", "infty", "binom", "dbinom")
        )

    def signed(self, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        if self.next in ("-", "+"):
            sign = self.take()
            tree = self.signed(depth + 1)
            return ("neg", tree) if sign == "-" else tree
        return self.power(depth)

    def power(self, depth: int) -> Tree:
        tree = self.postfix(self.atom(depth + 1))
        if self.next == "^":
            self.take()
            tree = ("^", tree, self.exponent(depth + 1))
            tree = self.postfix(tree)
        return tree

    def postfix(self, tree: Tree) -> Tree:
        while self.next in ("!", "%", "\\degree"):
            token = self.take()
            if token == "!" and self.next == "!":
                raise Unreadable("double factorial")
            tree = ("/", tree, number("100")) if token == "%" else (token.strip("\\"), tree)
        return tree

    def exponent(self, depth: int) -> Tree:
        if self.next == "{":
            return self.group(depth)
        return self.signed(depth) if self.next in ("-", "+") else self.power(depth)

    def group(self, depth: int) -> Tree:
        """{...}, or one token: \\frac12 has two of them."""
        if self.next == "{":
            self.take()
            tree = self.sum(depth + 1)
            self.take("}")
            return tree
        token = self.next
        if re.fullmatch(r"\d{2,}", token):
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.atom(depth + 1)

    def atom(self, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self.based(number(token))
        if token in _OPEN:
            tree = self.sum(depth + 1)
            self.take(_OPEN[token])
            shape = {"\\lfloor": "floor", "\\lceil": "ceil"}.get(token)
            return ("call", shape, tree) if shape else tree
        if token in ("|", "\\|"):
            tree = self.sum(depth + 1)
            self.take(token)
            return ("call", "abs", tree)
        if token[0] == "\\":
            return self.command(token[1:], depth)
        if token.isascii() and token.isalpha():
            return self.subscripted(token)
        raise Unreadable(token)

    def command(self, name: str, depth: int) -> Tree:
        if name == "frac":
            return ("/", self.group(depth), self.group(depth))
        if name == "binom":
            return ("binom", self.group(depth), self.group(depth))
        if name in ("sqrt", "cbrt"):
            root = number("2" if name == "sqrt" else "3")
            if name == "sqrt" and self.next == "[":
                self.take()
                root = self.sum(depth + 1)
                self.take("]")
            return ("root", self.argument(depth, tight=True), root)
        if name in ("pi", "infty"):
            return ("const", name)
        if name in FUNCTIONS:
            return self.call(_ALIASES.get(name, name), depth)
        if name in _GREEK:
            return self.subscripted("\\" + name)
        raise Unreadable(name)

    def call(self, name: str, depth: int) -> Tree:
        base: Tree | None = None
        power: Tree | None = None
        if self.next == "_" and name == "log":
            self.take()
            base = self.group(depth)
        if self.next == "^":
            self.take()
            power = self.exponent(depth)
        tree: Tree = ("call", name, self.argument(depth))
        if base is not None:
            tree = ("/", ("call", "ln", tree[2]), ("call", "ln", base))
        if power == ("neg", number("1")) and "arc" + name in FUNCTIONS:
            return ("call", "arc" + name, tree[2])
        return ("^", tree, power) if power is not None else tree

    def argument(self, depth: int, tight: bool = False) -> Tree:
        """What a function is applied to: a bracket, or factors without one, as in sin 2x."""
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        if self.next in ("(", "{", "["):
            return self.atom(depth + 1)
        if tight:
            return self.group(depth)
        tree = self.signed(depth + 1) if self.next == "-" else self.power(depth + 1)
        while (
            self.starts_factor() and self.next not in ("(", "[") and self.next[1:] not in FUNCTIONS
        ):
            tree = self.beside(tree, depth + 1)
        return tree

    def subscripted(self, name: str) -> Tree:
        if self.next == "_":
            self.take()
            name += "_" + self.label()
        while self.next == "'":
            name += self.take()
        if name in ("i", "e"):
            return ("const", name)
        return ("var", name)

    def based(self, tree: Tree) -> Tree:
        """1010_2: a number of another base; the digits alone do not say its value."""
        if self.next == "_":
            self.take()
            return ("based", tree, self.label())
        return tree

    def label(self) -> str:
        if self.next != "{":
            return self.take()
        self.take()
        parts = []
        while self.next != "}":
            parts.append(self.take())
        self.take()
        return "".join(parts)


def number(text: str) -> Tree:
    """A written number as an exact fraction.

    Raises:
      Unreadable: more digits or a larger exponent than an answer has.
    """
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > MAX_DIGITS or abs(int(exponent or 0)) > 400:
        raise Unreadable("a long number")
    return ("num", Fraction(digits.rstrip(".") + (f"e{exponent}" if exponent else "")), "." in text)


def _is_proper(tree: Tree) -> bool:
    return (
        all(part[0] == "num" and part[1].denominator == 1 for part in tree[1:])
        and 0 < tree[1][1] < tree[2][1]
    )


def _proper(tree: Tree) -> Tree:
    if not _is_proper(tree):
        raise Unreadable("not a mixed number")
    return tree
