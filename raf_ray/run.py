"""``python -m raf_ray.run``: train a federation, or compare several, and show what came of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raf_ray.cli import Parser, add_config_arguments, config_from, run_command
from raf_ray.config import Config
from raf_ray.config.help import PRECEDENCE, key_lines, preset_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

EXAMPLES = """examples:
  python -m raf_ray.run                                     the demo: RAF on three tiers of synthetic people
  python -m raf_ray.run objective.alpha=0.7 seed=1          other values
  python -m raf_ray.run --preset demo --preset raf_plus     presets stack
  python -m raf_ray.run --compare --output runs/compare     FedAvg, multi-resolution, RAF and RAF+ in one table
  python -m raf_ray.run --preset real_small data.root=DIR   real photographs
  python -m raf_ray.run --resume --output runs/mine         go on with an interrupted run
"""


def parser() -> argparse.ArgumentParser:
    lines = ["presets:", *preset_lines(), "", PRECEDENCE, "", "keys (type = default):", *key_lines()]
    parser = Parser(
        prog="python -m raf_ray.run",
        description="Train a federation of clients that own people at different resolutions.",
        epilog=EXAMPLES + "\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="run folder, or the URI of one such as s3://BUCKET/mine (default: a new one below runs/)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    parser.add_argument("--address", help="Ray cluster: HOST:PORT, auto, local for a private one, or the dashboard's "
                        "http://HOST:8265 to submit the command as a job")  # fmt: skip
    parser.add_argument("--compare", action="store_true", help="run every method from the same start; one table")
    parser.add_argument("--only", metavar="A,B", help="with --compare: just these methods")
    parser.add_argument("--equal-compute", action="store_true",
                        help="with --compare: stop each at RAF's forward pixels")  # fmt: skip
    return parser


def main(words: Sequence[str]) -> None:
    # Options and key=value words may come in any order.
    arguments = parser().parse_intermixed_args(words)
    _check(arguments)
    from raf_ray.cluster.jobs import dashboard_of, submit

    dashboard = dashboard_of(arguments.address)
    if dashboard is not None:
        config_from(arguments)  # what is wrong here is said here
        submit("raf_ray.run", words, dashboard, _kind(arguments), print)
        return

    from raf_ray.experiment.place import working_folder
    from raf_ray.experiment.run import new_folder
    from raf_ray.terminal import make_console, warn

    console = make_console()
    output = arguments.output or new_folder(Path("runs"), _kind(arguments))
    with working_folder(output, "--output", partial(warn, console)) as folder:
        shown, files = _train(arguments, folder, console)
    console.print()
    for part in shown:
        console.print(part, highlight=False)
    console.print(f"Results: {output} ({files})", highlight=False, soft_wrap=True)


def _train(arguments: argparse.Namespace, output: Path, console: Console) -> tuple[list[RenderableType], str]:
    """Run or compare in a folder; the table and lines to show of it, and what lies in the folder."""
    from raf_ray.compare import compare, run_name
    from raf_ray.experiment.run import run_federation
    from raf_ray.experiment.watching import watchers_for
    from raf_ray.report.tables import results_table, upsampled_lines

    config = _resumed_config(arguments, output) or config_from(arguments)
    if arguments.compare:
        only = arguments.only.split(",") if arguments.only else None
        results = compare(
            config, output, only=only, equal_compute=arguments.equal_compute, resume=arguments.resume,
            overwrite=arguments.overwrite, address=arguments.address, console=console,
        )  # fmt: skip
        table = results_table(results, baseline=run_name(config))
        lines = [line for values in results.values() for line in upsampled_lines(values)]
        files = f"{_there(output, 'drift.png', 'comparison.json')} and a folder for each run"
    else:
        finished = run_federation(
            config, output, resume=arguments.resume, overwrite=arguments.overwrite, address=arguments.address,
            watchers=watchers_for(config, console), say=lambda line: console.print(line, style="dim"),
        )  # fmt: skip
        table = results_table({output.name: finished.values})
        lines = list(upsampled_lines(finished.values))
        files = _there(output, "drift.png", "samples.png", "results.json", "model.pt")
    return [table, *dict.fromkeys(lines)], files


def _there(folder: Path, *names: str) -> str:
    return ", ".join(name for name in names if (folder / name).is_file())


def _kind(arguments: argparse.Namespace) -> str:
    return "compare" if arguments.compare else "run"


def _check(arguments: argparse.Namespace) -> None:
    from raf_ray.errors import InputError

    if arguments.resume and not arguments.output:
        raise InputError("--resume needs --output: the folder of the run to go on with")
    if arguments.resume and arguments.overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    if (arguments.only or arguments.equal_compute) and not arguments.compare:
        raise InputError("--only and --equal-compute go with --compare")


def _resumed_config(arguments: argparse.Namespace, output: Path) -> Config | None:
    """A single run that is resumed without presets or a file takes its own config."""
    from raf_ray.config import load_config

    if not arguments.resume or arguments.compare or arguments.preset or arguments.config:
        return None
    own = output / "config.yaml"
    if not own.is_file():
        return None
    return load_config(file=own, overrides=arguments.overrides)


if __name__ == "__main__":
    sys.exit(run_command(main))
