"""Virtual tokens: seen by every text, in every way of reading it, and positions that texts do not get."""

from __future__ import annotations

import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.data.batching import Example, collate
from gptwo.errors import UsageError
from gptwo.generate.engine import Engine
from gptwo.model.cache import Cache
from tests.adapt.kinds import VIRTUAL, config_of


@pytest.mark.parametrize("kind", VIRTUAL)
def test_with_a_cache_equals_without(adapted, ids, kind):
    model = adapted(kind).model.eval()
    whole = model.transformer(ids)
    cache = Cache(model.config, 3, 24)
    pieces = [model.transformer(part, cache=cache) for part in (ids[:, :7], ids[:, 7:8], ids[:, 8:])]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    assert cache.length == 24


@pytest.mark.parametrize("kind", VIRTUAL)
def test_left_padded_rows_equal_single_ones(adapted, ids, kind):
    model = adapted(kind).model.eval()
    short, pad = ids[:1, :9], 5
    row = torch.cat([torch.full((1, pad), -1), short], 1)
    positions = torch.cat([torch.zeros(1, pad, dtype=torch.long), torch.arange(9)[None]], 1)
    cache = Cache(model.config, 1, 20)
    padded = model.transformer(row, positions, torch.where(row < 0, -1, 0), cache)
    torch.testing.assert_close(padded[:, pad:], model.transformer(short))


@pytest.mark.parametrize("kind", VIRTUAL)
def test_packed_equals_separate(adapted, ids, kind):
    model = adapted(kind).model.eval()
    texts = [ids[0, :11].tolist(), ids[1, :6].tolist(), ids[2, :14].tolist()]
    batch = collate([Example(text, text) for text in texts], row_tokens=20)
    hidden = model.transformer(batch.ids, batch.positions, batch.documents).flatten(0, 1)
    for text, last in zip(texts, batch.last.tolist(), strict=True):
        alone = model.transformer(torch.tensor([text]))[0]
        torch.testing.assert_close(hidden[last - len(text) + 1 : last + 1], alone)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_recomputed_gradients_are_the_same(adapted, ids, kind):
    def gradient(recompute):
        model = adapted(kind).model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for block in model.transformer.h:
            block.attn.dropout = 0.0
        model.transformer.gradient_checkpointing = recompute
        model(ids).square().mean().backward()
        return model.transformer.prefix.prompt_embeddings.grad

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize("kind", VIRTUAL)
def test_texts_have_fewer_positions(base, ids, kind):
    apply_adapter(base.model, config_of(kind))
    assert base.model.config.n_positions == 43
    base.model(ids[:, :1].expand(-1, 43))
    with pytest.raises(UsageError, match="43 positions"):
        base.model(ids[:, :1].expand(-1, 44))


@pytest.mark.parametrize("kind", VIRTUAL)
def test_the_engine_writes_what_the_network_says(adapted, kind, tokenizer):
    carrying = adapted(kind)
    carrying.model.eval()
    prompts = ["the cat", "the dog sat on", "猫"]
    together = Engine(carrying).generate(prompts, max_new_tokens=12, temperature=0, ignore_end=True)
    for prompt, found in zip(prompts, together, strict=True):
        ids = tokenizer.encode(prompt)
        for _ in range(12):
            ids.append(int(carrying.model(torch.tensor([ids]))[0, -1].argmax()))
        assert found.ids == ids[-12:]


@pytest.mark.parametrize("kind", VIRTUAL)
def test_a_text_that_fills_the_context_slides(adapted, kind):
    carrying = adapted(kind)
    (found,) = Engine(carrying).generate("the cat", max_new_tokens=60, temperature=0, ignore_end=True)
    assert len(found.ids) == 60


@pytest.mark.parametrize("dtype", [torch.bfloat16])
@pytest.mark.parametrize("kind", VIRTUAL)
def test_under_autocast(adapted, ids, kind, dtype):
    model = adapted(kind).model.eval()
    with torch.autocast("cpu", dtype=dtype):
        found = model.transformer(ids)
    torch.testing.assert_close(found.float(), model.transformer(ids), atol=0.15, rtol=0.1)
