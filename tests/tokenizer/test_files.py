"""Every vocabulary file gives the same tokenizer; saved folders load here and in transformers; damage is named."""

from __future__ import annotations

import base64
import json
import shutil

import pytest

from gptwo.errors import DataError, MissingError
from gptwo.tokenizer import load_tokenizer
from gptwo.tokenizer.byte_level import alphabet_bytes
from tests.tokenizer.conftest import TEXTS

SAMPLE = " ".join(TEXTS) + " <|endoftext|> [SEP] “你好”\n\n\t𠮷"


@pytest.fixture
def saved(small_bpe, tmp_path):
    folder = tmp_path / "saved"
    small_bpe.save(folder)
    return folder


def write_tiktoken(tokenizer, path):
    ranks = {token: i for token, i in tokenizer.vocab.items() if i != tokenizer.end_id}
    raw = ((bytes(alphabet_bytes()[c] for c in token), i) for token, i in ranks.items())
    path.write_text("".join(f"{base64.b64encode(b).decode()} {i}\n" for b, i in sorted(raw, key=lambda item: item[1])))


def test_gpt2_is_the_same_from_openais_and_from_tiktokens_file(gpt2_files, gpt2):
    tiktoken = load_tokenizer(gpt2_files / "gpt2.tiktoken")
    assert tiktoken.vocab == gpt2.vocab
    assert tiktoken.fingerprint == gpt2.fingerprint
    assert tiktoken.encode(SAMPLE, special=True) == gpt2.encode(SAMPLE, special=True)


@pytest.mark.parametrize(
    "names", [("tokenizer.json",), ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ()]
)
def test_every_kind_of_file_gives_the_same_tokenizer(small_bpe, saved, tmp_path, names):
    folder = tmp_path / "bare"
    folder.mkdir()
    sources = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    for name in names:
        shutil.copy(saved / sources.get(name, name), folder / name)
    if not names:
        write_tiktoken(small_bpe, folder / "own.tiktoken")
    for path in (folder, *(folder / name for name in names)):
        loaded = load_tokenizer(path)
        assert loaded.fingerprint == small_bpe.fingerprint
        assert loaded.end_id == small_bpe.end_id
        assert loaded.encode(SAMPLE) == small_bpe.encode(SAMPLE)


def test_pairs_come_before_tiktoken(small_bpe, gpt2_files, saved, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    shutil.copy(gpt2_files / "gpt2.tiktoken", folder)
    shutil.copy(saved / "merges.txt", folder / "vocab.bpe")
    shutil.copy(saved / "vocab.json", folder / "encoder.json")
    assert load_tokenizer(folder).vocab_size == small_bpe.vocab_size
    (folder / "encoder.json").unlink()
    assert load_tokenizer(folder).vocab_size == 50257


def test_a_bert_class_in_the_config_makes_vocab_txt_count(small_bert, saved):
    small_bert.save(saved / "bert")
    shutil.copy(saved / "bert" / "vocab.txt", saved)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (saved / name).unlink()
    assert load_tokenizer(saved).kind == "bpe"
    (saved / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}')
    assert load_tokenizer(saved).kind == "bert"


ROLES = ["<|user|>", "<|assistant|>"]


@pytest.mark.parametrize(
    ("name", "roles"), [("small_bpe", []), ("gpt2", ROLES), ("small_bert", []), ("chinese_bert", ROLES)]
)
def test_a_saved_folder_loads_in_transformers_with_equal_ids(request, tmp_path, name, roles):
    from transformers import AutoTokenizer

    request.getfixturevalue(name).save(tmp_path / "first")
    ours = load_tokenizer(tmp_path / "first")
    assert ours.fingerprint == request.getfixturevalue(name).fingerprint
    ours.add_special_tokens(roles)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = SAMPLE + "".join(roles) + ("" if ours.kind == "bert" else " end")
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, special=True)
    assert len(theirs) == ours.vocab_size
    if ours.kind == "bpe":
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text)) == text
        assert theirs.eos_token_id == theirs.pad_token_id == ours.end_id
    else:
        assert (theirs.cls_token_id, theirs.sep_token_id) == (ours.start_id, ours.end_id)


@pytest.mark.parametrize("name", ["small_bpe", "small_bert"])
def test_what_transformers_saves_loads_here(request, tmp_path, transformers_of, name):
    ours = request.getfixturevalue(name)
    theirs = transformers_of(ours)
    theirs.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(SAMPLE) == ours.encode(SAMPLE)
    assert (loaded.start_id, loaded.end_id, loaded.vocab_size) == (ours.start_id, ours.end_id, ours.vocab_size)
    assert loaded.fingerprint == ours.fingerprint


