"""Page data -> files.  A page is one HTML file that opens without a network.

Text goes into the page as JSON in data blocks without any `<`, the script sets text by
`textContent` only, and a content security policy allows no script but the page's own.  Where the
rollouts would make the page larger than MAX_BYTES, they lie in a folder beside it, one script for
each set, and the page reads one when it is chosen.
"""

import base64
import contextlib
import hashlib
import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from rlvr_jax.host.files import whole_file
from rlvr_jax.host.report.records import Json

MAX_BYTES = 24_000_000  # size of all data blocks: a page of this size still opens on a laptop
SCRIPTS = ("nodes", "numbers", "plots", "strips", "evaluations", "rollouts", "comparison", "page")
BLOCK = '<script type="application/json" id="{}">{}</script>'


def write_page(target: Path, data: Json, sets: Iterable[Json]) -> None:
    """Write a page, and its rollouts beside it if they are many; what was there is replaced.

    `data` is what the page shows at once, and `sets` its rollouts (`rollouts`), each with the
    `problems` that are read when the set is chosen.  The sets are taken one by one, so that a run
    that writes its own report needs little memory for it.
    """
    heads: list[Json] = []
    blocks: list[str] = []
    beside = target.with_name(f"{target.stem}_rollouts")
    size, apart = len(embed(data)), False
    for i, found in enumerate(sets):
        problems = fitting(found["problems"])
        block = embed(problems)
        heads.append(_head(found, problems) | {"file": f"{beside.name}/{i}.js"})
        size += len(block)
        blocks.append(block)
        if apart or size > MAX_BYTES:
            _write_beside(beside, i + 1 - len(blocks), blocks)
            blocks, apart = [], True
    page = render(str(data["name"]), embed(data | {"sets": heads}), blocks, apart)
    whole_file.write_whole(target, page)  # so that a browser never opens an incomplete page
    if beside.is_dir():
        _remove_from(beside, len(heads) if apart else 0)


def _head(found: Json, problems: list[Json]) -> Json:
    """Return what the page says of a set before it is read: all but the problems."""
    kept = sum(rollout.get("times", 1) for p in problems for rollout in p["rollouts"])
    return {k: v for k, v in found.items() if k != "problems"} | {"kept": kept}


def fitting(problems: list[Json]) -> list[Json]:
    """Return the first problems whose data block is not larger than a page may be."""
    while problems and len(embed(problems)) > MAX_BYTES:
        problems = problems[: len(problems) // 2]
    return problems


def _write_beside(folder: Path, first: int, blocks: list[str]) -> None:
    """Write one script for each set of rollouts, from number `first` on."""
    folder.mkdir(exist_ok=True)
    for i, block in enumerate(blocks, first):
        whole_file.write_whole(folder / f"{i}.js", f"receiveSet({i}, {block});\n")


def _remove_from(folder: Path, first: int) -> None:
    """Remove the scripts of an earlier page, from number `first` on, and nothing else."""
    for path in folder.glob("*.js"):
        if re.fullmatch(r"\d+", path.stem) and int(path.stem) >= first:
            path.unlink()
    with contextlib.suppress(OSError):  # something else is there
        folder.rmdir()


def render(name: str, block: str, sets: list[str], apart: bool = False) -> str:
    """Return the HTML page: the template with title, style, script, and the data blocks.

    With `apart`, the policy allows scripts of the page's own folder besides its own script.
    """
    files = resources.files("rlvr_jax.host.report")
    script = "\n".join(files.joinpath("browser", f"{x}.js").read_text("utf-8") for x in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    blocks = [BLOCK.format(f"set-{i}", found) for i, found in enumerate(sets)]
    fill = {
        "TITLE": html.escape(name).encode("utf-8", "replace").decode(),
        "POLICY": f"'sha256-{digest}'" + (" 'self'" if apart else ""),
        "STYLE": files.joinpath("browser", "style.css").read_text("utf-8"),
        "SCRIPT": script,
        "DATA": "\n".join([BLOCK.format("data", block), *blocks]),
    }
    page = files.joinpath("browser", "page.html").read_text("utf-8")
    # One pass, so that a placeholder inside the text of the run stays text.
    return re.sub("%%([A-Z]+)%%", lambda match: fill[match[1]], page)


def embed(data: Any) -> str:
    """Encode data as JSON that is ASCII and has no character of HTML markup."""
    encoded = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return encoded.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
