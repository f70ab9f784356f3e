"""`python -m rlvr_jax.plan --config FILE --topology v5e:4x4 [key=value ...]`: before renting.

Compiles the programs of a config's stage for a slice that is not here, and says whether they fit,
what they move, how long a step takes at least and what it costs.  No accelerator and no weights are
needed, but for TPUs Linux on an x86-64 processor, and memory.

Exit codes: 0 it fits; 2 it does not, or the config, the topology or a file needs a change; 1 a
defect of this program.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from rlvr_jax.host.plans import table
from rlvr_jax.host.plans.chips import CHIPS, FORM, load_prices, parse_topology
from rlvr_jax.host.plans.models import Sizes
from rlvr_jax.host.runs import log, settings
from rlvr_jax.stages import planning, sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _arguments(argv)
    jax.config.update("jax_platforms", "cpu")  # whatever is here: the devices are planned ones
    try:
        return run(args)
    except (ValueError, OSError) as error:
        log.say_aside(f"error: {error}")
        return 2


def run(args: argparse.Namespace) -> int:
    """Plan what the command line asks for, print the answer, and return the exit code."""
    topology = parse_topology(args.topology)
    prices = load_prices(args.prices) if args.prices else {}
    price = prices.get(topology.chip.name, topology.chip.price)
    sizes = Sizes()
    cfg = settings.load(args.config, args.overrides, sizes)
    stage = planning.choose_stage(cfg, args.stage)
    render = table.render_json if args.json else table.markdown_row if args.row else table.render
    if args.sweep:
        asked = sweep.Asked(cfg, stage, topology, sizes.found, price, args.quick)
        ranked = sweep.run(asked, args.compile, log.say_aside)
        if args.json:
            print("\n".join(table.render_tried(*tried) for tried in ranked))
        else:
            print(table.render_ranking(ranked))
        return 0 if any(tried.fits for tried in ranked) else 2
    answer = planning.plan(cfg, stage, topology, models=sizes.found, price=price, quick=args.quick)
    print(render(answer))
    return 0 if answer.fits else 2


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.plan", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("--topology", required=True, help=f"{FORM}; chips: {', '.join(CHIPS)}")
    parser.add_argument("--stage", default="", help="name of a stage [the first rl stage]")
    parser.add_argument(
        "--quick", action="store_true", help="compile the widest parts and all slots only"
    )
    parser.add_argument("--sweep", action="store_true", help="try meshes and sizes, and rank them")
    parser.add_argument(
        "--compile", type=int, default=4, help="sweep: compile so many of the best [4]"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--row", action="store_true", help="print a row of the table in docs")
    parser.add_argument("--prices", type=Path, help="YAML: dollars per chip hour, by chip")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. mesh.fsdp=16")
    args = parser.parse_intermixed_args(argv)
    if args.compile < 1:
        parser.error("--compile must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
