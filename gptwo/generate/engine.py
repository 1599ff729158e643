"""The engine: prompts in, texts out; and how likely a given text is."""

from __future__ import annotations

import copy
from collections.abc import Sequence as Several
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptwo.errors import UsageError, did_you_mean
from gptwo.generate.codec import Codec
from gptwo.generate.options import SamplingOptions, stored_defaults
from gptwo.generate.run import Run
from gptwo.generate.search import search
from gptwo.generate.sequence import Sequence
from gptwo.generate.torch_backend import TorchBackend
from gptwo.generate.writer import Writer, check_batch, check_head
from gptwo.runtime import pick_device, pick_precision, set_threads

if TYPE_CHECKING:
    from gptwo.model.pretrained import Pretrained

BACKENDS = ("auto", "torch")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine(Writer):
    """A language model ready to write.

    Args:
        model: a folder, a hub name, or a loaded model (as `gptwo.load` returns it; it is not changed, and its
            weights are shared where device and precision stay).
        backend: "torch"; "auto" takes the fastest there is.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". A loaded model stays where it is with "auto".
        precision: "fp32" or "bf16"; "auto": bf16 on GPUs that have it, else fp32. A loaded model stays as it is
            with "auto".
        threads: CPU threads of the whole process; None leaves them as they are.
        max_batch: sequences that run together at most.

    Raises:
        UsageError: an unknown backend, device or precision, or a model without a language head.
        MissingError: there is no such model or device.
    """

    def __init__(
        self,
        model: str | Path | Pretrained,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        max_batch: int = 16,
    ):
        if backend not in BACKENDS:
            raise UsageError(f"There is no backend {backend!r}.", where="backend", fix=did_you_mean(backend, BACKENDS))
        check_batch(max_batch)
        if threads is not None:
            set_threads(threads)
        pretrained = _placed(model, device, precision)
        check_head(pretrained.model.head_kind, pretrained.folder)
        codec = Codec(pretrained.tokenizer, pretrained.config.vocab_size)
        super().__init__(codec, pretrained.config, pretrained.info, stored_defaults(pretrained.folder), max_batch)
        self.backend = TorchBackend(pretrained.model)

    def _run(self, sequences: list[Sequence], options: SamplingOptions) -> Run:
        return Run(
            self.backend,
            options,
            [sequence for sequence in sequences if sequence.limit > 0],
            endings=self.codec.endings(options.stop, options.ignore_end),
            end_id=self.codec.end_id,
            vocab_size=self.codec.vocab_size,
            max_batch=self.max_batch,
        )

    def _search(self, sequences: list[Sequence], options: SamplingOptions) -> None:
        search(self.backend, self.codec, sequences, options, self.max_batch)

    def judge(self, rows: Several[list[int]], starts: Several[int]) -> list[tuple[list[float], list[bool]]]:
        judged: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), self.max_batch):
            batch = order[start : start + self.max_batch]
            scores = self.backend.score([rows[i] for i in batch], [starts[i] for i in batch])
            for i, score in zip(batch, scores, strict=True):
                judged[i] = score
        return judged


def _placed(model: str | Path | Pretrained, device: str, precision: str) -> Pretrained:
    """The model on its device, in its precision; a loaded one that has to move is copied first."""
    if isinstance(model, str | Path):
        from gptwo.adapt.store import load

        place = pick_device(device).value
        wanted = "fp32" if precision == "auto" and place == "cpu" else pick_precision(precision, place).value
        return load(model, device=place, dtype=DTYPES[wanted])
    weight = model.model.transformer.wte.weight
    place = str(weight.device) if device == "auto" else pick_device(device).value
    dtype = weight.dtype if precision == "auto" else DTYPES[pick_precision(precision, place).value]
    if torch.device(place) == weight.device and dtype == weight.dtype:
        return model
    moved = copy.copy(model)
    moved.model = copy.deepcopy(model.model).to(place, dtype)
    return moved
