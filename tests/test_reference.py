"""docs/write_reference.py: the pages are up to date, and every key of the config has a meaning."""

import importlib.util
import typing
from pathlib import Path

import pytest

from rlvr_jax import config
from rlvr_jax.host.runs import settings

DOCS = Path(__file__).parents[1] / "docs"


def load_script():
    spec = importlib.util.spec_from_file_location("write_reference", DOCS / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()


def kinds() -> list[type]:
    """All config types that a user can reach from a config file."""
    found: list[type] = [config.Config, *settings.STAGES.values()]
    for kind in found:  # grows while it is read
        found += [inner for _, inner in SCRIPT.sections(kind) if inner not in found]
    return found


@pytest.mark.parametrize("name", ["config", "metrics"])
def test_the_page_is_what_the_script_writes(name):
    written = getattr(SCRIPT, f"{name}_page")()
    assert written == (DOCS / f"{name}.md").read_text("utf-8"), "python docs/write_reference.py"


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_key_has_a_meaning_and_stands_on_the_page(kind):
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")  # not the made one
    page = "\n".join(SCRIPT._table(kind))
    assert page in (DOCS / "config.md").read_text("utf-8")
    for key in SCRIPT.keys(kind):
        assert len(key.metadata.get("help", "")) > 3, f"{kind.__name__}.{key.name}"
        assert f"| `{key.name}` |" in page


def test_the_reference_reaches_every_type_that_the_config_package_exports():
    exported = [getattr(config, name) for name in config.__all__]
    types = {x for x in exported if isinstance(x, type) and hasattr(x, "__pydantic_config__")}
    assert types <= set(kinds())


def test_a_range_is_shown_where_it_is_the_whole_truth():
    def shown(kind, key):
        return SCRIPT._type(typing.get_type_hints(kind)[key], kind, key)

    assert shown(config.OptimConfig, "lr") == "number, 0 or more"
    assert shown(config.OptimConfig, "beta1") == "number, from 0 to below 1"
    assert shown(config.SampleConfig, "top_p") == "number, above 0, at most 1"
    assert shown(config.RlStage, "steps") == "whole number, 1 or more"
    # the limits of these depend on other keys, or lie elsewhere
    assert shown(config.LossConfig, "kl_target") == "number"
    assert shown(config.RlStage, "minibatches") == "whole number"
    assert shown(config.Config, "seed") == "whole number"
    assert shown(config.LossConfig, "kl_in") == "`reward`, `loss`"
