"""This module opens the tokenizers of a run: the policy's, and the verifier's."""

from pathlib import Path

from rlvr_jax.config import Config
from rlvr_jax.host import weights
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.runs.paths import tokenizer_path
from rlvr_jax.host.text.tokenizer import Tokenizer, TokenizerError, open_tokenizer

# Digits, words, marks and other scripts: tokenizers of two families encode some part differently.
SAMPLE = "The answer is 10,482 = x^2 - 7.\n\\boxed{\u00bc} Caf\u00e9 \u4f60\u597d! 1 0 YES"


def open_policy(cfg: Config, run: Run) -> Tokenizer:
    """Open the tokenizer of the policy.

    Raises:
      RunError: the tokenizer stage has not run, or the tokenizer does not fit the models.
    """
    path = tokenizer_path(cfg, run.folder)
    if path == run.tokenizer_file and not path.exists():
        raise RunError(f"there is no {path}: put a `tokenizer` stage before this one")
    tok = open_tokenizer(path, run.began)
    if tok.vocab > cfg.model.vocab:
        raise RunError(
            f"the tokenizer {path} has {tok.vocab} pieces and model.vocab is {cfg.model.vocab}: "
            "policy, verifier and tokenizer need one vocabulary"
        )
    return tok


def open_verifier(cfg: Config, run: Run, policy: Tokenizer) -> Tokenizer:
    """Open the tokenizer of the verifier, or return the policy's.

    It is the one that the config names, or the one beside the verifier's weights.  Where none is
    named, verifier and policy read the same ids.

    Raises:
      RunError: the tokenizer has more tokens than the verifier has embeddings, or other ids than
        the policy's where both must read the same.
    """
    name, own = cfg.verifier_tokenizer, cfg.verifier.weights
    if not name:
        return policy if own in ("", cfg.model.weights) else _beside(own, run, policy)
    path = weights.find_model(name) if name.startswith(weights.PACKAGE) else name
    tok = open_tokenizer(path, run.began)
    if tok.vocab > cfg.verifier.vocab:
        raise RunError(
            f"the tokenizer {name} has {tok.vocab} pieces and verifier.vocab is "
            f"{cfg.verifier.vocab}: give the verifier a tokenizer of its own family"
        )
    return tok


def _beside(own: str, run: Run, policy: Tokenizer) -> Tokenizer:
    path: Path = weights.find_model(own)
    try:
        theirs = open_tokenizer(path, run.began)
    except TokenizerError:  # without one there is nothing to compare
        return policy
    if policy.encode(SAMPLE) != theirs.encode(SAMPLE):
        raise RunError(
            f"the tokenizer of {path} gives other ids than the policy's: inside the fused step "
            "both read the same ids; take a verifier of the policy's family, or name its "
            "tokenizer by verifier_tokenizer"
        )
    return theirs
