"""A finished run's model as an MLflow pyfunc, made from code: no pickle, any valid picture size."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from raf_ray.config import load_config
from raf_ray.request.plans import plan_clients, trained_sizes
from raf_ray.request.task import task_of

MODEL_PATH = "model"
"""Where the package lies among a run's artifacts: ``runs:/RUN_ID/model``."""

PACKAGES = ("raf-ray", "torch", "numpy", "mlflow")
"""What the model needs where it is loaded."""


def build_package(folder: Path, package: Path, run_id: str) -> None:
    """Write the MLflow model of a run folder to `package`, a folder that is made."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    pictures = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    config = load_config(file=folder / "config.yaml")
    task, size = task_of(config), trained_sizes(plan_clients(config))[-1]
    last = (3,) if task.draws_joints else (-1,)
    answers = TensorSpec(np.dtype(np.float32), (*(-1,) * (task.answer_rank - 1), *last))
    mlflow.pyfunc.save_model(
        str(package),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"model": str((folder / "model.pt").resolve()), "config": str((folder / "config.yaml").resolve())},
        signature=ModelSignature(inputs=Schema([pictures]), outputs=Schema([answers])),
        input_example=np.zeros((1, size.height, size.width, 3), np.uint8),
        # Given, so that MLflow does not find them out by importing the model in further processes.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
        mlflow_model=Model(artifact_path=MODEL_PATH, run_id=run_id),
    )
