"""A Ray cluster as tables: nodes, raf-ray's actors, jobs."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from raf_ray.cluster.observe import ClusterState, Node
from raf_ray.masking import masked_in


def cluster_view(state: ClusterState, address: str) -> Group:
    parts: list[Table | Text] = [_nodes(state, address)]
    if state.coming:
        parts.append(Text(f"Nodes to come: {'; '.join(state.coming)}\n"))
    parts.append(_actors(state) if state.actors else Text("No raf-ray actor lives here.\n"))
    parts.append(_jobs(state) if state.jobs else Text("No job runs."))
    return Group(*parts)


def _nodes(state: ClusterState, address: str) -> Table:
    table = _table(masked_in(address), ("node", "host", "CPUs held", "GPUs held", "CPU load", "memory"))
    for node in state.nodes:
        table.add_row(
            f"{node.address}{' (head)' if node.head else ''}", node.host, _held(node, "CPU"), _held(node, "GPU"),
            f"{node.cpu_percent:.0f} %", f"{node.memory_percent:.0f} %",
        )  # fmt: skip
    return table


def _actors(state: ClusterState) -> Table:
    addresses = {node.id: node.address for node in state.nodes}
    table = _table("raf-ray's actors", ("run", "name", "class", "state", "node", "pid"))
    for actor in state.actors:
        pid = "-" if actor.pid is None else str(actor.pid)
        table.add_row(actor.run, actor.name, actor.class_name, actor.state, addresses.get(actor.node_id, "-"), pid)
    return table


def _jobs(state: ClusterState) -> Table:
    table = _table("jobs", ("job", "status", "command"))
    for job in state.jobs:
        table.add_row(job.id, job.status, job.entrypoint)
    return table


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _held(node: Node, name: str) -> str:
    used, total = node.resources.get(name, (0.0, 0.0))
    return f"{used:g} of {total:g}" if total else "-"
