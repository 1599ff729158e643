"""Which of several replies fits a conversation: ranked by a network, and by the words they share.

K candidates    L tokens of the longest    C width    V vocabulary
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gptwo.evaluate.baselines import MIXED, cjk_share
from gptwo.generate.native_network import NativeNetwork
from gptwo.model.cache import Cache
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.tasks.conversation import Message
from gptwo.tokenizer import PAD_ID

CANDIDATES = 20  # replies to choose from, the right one included
RANKED = 200  # dialogues whose replies are ranked at most


def candidates_of(replies: Sequence[str], asked: Sequence[int], *, count: int = CANDIDATES) -> list[list[str]]:
    """For each place of `asked` the right reply, and after it others drawn from the rest; always the same ones.

    Args:
        replies: the right replies of all records.
        count: candidates at most, fewer where there are not so many different replies.
    """
    pool, draw = sorted(set(replies)), random.Random(0)
    found = []
    for place in asked:
        others = [text for text in draw.sample(pool, min(count, len(pool))) if text != replies[place]]
        found.append([replies[place], *others[: count - 1]])
    return found


@torch.inference_mode()
def rank_replies(
    model: Model, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]
) -> list[int]:
    """For each context how many of the other candidates are at least as likely as the first one, by the mean
    log-likelihood of their tokens.

    Args:
        model: with a language head, in eval mode.
        contexts: token ids of what was said, at least one; it is read once for all its candidates.
        candidates: token ids of each.
    """
    if isinstance(model.transformer, NativeNetwork):
        return [native_rank(model.transformer, *one) for one in zip(contexts, candidates, strict=True)]
    device = next(model.parameters()).device
    ranks = []
    for context, replies in zip(contexts, candidates, strict=True):
        targets = pad_sequence([torch.tensor(ids) for ids in replies], batch_first=True, padding_value=IGNORE)  # (K, L)
        before = torch.tensor(context[-1]).expand(len(replies), 1)
        ids = torch.cat([before, targets[:, :-1]], 1)
        ids = ids.where(ids != IGNORE, PAD_ID).to(device)
        targets = targets.to(device)
        hidden = behind(model, context[:-1], ids)  # (K, L, C)
        real = targets != IGNORE
        nats = F.cross_entropy(model.logits(hidden[real]).float(), targets[real], reduction="none")
        rows = real.nonzero()[:, 0]
        total = torch.zeros(len(replies), device=device).index_add(0, rows, nats)
        mean = total / real.sum(1)
        ranks.append(int((mean[1:] <= mean[0]).sum()))
    return ranks


def native_rank(network: NativeNetwork, context: Sequence[int], replies: Sequence[Sequence[int]]) -> int:
    """As `rank_replies` for one context, by the native engine."""
    found = network.judge([[*context, *reply] for reply in replies], [len(context)] * len(replies))
    means = [float(np.mean(nats)) for nats, _ in found]
    return sum(mean >= means[0] for mean in means[1:])


def behind(model: Model, context: Sequence[int], ids: Tensor) -> Tensor:
    """(K, L, C) hidden states of rows of tokens (K, L), each behind the same context, which is read once."""
    K, L = ids.shape
    past = len(context)
    first = torch.tensor([list(context)], dtype=torch.long, device=ids.device)
    weight = model.transformer.wte.weight
    cache = Cache(model.config, 1, past + L, weight.device, weight.dtype)
    if past:
        model.transformer(first, cache=cache)
    cache.repeat(K)
    return model.transformer(ids, cache=cache)


class NearestReply:
    """Cheap opponent: the reply that followed the most similar message of the training data, by TF-IDF; candidates
    are ranked by the words that they share with the message (Lowe et al. 2015, https://arxiv.org/abs/1506.08909).

    Args:
        dialogues: messages of the training records.
    """

    name = "Nearest reply (TF-IDF)"

    def __init__(self, dialogues: Sequence[Sequence[Message]]):
        from sklearn.feature_extraction.text import TfidfVectorizer

        pairs = [
            (before.content, after.content)
            for messages in dialogues
            for before, after in pairwise(messages)
            if after.role == "assistant"
        ]
        self._answers = [after for _, after in pairs] or [""]
        questions = [before for before, _ in pairs] or [""]
        by_character = cjk_share(questions) > MIXED
        kind = {"analyzer": "char", "ngram_range": (1, 2)} if by_character else {"token_pattern": r"\w+|[^\w\s]+"}
        self._vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **kind)
        self._vectorizer.fit([*questions, *self._answers, "?"])  # never an empty vocabulary
        self._questions = self._vectorizer.transform(questions)

    def replies(self, dialogues: Sequence[Sequence[Message]]) -> list[str]:
        """For each dialogue the reply to the training message that is most like its last one."""
        found = []
        for start in range(0, len(dialogues), 128):  # (128, training messages) at once
            part = self._vectorizer.transform([messages[-1].content for messages in dialogues[start : start + 128]])
            alike = (part @ self._questions.T).toarray()
            found += [self._answers[place] for place in alike.argmax(1)]
        return found

    def ranks(self, dialogues: Sequence[Sequence[Message]], candidates: Sequence[Sequence[str]]) -> list[int]:
        """As `rank_replies`, by the similarity of candidates to the last message."""
        found = []
        for messages, texts in zip(dialogues, candidates, strict=True):
            rows = self._vectorizer.transform([messages[-1].content, *texts])
            alike = (rows[1:] @ rows[0].T).toarray().ravel()
            found.append(int((alike[1:] >= alike[0]).sum()))
        return found
