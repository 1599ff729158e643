"""What text costs a network: the same in windows, blocks and batches as token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gptwo.data.pack import pack
from gptwo.data.shards import Shards
from gptwo.errors import UsageError
from gptwo.evaluate.language import TextScore, bytes_of_tokens, score_shards, score_texts
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.tokenizer import train_bpe

TEXTS = ["the cat sat on the mat and looked at the dog. " * 3, "猫坐在垫子上，狗坐在木头上。" * 2, "a", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(iter(TEXTS * 9), 290)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=12, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4
    )
    return create(config, tokenizer, seed=1).model


def cost(model, ids: list[int], first: int) -> float:
    """Nats of ids[first:], given what stands before them."""
    with torch.inference_mode():
        scores = model(torch.tensor([ids[:-1]]))[0].log_softmax(1)
    return -sum(float(scores[place - 1, ids[place]]) for place in range(first, len(ids)))


@pytest.mark.parametrize("stride", [None, 1, 5, 12])
def test_windows_judge_every_token_once_with_the_context_they_have(model, tokenizer, stride):
    found = score_texts(model, tokenizer, TEXTS, stride=stride, rows=3)
    nats = tokens = 0
    for text in TEXTS:
        ids = [tokenizer.end_id, *tokenizer.encode(text)]
        done = 1
        while done < len(ids):
            end = min(len(ids), done + (12 if done == 1 else stride or 6))
            begin = max(0, end - 13)
            nats += cost(model, ids[begin:end], done - begin)
            tokens += end - done
            done = end
    assert found.tokens == tokens
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.bytes == sum(len(text.encode()) for text in TEXTS)


def test_a_stride_that_cannot_be_is_a_usage_error(model, tokenizer):
    for stride in (-1, 13):
        with pytest.raises(UsageError, match=r"1\.\.12"):
            score_texts(model, tokenizer, TEXTS, stride=stride)


@pytest.mark.parametrize(("block", "rows"), [(12, 1), (12, 4), (5, 3)])
def test_shards_are_judged_in_blocks(model, tokenizer, tmp_path, block, rows):
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(TEXTS[:2] * 2), encoding="utf-8")
    tokenizer.save(tmp_path / "tokenizer")
    pack(tmp_path / "text.txt", tmp_path / "shards", tmp_path / "tokenizer", workers=0, progress=False)
    shards = Shards(tmp_path / "shards")
    ids = shards.read(0, shards.tokens).tolist()
    blocks = (shards.tokens - 1) // block
    wanted = sum(cost(model, ids[i * block : (i + 1) * block + 1], 1) for i in range(blocks))
    sizes = bytes_of_tokens(tokenizer)
    found = score_shards(model, shards, sizes, block=block, rows=rows)
    assert found.tokens == blocks * block
    assert found.nats == pytest.approx(wanted, rel=1e-5)
    assert found.bytes == sizes[ids[1 : blocks * block + 1]].sum()
    limited = score_shards(model, shards, sizes, block=block, rows=1, limit=2)
    assert limited.tokens == 2 * block


def test_bytes_of_tokens_are_those_of_the_text(tokenizer):
    sizes = bytes_of_tokens(tokenizer)
    for text in TEXTS:
        assert sizes[np.array(tokenizer.encode(text), dtype=int)].sum() == len(text.encode())
    assert sizes[tokenizer.end_id] == 0


def test_scores_add_up_and_say_three_things():
    score = TextScore(math.log(2) * 8, 4, 2) + TextScore(0.0, 4, 2)
    assert score.metrics() == pytest.approx({"loss": math.log(2), "perplexity": 2.0, "bits_per_byte": 2.0})
    assert TextScore(1e6, 1, 1).perplexity == math.inf
    assert TextScore(0.0, 0, 0).metrics() == {"loss": 0.0, "perplexity": 1.0, "bits_per_byte": 0.0}
