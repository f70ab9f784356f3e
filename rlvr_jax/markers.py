"""List the words that mark, deny or take back the final answer of a completion, as plain data.

Two readers look for these words: `host/text/answers.py` in text, by regular expressions, and
`extract.py` in token ids on the device, by bytes.  Both are built from the data below, so that both
know a word that is added here.  Case does not matter for ASCII letters, except in BOXES.
"""

# ---- where an answer stands -------------------------------------------------------------------

# Reasoning, in which no answer counts: how it opens and closes, in lower case.
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
THOUGHTS = (
    (THINK_OPEN, THINK_CLOSE),
    ("<thinking>", "</thinking>"),
    ("[think]", "[/think]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
BOXES = ("\\boxed", "\\fbox", "\\framebox")  # LaTeX commands whose argument is the answer
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
# A second box that one of these joins to the first is no answer: "\\boxed{41} or \\boxed{42}".  The
# device is stricter: any closing brace before the word counts.
JOINING_WORDS = ("or", "and")

# ---- what denies a marked answer, right behind it ----------------------------------------------

DENYING_BEHIND = (
    *("is not", "isn't", "is wrong", "is incorrect", "is false", "is never"),
    *("was not", "wasn't", "was wrong", "was incorrect", "would be wrong", "cannot be"),
)
DENYING_GAP = 8  # ASCII signs and blanks that may stand between the answer and the denial

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
# "Wait no more" takes nothing back.  The device is stricter: it looks at no word behind.
TAKING_NOTHING_BACK = (" more", " longer")

# ---- limits: characters for the host, bytes for the device ------------------------------------

SEARCHED = 4096  # only this much of the end of a completion is searched
LONGEST_ANSWER = 1000
DENIAL_REACH = 40  # characters before a marker that may deny its answer
UTF8_BYTES = 4  # of one character, at most

# ---- scores that a generative reward model writes --------------------------------------------

SCORE_BOX = "\\boxed{"  # opens the box; the first "}" closes it
SCORE_BYTES = 96  # of the longest list of scores that is read

# ---- kinds of characters, by which both readers refuse a disguised answer ----------------------

PLAIN = 0  # may stand anywhere in an answer
REFUSED = 1  # control, zero-width and direction characters: the answer is refused
MARK = 2  # a combining mark: a vowel, an accent
LETTER = 3  # a letter outside ASCII
JOINING = 4  # a letter of a script that is spelled with joiners: Arabic, the scripts of India
JOINING_MARK = 5  # a combining mark of such a script
JOINER = 6  # U+200C and U+200D
EMOJI = 7
SELECTOR = 8  # U+FE0E and U+FE0F: an emoji as text or in colour
KEYCAP = 9  # U+20E3
_LETTERS = (MARK, LETTER, JOINING, JOINING_MARK)
# Kind -> the kinds of which one has to stand right before it.
BEHIND = {
    MARK: _LETTERS,
    JOINING_MARK: (*_LETTERS, JOINER),
    JOINER: (JOINING, JOINING_MARK, EMOJI, SELECTOR),
    SELECTOR: (EMOJI,),  # or PLAIN, before a KEYCAP: 1, U+FE0F, U+20E3
    KEYCAP: (SELECTOR,),
}
