"""The loader: a fixed order that depends on seed and epoch alone, prepared ahead, resumed anywhere."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gptwo.data.batching import Example
from gptwo.data.loader import ExampleBatches, Loader, TokenBlocks
from gptwo.data.pack import pack
from gptwo.data.shards import Shards
from gptwo.errors import DataError, GptwoError


@pytest.fixture(scope="module")
def shards(tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    (folder / "text.txt").write_text("the cat sat on the mat and the dog on the log\n" * 40)
    pack(folder / "text.txt", folder / "packed", tokenizer_folder, workers=0, progress=False)
    return Shards(folder / "packed")


def of_lengths(lengths) -> list[Example]:
    return [Example([i % 7] * length, [i % 7] * length, index=i) for i, length in enumerate(lengths)]


def taken(source, count: int, start: int = 0) -> list:
    loader = Loader(source, start=start)
    found = [next(loader) for _ in range(count)]
    loader.close()
    return [(batch.ids.tolist(), batch.indices) for batch in found]


SOURCES = {
    "text": lambda shards: TokenBlocks(shards, block=8, rows=3, seed=5),
    "padded": lambda shards: ExampleBatches(of_lengths(range(1, 24)), size=4, seed=5),
    "packed": lambda shards: ExampleBatches(of_lengths(range(1, 24)), size=4, seed=5, row_tokens=30, buckets=2),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
def test_a_loader_goes_on_anywhere_as_if_it_had_never_stopped(shards, make):
    per_epoch = make(shards).batches_per_epoch
    whole = taken(make(shards), 2 * per_epoch + 3)
    for start in (1, per_epoch - 1, per_epoch, per_epoch + 2, 2 * per_epoch + 1):
        assert taken(make(shards), len(whole) - start, start) == whole[start:]


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
def test_each_epoch_has_another_order(shards, make):
    source = make(shards)
    first, second = (taken(source, source.batches_per_epoch, source.batches_per_epoch * epoch) for epoch in (0, 1))
    assert first != second


def test_the_state_counts_what_was_consumed_and_not_what_was_prepared(shards):
    loader = Loader(SOURCES["text"](shards), ahead=3)
    assert loader.state == 0
    next(loader)
    assert loader.state == 1
    assert loader.epoch == 1 / loader.source.batches_per_epoch
    loader.close()


def test_every_example_comes_once_an_epoch():
    source = ExampleBatches(of_lengths([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]), size=4, seed=0)
    assert source.batches_per_epoch == 3
    for epoch in (0, 1):
        batches = taken(source, 3, 3 * epoch)
        assert sorted(index for _, indices in batches for index in indices) == list(range(11))


def test_examples_of_a_batch_are_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    sorted_, mixed = (
        sum(
            len(ids) * len(ids[0])
            for ids, _ in taken(ExampleBatches(of_lengths(lengths), size=8, seed=0, buckets=b), 50)
        )
        for b in (50, 1)
    )
    assert sorted_ < 1.1 * lengths.sum() < 1.5 * lengths.sum() < mixed


def test_the_order_of_lengths_is_random():
    source = ExampleBatches(of_lengths(range(1, 101)), size=4, seed=0)
    widths = [len(ids[0]) for ids, _ in taken(source, 25)]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


def test_blocks_of_text_are_the_shards_text_and_their_labels_the_next_tokens(shards):
    source = TokenBlocks(shards, block=8, rows=3, seed=5)
    text = shards.read(0, shards.tokens).tolist()
    starts = set()
    for number in range(source.batches_per_epoch):
        batch = source.epoch(0)(number)
        for ids, labels in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
            assert ids[1:] == labels[:-1]
            places = {i for i in range(len(text) - 8) if text[i : i + 9] == [*ids, labels[-1]]}
            assert places
            starts |= places
    assert source.batches_per_epoch == (shards.tokens // 8 - 1) // 3


def test_blocks_are_cut_elsewhere_each_epoch(shards):
    source = TokenBlocks(shards, block=16, rows=1, seed=5)
    firsts = {tuple(source.epoch(epoch)(number).ids[0].tolist()) for epoch in range(6) for number in range(3)}
    assert len(firsts) > 6


def test_the_last_block_of_any_offset_lies_inside_the_text(shards):
    for block in (1, 7, 8, 31):
        source = TokenBlocks(shards, block=block, rows=1, seed=3)
        for epoch in range(12):
            for number in range(source.batches_per_epoch):
                assert source.epoch(epoch)(number).ids.shape == (1, block)
            if block < 31:
                break


def test_too_little_text_says_what_to_change(shards):
    with pytest.raises(DataError, match=r"too few for a batch of 1000 rows of 8 tokens[\s\S]*train\.batch_size"):
        TokenBlocks(shards, block=8, rows=1000, seed=0)


def test_no_examples_is_a_data_error():
    with pytest.raises(DataError, match="no examples to train on"):
        ExampleBatches([], size=4, seed=0)


class Failing:
    """A source whose third batch cannot be read."""

    batches_per_epoch = 10

    def epoch(self, epoch: int):
        def batch(number: int):
            if number == 2:
                raise GptwoError("The disk is gone.")
            return number

        return batch


def test_an_error_in_the_thread_reaches_the_consumer_each_time():
    loader = Loader(Failing())  # type: ignore[arg-type]
    assert [next(loader), next(loader)] == [0, 1]
    for _ in range(3):
        with pytest.raises(GptwoError, match="disk is gone"):
            next(loader)
    assert loader.state == 2
    loader.close()


def test_a_closed_loader_leaves_no_thread(shards):
    loader = Loader(SOURCES["text"](shards))
    next(loader)
    loader.close()
    assert not any(thread.name == "gptwo-loader" for thread in threading.enumerate())
