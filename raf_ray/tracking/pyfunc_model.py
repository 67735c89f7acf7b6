"""The code of a logged model: MLflow copies this file beside the weights and runs it to load them.

    model = mlflow.pyfunc.load_model("runs:/RUN_ID/model")
    joints = model.predict(pictures)  # of another task its own answers, such as (N, classes) probabilities

`pictures` (N, H, W, 3) uint8 RGB, each a crop of one person, of any H and W that the model's stride divides;
`joints` (N, K, 3) float32: x, y in pixels of the given picture, and confidence. The plain `torch.nn.Module` is
``raf_ray.saved.load_run(FOLDER).model``, of the run folder or of the run's downloaded artifacts.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch
from mlflow.exceptions import MlflowException

from raf_ray.config import load_config
from raf_ray.data.batches import normalise
from raf_ray.models import size_divisor
from raf_ray.models.saving import load_model
from raf_ray.request.parts import model_spec
from raf_ray.request.task import task_of


class PeopleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Pictures of people -> their joints, or what else the run has learnt of them."""

    def load_context(self, context: Any) -> None:
        self._config = load_config(file=context.artifacts["config"])
        self._task = task_of(self._config)
        self._model = load_model(Path(context.artifacts["model"]), partial(model_spec, self._config)).model

    @torch.inference_mode()
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        pictures = model_input
        self._check(pictures)
        found = []
        for start in range(0, len(pictures), self._config.evaluation.batch_size):
            crops = torch.from_numpy(pictures[start : start + self._config.evaluation.batch_size])
            images = normalise(crops).permute(0, 3, 1, 2)
            found.append(self._task.answer(self._model(images), self._config.evaluation.decode).numpy())
        return np.concatenate(found)

    def _check(self, pictures: np.ndarray) -> None:
        shape = pictures.shape
        if len(shape) != 4 or shape[0] < 1 or shape[-1] != 3 or pictures.dtype != np.uint8:
            raise MlflowException.invalid_parameter_value(
                f"the model takes uint8 RGB pictures (N, H, W, 3), one person each, not {shape}"
            )
        divisor = size_divisor(self._model)
        if not shape[1] or not shape[2] or shape[1] % divisor or shape[2] % divisor:
            raise MlflowException.invalid_parameter_value(
                f"the model takes pictures whose height and width {divisor} divides, not {shape[1]}x{shape[2]}; "
                "crop or resize them"
            )


mlflow.models.set_model(PeopleModel())
