"""Stage `tokenizer` trains a sentencepiece tokenizer on the run's own text."""

from rlvr_jax.config import TokenizerStage
from rlvr_jax.host.critiques.prompt import plain_texts
from rlvr_jax.host.critiques.template import load_template
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.text import template
from rlvr_jax.host.text import tokenizer as tokenizers
from rlvr_jax.stages.workspace import Workspace


def run(stage: TokenizerStage, ws: Workspace) -> dict:
    """Train a tokenizer on the text of the sft problems, and return the result for its marker file.

    The text is their prompts, references and demonstrations, and those of preference items.  The
    first process trains, and the others wait for its file.
    """
    ws.run.team.share("a tokenizer", lambda: _train(ws))
    return {"pieces": ws.tokenizer.vocab}


def _train(ws: Workspace) -> None:
    cfg, texts = ws.cfg, list[str]()
    if cfg.data.sft and (cfg.data.tasks or cfg.data.sources):
        for record in dataset.each(dataset.open_split(ws.data, "sft")):
            texts += template.plain_texts(record)
    if cfg.reads_items:
        wording = load_template(cfg.critique.template, cfg.critique.form)
        for record in dataset.each(dataset.open_split(ws.run.preferences, "sft")):
            texts += plain_texts(preference.parse_item(record), wording)
    lines = [line for text in texts for line in text.split("\n")]
    vocab = cfg.grm.vocab if cfg.uses_grm else cfg.model.vocab
    tokenizers.train(lines, vocab, ws.run.tokenizer_file)
