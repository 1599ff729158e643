"""What is done to whole records of one model: predictions, rankings, vectors, in the scheduler's thread between two
steps; what takes long beside the steps, on a twin of the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from gptwo.data.sources import Record
from gptwo.model.heads import Model
from gptwo.serve.models import Served
from gptwo.serve.schemas import ExplainRequest
from gptwo.serve.torch_steps import TorchSteps
from gptwo.tasks.runner import ModelRunner


class Calls:
    """The calls of one model. The same thing is the same call, so that requests for it are done together."""

    def __init__(self, served: Served):
        self._served = served
        self._made: dict[Any, Callable[[list[Any]], list[Any]]] = {}

    def predict(self) -> Callable[[list[Record]], list[dict[str, Any]]]:
        """What the task says of records, as `gptwo predict` prints it."""

        def call(records: list[Record]) -> list[dict[str, Any]]:
            task: Any = self._served.task
            return task.rows(records, self._said(task, records))

        return self._once("predict", call)

    def write(self, num_beams: int | None) -> Callable[[list[Record]], list[dict[str, Any]]]:
        """What a writing task writes by beams; for a thread of its own."""

        def call(records: list[Record]) -> list[dict[str, Any]]:
            served = self._served
            task: Any = served.task if num_beams is None else with_beams(served.task, num_beams)
            said = self._asked(task, served.beside.model, records)
            return task.rows(records, said)

        return self._once(("write", num_beams), call)

    def rank(self) -> Callable[[list[Record]], list[np.ndarray]]:
        """Scores of the candidates of each record."""
        return self._once("rank", lambda records: list(self._said(self._served.task, records)))

    def embed(self) -> Callable[[list[list[int]]], list[np.ndarray]]:
        """A vector of length 1 for each row of token ids."""

        def call(rows: list[list[int]]) -> list[np.ndarray]:
            means = self._served.hidden(rows)
            return [mean / max(float(np.linalg.norm(mean)), 1e-12) for mean in means]

        return self._once("embed", call)

    def explain(self) -> Callable[[list[ExplainRequest]], list[dict[str, Any]]]:
        """How the model came to what it says; for a thread of its own."""

        def call(requests: list[ExplainRequest]) -> list[dict[str, Any]]:
            from gptwo.explain import explain

            found = []
            for one in requests:
                said = explain(self._served.beside, one.input, target=one.target, at=one.at, steps=one.steps or 32)
                found.append(json.loads(json.dumps(said.to_dict(), default=_plain)))
            return found

        return self._once("explain", call)

    def _once(self, name: Any, call: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
        return self._made.setdefault(name, call)

    def _said(self, task: Any, records: Sequence[Record]) -> Any:
        served = self._served
        with served.backend.speaking() if isinstance(served.backend, TorchSteps) else nullcontext():
            return self._asked(task, served.network, records)

    def _asked(self, task: Any, model: Model, records: Sequence[Record]) -> Any:
        served = self._served
        runner = ModelRunner(model, served.codec.need("A task"), served.max_length, served.precision)
        return task.predict(runner, records)


def with_beams(task: Any, num_beams: int) -> Any:
    """A writing task with another number of beams; one is greedy."""
    import copy

    changed = copy.copy(task)
    kept = {name: value for name, value in task.decode.items() if num_beams == 1 or name not in ("temperature", "seed")}
    changed.decode = {**kept, "num_beams": num_beams, **({"temperature": 0.0} if num_beams == 1 else {})}
    return changed


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
