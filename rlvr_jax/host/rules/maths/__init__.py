r"""Grade mathematical answers: decide whether a completion's answer equals a reference.

Two rules live in this folder, each a function `score(completion, reference)`: `math` in
`equivalence.py`, and `numeric`, numbers within a tolerance, in `numeric.py`.  A grade goes from
text to score so:

    completion -> answer        text/answers.py    the last box, marked line, tag or line
    answer -> candidates        sentence.py        "So it is $5$ cm." gives 5 cm
    candidate -> plain text     notation.py        \dfrac12, 3½ and × as plain notation
    plain text -> Item          parser.py          the types of `items.py`: a value, a list, ...
      its unit                  units.py           5 cm is 5 times 1/100 m
      its formula -> Tree       formula.py         the types of `tree.py`
    two Items -> equal or not   comparison.py      by their formulas: equality.py
    Tree -> its value           value.py           exact, or to 60 digits

`option_letter.py` reads references that are the letter of an option.  A text that cannot be read or
evaluated raises `tree.Unreadable`; the two rules catch it.  The rule `math` compares a text that
cannot be read as words or letter by letter.  This folder imports `text` and `problems` (for numbers
in words), and no other rule.
"""
