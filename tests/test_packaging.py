"""What is installed is what is here: packages, data files, and names that do not collide."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {"rlvr_kernels": "kernels", "rlvr_jobs": "jobs"}  # import name -> folder
FILES = sorted(
    path
    for folder in ("rlvr_jax", "kernels", "tests", "configs", "jobs")
    for path in (ROOT / folder).rglob("*.py")
)


def packages():
    """Import names of all folders that hold shipped Python files."""
    names = {"rlvr_kernels", "rlvr_jobs"}
    for folder, package in (("rlvr_jax", "rlvr_jax"), ("kernels", "rlvr_kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            names.add(".".join([package, *path.parent.relative_to(ROOT / folder).parts]))
    return names


def test_every_folder_with_code_is_packaged():
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages())
    assert SETUPTOOLS["package-dir"] == FOLDERS


@pytest.mark.parametrize("name", sorted(packages()))
def test_every_package_is_found_where_it_lies(name):
    spec = importlib.util.find_spec(name)
    first, *rest = name.split(".")
    folder = ROOT.joinpath(FOLDERS.get(first, first), *rest)
    found = [Path(place) for place in spec.submodule_search_locations if Path(place).exists()]
    assert len(found) == 1 and found[0].samefile(folder)


def test_packages_have_an_init_but_the_folders_outside():
    """With one, the folder could be imported by a bare name that the index gives to another."""
    for name in sorted(packages() - set(FOLDERS)):
        assert importlib.util.find_spec(name).origin, f"{name} has no __init__.py"
    for folder in FOLDERS.values():
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_nobody_imports_the_kernels_folder_by_its_bare_name():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "kernels" not in {name.partition(".")[0] for name in names}, path


def test_package_data_is_there_and_complete():
    listed = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = ROOT.joinpath(FOLDERS.get(package, package.replace(".", "/")))
        for pattern in patterns:
            found = list(folder.glob(pattern))
            assert found, f"{package}: {pattern}"
            listed |= set(found)
    shipped = [p for f in ("rlvr_jax", "jobs") for p in (ROOT / f).rglob("*") if p.is_file()]
    others = {
        p for p in shipped if p.suffix not in (".py", ".pyc", ".pyi") and p.name != "py.typed"
    }
    assert others == listed


def test_module_names_say_something():
    vague = {"utils", "util", "common", "core", "base", "lib", "helpers", "misc", "tools"}
    for path in FILES:
        assert not vague & {path.stem, *path.relative_to(ROOT).parts[:-1]}, path


def test_no_module_is_named_like_one_of_the_standard_library():
    for path in FILES:
        assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, path


def test_no_test_module_is_named_like_a_shipped_one():
    for path in (ROOT / "tests").rglob("*.py"):
        assert path.name == "conftest.py" or path.name.startswith(("test_", "make_")), path


def test_nothing_is_unpickled():
    """A run folder or checkpoint of someone else must not be able to run code."""
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not unsafe & {alias.name.partition(".")[0] for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in unsafe, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
            if isinstance(node, ast.Attribute) and path.parts[-2] != "tests":
                assert node.attr not in ("unsafe_load", "full_load", "UnsafeLoader"), path


def test_what_the_code_imports_is_declared():
    """Every distribution that shipped code imports is a dependency, or an extra."""
    declared = PROJECT["project"]["dependencies"] + sum(
        PROJECT["project"]["optional-dependencies"].values(), []
    )
    normal = {re.split(r"[\[<>=!~; ]", d)[0].lower().replace("_", "-") for d in declared}
    carried = {"absl-py": "tensorflow-datasets", "etils": "orbax-checkpoint"}
    owners = importlib.metadata.packages_distributions()
    for path in FILES:
        if path.is_relative_to(ROOT / "tests"):
            continue
        tops = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                tops.add(node.module.partition(".")[0])
        for top in tops - sys.stdlib_module_names - {"rlvr_jax", "rlvr_kernels"}:
            names = {name.lower().replace("_", "-") for name in owners.get(top, [top])}
            names |= {carried[name] for name in names if name in carried}
            assert names & normal, f"{path.relative_to(ROOT)} imports {top}"


def test_license_version_and_citation_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = PROJECT["project"]
    assert (cited["license"], str(cited["version"])) == (project["license"], project["version"])
    assert cited["title"] == project["name"]
    (name,) = project["license-files"]
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "Apache License" in text and f"{project['name']} authors" in text
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_scripts_point_at_functions():
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        spec = importlib.util.find_spec(module)
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
        assert function in {x.name for x in body if isinstance(x, ast.FunctionDef)}, target


def test_every_marker_of_the_tests_is_declared():
    options = PROJECT["tool"]["pytest"]["ini_options"]
    declared = {marker.partition(":")[0] for marker in options["markers"]}
    builtin = {"parametrize", "skip", "skipif", "xfail", "usefixtures", "filterwarnings"}
    used = set()
    for path in (ROOT / "tests").rglob("*.py"):
        used |= set(re.findall(r"pytest\.mark\.(\w+)", path.read_text(encoding="utf-8")))
    assert used - builtin <= declared
    assert "--import-mode=importlib" in options["addopts"]