def test_the_fingerprint_tells_tokenizers_apart(small_bpe, small_bert, saved):
    loaded = load_tokenizer(saved)
    assert len(loaded.fingerprint) == 64
    assert loaded.fingerprint != small_bert.fingerprint
    loaded.add_special_tokens(["<|user|>"])
    assert loaded.fingerprint != small_bpe.fingerprint
    loaded.save(saved)
    assert load_tokenizer(saved).fingerprint == loaded.fingerprint


def test_another_splitting_rule_is_kept(saved):
    from transformers import AutoTokenizer

    state = json.loads((saved / "tokenizer.json").read_text(encoding="utf-8"))
    state["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    state["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (saved / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    tokenizer = load_tokenizer(saved)
    assert len(tokenizer.encode("1234567")) == 7
    tokenizer.save(saved)
    assert AutoTokenizer.from_pretrained(saved).encode(SAMPLE) == tokenizer.encode(SAMPLE, special=True)


def test_tokens_kept_beside_the_vocabulary_files_are_added(saved, small_bpe):
    (saved / "tokenizer.json").unlink()
    size = small_bpe.vocab_size
    (saved / "added_tokens.json").write_text(json.dumps({"<|b|>": size + 1, "<|a|>": size}))
    assert load_tokenizer(saved).encode("<|b|><|a|>", special=True) == [size + 1, size]
    (saved / "added_tokens.json").write_text(json.dumps({"<|b|>": size + 1}))
    with pytest.raises(DataError, match=f"cannot have id {size + 1}"):
        load_tokenizer(saved)


def test_a_folder_without_tokenizer_lists_what_is_there_and_what_to_place(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(MissingError) as error:
        load_tokenizer(tmp_path)
    assert "model.safetensors" in str(error.value)
    assert "tokenizer.json; vocab.json and merges.txt" in str(error.value)
    with pytest.raises(MissingError, match="There is no tokenizer at"):
        load_tokenizer(tmp_path / "nothing" / "here")


@pytest.mark.parametrize(("kept", "lacking"), [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")])
def test_half_a_pair_names_the_other_half(saved, kept, lacking):
    (saved / "tokenizer.json").unlink()
    (saved / lacking).unlink()
    for path in (saved, saved / kept):
        with pytest.raises(MissingError, match=lacking):
            load_tokenizer(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"model": ', "not valid JSON"),
        ("tokenizer.json", b"", "not valid JSON"),
        ("tokenizer.json", b"[" * 100_000, "not valid JSON|nested"),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8"),
        ("tokenizer.json", b"{}", "no tokenizer of the `tokenizers` library"),
        ("tokenizer.json", b'{"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}}', "another kind"),
        ("tokenizer_config.json", b"[]", "no object"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', "added tokens cannot be read"),
        ("added_tokens.json", b"[]", "added tokens cannot be read"),
        ("added_tokens.json", b'{"<|a|>": "first"}', "added tokens cannot be read"),
        ("vocab.json", b"[1, 2]", "no vocabulary"),
        ("vocab.json", b'{"a": "b"}', "no usable id"),
        ("vocab.json", b'{"a": true}', "no usable id"),
        ("vocab.json", b'{"a": 0, "b": 0}', "share one id"),
        ("merges.txt", b"#version: 0.2\na b\nabc\n", r"merges\.txt:3"),
        ("merges.txt", b"#version: 0.2\na qqqq\n", r"lacks: 'qqqq'"),
        ("x.tiktoken", b"IQ== 0\nIg== one\n", r"x\.tiktoken:2"),
        ("x.tiktoken", b"IQ== 0\n", "255 of the 256 single bytes"),
    ],
)
def test_damage_is_named(saved, name, content, message):
    if name != "tokenizer.json":
        (saved / "tokenizer.json").unlink()
    (saved / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(saved / name if name.endswith("tiktoken") else saved)


def test_a_vocabulary_without_every_byte_is_told(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.warns(UserWarning, match="lacks 254 of the 256 bytes"):
        tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.encode("abc"), tokenizer.end_id, tokenizer.vocab_size) == ([2], None, 3)


def test_a_rank_that_no_merge_explains_is_named(small_bpe, tmp_path):
    path = tmp_path / "own.tiktoken"
    write_tiktoken(small_bpe, path)
    path.write_text(path.read_text() + f"{base64.b64encode(b'zqzqzq').decode()} 9999\n")
    with pytest.raises(DataError, match="not made of two earlier tokens"):
        load_tokenizer(path)


def test_a_folder_that_cannot_be_written_is_named(small_bpe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be saved"):
        small_bpe.save(tmp_path / "file")
