"""The commands that start, watch and end a job, for the user to run."""

import shlex
from pathlib import Path

from rlvr_jax.host.launching.job import Job


def list_commands(job: Job, file: str) -> list[str]:
    """List the commands of a job whose file is at `file`, with comments that begin with `#`.

    Names in a `Job` need no quotes in a shell, but for the paths that its config reads.
    """
    file = shlex.quote(file)
    start = {"jobset": _jobset, "tpu-vm": _tpu_vm, "skypilot": _skypilot, "slurm": _slurm}
    return [*_upload(job), *_image(job), *start[job.kind](job, file)]


def _upload(job: Job) -> list[str]:
    """Copy what the job reads to the same places in its bucket, its working folder."""
    if not job.bucket:
        return []
    lines = ["# what the job reads"]
    for path in (job.config, *job.reads):
        target = f"{job.bucket}/{path.removeprefix('./')}"
        both = shlex.join([path, target])
        if path.startswith(("/", "~", "-")) or ".." in Path(path).parts:
            lines.append(f"# {path} is outside of this folder: hosts will not find it")
        elif Path(path).is_dir():
            lines.append(f"gcloud storage rsync --recursive {both}")
        elif Path(path).exists():
            lines.append(f"gcloud storage cp {both}")
        else:
            lines.append(f"# {path} is not here: put it at {target}")
    return lines


def _image(job: Job) -> list[str]:
    if not job.image or job.kind == "slurm":
        return []
    return [
        "# the image",
        f"docker build --file jobs/Dockerfile --tag {job.image} .",
        f"docker push {job.image}",
    ]


def _jobset(job: Job, file: str) -> list[str]:
    space = f"--namespace={job.namespace}"
    first = f"jobset.sigs.k8s.io/jobset-name={job.name},batch.kubernetes.io/job-completion-index=0"
    return [
        "# start; watch; end",
        f"kubectl apply --filename={file}",
        f"kubectl get jobset {job.name} {space} --watch",
        f"kubectl logs {space} --selector={first} --container=train --follow",
        f"kubectl delete jobset {job.name} {space}",
        *_result(job),
    ]


def _tpu_vm(job: Job, file: str) -> list[str]:
    assert job.slice.tpu is not None
    where = f"--zone={job.zone}" + (f" --project={job.project}" if job.project else "")
    nodes, first = f"--node-id={job.name}", job.name
    if job.slices > 1:
        nodes, first = f"--node-count={job.slices} --node-prefix={job.name}", f"{job.name}-0"
    # Only v5p has topologies with the same number of chips.
    shape = f"--accelerator-type={job.slice.accelerator_type}"
    if job.slice.chip == "v5p":
        shape = f"--type=v5p --topology={job.slice.topology}"
    price = " --spot" * job.spot + " --reserved" * job.reserved
    queued = "gcloud compute tpus queued-resources"
    return [
        "# start; watch; end (the machines delete themselves when the run is done)",
        f"{queued} create {job.name} {where} {nodes} {shape} "
        f"--runtime-version={job.slice.tpu.runtime}{price} "
        f"--scopes=https://www.googleapis.com/auth/cloud-platform "
        f"--metadata-from-file=startup-script={file}",
        f"{queued} describe {job.name} {where}",
        f"gcloud compute tpus tpu-vm ssh {first} {where} --worker=0 "
        f"--command='journalctl --unit={job.name} --follow'",
        f"{queued} delete {job.name} {where} --force --quiet",
        *_result(job),
    ]


def _skypilot(job: Job, file: str) -> list[str]:
    return [
        "# start; watch; end",
        f"sky jobs launch --name={job.name} {file}",
        "sky jobs queue",
        f"sky jobs logs --name={job.name}",
        f"sky jobs cancel --name={job.name}",
        *_result(job),
    ]


def _slurm(job: Job, file: str) -> list[str]:
    return [
        "# start; watch; end",
        f"sbatch {file}",
        f"squeue --name={job.name}",
        f"scancel --name={job.name}",
    ]


def _result(job: Job) -> list[str]:
    return ["# the run folders, with report.html", f"gcloud storage ls {job.bucket}/{job.runs}/"]
