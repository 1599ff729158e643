"""The network gives one answer, however its input is laid out: cached, batched, padded, packed, recomputed, rounded."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gptwo.errors import UsageError
from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE, linear_cross_entropy
from gptwo.tokenizer import PAD_ID

CONFIG = GPT2Config(
    vocab_size=37, n_positions=24, n_embd=16, n_layer=3, n_head=4, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0
)
TEXTS = [[5, 9, 2, 30, 11, 7, 1], [3, 3, 36], [17], [8, 1, 22, 13, 4]]


def network(config: GPT2Config = CONFIG, head: str = "language", labels: int = 0) -> Model:
    """Every parameter random, large enough that a wrong mask or position shows."""
    random = torch.Generator().manual_seed(3)
    model = Model(config, head, labels)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.25)
    return model.eval()


def alone(model: Model, ids: list[int]) -> torch.Tensor:
    """(T, V) scores of one text by itself."""
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0]


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def model() -> Model:
    return network()


def test_a_token_sees_nothing_after_it(model):
    whole = alone(model, TEXTS[0])
    for end in range(1, len(TEXTS[0])):
        close(alone(model, TEXTS[0][:end]), whole[:end])


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 4], [1, 5, 1]])
def test_cached_equals_uncached(model, pieces):
    cache = Cache(CONFIG, 1, 10)
    parts, start = [], 0
    with torch.inference_mode():
        for size in pieces:
            ids = torch.tensor([TEXTS[0][start : start + size]])
            parts.append(model(ids, cache=cache)[0])
            start += size
    close(torch.cat(parts), alone(model, TEXTS[0]))


def test_padded_on_the_right_equals_single(model):
    width = max(map(len, TEXTS))
    ids = torch.tensor([text + [PAD_ID] * (width - len(text)) for text in TEXTS])
    with torch.inference_mode():
        found = model(ids)
    for row, text in zip(found, TEXTS, strict=True):
        close(row[: len(text)], alone(model, text))


def left_padded(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(map(len, texts))
    gaps = [width - len(text) for text in texts]
    ids = torch.tensor([[PAD_ID] * gap + text for gap, text in zip(gaps, texts, strict=True)])
    positions = torch.tensor([[0] * gap + list(range(width - gap)) for gap in gaps])
    documents = torch.tensor([[-1] * gap + [0] * (width - gap) for gap in gaps])
    return ids, positions, documents


def test_padded_on_the_left_equals_single(model):
    ids, positions, documents = left_padded(TEXTS)
    with torch.inference_mode():
        found = model(ids, positions, documents)
    assert found.isfinite().all()
    for row, text in zip(found, TEXTS, strict=True):
        close(row[-len(text) :], alone(model, text))


def test_padded_on_the_left_and_continued_in_a_cache_equals_single(model):
    more = [[4, 20], [6, 7], [1, 2], [31, 0]]
    ids, positions, documents = left_padded(TEXTS)
    lengths = torch.tensor([len(text) for text in TEXTS])
    cache = Cache(CONFIG, len(TEXTS), 12)
    with torch.inference_mode():
        model(ids, positions, documents, cache)
        steps = [model(torch.tensor(more)[:, i : i + 1], (lengths + i)[:, None], None, cache)[:, 0] for i in range(2)]
    for row, (text, new) in enumerate(zip(TEXTS, more, strict=True)):
        close(torch.stack([step[row] for step in steps]), alone(model, text + new)[-2:])


def packed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = [i for text in TEXTS for i in text] + [PAD_ID] * 2
    positions = [i for text in TEXTS for i in range(len(text))] + [0, 0]
    documents = [number for number, text in enumerate(TEXTS) for _ in text] + [-1, -1]
    return torch.tensor([ids]), torch.tensor([positions]), torch.tensor([documents])


def test_packed_equals_separate(model):
    with torch.inference_mode():
        found = model(*packed())[0]
    close(found[:-2], torch.cat([alone(model, text) for text in TEXTS]))
    assert found.isfinite().all()


def test_a_packed_row_may_be_longer_than_the_positions(model):
    ids, positions, documents = packed()
    twice = [torch.cat([part, part], 1) for part in (ids, positions)]
    with torch.inference_mode():
        found = model(*twice, torch.cat([documents, documents + 10 * (documents >= 0)], 1))[0]
    close(found[: ids.shape[1] - 2], found[ids.shape[1] : -2])


def test_the_order_of_packed_documents_and_their_numbers_do_not_matter(model):
    ids, positions, documents = packed()
    order = torch.tensor([1, 3, 0, 2])
    lengths = [len(text) for text in TEXTS]
    starts = [sum(lengths[:i]) for i in range(4)]
    index = torch.cat([torch.arange(starts[i], starts[i] + lengths[i]) for i in order])
    with torch.inference_mode():
        found = model(ids[:, index], positions[:, index], 7 * documents[:, index] + 2)[0]
        wanted = model(ids, positions, documents)[0][index]
    close(found, wanted)


def loss_and_gradients(model: Model, batch, labels) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = linear_cross_entropy(model.transformer(*batch), model.projection.weight, labels)
    loss.backward()
    return float(loss.detach()), {name: tensor.grad.clone() for name, tensor in model.named_parameters()}


def next_tokens(ids: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Labels of a packed row: the next token of the same document."""
    labels = torch.full_like(ids, IGNORE)
    same = documents[:, 1:] == documents[:, :-1]
    labels[:, :-1] = torch.where(same & (documents[:, 1:] >= 0), ids[:, 1:], IGNORE)
    return labels


