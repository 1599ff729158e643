"""BERT vocabularies: ids as transformers gives them, Chinese decoded without spaces, the same interface as BPE."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.errors import DataError
from gptwo.tokenizer import load_tokenizer
from tests.tokenizer.texts import any_text, shared, unicode_text


@shared
@given(text=unicode_text)
def test_ids_equal_transformers(bert, transformers_of, text):
    theirs = transformers_of(bert)
    assert bert.encode(text, special=True) == theirs.encode(text, add_special_tokens=False)
    assert bert.encode(text) == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)


@shared
@given(text=any_text)
def test_any_string_has_ids_and_offsets(bert, text):
    ids, offsets = bert.encode_with_offsets(text)
    assert ids == bert.encode(text) == bert.encode_batch([text])[0]
    assert all(0 <= start <= end <= len(text) for start, end in offsets)


@shared
@given(data=st.data())
def test_streamed_text_joined_is_the_text_decoded_at_once(bert, data):
    ids = data.draw(st.lists(st.integers(-1, bert.vocab_size + 1), max_size=20))
    stream = bert.stream()
    assert "".join([stream.push(i) for i in ids] + [stream.finish()]) == bert.decode(ids)
    assert bert.decode_bytes(ids) == bert.decode(ids).encode("utf-8")
    assert stream.push(bert.vocab["a"]) == "a"  # no space before the first word of the next text


def test_one_token_for_each_chinese_character(bert):
    assert [bert.id_to_token(i) for i in bert.encode("今天天气，playing")] == [
        "今",
        "天",
        "天",
        "气",
        "，",
        "play",
        "##ing",
    ]


def test_start_and_end_are_those_of_bert_and_left_to_the_caller(chinese_bert):
    assert (chinese_bert.start_id, chinese_bert.end_id, chinese_bert.vocab_size) == (101, 102, 21128)
    assert chinese_bert.encode("你好") == [872, 1962]
    assert chinese_bert.decode([101, 872, 1962, 102]) == "[CLS]你好[SEP]"
    assert chinese_bert.decode([101, 872, 1962, 102], skip_special=True) == "你好"


@pytest.mark.parametrize(
    "text",
    [
        "今天天气，我不是一。",
        "我是hello world的",
        "hello, world! it's (playing) gpt-2.",
        "你好《诗》hello: “a”",
    ],
)
def test_decoding_joins_chinese_and_spaces_words(small_bert, text):
    assert small_bert.decode(small_bert.encode(text)) == text


def test_korean_words_keep_their_spaces(small_bert):
    ids = [small_bert.vocab[token] for token in ("hello", "세", "##계", "world")]
    assert small_bert.decode(ids) == "hello 세계 world"


def test_offsets_of_words_and_characters(small_bert):
    ids, offsets = small_bert.encode_with_offsets("你好 PLAYING")
    assert [small_bert.id_to_token(i) for i in ids] == ["你", "好", "play", "##ing"]
    assert offsets == [(0, 1), (1, 2), (3, 7), (7, 10)]
    assert small_bert.token_bytes(ids[3]) == b"ing"


def test_the_line_separator_character_is_a_token_and_no_line_end(small_bert, chinese_bert):
    assert small_bert.vocab["\u2028"] + 1 == small_bert.vocab["!"]
    assert chinese_bert.vocab["\u2028"] == 343


def test_letters_keep_their_case_where_the_config_says_so(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nA\na\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("A") == [4]
    config = '{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "sep_token": {"content": "[CLS]"}}'
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    cased = load_tokenizer(tmp_path)
    assert cased.encode("A") == [3]
    assert cased.end_id == 1
    cased.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode("A") == [3]


def test_rows_keep_their_ids_around_repeated_and_empty_rows(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\ufeff[UNK]\r\na\r\n\r\nb\r\na\r\n".encode())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab == {"[UNK]": 0, "b": 3, "a": 4}
    assert (tokenizer.vocab_size, tokenizer.end_id, tokenizer.decode([1, 2, 3])) == (5, None, "b")
    tokenizer.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_text(encoding="utf-8") == "[UNK]\n\n\nb\na\n"
    assert load_tokenizer(tmp_path / "saved" / "vocab.txt").vocab == tokenizer.vocab


def test_a_list_of_words_without_the_unknown_token_is_no_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("just\nwords\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"lacks '\[UNK\]'"):
        load_tokenizer(tmp_path)
