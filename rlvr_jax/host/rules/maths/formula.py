"""Parse formulas in LaTeX and plain notation into trees; nothing is evaluated.

The parser is a recursive descent.  It bounds length and depth, so that hostile text soon raises
Unreadable.  Each method of `_Parser` parses one kind of expression, from a sum down to an atom, and
returns its tree; `depth` counts how deep the expression lies in brackets, powers and signs.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from rlvr_jax.host.rules.maths.tree import (
    BasedNumber,
    Call,
    Constant,
    Negative,
    Number,
    Operation,
    Series,
    Tree,
    Unreadable,
    Variable,
    number,
)

MAX_LENGTH = 600  # characters of one formula
MAX_DEPTH = 40  # of brackets, powers and signs inside one another

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
ACCENTS = {
    **{name: name for name in ("bar", "hat", "tilde", "vec", "dot", "ddot", "mathcal", "mathfrak")},
    **{"overline": "bar", "widehat": "hat", "widetilde": "tilde", "overrightarrow": "vec"},
}  # each is a part of the name that it stands on
_OPEN = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_NAMES = ("pi", "binomial", *(name for name in _GREEK if len(name) > 2 and name != "ell"))
_SHORT_NAMES = ("mu", "nu")  # only alone: in "menu" they are two letters


def parse_formula(text: str) -> Tree:
    """Return the tree of a formula in plain notation (see `notation`).

    Raises:
      Unreadable: the text is not one formula, or is too long or too deep to be an answer.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable("too long")
    parser = _Parser(_tokens(text))
    tree = parser.sum(0)
    if parser.next:
        raise Unreadable(parser.next)
    return tree


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.replace("**", "^").strip()):
        digits, command, word, sign = match.groups()
        if word:
            tokens += _split_letters(word)
        elif token := (digits or command or sign):
            tokens.append(token)
    return tokens


def _split_letters(word: str) -> list[str]:
    """Return the tokens of letters side by side: functions, Greek names, up to three variables."""
    if word in _SHORT_NAMES:
        return ["\\" + word]
    tokens: list[str] = []
    while word:
        known = sorted(
            (f for f in (*FUNCTIONS, *_NAMES) if word.startswith(f)), key=len, reverse=True
        )
        if known:
            tokens.append("\\" + known[0])
            word = word[len(known[0]) :]
        else:
            tokens.append(word[0])
            word = word[1:]
        if len(tokens) > 3:
            raise Unreadable("a word")
    return tokens


