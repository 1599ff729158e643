"""Trackers that hand a run to a tool of its own: TensorBoard, Weights & Biases, MLflow.

Each asks for its package when it is made, so that a missing one is known before training starts, and opens its
files or connections at the start event, where a failure costs one warning.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gptwo.errors import require
from gptwo.train.events import Event, scalars


def remembered(run_folder: Path, service: str, value: str | None = None) -> str | None:
    """The id under which a service knows this run, kept in trackers.json so that a resumed run goes on there.

    Args:
        run_folder: the run's folder.
        service: name of the tracker.
        value: an id to store; None only reads.
    """
    path = run_folder / "trackers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if value is not None and known.get(service) != value:
        known[service] = value
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return known.get(service)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested recipe as dotted keys: {"train": {"seed": 1}} is {"train.seed": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


class TensorBoardTracker:
    """Curves and samples under run_folder/tensorboard, for `tensorboard --logdir RUN_FOLDER`."""

    name = "tensorboard"

    def __init__(self, run_folder: Path):
        require("tensorboard", "track")
        self.folder = run_folder / "tensorboard"
        self.writer: Any = None

    def on_event(self, event: Event) -> None:
        step, kind = event["step"], event["kind"]
        if kind == "start":
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
        if self.writer is None:
            return
        for name, value in scalars(event).items():
            self.writer.add_scalar(name, value, step, walltime=event["time"])
        if kind == "sample":
            for number, text in enumerate(event["texts"], 1):
                self.writer.add_text(f"sample/{number}", f"```\n{text}\n```", step, walltime=event["time"])
        if kind in ("eval", "checkpoint", "end"):
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class WandbTracker:
    """A run of Weights & Biases. WANDB_PROJECT, WANDB_MODE=offline and wandb's other variables hold as usual."""

    name = "wandb"

    def __init__(self, run_folder: Path, project: str, recipe: dict[str, Any]):
        self.wandb = require("wandb", "track")
        self.folder, self.project, self.recipe = run_folder, project, recipe
        self.run: Any = None

    def on_event(self, event: Event) -> None:
        if event["kind"] == "start":
            known = remembered(self.folder, "wandb") if event["step"] else None
            self.run = self.wandb.init(
                project=os.environ.get("WANDB_PROJECT", self.project),
                name=self.folder.name,
                id=known,
                resume="allow" if known else None,
                dir=str(self.folder),
                config=self.recipe,
                settings=self.wandb.Settings(silent=True),
            )
            remembered(self.folder, "wandb", self.run.id)
        if self.run is None:
            return
        values: dict[str, Any] = dict(scalars(event))
        if event["kind"] == "sample":
            import html

            for number, text in enumerate(event["texts"], 1):
                values[f"sample/{number}"] = self.wandb.Html(f"<pre>{html.escape(text)}</pre>")
        if values:
            self.run.log(values, step=event["step"])

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()


class MlflowTracker:
    """A run of MLflow, at MLFLOW_TRACKING_URI or, without it, in run_folder/mlflow.db.

    `mlflow ui --backend-store-uri sqlite:///RUN_FOLDER/mlflow.db` shows the local one.
    """

    name = "mlflow"

    def __init__(self, run_folder: Path, project: str, recipe: dict[str, Any]):
        require("mlflow", "track")
        self.folder, self.project, self.recipe = run_folder, project, recipe
        self.client: Any = None
        self.run_id = ""

    def on_event(self, event: Event) -> None:
        kind, step = event["kind"], event["step"]
        if kind == "start":
            self.open(event)
        if self.client is None:
            return
        from mlflow.entities import Metric

        at = int(event["time"] * 1000)
        metrics = [Metric(name, value, at, step) for name, value in scalars(event).items()]
        if metrics:
            self.client.log_batch(self.run_id, metrics=metrics)
        if kind == "sample":
            for number, text in enumerate(event["texts"], 1):
                self.client.set_tag(self.run_id, f"sample.{step}.{number}", text[:5000])

    def open(self, event: Event) -> None:
        """Create the run, or find the one that a resumed training began."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        local = f"sqlite:///{(self.folder / 'mlflow.db').resolve()}"
        client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", local))
        known = remembered(self.folder, "mlflow") if event["step"] else None
        if known is None:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", self.project)
            experiment = client.get_experiment_by_name(title)
            where = experiment.experiment_id if experiment else client.create_experiment(title)
            known = client.create_run(where, run_name=self.folder.name).info.run_id
            remembered(self.folder, "mlflow", known)
            parameters = [Param(key, str(value)[:500]) for key, value in flat(self.recipe).items()]
            for first in range(0, len(parameters), 100):  # the server takes a hundred at a time
                client.log_batch(known, params=parameters[first : first + 100])
        self.client, self.run_id = client, known

    def close(self) -> None:
        if self.client is not None:
            self.client.set_terminated(self.run_id)
