"""Before the first stage that reads problems, what the models will read is printed once.

A missing chat template, a doubled system message or a question without its answer format is seen
here, and not in a curve hours later.
"""

from collections.abc import Sequence

from rlvr_jax.config import Stage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.stages.workspace import Workspace

ANSWER = "{answer}"


def show(ws: Workspace, stage: Stage) -> None:
    """Print a prompt of the policy, and the verifier's prompt in each wording, as they are read.

    Nothing is printed where `stage` is not the first one that shows problems to a policy.
    """
    if stage.problems is None or not _shows_problems(stage):
        return
    others = [other for other in ws.cfg.stages if _shows_problems(other)]
    if any(ws.run.finished(other.name) is not None for other in others):
        return
    record = dict(dataset.open_split(ws.data, stage.problems.split)[0])
    for line in texts(ws, record):
        log.say(line)


def _shows_problems(stage: Stage) -> bool:
    return stage.role == "policy" and stage.problems is not None and "tokenizer" not in stage.leaves


def texts(ws: Workspace, record: dataset.Record) -> list[str]:
    """Return the prompts of a problem with a heading each; control tokens show their names."""
    prompt = _spelled(ws.tokenizer, ws.encode_prompt(record))
    found = [f"a prompt as the policy reads it:\n{prompt}"]
    if ws.judged:
        asked = ws.verifier_prompt
        around = asked.around(record)
        names = ws.cfg.data.check_templates
        for name, (before, after), words in zip(names, around, asked.words_J, strict=True):
            text = _spelled(asked.tok, before) + ANSWER + _spelled(asked.tok, after)
            pair = " or ".join(map(repr, words))
            found.append(f"the verifier reads this ({name}), and says {pair}:\n{text}")
    return found


def _spelled(tok: Tokenizer, ids: Sequence[int]) -> str:
    """Return ids as text, in which control tokens stand by name."""
    text, plain = "", list[int]()
    for i, piece in zip(ids, tok.pieces(ids), strict=True):
        if i in tok.controls:
            text, plain = text + tok.decode(plain) + piece, []
        else:
            plain.append(i)
    return text + tok.decode(plain)
