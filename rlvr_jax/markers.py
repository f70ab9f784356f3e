r"""The words that mark, deny or take back the final answer of a completion, as plain data.

Two readers look for these words: `host/text/answers.py` in text, by regular expressions, and
`extract.py` in token ids on the device, by bytes.  Both are built from the data below, so that a
word added here is known to both.  Upper and lower case are the same, but for the BOXES and, on the
host, for the THINK tags.
"""

# ---- where an answer stands -------------------------------------------------------------------

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"  # reasoning, in which no answer counts
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
BOXES = ("\\boxed", "\\fbox")  # LaTeX commands whose argument is the answer
HEADING = "####"  # marks an answer on the last line only: with text below, it is a Markdown heading
LINE_MARKERS = (HEADING, "answer:", "answer is:")  # the rest of the line is the answer
MARKERS = (*LINE_MARKERS, ANSWER_OPEN)

# ---- what denies a marked answer, right before it ---------------------------------------------

DENYING_WORDS = ("not", "never", "cannot be")  # whole words: "knot" denies nothing
DENYING_ENDINGS = ("n't",)  # of a word
DENYING_COMMANDS = (
    *("\\ne", "\\neq", "\\not", "\\le", "\\leq", "\\ge", "\\geq", "\\lt", "\\gt"),
)  # fmt: skip
DENYING_SIGNS = ("<", ">", "!=", "\u2260", "\u2264", "\u2265")  # the last three: not equal, <=, >=
DENIED_VERBS = ("equal to", "equal", "be")  # may stand between the denial and the answer

# ---- what takes an answer back, anywhere after it ---------------------------------------------

TAKEN_BACK = (
    *("no wait", "no, wait", "wait no", "wait, no", "scratch that"),
    *("i made a mistake", "i made an error", "on second thought"),
    *("that's wrong", "that's incorrect", "that's not right"),
    *("that is wrong", "that is incorrect", "that is not right"),
    *("actually it", "actually, it", "actually that", "actually, that"),
    *("actually the answer", "actually, the answer"),
)
# "corrections" takes nothing back.  The device is stricter: it refuses the longer word too.
TAKEN_BACK_WHOLE = ("correction",)

# ---- limits: characters for the host, bytes for the device ------------------------------------

SEARCHED = 4096  # only this much of the end of a completion is searched
LONGEST_ANSWER = 1000
DENIAL_REACH = 40  # characters before a marker that may deny its answer
UTF8_BYTES = 4  # of one character, at most

# ---- kinds of characters, by which both readers refuse a disguised answer ----------------------

PLAIN = 0  # may stand anywhere in an answer
REFUSED = 1  # control, zero-width and direction characters: the answer is refused
MARK = 2  # a combining mark, refused except on a LETTER
LETTER = 3  # a letter outside ASCII
