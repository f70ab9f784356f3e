"""This module downloads models and data sets of the Hugging Face hub with `huggingface_hub`.

A repository is named NAME or NAME@REVISION, and NAME@COMMIT always means the same files.  Only
weights, settings and tables are downloaded; nothing of a repository is executed.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

HUB = "hub:"
Kind = Literal["model", "dataset"]
MODEL = ("*.safetensors", "*.json", "tokenizer.model", "merges.txt", "chat_template.jinja")
_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(ValueError):
    """A HubError says in one sentence why a repository cannot be downloaded."""


def download_model(name: str) -> Path:
    """Download a model, and return its folder; what was downloaded before is taken from the disk.

    Raises:
      HubError: the package, the network or the repository is not there.
    """
    return _download(name, "model", MODEL)


def download_data(name: str, patterns: Sequence[str]) -> Path:
    """Download the files of a data set that fit one of the patterns, and return its folder.

    Raises:
      HubError: the package, the network or the repository is not there.
    """
    return _download(name, "dataset", tuple(patterns))


def with_commit(name: str, folder: Path) -> str:
    """Return the name of a repository with the commit to which its downloaded folder belongs.

    Raises:
      HubError: the folder does not tell the commit.
    """
    if not _COMMIT.fullmatch(folder.name):
        raise HubError(f"the folder {folder} of {name} is not that of a commit: remove it")
    return f"{name.partition('@')[0]}@{folder.name}"


def pinned(name: str, text: str) -> str:
    """Return the name with the commit that a resolved config has for it, if it has one.

    A name with a revision stays as it is.
    """
    if "@" in name:
        return name
    found = re.search(rf"(?<![\w./-]){re.escape(name)}@({_COMMIT.pattern})(?!\w)", text)
    return f"{name}@{found[1]}" if found else name


@functools.cache
def _download(name: str, kind: Kind, patterns: tuple[str, ...]) -> Path:
    repository, at, revision = name.partition("@")
    if not _NAME.fullmatch(repository) or (at and not revision):
        raise HubError(
            f"{name!r} is no name of the hub: write OWNER/NAME, or OWNER/NAME@REVISION for a "
            "branch, a tag or a commit"
        )
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise HubError(
            f"{name} of the hub needs a package: pip install -e '.[hub]' in the clone, or download "
            "it and name its folder or file"
        ) from None
    inside = ["*/*"] if kind == "model" else None  # other formats of a model lie in folders
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id=repository,
            repo_type=kind,
            revision=revision or None,
            allow_patterns=list(patterns),
            ignore_patterns=inside,
        )
    except Exception as error:  # of the network, the hub or the disk: the package has many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise HubError(
            f"the {kind} {name} cannot be downloaded ({reason}): correct the name, or download it "
            "elsewhere and name its folder or file"
        ) from None
    return Path(folder)
