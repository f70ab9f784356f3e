"""`python -m rlvr_jax.jobs KIND --config FILE --topology v5e:4x4`: the files that start a run.

It writes one plain file, and prints the commands that use it.  It calls no cloud: you run the
commands.  Exit codes: 0 done; 2 an option needs a change.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlvr_jax.host.launching import commands, files
from rlvr_jax.host.launching.job import KINDS, NEEDED, READ_BY, make_job
from rlvr_jax.host.runs import log

HELP = {
    "slices": "slices of that topology, joined by the data centre's network [1]",
    "spot": "machines that may be taken away",
    "bucket": "gs://NAME: the working folder of all hosts",
    "image": "the container image, of jobs/Dockerfile",
    "namespace": "namespace of Kubernetes [default]",
    "queue": "LocalQueue of Kueue",
    "priority_class": "PriorityClass of the pods",
    "service_account": "service account of Kubernetes that may write to the bucket [default]",
    "reservation": "name of a reservation",
    "reserved": "use the reservation of the project",
    "zone": "as in us-west4-a",
    "project": "project of Google Cloud [that of gcloud]",
    "partition": "partition of the nodes",
    "account": "account that pays",
    "hours": "time limit of one start [24]",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    given = {key: value for key, value in vars(_arguments(argv)).items() if value is not None}
    kind, out, dry_run = given.pop("kind"), Path(given.pop("out")), given.pop("dry_run")
    try:
        if not str(out).isprintable():
            raise ValueError(f"--out {str(out)!r}: a path must have no control characters")
        job = make_job(kind, given.pop("topology"), given.pop("config"), given)
        path, text = out / job.file, files.write(job)
        if not dry_run:
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        log.say_aside(f"error: {error}")
        return 2
    if dry_run:
        print(f"# {path} would hold:\n\n{text}")
    else:
        print(f"# wrote {path}")
    print("\n".join(commands.list_commands(job, path.as_posix())))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.jobs", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--config", required=True, help="a YAML file in the current folder")
    parser.add_argument("--topology", required=True, help="CHIP:SHAPE, as in v5e:4x4 or h100:2x8")
    parser.add_argument("--name", help="name of the job [that of the config]")
    parser.add_argument("--out", default="build/jobs", help="folder for the file [build/jobs]")
    parser.add_argument("--dry-run", action="store_true", help="print the file, write nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for rlvr_jax.train")
    for key, kinds in READ_BY.items():
        needed = [kind for kind in kinds if key in NEEDED[kind]]
        said = f"{', '.join(kinds)}: {HELP[key]}"
        said += f"; needed by {', '.join(needed)}" if needed else ""
        flag = "--" + key.replace("_", "-")
        if key in ("spot", "reserved"):
            parser.add_argument(flag, action="store_const", const=True, help=said)
        else:
            number = int if key in ("slices", "hours") else str
            parser.add_argument(flag, type=number, help=said)
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
