"""``python -m raf_ray.tune``: search config values over whole federations, and show what came of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from raf_ray.cli import Parser, run_command

EXAMPLES = """examples:
  python -m raf_ray.tune tune_configs/kd_weights_cpu.yaml                         minutes on two cores
  python -m raf_ray.tune tune_configs/kd_weights_cpu.yaml --resume                go on after whatever ended it
  python -m raf_ray.tune tune_configs/joint.yaml num_samples=64 base.federation.rounds=20
  python -m raf_ray.run --config runs/kd_weights_cpu/best.yaml                    train the best config anew
"""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m raf_ray.tune",
        description="Search over whole federations with Ray Tune: one trial is one federation with all its clients. "
        "Trials are compared on val; the best alone is scored on test, once.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="search file, such as those in tune_configs/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="a key of the search file and its value (YAML)"
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the search (default: runs/NAME of the file)")
    parser.add_argument("--resume", action="store_true", help="go on with the search in its folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the search in its folder")
    parser.add_argument("--address", help="Ray cluster: HOST:PORT, auto, local for a private one, or a dashboard's "
                        "URL, where the command is submitted as a job")  # fmt: skip
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)
    from raf_ray.errors import InputError

    if arguments.resume and arguments.overwrite:
        raise InputError("--resume and --overwrite exclude each other")

    from raf_ray.paths import existing_file, given_path
    from raf_ray.search.spec import load_search

    file = existing_file(arguments.file, "search file")
    search = load_search(file, arguments.overrides)
    output = given_path(arguments.output, "--output") if arguments.output else Path("runs") / search.name

    from raf_ray.cluster.jobs import dashboard_of, submit

    dashboard = dashboard_of(arguments.address)
    if dashboard is not None:
        if file.is_absolute() or ".." in file.parts:
            raise InputError(
                f"{file} does not lie below the working directory, which alone goes to the cluster; copy it"
            )
        if arguments.resume and not arguments.output:
            raise InputError("--resume on a cluster needs --output: the folder that the first command named")
        submit("raf_ray.tune", words, dashboard, search.name, print)
        return

    from raf_ray.report.search import trials_table
    from raf_ray.search.display import SearchDisplay
    from raf_ray.search.study import prepare_search, run_search
    from raf_ray.terminal import make_console, warn

    console = make_console()
    request = prepare_search(search, output, resume=arguments.resume, overwrite=arguments.overwrite)
    answer = run_search(
        request,
        address=arguments.address,
        display=partial(SearchDisplay, console, search.num_trials, search.metrics),
        say=lambda line: console.print(line, style="dim", highlight=False, soft_wrap=True),
        warn=partial(warn, console),
    )
    best = answer.values["best"]
    console.print()
    console.print(trials_table(answer.rows, search.metrics))
    scored = [f"{size} {100 * value:.1f}" for size, value in best["test"]["by_resolution"].items() if value is not None]
    console.print(f"Trial {best['trial']} on test (%): {'  '.join(scored)}", highlight=False, soft_wrap=True)
    if len(search.metrics) > 1:
        front = ", ".join(map(str, answer.values["front"]))
        drawn = " (pareto.png)" if (output / "pareto.png").is_file() else ""
        console.print(f"Pareto front: trials {front}{drawn}", highlight=False, soft_wrap=True)
    console.print(f"Results: {output} (report.html, best.yaml, trials.csv)", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
