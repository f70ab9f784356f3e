"""Stage `tokenizer` trains a sentencepiece tokenizer on the run's own text."""

from rlvr_jax.config import TokenizerStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.text import template
from rlvr_jax.host.text import tokenizer as tokenizers
from rlvr_jax.stages.workspace import Workspace


def run(stage: TokenizerStage, ws: Workspace) -> dict:
    """Train a tokenizer on the text of the sft problems, and return the result for its marker file.

    The text is their prompts, references and demonstrations.
    """
    records = list(dataset.each(dataset.open_split(ws.run.data, "sft")))
    texts: list[str] = []
    for record in records:
        for text in template.plain_texts(record):
            texts += text.split("\n")
    tokenizers.train(texts, ws.cfg.model.vocab, ws.run.tokenizer_file)
    ids = [len(template.encode_prompt(record, ws.tokenizer, ws.cfg.data)) for record in records]
    return {"pieces": ws.tokenizer.vocab, "prompt_tokens_max": max(ids)}
