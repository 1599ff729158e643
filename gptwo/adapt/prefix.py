"""Virtual tokens: what every text is read after. Prefix tuning learns the keys and values that each layer sees there
(Li & Liang 2021, "Prefix-Tuning"); prompt tuning learns embeddings at the entrance alone (Lester et al. 2021, "The
Power of Scale for Parameter-Efficient Prompt Tuning").

Virtual tokens come first and see nothing but themselves, so their keys and values are the same for every row: they
are made once a pass, and attention gets them as it gets those of earlier tokens, from what stands in a cache's place.

    P virtual tokens    L layers    H heads    D width of a head    C = H * D
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gptwo.adapt.parts import drawn
from gptwo.model.cache import Before, Beginning, Cache, KeyValues
from gptwo.model.gpt2 import GPT2


class VirtualTokens(nn.Module, ABC):
    """What stands in `GPT2.prefix`.

    Args:
        embeddings: (P, C) or (P, L * 2 * C), as the peft library keeps them.
    """

    def __init__(self, embeddings: nn.Parameter):
        super().__init__()
        self.prompt_embeddings = embeddings

    @property
    def tokens(self) -> int:
        """P: positions that the virtual tokens take."""
        return self.prompt_embeddings.shape[0]

    def stand_before(self, network: GPT2, cache: KeyValues | None) -> Beginning:
        """What gives each layer the virtual tokens' keys and values before those of the text."""
        if cache is None:
            return Before(*self.keys_and_values(network))
        if isinstance(cache, Cache) and not cache.prefix:
            cache.begin_with(*self.keys_and_values(network))
        return cache

    @abstractmethod
    def keys_and_values(self, network: GPT2) -> tuple[Tensor, Tensor]:
        """(L, H, P, D) each."""


class Prefix(VirtualTokens):
    """Keys and values of every layer are tuned: (P, L * 2 * C), layer by layer, keys before values."""

    def keys_and_values(self, network: GPT2) -> tuple[Tensor, Tensor]:
        config = network.config
        shape = (self.tokens, config.n_layer, 2, config.n_head, config.head_dim)
        both = self.prompt_embeddings.view(shape).permute(2, 1, 3, 0, 4)  # (2, L, H, P, D)
        return both[0], both[1]


class Prompt(VirtualTokens):
    """Embeddings are tuned: (P, C); what they become in each layer is the network's work."""

    def keys_and_values(self, network: GPT2) -> tuple[Tensor, Tensor]:
        seen = Recorder()
        x = network.drop(self.prompt_embeddings + network.wpe.weight[: self.tokens])[None]  # (1, P, C)
        for block in network.h:
            x = block(x, None, seen)
        return torch.cat(seen.keys), torch.cat(seen.values)


class Recorder:
    """In a cache's place: remembers the keys and values, (1, H, P, D) of each layer, that go by."""

    def __init__(self):
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.append(keys)
        self.values.append(values)
        return keys, values


def fresh_prompt(network: GPT2, tokens: int, random: torch.Generator) -> Prompt:
    """A prompt that begins as random tokens of the vocabulary (Lester et al. 2021, section 3.2)."""
    ids = torch.randint(network.config.vocab_size, (tokens,), generator=random)
    rows = network.wte.weight.detach()[ids.to(network.wte.weight.device)]
    return Prompt(nn.Parameter(rows.clone()))


@torch.no_grad()
def fresh_prefix(network: GPT2, tokens: int, random: torch.Generator) -> Prefix:
    """A prefix that begins as what random tokens of the vocabulary become in each layer.

    Real activations make a stable start without the reparametrisation (Li & Liang 2021, section 7.4).
    """
    training = network.training
    network.eval()
    keys, values = fresh_prompt(network, tokens, random).keys_and_values(network)  # (L, H, P, D)
    network.train(training)
    return prefix_of(keys, values)


def prefix_of(keys: Tensor, values: Tensor) -> Prefix:
    """The prefix that gives each layer these keys and values, (L, H, P, D) each."""
    both = torch.stack([keys, values], 1).permute(3, 0, 1, 2, 4)  # (P, L, 2, H, D)
    return Prefix(nn.Parameter(both.reshape(len(both), -1).clone()))


def empty(shape: tuple[int, ...], like: Tensor) -> nn.Parameter:
    """Room for embeddings that are read from a file."""
    return drawn(shape, like, torch.Generator())
