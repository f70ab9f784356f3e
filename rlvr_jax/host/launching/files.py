"""The file that starts a job, made from a template of the folder `jobs/`."""

import importlib.util
import json
import shlex
from pathlib import Path

import jinja2

from rlvr_jax.host.launching.job import Job

WORK = "/bucket"  # where hosts see the bucket: configs, models, data, runs, compiled programs
RESTARTS = 3  # after a defect, or after a host that died without a word


def write(job: Job) -> str:
    """Return the text of the file that starts a job.

    Raises:
      FileNotFoundError: the templates are not installed.
    """
    text = _template(job.kind).read_text(encoding="utf-8")
    env = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters |= {"json": json.dumps, "sh": shlex.join}
    return env.from_string(text).render(
        job=job, chips=job.slice, tpu=job.slice.tpu, work=WORK, restarts=RESTARTS, cache=_cache(job)
    )


def _template(kind: str) -> Path:
    name = {
        "jobset": "jobset.yaml",
        "tpu-vm": "tpu-vm-startup.sh",
        "skypilot": "skypilot.yaml",
        "slurm": "slurm.sbatch",
    }[kind]
    # Not importlib.resources: Python 3.11 and 3.12 know no files of an editable namespace package.
    found = importlib.util.find_spec("rlvr_jobs")
    places = found.submodule_search_locations if found else None
    for place in places or ():
        if (Path(place) / name).is_file():
            return Path(place) / name
    raise FileNotFoundError(f"the template {name} is not installed: install rlvr-jax again")


def _cache(job: Job) -> dict[str, str]:
    """Environment that keeps compiled programs beside the run folders.

    At the first start all hosts compile at the same time, and process 0 writes; later starts load.
    """
    work = "$PWD" if job.kind == "slurm" else WORK
    place = job.runs if job.runs.startswith("/") else f"{work}/{job.runs}"
    return {"JAX_COMPILATION_CACHE_DIR": f"{place}/xla"}
