"""Training a BPE: what is learned, what is left out, and that memory is bounded by a sample."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from gptwo.errors import DataError, MissingError, UsageError
from gptwo.tokenizer import train_bpe
from gptwo.tokenizer.sample import CUT, cut_rare_pairs, sample_texts, split_texts
from gptwo.tokenizer.train import Compression, measure, read_pieces
from tests.tokenizer.conftest import TEXTS


def test_bytes_come_first_and_the_end_of_text_last(small_bpe):
    assert small_bpe.vocab_size == 400
    assert small_bpe.end_id == 399
    assert small_bpe.token_bytes(399) == b"<|endoftext|>"
    assert sorted(small_bpe.token_bytes(i) for i in range(256)) == [bytes([byte]) for byte in range(256)]
    assert [small_bpe.token_bytes(i) for i in range(3)] == [b"!", b'"', b"#"]  # GPT-2's own order


def test_text_seen_often_takes_few_tokens_and_any_text_comes_back(small_bpe):
    assert len(small_bpe.encode("今天天气")) < len("今天天气".encode()) / 3
    unseen = "完全 different ¿text? \x00"
    assert small_bpe.decode(small_bpe.encode(unseen)) == unseen


def test_training_twice_gives_the_same_vocabulary():
    assert train_bpe(TEXTS, 300).fingerprint == train_bpe(iter(TEXTS), 300).fingerprint


def test_files_and_their_texts_give_the_same_vocabulary(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(TEXTS), encoding="utf-8")
    assert train_bpe(path, 300).fingerprint == train_bpe([path], 300).fingerprint == train_bpe(TEXTS, 300).fingerprint


def test_the_separator_is_not_learned(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("x\n<|endoftext|>\n" * 200, encoding="utf-8")
    for sources in ([path], ["x<|endoftext|>"] * 200):
        tokenizer = train_bpe(sources, 400)
        learned = [tokenizer.token_bytes(i) for i in range(256, tokenizer.end_id)]
        assert not any(b"<|" in token or b"end" in token for token in learned)


def test_another_end_token(tmp_path):
    tokenizer = train_bpe(TEXTS, 300, end_token="<eos>")
    assert tokenizer.id_to_token(299) == "<eos>"
    assert tokenizer.end_id == 299


def test_fewer_entries_where_no_pair_is_frequent():
    tokenizer = train_bpe(["abab"], 1000)
    assert tokenizer.vocab_size == 258
    assert tokenizer.end_id == 257
    assert train_bpe(["abab"], 1000, min_frequency=1).vocab_size > 258


def test_the_held_out_share_is_not_learned():
    common, rare = "common words here ", "zyzzyva "
    texts = [common] * 99 + [rare * 50]  # the last of a hundred is the one held out at 1 %
    assert "zyzzyva" not in train_bpe(texts, 300, held_out=0.01).vocab
    assert "zyzzyva" in train_bpe(texts, 300).vocab
    assert list(split_texts(texts, 0.01, held_out=True)) == [rare * 50]


def test_both_parts_together_are_the_whole():
    texts = [str(n) for n in range(1000)]
    kept, held = (list(split_texts(texts, 0.07, held_out=flag)) for flag in (False, True))
    assert len(held) == 70
    assert sorted(kept + held, key=int) == texts
    assert max(int(b) - int(a) for a, b in pairwise(held)) < 20  # evenly spread
    assert list(split_texts(texts, 0.0, held_out=True)) == []


def test_a_sample_is_even_bounded_and_in_order():
    texts = [f"{n:05d}" + "天" * 5 for n in range(2000)]  # 20 bytes each
    sample = sample_texts(iter(texts), 8000, seed=1)
    assert len(sample) == 400
    assert sample == sorted(sample)
    assert 140 < sum(int(text[:5]) < 1000 for text in sample) < 260
    assert sample == sample_texts(texts, 8000, seed=1) != sample_texts(texts, 8000, seed=2)
    assert sample_texts(texts, 40_000) == texts


def test_cuts_part_rare_neighbours_only():
    texts = ["天气很好" * 500, "诗X歌书", "plain ascii", ""]
    cut = list(cut_rare_pairs(texts, 300))
    assert cut == ["天气很好" * 500, f"诗X歌{CUT}书", "plain ascii", ""]


def test_frequent_words_are_learned_whole_between_the_cuts():
    chosen = random.Random(0)
    words = ["".join(chosen.choices([chr(0x4E00 + n) for n in range(20_000)], k=2)) for _ in range(60)]
    texts = ["".join(chosen.choices(words, k=9)) for _ in range(600)]
    assert sum(text.count(CUT) for text in cut_rare_pairs(texts, 800)) > 500
    tokenizer = train_bpe(texts, 800)
    assert all(len(tokenizer.encode(word)) == 1 for word in words)


def test_lone_surrogates_do_not_stop_training():
    assert train_bpe(["a\ud800b"] * 3, 300).vocab_size >= 257


def test_pieces_end_at_documents_and_at_lines(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\ufeffa\r\nb\n<|endoftext|>\n<|endoftext|>\nccc\nddd\neee\n", encoding="utf-8")
    assert list(read_pieces(path)) == ["a\nb\n", "ccc\nddd\neee\n"]
    path.write_text("0123456789\n" * 3 + "x" * 40 + "<|endoftext|>", encoding="utf-8")
    parts = ["0123456789\n0123456789\n", "0123456789\n" + "x" * 20, "x" * 20, "<|endoftext|>"]
    assert list(read_pieces(path, longest=20)) == parts


def test_measured_bytes_and_tokens(small_bpe):
    texts = ["今天天气", "hello", "\ud800", ""]
    found = measure(small_bpe, iter(texts), batch=2)
    tokens = sum(len(small_bpe.encode(text)) for text in texts)
    assert found == Compression(text_bytes=12 + 5 + 3, characters=4 + 5 + 1, tokens=tokens)
    assert found.bytes_per_token == pytest.approx(20 / tokens)
    assert found.characters_per_token == pytest.approx(10 / tokens)
    assert measure(small_bpe, []).bytes_per_token == 0.0


def test_wrong_use_is_named(tmp_path):
    with pytest.raises(UsageError, match="256 is too small"):
        train_bpe(TEXTS, 256)
    with pytest.raises(UsageError, match="Texts come as a list"):
        train_bpe("corpus.txt", 300)
    with pytest.raises(UsageError, match="share of 1"):
        train_bpe(TEXTS, 300, held_out=1)
    for nothing in ([], ["", ""], ["<|endoftext|>"]):
        with pytest.raises(DataError, match="no text to train on"):
            train_bpe(nothing, 300)
    with pytest.raises(MissingError, match=r"absent\.txt is missing"):
        train_bpe(tmp_path / "absent.txt", 300)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 10)
    with pytest.raises(DataError, match="not UTF-8"):
        train_bpe(tmp_path / "latin.txt", 300)
