"""A stand-in for huggingface_hub: repositories on disk, whose snapshots are folders of commits."""

import fnmatch
import shutil
from pathlib import Path
from types import ModuleType

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub:
    """Repositories by name and kind: name of a file -> its source on disk, or its text."""

    def __init__(self, cache: Path):
        self.cache, self.files, self.calls = cache, dict[tuple[str, str], dict](), list[dict]()
        self.commits = dict(COMMITS)

    def put(self, name: str, kind: str, files: dict) -> None:
        self.files[name, kind] = files

    def snapshot_download(
        self, repo_id, *, repo_type, revision=None, allow_patterns=None, ignore_patterns=None
    ) -> str:
        self.calls.append({"name": repo_id, "revision": revision})
        if (repo_id, repo_type) not in self.files:
            raise OSError(f"404 Client Error.\n\nRepository Not Found: {repo_id}")
        commit = self.commits.get(revision or "main", revision)
        folder = self.cache / f"{repo_type}s--{repo_id.replace('/', '--')}/snapshots/{commit}"
        for name, content in self.files[repo_id, repo_type].items():
            fits = any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)
            if fits and not any(fnmatch.fnmatch(name, p) for p in ignore_patterns or ()):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copy(content, path)
                else:
                    path.write_text(content)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)


def install(monkeypatch, cache: Path) -> Hub:
    """Let `import huggingface_hub` give a stand-in."""
    from rlvr_jax.host.files import hub

    made, module = Hub(cache), ModuleType("huggingface_hub")
    module.snapshot_download = made.snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", module)
    hub._download.cache_clear()
    return made
