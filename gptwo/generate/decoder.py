"""One more token for every text that runs: the step of the PyTorch engine, on any device.

On a GPU a step of a small network is over before Python has asked for it, so it is recorded as a CUDA graph, once for
each power of two of rows, and repeated; plain networks run through the kernels of `gpu_step.py` there.

    R rows (texts)    S columns that they see    V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gptwo.generate import gpu_step
from gptwo.generate.slots import Slots
from gptwo.model.heads import Model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; a model in training goes on training afterwards."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Decoder:
    """Texts that run, and their next tokens' logits.

    Args:
        model: with a language head, without dropout while it steps; its device and precision are used as they are.

    Attributes:
        slots: the texts' keys and values; texts join and leave there.
    """

    def __init__(self, model: Model):
        self.model = model
        weight = next(model.parameters())
        self.slots = Slots(model.transformer.config, weight.device, weight.dtype)
        self._records: dict[tuple[int, int], _Record] = {}
        self._laid = -1  # the buffers that the records are of

    def step(self, ids: Tensor) -> Tensor:
        """The newest token of each row goes in, (R,); the logits of the next one come out, (R, V) in float32.

        On a GPU they stay valid until the next step.
        """
        slots, rows = self.slots, len(ids)
        slots.reserve_room(rows, slots.length + 1)
        if slots.device.type == "cuda":
            logits = self._record(rows).repeat(ids)[:rows]
        else:
            slots.show(rows, slots.length + 1)
            logits = self.compute(ids)
        slots.grown()
        return logits

    def compute(self, ids: Tensor) -> Tensor:
        """A step through the network as it is, (R,) -> (R, V)."""
        rows, _ = self.slots.shown
        network = self.model.transformer
        positions = self.slots.lengths[:rows, None].clamp(max=network.config.n_positions - 1)  # (R, 1)
        hidden = network(ids[:, None], positions, None, self.slots)[:, 0]  # (R, C)
        return self.model.logits(hidden).float()

    def _record(self, rows: int) -> _Record:
        """The recorded step for at least so many rows."""
        slots = self.slots
        if self._laid != slots.laid:
            self._records.clear()
            self._laid = slots.laid
        plain = gpu_step.takes(self.model)
        rows, columns = min(1 << (rows - 1).bit_length(), slots.capacity[0]), slots.capacity[1]
        if not plain:  # the network's own attention reads all columns that it is shown
            columns = min(columns, max(128, 1 << slots.length.bit_length()))
        record = self._records.get((rows, columns))
        if record is None:
            slots.show(rows, columns, recorded=True)
            step = (lambda ids: gpu_step.step(self.model, slots, ids)) if plain else self.compute
            with torch.cuda.device(slots.device):
                record = _Record(step, slots, rows)
            self._records[rows, columns] = record
        return record


class _Record:
    """A step as a CUDA graph.

    Args:
        compute: from ids (R,) to logits (R, V), counting the tokens in `slots`.
        rows: R.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], slots: Slots, rows: int):
        self.ids = torch.zeros(rows, dtype=torch.long, device=slots.device)
        lengths = slots.lengths.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # once beforehand, so that libraries and kernels are ready
            compute(self.ids)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits = compute(self.ids)
        slots.lengths.copy_(lengths)

    def repeat(self, ids: Tensor) -> Tensor:
        """Logits of all rows, idle ones included."""
        self.ids[: len(ids)] = ids
        self.graph.replay()
        return self.logits
