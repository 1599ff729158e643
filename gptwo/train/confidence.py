"""Calibrating a tuned model on the validation data, and keeping what was fitted in its gptwo.json."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gptwo.data.sources import Record
from gptwo.model.config_json import INFO, read_json
from gptwo.model.pretrained import Pretrained
from gptwo.tasks.base import Task
from gptwo.tasks.runner import ModelRunner
from gptwo.train.run import write_text


def calibrate(
    job: Task,
    best: Pretrained,
    runner: ModelRunner,
    records: Sequence[Record],
    *,
    target_precision: float | None,
) -> None:
    """Let the task fit its confidences, and write them beside the model's labels.

    Args:
        best: the tuned model, in its folder.
        runner: of the tuned model.
        records: of the validation data.
    """
    found = job.calibrate(runner, records, target_precision=target_precision)
    if found and best.folder is not None:
        best.info["calibration"] = found
        content = {**read_json(best.folder / INFO), "calibration": found}
        write_text(best.folder / INFO, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
