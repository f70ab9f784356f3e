"""Data flows one way: no module imports one of its own level or above, or what it may not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The order of the device code: a module imports modules of lower levels only.
LEVEL = {
    "rlvr_kernels": 0,
    "rlvr_jax": 0,
    "rlvr_jax.config": -1,
    "rlvr_jax.structs": 0,
    "rlvr_jax.markers": 0,
    "rlvr_jax.returns": 1,
    "rlvr_jax.routing": 1,
    "rlvr_jax.hashing": 0,
    "rlvr_jax.int8": 0,
    "rlvr_jax.adapters": 1,
    "rlvr_jax.groups": 1,
    "rlvr_jax.advantage": 2,
    "rlvr_jax.ratios": 1,
    "rlvr_jax.loss": 2,
    "rlvr_jax.token_choice": 3,
    "rlvr_jax.sampling": 1,
    "rlvr_jax.sharding": 0,
    "rlvr_jax.context": 1,
    "rlvr_jax.vocabulary": 2,
    "rlvr_jax.positions": 1,
    "rlvr_jax.byte_search": 1,
    "rlvr_jax.extract": 2,
    "rlvr_jax.box_scores": 2,
    "rlvr_jax.prompt_filter": 3,
    "rlvr_jax.parameters": 2,
    "rlvr_jax.block": 3,
    "rlvr_jax.kv_cache": 1,
    "rlvr_jax.moments": 3,
    "rlvr_jax.optim": 4,
    "rlvr_jax.model": 4,
    "rlvr_jax.attack": 5,
    "rlvr_jax.ragged": 5,
    "rlvr_jax.engine": 6,
    "rlvr_jax.likelihood": 6,
    "rlvr_jax.verifier": 6,
    "rlvr_jax.prm": 7,
    "rlvr_jax.grm": 7,
    "rlvr_jax.step_metrics": 8,
    "rlvr_jax.policy_update": 9,
    "rlvr_jax.judging": 9,
    "rlvr_jax.step": 10,
    "rlvr_jax.supervised": 10,
    "rlvr_jax.scalar_rm": 10,
    "rlvr_jax.prm_step": 11,
}
# The wings of the host code, and the wings that each may import.
WINGS = {
    "files": set(),
    "processes": set(),
    "text": {"files"},
    "weights": {"files"},
    "workers": set(),
    "problems": {"files", "text"},
    "critiques": {"files", "problems", "text"},
    "hardening": {"problems", "text"},
    "plans": {"runs", "weights"},
    "rules": {"files", "problems", "text", "workers"},
    "verdicts": {"files", "problems", "rules", "text", "workers"},
    "runs": {"files", "problems", "processes", "weights"},
    "report": {"files", "runs"},
    "launching": {"plans", "runs"},
}
ENTRIES = {
    *("train", "evaluate", "audit", "plan", "report", "convert", "generate", "bench", "jobs"),
    *("bench_device", "__main__"),
}
DEVICE_PACKAGES = {"jax", "flax.struct", "optax"}
# jax stands on numpy; only the mesh, which is made of a numpy array of devices, needs it by name.
EXTRA = {"rlvr_jax.sharding": {"numpy"}}
SHARED_WITH_HOST = {
    *("rlvr_jax", "rlvr_jax.structs", "rlvr_jax.config", "rlvr_jax.sharding", "rlvr_jax.markers"),
}


def sources():
    """Module name -> its file, for everything that is shipped."""
    found = {}
    for folder, package in ((ROOT / "rlvr_jax", "rlvr_jax"), (ROOT / "kernels", "rlvr_kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()
DEVICE = [
    name
    for name in SOURCES
    if name.startswith("rlvr_jax.")
    and name.count(".") == 1
    and name.split(".")[1] not in {"host", "stages"} | ENTRIES
]


def imports(text):
    """Full names of all that a source imports, anywhere in it, functions included.

    `from package import name` gives `package.name` where that is one of our modules or one of
    those that device code may use (`flax.struct`), else `package`.
    """
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.append(full if full in SOURCES or full in DEVICE_PACKAGES else node.module)
    return names


IMPORTS = {name: imports(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def ours(name):
    return name.partition(".")[0] in ("rlvr_jax", "rlvr_kernels")


def level(name):
    if name.startswith("rlvr_kernels"):
        return LEVEL["rlvr_kernels"]
    return LEVEL["rlvr_jax.config" if name.startswith("rlvr_jax.config") else name]


def wing(name):
    """The wing of a host module, `rlvr_jax.host.WING...`; empty for what is in none."""
    return name.removeprefix("rlvr_jax.host").strip(".").partition(".")[0]


def circle(graph):
    """Nodes of a graph (node -> nodes) that lie on a circle or wait for one."""
    left = {node: set(targets) - {node} for node, targets in graph.items()}
    while free := [node for node, targets in left.items() if not targets & set(left)]:
        for node in free:
            del left[node]
    return set(left)


def test_the_walk_sees_imports_of_every_form():
    text = (
        "import os.path as p, rlvr_jax.loss\nfrom flax import struct\nfrom jax import numpy\n"
        "def f():\n    from rlvr_jax import model\n    from rlvr_jax.host.runs import log\n"
    )
    found = ["os.path", "rlvr_jax.loss", "flax.struct", "jax", "rlvr_jax.model"]
    assert imports(text) == [*found, "rlvr_jax.host.runs.log"]
    assert len(SOURCES) > 30 and len(DEVICE) >= 11
    assert {"rlvr_jax.step", "rlvr_jax.model"} <= set(DEVICE)


def test_every_device_module_has_a_level_and_every_host_module_a_wing():
    assert set(DEVICE) | {"rlvr_jax", "rlvr_kernels"} == set(LEVEL)
    host = {name for name in SOURCES if name.startswith("rlvr_jax.host")} - {"rlvr_jax.host"}
    assert {wing(name) for name in host} == set(WINGS)
    loose = {name for name in host if SOURCES[name].parent == ROOT / "rlvr_jax" / "host"}
    assert not loose, "a host module belongs in a wing"


@pytest.mark.parametrize("name", [name for name in SOURCES if name in LEVEL])
def test_imports_of_device_code_go_down(name):
    for imported in filter(ours, IMPORTS[name]):
        own = name == "rlvr_jax.config" and imported.startswith("rlvr_jax.config.")
        assert own or level(imported) < level(name), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in SOURCES if wing(name) in WINGS])
def test_a_wing_imports_the_wings_below_it(name):
    for imported in filter(ours, IMPORTS[name]):
        if imported.startswith("rlvr_jax.host"):
            allowed = WINGS[wing(name)] | {wing(name)}
            assert wing(imported) in allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in SOURCES if "rules.maths" in name])
def test_the_maths_grader_imports_no_rule_above_it(name):
    below = ("rlvr_jax.host.rules.maths", *(f"rlvr_jax.host.{wing}." for wing in WINGS["rules"]))
    for imported in filter(ours, IMPORTS[name]):
        assert imported.startswith(below), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in SOURCES if wing(name) == "workers"])
def test_workers_know_no_rule_by_name(name):
    text = SOURCES[name].read_text(encoding="utf-8")
    assert "rlvr_jax.host.rules" not in text and "judge" not in text


def test_there_is_no_circle_of_imports():
    assert circle({"a": {"b"}, "b": {"a"}, "c": set(), "d": {"a"}}) == {"a", "b", "d"}
    assert not circle({name: set(found) for name, found in IMPORTS.items()})
    assert not circle(WINGS)


def test_nothing_imports_an_entry_point():
    entries = {f"rlvr_jax.{name}" for name in ENTRIES}
    for name, found in IMPORTS.items():
        assert not entries & set(found), f"{name} imports an entry"


@pytest.mark.parametrize("name", DEVICE)
def test_device_code_needs_jax_flax_struct_and_optax_only(name):
    for imported in IMPORTS[name]:
        top = imported.partition(".")[0]
        allowed = (
            top in sys.stdlib_module_names
            or top == "rlvr_kernels"
            or imported in DEVICE
            or (name == "rlvr_jax.config" and imported.startswith("rlvr_jax.config."))
            or top in ("jax", "optax")
            or imported in DEVICE_PACKAGES | EXTRA.get(name, set())
        )
        assert allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("rlvr_kernels")])
def test_kernels_need_jax_only(name):
    for imported in IMPORTS[name]:
        top = imported.partition(".")[0]
        assert top in ("jax", "rlvr_kernels") or top in sys.stdlib_module_names, imported


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("rlvr_jax.host")])
def test_host_code_knows_types_and_table_of_the_device_code_only(name):
    for imported in filter(ours, IMPORTS[name]):
        assert imported.startswith("rlvr_jax.host.") or imported in SHARED_WITH_HOST, imported


def test_the_arithmetic_knows_no_model():
    """Reward, advantage and loss are pure arithmetic: config and types are all they see."""
    arithmetic = ("advantage", "groups", "returns", "loss", "ratios", "token_choice")
    allowed = {f"rlvr_jax.{name}" for name in (*arithmetic, "config", "structs")}
    for name in (*arithmetic, "positions", "sampling"):
        assert set(filter(ours, IMPORTS[f"rlvr_jax.{name}"])) <= allowed


def test_config_is_plain_python():
    for name in (name for name in SOURCES if name.startswith("rlvr_jax.config")):
        for imported in IMPORTS[name]:
            top = imported.partition(".")[0]
            assert imported.startswith("rlvr_jax.config") or top in sys.stdlib_module_names


def test_importing_device_code_starts_nothing():
    """Nothing happens at import: no call at module level but those that only make names."""
    makers = {"partial", "namedtuple", "SampleConfig", "Family", "Case", "TypeVar"}
    for name in [*DEVICE, *(n for n in SOURCES if n.startswith("rlvr_kernels"))]:
        for node in ast.parse(SOURCES[name].read_text(encoding="utf-8")).body:
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign | ast.AnnAssign) and value is not None:
                calls = [x for x in ast.walk(value) if isinstance(x, ast.Call)]
                named = {getattr(c.func, "id", getattr(c.func, "attr", None)) for c in calls}
                assert named <= makers, f"{name} line {node.lineno}"
            else:
                assert not isinstance(node, ast.For | ast.While | ast.With), (
                    f"{name}: {node.lineno}"
                )
                harmless = isinstance(value, ast.Constant) and isinstance(value.value, str)
                # The one way to tell jax.custom_vjp its rules.
                harmless |= isinstance(value, ast.Call) and value.func.attr == "defvjp"
                assert not isinstance(node, ast.Expr) or harmless, f"{name}: {node.lineno}"


BARE = """
import sys
import flax.struct, jax, jax.numpy, numpy, optax  # all that a bare accelerator image has

have = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
have |= {"jax", "jaxlib", "flax", "optax", "numpy", "rlvr_kernels"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if name.startswith(("rlvr_jax.host", "rlvr_jax.stages")):
            raise ImportError(f"device code asks for {name}")
        if top not in have and top != "rlvr_jax":
            raise ImportError(f"a bare image has no {name}")


sys.meta_path.insert(0, Refuse())
import importlib

for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def bare(*names):
    return subprocess.run(
        [sys.executable, "-c", BARE, *names], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_device_code_imports_on_a_bare_image():
    kernels = [name for name in SOURCES if name.startswith("rlvr_kernels.")]
    done = bare(*DEVICE, *kernels)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["rlvr_jax.host.runs.log", "rlvr_jax.stages", "sentencepiece"])
def test_the_bare_image_of_the_test_is_bare(name):
    done = bare(name)
    assert done.returncode != 0 and "ImportError" in done.stderr
