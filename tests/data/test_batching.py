"""Batches: what packing and padding do to examples, and that they change no result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptwo.data.batching import Example, collate, pack_rows
from gptwo.model.config import GPT2Config
from gptwo.model.loss import IGNORE, SHAPES, linear_cross_entropy
from gptwo.model.pretrained import create

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)


def examples(lengths: list[int], *, labels: bool = True) -> list[Example]:
    """Examples whose ids tell them apart."""
    return [
        Example(
            [(7 * i + j) % 23 for j in range(length)],
            [(5 * i + j) % 23 if j else IGNORE for j in range(length)] if labels else None,
            target=None if labels else i % 3,
            index=100 + i,
        )
        for i, length in enumerate(lengths)
    ]


@given(LENGTHS, st.integers(1, 30))
def test_every_item_is_in_one_row_that_holds_it(lengths, capacity):
    found = pack_rows(lengths, capacity)
    assert sorted(item for row in found for item in row) == list(range(len(lengths)))
    for row in found:
        assert sum(lengths[item] for item in row) <= capacity or len(row) == 1


@given(LENGTHS, st.integers(12, 40))
def test_at_most_one_row_is_half_empty(lengths, capacity):
    found = pack_rows(lengths, capacity)
    assert sum(sum(lengths[item] for item in row) <= capacity // 2 for row in found) <= 1


@given(LENGTHS, st.sampled_from([None, 8, 20]))
def test_every_token_label_and_place_is_kept(lengths, row_tokens):
    given = examples(lengths)
    batch = collate(given, row_tokens=row_tokens)
    assert batch.indices == [example.index for example in given]
    assert batch.tokens == sum(lengths)
    ids, labels, positions = (part.flatten() for part in (batch.ids, batch.labels, batch.positions))
    for example, last in zip(given, batch.last.tolist(), strict=True):
        span = slice(last - len(example.ids) + 1, last + 1)
        assert ids[span].tolist() == list(example.ids)
        assert labels[span].tolist() == list(example.labels)
        assert positions[span].tolist() == list(range(len(example.ids)))
        if batch.documents is not None:
            assert len(batch.documents.flatten()[span].unique()) == 1
    padding = batch.ids == -1
    assert (batch.labels[padding] == IGNORE).all()
    assert batch.documents is None or (batch.documents[padding] == -1).all()


def test_documents_of_a_row_are_told_apart():
    batch = collate(examples([3, 4, 2]), row_tokens=16)
    assert batch.ids.shape == (1, SHAPES)
    assert batch.documents.tolist() == [[0] * 4 + [1] * 3 + [2] * 2 + [-1] * (SHAPES - 9)]


def test_records_have_targets_and_no_labels():
    batch = collate(examples([2, 3], labels=False))
    assert batch.labels is None
    assert batch.targets.tolist() == [0, 1]
    several = collate([Example([1], target=[1.0, 0.0]), Example([2], target=[0.0, 1.0])])
    assert several.targets.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("row_tokens", [None, 10, 64])
def test_a_batch_gives_the_loss_and_the_gradients_of_its_examples(row_tokens):
    config = GPT2Config(vocab_size=23, n_positions=12, n_embd=8, n_layer=2, n_head=2, initializer_range=0.4)
    model = create(config, seed=2).model
    given = examples([5, 1, 7, 12, 3, 3, 2])

    def loss(batch):
        hidden = model.transformer(batch.ids, batch.positions, batch.documents)
        return linear_cross_entropy(hidden, model.projection.weight, batch.labels)

    wanted = sum(loss(collate([example])) for example in given)
    found = loss(collate(given, row_tokens=row_tokens))
    torch.testing.assert_close(found, wanted)
    tensors = list(model.parameters())
    for a, b in zip(torch.autograd.grad(found, tensors), torch.autograd.grad(wanted, tensors), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("row_tokens", [None, 16])
def test_the_last_token_of_each_record_is_found(row_tokens):
    config = GPT2Config(vocab_size=23, n_positions=12, n_embd=8, n_layer=2, n_head=2, initializer_range=0.4)
    model = create(config, head="sequence", labels=["a", "b"], seed=2).model
    given = examples([5, 1, 7, 3], labels=False)

    def scores(batch):
        hidden = model.transformer(batch.ids, batch.positions, batch.documents)
        return model.logits(hidden.flatten(0, 1)[batch.last])

    found = scores(collate(given, row_tokens=row_tokens))
    torch.testing.assert_close(found, torch.cat([scores(collate([example])) for example in given]))


def test_a_batch_moves_whole():
    batch = collate(examples([3, 2]), row_tokens=8)
    moved = batch.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 5
    assert all(value.device.type == "meta" for value in tensors)
    assert moved.indices == batch.indices
