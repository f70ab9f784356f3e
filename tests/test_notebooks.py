"""The notebooks run from the first cell to the last, and what they assert holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[str]:
    tree = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in tree["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_are_python_and_its_outputs_are_kept(path):
    for number, text in enumerate(cells(path)):
        compile(text, f"{path.name}, cell {number}", "exec")
    tree = json.loads(path.read_text(encoding="utf-8"))
    shown = [cell for cell in tree["cells"] if cell.get("outputs")]
    assert shown, "a reader sees what the cells print"
    for output in (output for cell in shown for output in cell["outputs"]):
        assert output["output_type"] != "error"
        assert "/root/" not in json.dumps(output) and "/work/" not in json.dumps(output)


@pytest.mark.docs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n\n".join(cells(path)), encoding="utf-8")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(script)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
