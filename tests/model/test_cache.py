"""The cache forgets, copies and reorders whole sequences."""

from __future__ import annotations

import pytest
import torch

from gptwo.errors import UsageError
from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create

CONFIG = GPT2Config(vocab_size=19, n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5)
IDS = torch.tensor([[4, 8, 1, 15], [7, 7, 2, 0], [18, 3, 9, 5]])


@pytest.fixture(scope="module")
def model():
    return create(CONFIG, seed=1).model


@pytest.fixture
def filled(model):
    """A cache that has seen IDS."""
    cache = Cache(CONFIG, 3, 8)
    with torch.inference_mode():
        model(IDS, cache=cache)
    return cache


def next_scores(model, cache, tokens) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(tokens)[:, None], cache=cache)[:, 0]


def whole(model, rows) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(rows))[:, -1]


def test_rows_can_be_reordered_copied_and_left_out(model, filled):
    filled.reorder(torch.tensor([2, 2, 0, 1]))
    assert filled.batch == 4
    rows = [[*IDS[row].tolist(), token] for row, token in zip([2, 2, 0, 1], [1, 2, 3, 4], strict=True)]
    torch.testing.assert_close(next_scores(model, filled, [1, 2, 3, 4]), whole(model, rows))


def test_rows_that_begin_alike_need_only_their_later_tokens_moved(model):
    ids = torch.tensor([[4, 8, 1, 15], [4, 8, 2, 0], [4, 8, 9, 5]])
    cache = Cache(CONFIG, 3, 8)
    with torch.inference_mode():
        model(ids, cache=cache)
    before = cache.keys
    cache.reorder(torch.tensor([2, 1, 1]), since=2)
    assert cache.keys is before
    rows = [[*ids[row].tolist(), 3] for row in (2, 1, 1)]
    torch.testing.assert_close(next_scores(model, cache, [3, 3, 3]), whole(model, rows))


def test_each_row_can_be_repeated(model, filled):
    filled.repeat(2)
    tokens = [1, 2, 3, 4, 5, 6]
    rows = [[*IDS[place // 2].tolist(), token] for place, token in enumerate(tokens)]
    torch.testing.assert_close(next_scores(model, filled, tokens), whole(model, rows))


def test_padding_on_the_left_survives_reordering(model):
    ids = torch.tensor([[-1, -1, 4, 8], [1, 2, 3, 4]])
    positions = torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]])
    documents = torch.tensor([[-1, -1, 0, 0], [0, 0, 0, 0]])
    cache = Cache(CONFIG, 2, 8)
    with torch.inference_mode():
        model(ids, positions, documents, cache)
        cache.reorder(torch.tensor([1, 0]))
        found = model(torch.tensor([[9], [9]]), torch.tensor([[4], [2]]), None, cache)[:, 0]
        wanted = torch.stack([model(torch.tensor([row]))[0, -1] for row in ([1, 2, 3, 4, 9], [4, 8, 9])])
    torch.testing.assert_close(found, wanted)


def test_a_full_cache_is_a_usage_error_and_stays_as_it_was(model, filled):
    with pytest.raises(UsageError, match="holds 8 tokens; 4 are in it and 5 more"), torch.inference_mode():
        model(torch.zeros(3, 5, dtype=torch.long), cache=filled)
    assert filled.length == 4


def test_keys_and_values_can_be_held_in_half_precision(model):
    cache = Cache(CONFIG, 3, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        model(IDS, cache=cache)
        found = model(torch.tensor([[1], [2], [3]]), cache=cache)
    assert cache.keys.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    wanted = whole(model, [[*row, i + 1] for i, row in enumerate(IDS.tolist())])
    torch.testing.assert_close(found[:, 0], wanted, atol=0.05, rtol=0.05)
