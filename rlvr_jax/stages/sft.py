"""Stage `sft` trains a policy on demonstrations (supervised fine-tuning)."""

from rlvr_jax import optim
from rlvr_jax.config import SftStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.text import template
from rlvr_jax.host.text.conversation import is_conversation
from rlvr_jax.stages import loop, programs
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen


def run(stage: SftStage, ws: Workspace) -> dict:
    """Train a policy on the demonstrations of the sft problems.

    Returns the result for the stage's marker file.
    """
    cfg = ws.cfg
    source = ws.demonstrations(stage)
    stage = loop.counted(stage, len(source), stage.batch)
    tx = optim.make_optimizer(stage.optim, stage.steps)
    base = ws.base(stage.init, cfg.model)
    state = ws.new_state(stage.name, cfg.model, tx, stage.init)
    step = programs.jit_supervised(cfg.model, tx, state, ws.layout)

    # Without conversations all tokens of the responses are learned, and no mask is needed.
    masked = any(is_conversation(record) for record in dataset.each(source))

    def advance(state, records):
        lessons = [ws.encode_lesson(r) for r in ws.own(records)]
        columns, budget = cfg.data.prompt_columns, cfg.data.response_columns
        pairs = [(lesson.prompt, lesson.response) for lesson in lessons]
        rows = template.build_supervised_rollout(pairs, columns, budget, "prompt")
        flags_BR = template.right_pad([lesson.learned for lesson in lessons], budget)
        rows, learned_BR = ws.place_own((rows, flags_BR if masked else None))
        return *step(state, rows, base, learned_BR), []

    work = loop.Work(advance, "supervised_step", {"loss": "loss"}, frozen=Frozen({}, {}, base=base))
    loop.run(ws, stage, state, source, stage.batch, work)
    return {"steps": stage.steps}
