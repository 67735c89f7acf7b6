"""``python -m raf_ray.cluster check|up|down FILE``: start and end a cluster of ``cluster/*.yaml``, checked before."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from raf_ray.cli import run_command

EXAMPLES = """examples:
  python -m raf_ray.cluster check cluster/onprem.yaml     addresses, key, hosts, versions; nothing is started
  python -m raf_ray.cluster up cluster/gpu.yaml           check, then `ray up`
  python -m raf_ray.cluster down cluster/onprem.yaml      `ray down`, and the end of Ray on the workers too
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raf_ray.cluster",
        description="Start and end a cluster by Ray's launcher, with what that leaves out: a check of the file and its "
        "hosts before, and the end of workers that are reached by SSH.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=("check", "up", "down"))
    parser.add_argument("file", metavar="FILE", help="cluster file for `ray up`")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_args(words)
    from raf_ray.cluster import launch

    file = launch.read_cluster_file(arguments.file)
    if arguments.verb == "check":
        launch.check(file, print)
        print(f"{file.path}: nothing is missing")
    elif arguments.verb == "up":
        launch.up(file, print)
    else:
        launch.down(file, print)


if __name__ == "__main__":
    sys.exit(run_command(main))