class _Parser:
    """A _Parser takes the tokens of one formula from left to right and parses them."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at = tokens, 0

    @property
    def next(self) -> str:
        """Return the token that comes next; "" at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        """Return the next token and move on; the token has to be the wanted one, if given."""
        token = self.next
        if not token or wanted and token != wanted:
            raise Unreadable(f"{wanted or 'something'} is missing")
        self.at += 1
        return token

    def sum(self, depth: int) -> Tree:
        """Parse products with plus and minus signs between them."""
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        tree = self.product(depth)
        while self.next in ("+", "-"):
            tree = Operation(self.take(), (tree, self.product(depth)))
        return tree

    def product(self, depth: int) -> Tree:
        """Parse factors with *, / or nothing between them."""
        tree = self.signed(depth)
        while True:
            if self.next in ("*", "/"):
                tree = Operation(self.take(), (tree, self.signed(depth)))
            elif self.starts_factor():
                tree = self.beside(tree, depth)
            else:
                return tree

    def beside(self, left: Tree, depth: int) -> Tree:
        """Parse a factor beside another: a product, or a mixed number such as 3 1/2."""
        fraction = self.next == "\\frac"
        number_again = self.next[0].isdigit() or self.next[0] == "."
        right = self.power(depth)
        whole = _is_whole(left) and not left.is_decimal
        if number_again:
            if not (whole and isinstance(right, Number) and self.next == "/"):
                raise Unreadable("two numbers side by side")
            self.take()
            right = Operation("/", (right, self.power(depth)))
            if not _is_proper_fraction(right):
                raise Unreadable("not a mixed number")
            return Operation("+", (left, right))
        if whole and fraction and _is_proper_fraction(right):
            return Operation("+", (left, right))
        return Operation("*", (left, right))

    def starts_factor(self) -> bool:
        """Return whether the next token may begin a factor beside another."""
        token = self.next
        if not token:
            return False
        if token in ("(", "[", "{", "\\{", "\\lfloor", "\\lceil") or token[0].isalnum():
            return token.isascii()
        command = token[1:]
        return token[0] == "\\" and (
            command in FUNCTIONS
            or command in _GREEK
            or command in ACCENTS
            or command in ("frac", "pi", "infty", "binom", "dbinom", "binomial", "sum", "prod")
        )

    def signed(self, depth: int) -> Tree:
        """Parse a factor with any number of signs before it."""
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        if self.next in ("-", "+"):
            sign = self.take()
            tree = self.signed(depth + 1)
            return Negative(tree) if sign == "-" else tree
        return self.power(depth)

    def power(self, depth: int) -> Tree:
        """Parse an atom with its exponent."""
        tree = self.postfix(self.atom(depth + 1))
        if self.next == "^":
            self.take()
            tree = Operation("^", (tree, self.exponent(depth + 1)))
            tree = self.postfix(tree)
        return tree

    def postfix(self, tree: Tree) -> Tree:
        """Parse factorial, percent and degree signs after a tree."""
        while self.next in ("!", "%", "\\degree"):
            token = self.take()
            if token == "!" and self.next == "!":
                raise Unreadable("double factorial")
            if token == "%":
                tree = Operation("/", (tree, number("100")))
            else:
                tree = Operation(token.strip("\\"), (tree,))
        return tree

    def exponent(self, depth: int) -> Tree:
        if self.next == "{":
            return self.group(depth)
        return self.signed(depth) if self.next in ("-", "+") else self.power(depth)

    def group(self, depth: int) -> Tree:
        """Parse an argument of a LaTeX command, {...} or one token: \\frac12 has two of them."""
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
        """Parse a number, a name, a bracket, an absolute value or a command."""
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self.based(number(token))
        if token in _OPEN:
            tree = self.sum(depth + 1)
            self.take(_OPEN[token])
            rounding = {"\\lfloor": "floor", "\\lceil": "ceil"}.get(token)
            return Call(rounding, tree) if rounding else tree
        if token in ("|", "\\|"):
            tree = self.sum(depth + 1)
            self.take(token)
            return Call("abs", tree)
        if token[0] == "\\":
            return self.command(token[1:], depth)
        if token.isascii() and token.isalpha():
            return self.subscripted(token)
        raise Unreadable(token)

    def command(self, name: str, depth: int) -> Tree:
        """Parse what follows a LaTeX command or a function's name."""
        if name == "frac":
            return Operation("/", (self.group(depth), self.group(depth)))
        if name == "binom":
            return Operation("binom", (self.group(depth), self.group(depth)))
        if name == "binomial":
            return self.binomial(depth)
        if name in ("sum", "prod"):
            return self.series("+" if name == "sum" else "*", depth)
        if name in ("sqrt", "cbrt"):
            root: Tree = number("2" if name == "sqrt" else "3")
            if name == "sqrt" and self.next == "[":
                self.take()
                root = self.sum(depth + 1)
                self.take("]")
            return Operation("root", (self.argument(depth, tight=True), root))
        if name in ("pi", "infty"):
            return Constant(name)
        if name in FUNCTIONS:
            return self.call(_ALIASES.get(name, name), depth)
        if name in _GREEK:
            return self.subscripted("\\" + name)
        if name in ACCENTS:
            return self.subscripted(f"\\{ACCENTS[name]}({self.label()})")
        raise Unreadable(name)

    def binomial(self, depth: int) -> Tree:
        """Parse the arguments of binomial(n, k)."""
        self.take("(")
        n = self.sum(depth + 1)
        self.take(",")
        k = self.sum(depth + 1)
        self.take(")")
        return Operation("binom", (n, k))

    def series(self, operator: str, depth: int) -> Tree:
        """Parse the index, the ends and the term of a sum or product: the term is one product."""
        self.take("_")
        self.take("{")
        index = self.subscripted(self.take())
        self.take("=")
        low = self.sum(depth + 1)
        self.take("}")
        self.take("^")
        high = self.group(depth)
        if not isinstance(index, Variable):
            raise Unreadable("an index that is a constant")
        return Series(operator, index.name, low, high, self.product(depth + 1))

    def call(self, name: str, depth: int) -> Tree:
        r"""Parse the base of a logarithm, an exponent and the argument: \log_2 x, \sin^2 x."""
        base: Tree | None = None
        power: Tree | None = None
        if self.next == "_" and name == "log":
            self.take()
            base = self.group(depth)
        if self.next == "^":
            self.take()
            power = self.exponent(depth)
        argument = self.argument(depth)
        tree: Tree = Call(name, argument)
        if base is not None:
            tree = Operation("/", (Call("ln", argument), Call("ln", base)))
        if power == Negative(number("1")) and "arc" + name in FUNCTIONS:
            return Call("arc" + name, argument)
        return Operation("^", (tree, power)) if power is not None else tree

    def argument(self, depth: int, tight: bool = False) -> Tree:
        """Parse the argument of a function: a bracket, or factors without one, as in sin 2x.

        A tight argument is one group, as that of a root: in \\sqrt 2x it is 2.
        """
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
        """Parse the subscript and the primes of a variable."""
        if self.next == "_":
            self.take()
            name += "_" + self.label()
        while self.next == "'":
            name += self.take()
        if name in ("i", "e"):
            return Constant(name)
        if name.startswith("c_") and name[2:].isdigit():
            name = "C" + name[1:]  # constants of integration
        if name.startswith("C_") and self.next == "^":
            return self.combinations(name[2:])
        return Variable(name)

    def combinations(self, n: str) -> Tree:
        """Parse C_{10}^{3}, a binomial, after its lower number."""
        at = self.at
        self.take("^")
        k = self.label()
        if n.isdigit() and k.isdigit() and int(n) >= int(k) and int(n) > 2:
            return Operation("binom", (number(n), number(k)))
        self.at = at
        return Variable(f"C_{n}")

    def based(self, tree: Tree) -> Tree:
        """Parse the base after a number: 1010_2."""
        if self.next == "_":
            self.take()
            return BasedNumber(tree, self.label())
        return tree

    def label(self) -> str:
        """Return a subscript: one token, or the tokens between braces."""
        if self.next != "{":
            return self.take()
        self.take()
        parts = []
        while self.next != "}":
            parts.append(self.take())
        self.take()
        return "".join(parts)


def _is_whole(tree: Tree) -> TypeGuard[Number]:
    return isinstance(tree, Number) and tree.value.denominator == 1


def _is_proper_fraction(tree: Tree) -> bool:
    """Return whether a tree is a fraction of two natural numbers between 0 and 1."""
    match tree:
        case Operation("/", (Number() as top, Number() as bottom)):
            return _is_whole(top) and _is_whole(bottom) and 0 < top.value < bottom.value
        case _:
            return False
