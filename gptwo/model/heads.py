"""A network with a head: scores over the vocabulary, over labels for a whole text, or over labels for each token.

Attribute names are those of GPT2LMHeadModel, GPT2ForSequenceClassification and GPT2ForTokenClassification.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gptwo.errors import UsageError, did_you_mean
from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config
from gptwo.model.gpt2 import GPT2, initialise

HeadKind = Literal["language", "sequence", "token"]
PROJECTIONS = {"language": "lm_head", "sequence": "score", "token": "classifier"}


class Model(nn.Module):
    """GPT-2 with one head.

    Args:
        config: sizes and switches of the network.
        head: "language" scores the vocabulary, "sequence" gives one row of label scores for a text (taken from
            its last token), "token" one for each token.
        labels: number of labels, for "sequence" and "token".

    Raises:
        UsageError: an unknown head, or a label head without labels.
    """

    def __init__(self, config: GPT2Config, head: HeadKind = "language", labels: int = 0):
        super().__init__()
        if head not in get_args(HeadKind):
            raise UsageError(f"There is no head {head!r}.", fix=did_you_mean(head, get_args(HeadKind)))
        if head != "language" and labels < 1:
            raise UsageError(f"A {head} head needs at least one label, not {labels}.")
        self.config = config
        self.head_kind: HeadKind = head
        self.transformer = GPT2(config)
        if head == "language":
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
            self.tie()
        elif head == "sequence":
            self.score = nn.Linear(config.n_embd, labels, bias=False)
        else:
            self.dropout = nn.Dropout(config.resid_pdrop)
            self.classifier = nn.Linear(config.n_embd, labels)

    def tie(self) -> None:
        """Make the vocabulary projection the token embedding again, where the config says so."""
        if self.head_kind == "language" and self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def initialise(self, generator: torch.Generator | None = None) -> Model:
        """Fresh random weights everywhere; returns self."""
        initialise(self, self.config, generator)
        return self

    @property
    def projection(self) -> nn.Linear:
        """The linear layer that is the head."""
        return getattr(self, PROJECTIONS[self.head_kind])

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores from hidden states: (..., C) -> (..., V) or (..., labels)."""
        if self.head_kind == "token":
            hidden = self.dropout(hidden)
        return self.projection(hidden)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Scores at every token, (B, T, V or labels); arguments as in `GPT2.forward`."""
        return self.logits(self.transformer(ids, positions, documents, cache))
