"""``python -m raf_ray.status RUN|ADDRESS``: see from another terminal how far a run is, or what a cluster does."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from raf_ray.cli import run_command

EXAMPLES = """examples:
  python -m raf_ray.status runs/mine                  round, time left, loss, newest scores
  python -m raf_ray.status runs/compare --follow      a line a run, until all have ended
  python -m raf_ray.status http://127.0.0.1:8265      nodes, raf-ray's actors and jobs of a Ray cluster
  RAY_AUTH_MODE=token python -m raf_ray.status http://127.0.0.1:8265     where the cluster asks for a token
"""
FOLLOW_SECONDS = 2.0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raf_ray.status",
        description="Show a live or finished run, comparison or search by its folder, or a Ray cluster by the address "
        "of its dashboard.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", metavar="RUN|ADDRESS", help="run folder or the URI of one, or http://HOST:PORT of a Ray dashboard"
    )
    parser.add_argument("--follow", action="store_true", help="refresh until it ends (an ADDRESS: until Ctrl-C)")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_args(words)

    from rich.console import Group
    from rich.live import Live

    from raf_ray.addresses import is_url, web_address
    from raf_ray.terminal import make_console

    console = make_console(120)

    def view() -> tuple[Group, bool]:
        if is_url(arguments.what):
            from raf_ray.cluster.observe import observe
            from raf_ray.report.cluster import cluster_view

            address = web_address(arguments.what, "ADDRESS")
            return cluster_view(observe(address), address), False
        from raf_ray.experiment.place import reading_folder
        from raf_ray.report.status import SEEN, read_folder

        with reading_folder(arguments.what, "RUN", SEEN) as folder:
            return read_folder(folder, arguments.what)

    shown, ended = view()
    if not arguments.follow:
        console.print(shown)
        return
    with Live(shown, console=console, auto_refresh=False) as live:
        while not ended:
            time.sleep(FOLLOW_SECONDS)
            shown, ended = view()
            live.update(shown, refresh=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
