"""Texts in slots give what each gives alone, whoever joins and leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.generate.decoder import Decoder
from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config
from gptwo.model.heads import Model

CONFIG = GPT2Config(vocab_size=40, n_positions=24, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5)


@pytest.fixture(scope="module")
def model():
    return Model(CONFIG).initialise(torch.Generator().manual_seed(1)).eval()


def read(model, texts, virtual=0, room=0):
    """A cache with texts of one length, behind so many virtual tokens."""
    cache = Cache(CONFIG, len(texts), len(texts[0]) + room)
    if virtual:
        shape = (CONFIG.n_layer, CONFIG.n_head, virtual, CONFIG.head_dim)
        cache.begin_with(*torch.randn(2, *shape, generator=torch.Generator().manual_seed(virtual)))
    model.transformer(torch.tensor(texts), cache=cache)
    return cache


def after(model, text, virtual=0):
    """Logits after a text that is read at once."""
    cache = read(model, [text[:-1]], virtual, room=1) if len(text) > 1 else None
    if cache is None:
        cache = read(model, [text], virtual, room=1)
        cache.length = 0
    return model(torch.tensor([text[-1:]]), cache=cache)[0, -1]


texts = st.lists(st.integers(0, 39), min_size=1, max_size=6)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(texts, min_size=1, max_size=3)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("select"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
        st.tuples(st.just("step"), st.lists(st.integers(0, 39), min_size=12, max_size=12)),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(moves, st.sampled_from([0, 3]))
@torch.inference_mode()
def test_each_text_goes_on_as_if_it_were_alone(model, moves, virtual):
    decoder, running = Decoder(model), []
    for move, what in moves:
        if move == "join" and len(running) < 9:
            for text in what:
                decoder.slots.join(read(model, [text, text], virtual), [1], [len(text)])
                running.append(list(text))
        elif move == "leave" and running:
            place = what % len(running)
            decoder.slots.leave(place)
            running[place] = running[-1]
            running.pop()
        elif move == "select" and running:
            rows = [row % len(running) for row in what]
            decoder.slots.select(rows)
            running = [list(running[row]) for row in rows]
        elif move == "step" and running:
            ids = what[: len(running)]
            found = decoder.step(torch.tensor(ids))
            for row, (text, token) in enumerate(zip(running, ids, strict=True)):
                text.append(token)
                torch.testing.assert_close(found[row], after(model, text, virtual), atol=1e-4, rtol=1e-4)
        assert decoder.slots.counts == [len(text) for text in running]
        assert decoder.slots.lengths[: len(running)].tolist() == decoder.slots.counts


@torch.inference_mode()
def test_neighbours_of_one_length_and_copies_join_at_once(model):
    one, two, three = [1, 2, 3], [4, 5, 6], [7, 8, 9]
    decoder = Decoder(model)
    decoder.slots.join(read(model, [one, two, three]), [0, 1, 2, 2, 0], [3, 3, 3, 3, 3])
    found = decoder.step(torch.tensor([10] * 5))
    for row, text in enumerate([one, two, three, three, one]):
        torch.testing.assert_close(found[row], after(model, [*text, 10]), atol=1e-4, rtol=1e-4)


def test_memory_is_given_back_with_the_last_text(model):
    decoder = Decoder(model)
    decoder.slots.join(read(model, [[1, 2]]), [0], [2])
    assert decoder.slots.keys.numel()
    decoder.slots.leave(0)
    assert not decoder.slots.keys.numel()
    assert decoder.slots.held == 0


@torch.inference_mode()
def test_copies_of_a_text_see_its_virtual_tokens_too(model):
    decoder = Decoder(model)
    decoder.slots.join(read(model, [[1, 2, 3]], 4), [0], [3])
    decoder.slots.select([0, 0, 0])
    found = decoder.step(torch.tensor([9, 8, 7]))
    for row, token in enumerate([9, 8, 7]):
        torch.testing.assert_close(found[row], after(model, [1, 2, 3, token], 4), atol=1e-4, rtol=1e-4)
