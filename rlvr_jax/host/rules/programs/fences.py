"""Find the program of a completion: its last finished code block that is Python."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

_OPENING = re.compile(r"(?:[ \t]*(?:[-*+]|\d+[.)])?[ \t]*)(```+|~~~+)[ \t]*([^`]*)")
_BEHIND_WORDS = re.compile(r"[^`]*(```+)[ \t]*((?:python3?|py)?)[ \t]*", re.I)
_PYTHON = re.compile(r"[{.\s]*(?:i?python|py)[\d.]*(?![\w+#-])", re.I)
_QUOTES = re.compile("\"\"\"|'''")
_CODE = re.compile(
    r"^[ \t]*(?:def|class|import|from|for|while|if|with|async|try)\b|\b(?:print|input)\s*\(", re.M
)


class Block(NamedTuple):
    """A Block holds the tag of a code block, its text, and whether the block is closed."""

    tag: str
    text: str
    closed: bool


def extract_program(completion: str, names: tuple[str, ...] = ()) -> str | None:
    """Return the program of a completion; None if there is none or the last block is not closed.

    The program is the last block tagged as Python; if some of those blocks define one of `names`,
    it is the last block that does.  Without a Python tag it is the last untagged block that looks
    like code, or else the last untagged block.  Without any block it is the whole text.  Thoughts
    before `</think>` are left out.
    """
    text = completion.replace("\r\n", "\n").replace("\r", "\n").rpartition("</think>")[2]
    if "<think>" in text:
        return None
    blocks = _find_blocks(text)
    if not blocks:
        return text.strip() or None
    if not blocks[-1].closed and blocks[-1].text.strip():
        return None
    tagged = [block.text for block in blocks if _PYTHON.match(block.tag)]
    untagged = [block.text for block in blocks if not block.tag]
    programs = tagged or [text for text in untagged if _CODE.search(text)] or untagged
    defining = [program for program in programs if _defines(program, names)]
    return next(iter((defining or programs)[::-1]), None)


def _defines(program: str, names: tuple[str, ...]) -> bool:
    return any(
        re.search(
            rf"^[ \t]*(?:(?:async +)?def|class) +{re.escape(name)}\b|^{re.escape(name)} *=",
            program,
            re.M,
        )
        for name in names
    )


def _find_blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        opening = _OPENING.fullmatch(lines[start]) or _BEHIND_WORDS.fullmatch(lines[start])
        start += 1
        if not opening:
            continue
        end = _find_end(lines, start, opening[1])
        closed = end < len(lines)
        content = lines[start:end]
        if closed and lines[end].strip() != opening[1]:  # code and the fence on one line
            content.append(lines[end].rstrip().rstrip(opening[1][0]))
        blocks.append(Block(opening[2].strip(), _without_margin("\n".join(content)), closed))
        start = end + 1
    return blocks


def _without_margin(text: str) -> str:
    """Remove the indentation that all lines of a text share."""
    return textwrap.dedent(text) if text.lstrip("\n")[:1] in (" ", "\t") else text


def _find_end(lines: list[str], start: int, fence: str) -> int:
    """Return the index of the line that closes a block, or the number of lines.

    A fence inside a string of three quotes, as in a docstring, does not close the block, unless
    nothing after the string does.
    """
    first = len(lines)
    quotes = ""  # the kind of string that is open
    for index in range(start, len(lines)):
        line = lines[index]
        if line.rstrip().endswith(fence):
            if not quotes:
                return index
            first = min(first, index)
        for mark in _QUOTES.findall(line):
            quotes = mark if not quotes else "" if mark == quotes else quotes
    return first
