"""A job: what the user asked for, checked, before any file is written."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rlvr_jax.config import MeshConfig
from rlvr_jax.host.launching.slices import Slice, find_slice
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.ending import SAVE_BUDGET

KINDS = ("jobset", "tpu-vm", "skypilot", "slurm")
FILES = {  # kind -> the end of the file's name; its start is the name of the job
    "jobset": "jobset.yaml",
    "tpu-vm": "startup.sh",
    "skypilot": "skypilot.yaml",
    "slurm": "slurm.sbatch",
}
# An option that only some kinds read -> these kinds.
READ_BY = {
    "slices": ("jobset", "tpu-vm"),
    "spot": ("jobset", "tpu-vm", "skypilot"),
    "bucket": ("jobset", "tpu-vm", "skypilot"),
    "image": ("jobset", "tpu-vm", "slurm"),
    "namespace": ("jobset",),
    "queue": ("jobset",),
    "priority_class": ("jobset",),
    "service_account": ("jobset",),
    "reservation": ("jobset",),
    "reserved": ("tpu-vm",),
    "zone": ("tpu-vm",),
    "project": ("tpu-vm",),
    "partition": ("slurm",),
    "account": ("slurm",),
    "hours": ("slurm",),
}
NEEDED = {
    "jobset": ("bucket", "image"),
    "tpu-vm": ("bucket", "image", "zone"),
    "skypilot": ("bucket",),
    "slurm": (),
}
LONGEST_NAME = 40  # Kubernetes adds to it for pods, whose names have at most 63 characters
# A label of RFC 1123 that begins with a letter, as services and Google Cloud's resources must.
_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_FORMS = {
    "bucket": (r"gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", "gs://NAME, without a folder"),
    "image": (r"[a-z0-9][\w.:/@-]*", "as in europe-docker.pkg.dev/PROJECT/REPOSITORY/rlvr:1"),
    "namespace": (_LABEL.pattern, "lower-case letters, digits and hyphens"),
    "queue": (r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "the name of a LocalQueue of Kueue"),
    "priority_class": (r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "the name of a PriorityClass"),
    "service_account": (r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a service account of Kubernetes"),
    "reservation": (r"[a-z][a-z0-9/-]*", "the name of a reservation"),
    "zone": (r"[a-z]+-[a-z]+\d+-[a-z]", "as in us-west4-a"),
    "project": (r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "the id of a project"),
    "partition": (r"[\w.,-]+", "a partition of Slurm"),
    "account": (r"[\w.-]+", "an account of Slurm"),
}
# What needs no quoting in YAML strings, shells and systemd units alike.
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=[\w .,:/+@\[\]{}-]*")
# Keys that hold secrets, and what tokens of known services and passwords in addresses look like.
_SECRET_KEY = re.compile(
    r"(.*_)?(api_?key|password|passwd|secret|authorization)"
    r"|((hf|api|access|auth|bearer)_)?token",
    re.I,
)
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(hf_|sk-[\w-]{16}|gh[opsu]_|github_pat_|glpat-|AIza|ya29\.|AKIA)[\w-]{16,}|://[^/\s@]*@"
)
PATHS = ("weights", "file", "test_file", "folder")  # keys of a config
PATHS_OR_NAMES = (
    "tokenizer",
    "verifier_tokenizer",
    "rule",
    "gates",
    "also",
    "template",
    "check_templates",
)


@dataclass(frozen=True)
class Job:
    """A Job holds all that templates and commands say; an empty string is what was not given."""

    kind: str
    name: str
    config: str
    slice: Slice
    overrides: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    runs: str = "runs"
    slices: int = 1
    spot: bool = False
    bucket: str = ""
    image: str = ""
    namespace: str = "default"
    queue: str = ""
    priority_class: str = ""
    service_account: str = "default"
    reservation: str = ""
    reserved: bool = False
    zone: str = ""
    project: str = ""
    partition: str = ""
    account: str = ""
    hours: int = 24
    grace: int = int(SAVE_BUDGET)

    @property
    def command(self) -> tuple[str, ...]:
        """Return the arguments after `python` that train, the same on every host."""
        return ("-m", "rlvr_jax.train", "--config", self.config, *self.overrides)

    @property
    def file(self) -> str:
        """Return the name of the file that starts this job."""
        return f"{self.name}.{FILES[self.kind]}"


def make_job(kind: str, topology: str, config: str, given: dict[str, Any]) -> Job:
    """Check what was asked for, and return the job.

    `given` holds the options that the user gave, `name` and `overrides` among them; `config` is
    the path of a config in the current folder.

    Raises:
      ValueError: an option has a wrong form, is missing, or is of no use for this kind of job.
      OSError: the config cannot be read.
    """
    found = find_slice(topology)
    if found.tpu is None and kind != "slurm":
        raise ValueError(f"--topology {topology}: GPUs are for slurm; {kind} asks for TPUs")
    overrides = tuple(given.get("overrides", ()))
    options = {key: value for key, value in given.items() if key not in ("name", "overrides")}
    _check_options(kind, options)
    _check_overrides(overrides)
    _check_inside("--config", config, "because the job reads the config at the same place")
    cfg = settings.load(Path(config), overrides, sizes=None)
    _check_mesh(cfg.mesh, found, options.get("slices", 1))
    shared = kind == "slurm" and "image" not in options  # all hosts see the user's own files
    runs = cfg.runs.removeprefix("/") if shared else cfg.runs
    _check_inside("runs", runs, "because hosts keep only what is written there")
    leaves = list(_leaves(dataclasses.asdict(cfg)))
    for key, value in leaves:
        _check_secret(key, str(value))
    name = given.get("name") or re.sub(r"[^a-z0-9]+", "-", cfg.name.lower()).strip("-")
    if len(name) > LONGEST_NAME or not _LABEL.fullmatch(name):
        raise ValueError(
            f"the job cannot be called {name!r}: give --name with at most {LONGEST_NAME} "
            "lower-case letters, digits and hyphens, a letter first and no hyphen last"
        )
    file, runs = (str(PurePosixPath(path)) for path in (config, cfg.runs))
    return Job(kind, name, file, found, overrides, tuple(_paths(leaves)), runs, **options)


def _check_inside(name: str, path: str, reason: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not re.fullmatch(r"[\w.][\w./-]*", path):
        raise ValueError(
            f"{name} {path!r}: give a path inside the current folder, of letters, digits and "
            f"._-/, {reason}"
        )


def _check_options(kind: str, options: dict[str, Any]) -> None:
    for key, value in options.items():
        flag = "--" + key.replace("_", "-")
        if kind not in READ_BY[key]:
            raise ValueError(f"{flag} is of no use for {kind}: it is for {_list(READ_BY[key])}")
        form, meaning = _FORMS.get(key, ("", ""))
        if form and not re.fullmatch(form, value):
            raise ValueError(f"{flag} cannot be {value!r}: {meaning}")
    for key in NEEDED[kind]:
        if key not in options:
            raise ValueError(f"{kind} needs --{key}")
    for key in ("slices", "hours"):
        if not 1 <= options.get(key, 1) <= 1000:
            raise ValueError(f"--{key} must be from 1 to 1000")
    for key in ("reservation", "reserved"):
        if options.get("spot") and options.get(key):
            raise ValueError(f"--spot and --{key} exclude each other")


def _check_overrides(overrides: tuple[str, ...]) -> None:
    for text in overrides:
        key, _, value = text.partition("=")
        _check_secret(key.rpartition(".")[2], value)
        if not _OVERRIDE.fullmatch(text):
            raise ValueError(
                f"{text!r} is not key=value of letters, digits, spaces and .,:/+@[]{{}}-: write "
                "other values into the config"
            )


def _check_secret(key: str, value: str) -> None:
    if value and _SECRET_KEY.fullmatch(key) or _SECRET.search(value):
        raise ValueError(
            f"{key} seems to hold a secret, which does not belong in a file: let the job read it "
            "from its environment"
        )


def _check_mesh(mesh: MeshConfig, found: Slice, slices: int) -> None:
    asked, chips = mesh.devices, found.hosts * found.chips_per_host * slices
    if asked != chips:
        raise ValueError(
            f"the mesh of the config has {asked} device(s), and the job {chips}: give for example "
            f"mesh.data=1 mesh.fsdp={chips} mesh.tensor=1"
        )


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a config, each with the last of its keys; names in `also` are no keys."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, key if key == "also" else str(name))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value, key)
    else:
        yield key, tree


def _paths(leaves: Iterable[tuple[str, Any]]) -> list[str]:
    """List the paths that a config names for files to read; those of packages and hubs are none.

    Raises:
      ValueError: a path holds a character that is not to be seen, such as a line break.
    """
    found = []
    for key, value in leaves:
        if not isinstance(value, str) or not value or value.startswith(("package:", "hub:")):
            continue
        if key not in PATHS and not (key in PATHS_OR_NAMES and re.search("[/.]", value)):
            continue
        if not value.isprintable():
            raise ValueError(f"{key} {value!r}: a path must have no control characters")
        found.append(value)
    return list(dict.fromkeys(found))


def _list(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
