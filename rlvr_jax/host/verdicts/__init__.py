"""Verdicts say whether an answer is right (1) or wrong (0); a verifier is trained on them.

    collected (answers of an rl stage) -> judge (votes of a rule or a model) -> agreement (majority)
        -> verdict rows -> negatives (certainly wrong answers) -> training of the verifier

`judge` defines what a judge is and has the judges that need no device. `agreement` computes the
majority of votes and how well two sets of verdicts agree. `voting` chooses among several answers to
one problem, for evaluations.
"""
