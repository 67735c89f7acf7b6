"""A method, metric, data source, model, task, transform, aggregator or attack is one new file, no change elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import raf_ray

FILES = {
    "algorithms/halfway.py": (
        """
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class Halfway(FedAvg):
    share: float = 0.5
    '''Of the step.'''

    def server_step(self, weights, mean, server, cohort):
        return weights + (self.share * mean["weights"]).astype(weights.dtype), server
""",
        ["algorithm.name=halfway", "algorithm.halfway.share=0.25"],
    ),
    "metrics/close.py": (
        """
from raf_ray.metrics.interface import Metric
from raf_ray.metrics.pck import pck

METRICS = (
    Metric("close_20px", "Within 20 px", "a labelled joint",
           lambda labels, predicted, _: pck(predicted, labels.joints, labels.labelled, 0 * labels.area + 20, 1.0)),
)
""",
        ["evaluation.metric=close_20px"],
    ),
    "data/sources/drawn.py": (
        """
import numpy as np

from raf_ray.data.sources.synthetic import synthetic_people

NAMES = ("drawn",)


def read(asked, split):
    return synthetic_people(7, split, np.arange(40), 80.0)
""",
        ["data.name=drawn", "data.root=."],
    ),
    "models/small.py": (
        """
from torch import nn

NAMES = ("small",)


def build(name, num_joints, depth):
    model = nn.Conv2d(3, num_joints, 4, 4)
    return model
""",
        ["model.name=small"],
    ),
    "tasks/upper.py": (
        """
from raf_ray.tasks.pose import Pose

NAMES = ("upper",)


class Upper(Pose):
    def loss(self, outputs, targets, weights):
        return super().loss(outputs, targets, weights) * 2
""",
        ["task.name=upper"],
    ),
    "transforms/halved.py": (
        """
from raf_ray.transforms.interface import Transform


class Halved(Transform):
    def client(self, vectors, memory, sent, layout, rng):
        return {name: vector * 0.5 for name, vector in vectors.items()}, memory
""",
        ["transforms.apply=[halved]"],
    ),
    "aggregators/largest.py": (
        """
import numpy as np
from pydantic.dataclasses import dataclass

from raf_ray.aggregators.interface import OneByOne
from raf_ray.algorithms.interface import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class Largest(OneByOne):
    times: float = 1.0
    '''Of the largest.'''

    def combine(self, updates, shares, num_weights):
        return {name: self.times * np.max(vectors, axis=0).astype(float) for name, vectors in updates.items()}
""",
        ["aggregation.name=largest", "aggregation.largest.times=0.5"],
    ),
    "attacks/silent.py": (
        """
from raf_ray.attacks.interface import Attack


class Silent(Attack):
    def update(self, vectors, num_weights, rng):
        return {name: 0 * vector for name, vector in vectors.items()}
""",
        ["attack.name=silent", "attack.share=1"],
    ),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The package with every file beside its like."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(Path(raf_ray.__file__).parent, folder / "raf_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (text, _) in FILES.items():
        (folder / "raf_ray" / name).write_text(text, encoding="utf-8")
    return folder


def test_new_files_are_new_values_of_their_keys(checkout, tmp_path):
    words = [
        "federation.engine=in_process", "federation.rounds=1", "federation.clients=[low]", "data.people_per_client=4",
        "data.val_people=4", "data.test_people=4", "evaluation.resolutions=[64x48]", "tracking.mlflow=false",
        *(word for _, own in FILES.values() for word in own),
    ]  # fmt: skip
    command = [sys.executable, "-m", "raf_ray.run", "--output", str(tmp_path / "run"), *words]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Within 20 px" in done.stdout
    config = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert all(
        value in config for value in ("halfway", "close_20px", "drawn", "small", "upper", "halved", "largest", "silent")
    )