def test_packed_training_equals_separate_training(model):
    ids, positions, documents = packed()
    loss, gradients = loss_and_gradients(model, (ids, positions, documents), next_tokens(ids, documents))
    total, sums = 0.0, {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    for text in TEXTS:
        ids = torch.tensor([text])
        one, parts = loss_and_gradients(model, (ids,), next_tokens(ids, torch.zeros_like(ids)))
        total += one
        for name, part in parts.items():
            sums[name] += part
    assert loss == pytest.approx(total, rel=1e-5)
    for name, wanted in sums.items():
        close(gradients[name], wanted, 1e-4)


def test_checkpointed_equals_plain_in_loss_and_gradients():
    model = network().train()
    ids, positions, documents = packed()
    labels = next_tokens(ids, documents)
    loss, gradients = loss_and_gradients(model, (ids, positions, documents), labels)
    model.transformer.gradient_checkpointing = True
    again, recomputed = loss_and_gradients(model, (ids, positions, documents), labels)
    assert again == loss
    for name, wanted in gradients.items():
        assert torch.equal(recomputed[name], wanted), name


def test_checkpointed_equals_plain_with_dropout():
    model = network(CONFIG.with_dropout(0.3)).train()
    ids = torch.tensor([TEXTS[0]])
    found = []
    for checkpointing in (False, True):
        model.transformer.gradient_checkpointing = checkpointing
        torch.manual_seed(5)
        found.append(loss_and_gradients(model, (ids,), next_tokens(ids, torch.zeros_like(ids))))
    assert found[0][0] == found[1][0]
    for name, wanted in found[0][1].items():
        assert torch.equal(found[1][1][name], wanted), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_wanted_places_equal_those_of_the_whole_in_values_and_gradients(checkpointing):
    model = network().train()
    model.transformer.gradient_checkpointing = checkpointing
    ids, positions, documents = packed()
    read = torch.tensor([3, 0, ids.numel() - 2, 3])  # in any order, and twice
    found, wanted = {}, {}
    for gradients, read_there in ((found, True), (wanted, False)):
        model.zero_grad()
        hidden = model.transformer(ids, positions, documents, read=read if read_there else None)
        hidden = hidden if read_there else hidden.flatten(0, 1)[read]
        hidden.square().sum().backward()
        gradients.update({n: p.grad.clone() for n, p in model.transformer.named_parameters()}, hidden=hidden.detach())
    for name in wanted:
        close(found[name], wanted[name], 1e-4)


def test_only_the_rows_of_tokens_that_occur_may_be_added_to_the_tied_embedding(model):
    ids = torch.tensor([TEXTS[0]])
    labels = next_tokens(ids, torch.zeros_like(ids))
    loss, gradients = loss_and_gradients(model, (ids,), labels)
    model.transformer.wte.sparse = True
    try:
        again, sparse = loss_and_gradients(model, (ids,), labels)
    finally:
        model.transformer.wte.sparse = False
    assert again == loss
    for name, wanted in gradients.items():
        assert not sparse[name].is_sparse
        close(sparse[name], wanted)


def test_bf16_is_close_to_fp32(model):
    ids, positions, documents = packed()
    labels = next_tokens(ids, documents)
    loss, gradients = loss_and_gradients(model, (ids, positions, documents), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, rough = loss_and_gradients(model, (ids, positions, documents), labels)
    assert rounded == pytest.approx(loss, rel=0.02)
    for name, wanted in gradients.items():
        assert F.cosine_similarity(rough[name].flatten(), wanted.flatten(), dim=0) > 0.99, name


def test_bf16_rows_long_enough_for_the_blocked_attention_are_close_to_fp32():
    config = GPT2Config(
        vocab_size=37, n_positions=160, n_embd=16, n_layer=2, n_head=2, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0
    )
    model = network(config)
    ids = torch.randint(0, 37, (2, 150), generator=torch.Generator().manual_seed(1))
    documents = (torch.arange(150) >= 70).long().expand(2, -1)
    positions = torch.cat([torch.arange(70), torch.arange(80)]).expand(2, -1)
    for batch in ((ids,), (ids, positions, documents)):
        with torch.inference_mode():
            wanted = model(*batch)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = model(*batch)
        assert F.cosine_similarity(found.float().flatten(), wanted.flatten(), dim=0) > 0.995
        assert (found.argmax(-1) == wanted.argmax(-1)).float().mean() > 0.9


def test_dropout_acts_in_training_only():
    model = network(CONFIG.with_dropout(0.5))
    ids = torch.tensor([TEXTS[0]])
    torch.manual_seed(0)
    plain = network()(ids)
    assert torch.equal(model(ids), plain)
    model.train()
    first, second = model(ids), model(ids)
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    third = model(ids)
    torch.manual_seed(4)
    assert torch.equal(model(ids), third)


@pytest.mark.parametrize("place", ["embd_pdrop", "resid_pdrop", "attn_pdrop"])
def test_each_of_the_papers_places_drops(place):
    from dataclasses import replace

    model = network(replace(CONFIG, **{place: 0.5})).train()
    ids = torch.tensor([TEXTS[0]])
    assert not torch.allclose(model(ids), model(ids))


def test_attention_scores_of_a_block_can_be_divided_by_its_number():
    from dataclasses import replace

    model, scaled = network(), network(replace(CONFIG, scale_attn_by_inverse_layer_idx=True))
    scales = [block.attn.scale for block in scaled.transformer.h]
    assert scales == [pytest.approx(0.5 / (i + 1)) for i in range(3)]
    assert not torch.allclose(alone(model, TEXTS[0]), alone(scaled, TEXTS[0]))


def test_a_sequence_longer_than_the_positions_is_a_usage_error(model):
    with pytest.raises(UsageError, match="25 tokens; this network has 24 positions"):
        model(torch.zeros(1, 25, dtype=torch.long))
    cache = Cache(CONFIG, 1, 40)
    with torch.inference_mode():
        model(torch.zeros(1, 24, dtype=torch.long), cache=cache)
        with pytest.raises(UsageError, match="25 tokens"):
            model(torch.zeros(1, 1, dtype=torch.long), cache=cache)
