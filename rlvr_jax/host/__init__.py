"""The host side of a run: everything that reads or writes text, files, processes and clocks.

Its packages import each other in one direction only; tests/test_layers.py has the table.

    problems    problem sets: sources, splits, files on disk
    text        tokenizers, chat templates, prompts as token columns, final answers
    weights     pretrained models in and out: Hugging Face folders, GGUF files
    processes   one process on each host: how they meet, agree, share rows and end
    workers     processes that run rules, with limits on time and memory
    rules       rewards from rules: mathematics, text, shape, user files
    verdicts    0/1 verdicts on answers: judges, agreement, what a verifier learns from
    hardening   attacks on a reward, audits of it, and the alarms of a run
    plans       what compiled programs need of a slice, and what a slice costs
    runs        the run folder: settings, checkpoints, metrics, the report page
    launching   files and commands that start a run on a cluster
"""

# The public name of the answer extraction: rule files of users import it from here.
from rlvr_jax.host.text import answers as answers
