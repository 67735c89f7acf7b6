"""FedPer (Arivazhagan et al. 2019, "Federated learning with personalization layers", algorithms 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, Setting

if TYPE_CHECKING:
    from raf_ray.state import Entry


@dataclass(frozen=True, config=PARAMETERS)
class FedPer(FedAvg):
    """FedAvg of the base layers; the last ones, the personal head, stay with each client."""

    personal: tuple[str, ...] = ("head", "keypoint_head")
    """Modules that stay, by the beginnings of their entries' names; the default is every built-in model's head."""

    def is_private(self, entry: Entry) -> bool:
        return any(entry.name == name or entry.name.startswith(f"{name}.") for name in self.personal)

    def requires(self, setting: Setting) -> str | None:
        entries = setting.layout.entries
        mine = sum(map(self.is_private, entries))
        known = ", ".join(dict.fromkeys(entry.name.partition(".")[0] for entry in entries))
        if not mine:
            names = ", ".join(self.personal)
            return f"algorithm.fedper.personal={names} names no part of the model (its parts: {known})"
        if mine == len(entries):
            return f"algorithm.fedper.personal names the whole model, so nothing is shared (parts: {known}); see local"
        return None

    def says(self, setting: Setting) -> str | None:
        weights = setting.layout.weights
        own = sum(entry.size for entry in weights if self.is_private(entry))
        share = own / sum(entry.size for entry in weights)
        return f"fedper: {own} weights ({100 * share:.2g} %) are personal and stay with each client"
