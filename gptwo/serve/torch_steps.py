"""The PyTorch backend of the scheduler: chunks of prompts, then one token for every text that runs.

R rows (texts)    T tokens of a chunk    C width of the hidden states    V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptwo.generate.decoder import Decoder, evaluating
from gptwo.generate.slots import columns_for
from gptwo.generate.torch_backend import SCORED_LOGITS
from gptwo.model.cache import Cache
from gptwo.model.gpt2 import GPT2
from gptwo.model.heads import Model
from gptwo.serve.choose import choose, score
from gptwo.serve.work import Chosen, Chunk, Prompt, Row, Scored, Step

PAD = -1
HIDDEN_TOKENS = 4096  # tokens, padding included, whose hidden states are computed together


class TorchSteps:
    """A model of ours behind the interface of `backend.py`.

    Args:
        model: its device and precision are used as they are.
        vocab_size: ids from here on have no token and are never chosen.
        end_id: the token that min_new_tokens holds back.
        using: makes an adapter speak for the length of a step; None for a plain model.
    """

    def __init__(
        self,
        model: Model,
        vocab_size: int,
        end_id: int | None,
        using: Callable[[], AbstractContextManager[Any]] | None = None,
    ):
        self.model, self.vocab_size, self.end_id = model, vocab_size, end_id
        self.using = using
        with self.speaking():
            self.config = model.transformer.config
        network = model.transformer
        weight = network.wte.weight if isinstance(network, GPT2) else next(model.parameters())  # or of its head
        self.device, self.dtype = weight.device, weight.dtype
        self._decoder = Decoder(model)
        self._slots = self._decoder.slots
        self._running: list[Row] = []  # as they stand in the slots
        self._reading: dict[Prompt, Cache] = {}
        self._last: dict[Prompt, Tensor] = {}  # (C,) of the last token read, of prompts that are judged

    @property
    def precision(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def token_bytes(self) -> int:
        return 2 * self.config.n_layer * self.config.n_embd * self.dtype.itemsize

    @property
    def held(self) -> int:
        return self._slots.held + sum(cache.length for cache in self._reading.values())

    def left_over(self) -> str | None:
        return f"{self.held} tokens of cache" if self.held else None

    def admit(self, prompt: Prompt) -> bool:
        return True

    def room_for(self, lengths: Sequence[int]) -> int:
        """Rows are as wide as the longest of them, their number grows by doubling, and one prompt is read beside."""
        return (1 + (1 << (len(lengths) - 1).bit_length())) * columns_for(max(lengths), self.device) if lengths else 0

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Without dropout, and with the adapter in the network, where there is one."""
        if self.using is None:
            with evaluating(self.model):
                yield
        else:
            with self.using(), evaluating(self.model):
                yield

    @torch.inference_mode()
    def step(self, reading: Sequence[Prompt], budget: int) -> Step:
        chunks = chunks_of(reading, budget)
        with self.speaking():
            found = self._decode() if self._running else []
            whole = [one for one in chunks if one.start == 0 and one.is_last and one.prompt.judge is None]
            if whole:
                found += self._read_together([chunk.prompt for chunk in whole])
            for chunk in chunks:
                if chunk not in whole:
                    found += self._read(chunk)
        for chunk in chunks:
            chunk.prompt.read = chunk.stop
        return Step(found, sum(chunk.stop - chunk.start for chunk in chunks))

    @torch.inference_mode()
    def release(self, row: Row) -> None:
        row.history = None
        if row not in self._running:
            return
        place, last = self._running.index(row), len(self._running) - 1
        self._slots.leave(place)
        self._running[place] = self._running[last]
        self._running.pop()

    def abandon(self, prompt: Prompt) -> None:
        self._reading.pop(prompt, None)
        self._last.pop(prompt, None)
        for row in prompt.rows:
            self.release(row)

    @torch.inference_mode()
    def hidden(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.zeros(0)] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        with self.speaking():
            while order:
                count = max(1, HIDDEN_TOKENS // len(rows[order[0]]))
                places, order = order[:count], order[count:]
                lengths = torch.tensor([len(rows[place]) for place in places])
                T = int(lengths.max())
                ids = torch.tensor([[*rows[place], *[PAD] * (T - len(rows[place]))] for place in places])
                states = self.model.transformer(ids.to(self.device)).float()  # padding on the right is never seen
                real = (ids >= 0).to(self.device)[..., None]
                means = (states * real).sum(1) / lengths.to(self.device)[:, None]  # (R, C)
                for place, mean in zip(places, means.cpu().numpy(), strict=True):
                    found[place] = mean
        return found

    # --- inside

    def _logits(self, hidden: Tensor) -> Tensor:
        """(R, C) -> (R, V) in float32, of ids that have a token."""
        return self.model.logits(hidden).float()[:, : self.vocab_size]

    def _decode(self) -> list[Chosen]:
        """The newest token of each running text goes in, the next one comes out."""
        newest = torch.tensor([row.text.ids[-1] for row in self._running], device=self.device)
        return choose(self._decoder.step(newest)[:, : self.vocab_size], self._running, self.end_id)

    def _read_together(self, prompts: Sequence[Prompt]) -> list[Chosen]:
        """Whole prompts, padded on the left so that all end together."""
        lengths = [len(prompt.ids) for prompt in prompts]
        T = max(lengths)
        cache = Cache(self.config, len(prompts), T, self.device, self.dtype)
        ids = torch.tensor([[PAD] * (T - len(prompt.ids)) + prompt.ids for prompt in prompts], device=self.device)
        positions = documents = None
        if min(lengths) < T:
            positions = (torch.arange(T) - (T - torch.tensor(lengths))[:, None]).clamp(min=0).to(self.device)
            documents = torch.where(ids < 0, -1, 0)
        hidden = self.model.transformer(ids, positions, documents, cache)[:, -1]  # (R, C)
        return self._begin(prompts, cache, hidden)

    def _read(self, chunk: Chunk) -> list[Chosen]:
        """A piece of a prompt, or one that is judged."""
        prompt = chunk.prompt
        cache = self._reading.get(prompt)
        if cache is None:
            cache = Cache(self.config, 1, len(prompt.ids), self.device, self.dtype)
            self._reading[prompt] = cache
        ids = torch.tensor([prompt.ids[chunk.start : chunk.stop]], device=self.device)
        hidden = self.model.transformer(ids, None, None, cache)[0]  # (T, C)
        if prompt.judge is not None:
            self._judge(chunk, hidden)
        if not chunk.is_last:
            return []
        del self._reading[prompt]
        self._last.pop(prompt, None)
        return self._begin([prompt], cache, hidden[-1:])

    def _begin(self, prompts: Sequence[Prompt], cache: Cache, hidden: Tensor) -> list[Chosen]:
        """Prompts have been read, (R, C): their texts join those that run, and get their first token."""
        begun: list[Row] = []
        places = []
        for place, prompt in enumerate(prompts):
            rows = [row for row in prompt.rows if row.text.limit > 0]
            begun += rows
            places += [place] * len(rows)
        if not begun:
            return []
        self._slots.join(cache, places, [len(prompts[place].ids) for place in places])
        self._running += begun
        logits = self._logits(hidden)
        return choose(logits[torch.tensor(places, device=self.device)], begun, self.end_id)

    def _judge(self, chunk: Chunk, hidden: Tensor) -> None:
        """How likely the tokens of a chunk are after those before them; hidden (T, C) is of the chunk's tokens."""
        prompt = chunk.prompt
        assert prompt.judge is not None
        if chunk.start == 0:
            prompt.judged.append(Scored(prompt.ids[0], None))
            before, first = hidden[:-1], 1
        else:
            before, first = torch.cat([self._last[prompt][None], hidden[:-1]]), chunk.start
        self._last[prompt] = hidden[-1]
        targets = prompt.ids[first : chunk.stop]
        size = max(1, SCORED_LOGITS // self.config.vocab_size)
        for at in range(0, len(targets), size):
            some = targets[at : at + size]
            prompt.judged += score(self._logits(before[at : at + size]), some, [prompt.judge] * len(some))


def chunks_of(reading: Sequence[Prompt], budget: int) -> list[Chunk]:
    """What to read in a step. Borders depend on the prompt alone: multiples of the budget."""
    found: list[Chunk] = []
    used = widest = 0
    for prompt in reading:
        stop = min(len(prompt.ids), prompt.read + budget)
        size = stop - prompt.read
        widest = max(widest, size)
        used = (len(found) + 1) * widest  # short prompts are padded to the longest
        if found and (used > budget or not found[-1].is_last):
            break
        found.append(Chunk(prompt, prompt.read, stop))
        if used >= budget:
            break
    return found
