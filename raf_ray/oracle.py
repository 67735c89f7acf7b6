"""``python -m raf_ray.oracle``: what perfect heatmaps would score at each test size, by codec, flip test and metric."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from raf_ray.cli import Parser, add_config_arguments, run_command

EXAMPLES = """examples:
  python -m raf_ray.oracle                                        synthetic people, our codec
  python -m raf_ray.oracle --preset authors_mpii                  the RAF authors' pipeline, on synthetic people
  python -m raf_ray.oracle --preset authors_mpii data.root=DIR    the same on MPII
  python -m raf_ray.oracle data.codec=udp evaluation.resolutions=[64x48,32x24] --json
  python -m raf_ray.oracle model.heatmap_stride=1 evaluation.decode=argmax evaluation.resolutions=[64x48,32x24]

What is short of 100 is lost to coordinates alone, whatever the model: no drift of resolution.
"""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m raf_ray.oracle",
        description="Score perfect heatmaps: the ceiling that coordinates set at each size (all keys: "
        "python -m raf_ray.run --help). Synthetic people where no data is named.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON instead of a table")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)
    if arguments.config is None and not any(word.startswith(("data.name=", "data.root=")) for word in words):
        arguments.overrides = ["data.name=synthetic", *arguments.overrides]

    import json

    from rich.table import Table

    from raf_ray.cli import config_from
    from raf_ray.evaluation.oracle import ceiling
    from raf_ray.files import without_nan
    from raf_ray.metrics import title_of
    from raf_ray.request.parts import oracle_of
    from raf_ray.request.people import load_held_out, splits_of
    from raf_ray.request.plans import final_sizes, plan_clients
    from raf_ray.request.task import check_task, metrics_of, task_of
    from raf_ray.terminal import make_console

    config = config_from(arguments)
    oracle = oracle_of(config)
    check_task(config, task_of(config))
    split, plans = config.evaluation.split, plan_clients(config)
    people, metric = load_held_out(config, plans, splits_of(config))[split], metrics_of(config)[split]
    oracle.task.check(people, split, metric)
    found = ceiling(oracle, people, final_sizes(config, plans), metric)
    if arguments.json:
        told = {
            "split": split,
            "metric": metric,
            "people": len(people),
            "codec": config.data.codec,
            "crop": config.data.crop,
            "heatmap_stride": config.model.heatmap_stride,
            "by_resolution": found,
        }
        print(json.dumps(without_nan(told)))
        return
    title = f"{title_of(metric)} of perfect heatmaps on {len(people)} {split} people (%)"
    table = Table(title=title, title_justify="left")
    table.add_column("crop, codec, stride")
    for size in found:
        table.add_column(size, justify="right")
    rule = f"{config.data.crop}, {config.data.codec}, {config.model.heatmap_stride}"
    table.add_row(rule, *(f"{100 * value:.1f}" for value in found.values()))
    make_console(120).print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
