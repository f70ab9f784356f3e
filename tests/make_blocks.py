"""The blocks of a page: what a reader copies, each with the mark in front of it.

A mark is an HTML comment in the line before a block, which a reader of the page does not see:

    <!-- runs -->                   `make test-docs` executes the commands
    <!-- runs with: rl.steps=1 -->  the same, with these words at the end of each training command
    <!-- file: rules/mine.py -->    the block is this file, which later commands of the page read
    <!-- needs: the network -->     nothing executes the commands
"""

import re
from pathlib import Path
from typing import NamedTuple

STARTS = (
    *(
        "python",
        "pip",
        "make",
        "rlvr",
        "hf",
        "cat",
        "tail",
        "kill",
        "tensorboard",
        "git",
        "kubectl",
    ),
    *("gcloud", "docker", "xpk", "gcluster", "export", "srun", "sbatch", "kubectl"),
)
MARKS = ("runs", "runs with: ", "file: ", "needs: ")


class Block(NamedTuple):
    """A block of a page: fenced, or indented by four columns."""

    mark: str  # the text of the comment before it, or ""
    kind: str  # what follows the fence, such as `yaml`; "indented" where there is no fence
    text: str
    line: int  # of the page, from 1

    @property
    def commands(self) -> list[str]:
        """The shell commands of the block, lines that end in a backslash joined."""
        if self.kind not in ("", "sh", "indented") or self.mark.startswith("file: "):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        lines = [re.sub(r"\s+# .*", "", line.strip().removeprefix("$ ")) for line in lines]
        return [line for line in lines if line.split(" ")[0] in STARTS]

    @property
    def runs(self) -> bool:
        return self.mark == "runs" or self.mark.startswith("runs with: ")

    @property
    def words(self) -> list[str]:
        """The words that a test adds to each training command."""
        return self.mark.removeprefix("runs with: ").split() if ": " in self.mark else []


def read_blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    found, lines, mark, at = [], page.read_text("utf-8").splitlines(), "", 0
    while at < len(lines):
        line, begin = lines[at], at
        if comment := re.fullmatch(r"<!-- (.+) -->", line):
            mark = comment[1]
        elif fence := re.fullmatch(r"```(\w*)", line):
            at = lines.index("```", at + 1)
            found.append(Block(mark, fence[1], "\n".join(lines[begin + 1 : at]) + "\n", begin + 1))
            mark = ""
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip() or mark):
            while at + 1 < len(lines) and (lines[at + 1].startswith("    ") or not lines[at + 1]):
                at += 1
            text = "\n".join(line[4:] for line in lines[begin : at + 1])
            found.append(Block(mark, "indented", text, begin + 1))
            mark = ""
        elif line.strip():
            mark = ""
        at += 1
    return found
