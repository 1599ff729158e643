"""GGUF: llama.cpp reads our weights and our tokenizer, and writes the text that we write."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers

from gptwo.errors import GateError, UsageError
from gptwo.export import gguf
from gptwo.export.check import scores
from gptwo.export.gguf_check import LlamaCpp, check
from gptwo.model.pretrained import create
from gptwo.tokenizer.bert import BertTokenizer
from gptwo.tokenizer.bert import build_backend as bert_backend
from gptwo.tokenizer.byte_level import ByteLevelTokenizer

pytest.importorskip("gguf")

PRECISIONS = list(gguf.TYPES)
SHAPES = [
    {},
    {"n_layer": 3, "n_inner": 96},
    {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    {"tie_word_embeddings": False},
    {"rows": 7},
]
HARD = [
    "the cat sat on the mat",
    "  two spaces,\n\n\ttabs and newlines \n ",
    "It's 1984, isn't it? I'LL say 3.14159!!!",
    "今天的天气很好，我们去公园。",
    "naïve café Ünïcödé 🙂👩‍👩‍👧 \u200b\u00a0x",
    "русский 한국어 العربية हिन्दी",
    "a" * 30,
    "\x00\x07 ~ <|endoftext",
]


@pytest.fixture
def write(tmp_path):
    """`write(pretrained, precision)`: its file."""

    def write(pretrained, precision="fp32"):
        file = tmp_path / f"{precision}.gguf"
        gguf.write(pretrained, file, precision, "tiny")
        return file

    return write


def test_the_file_says_what_llama_cpp_needs(make, write):
    made = make(rows=3, n_inner=96)
    found = gguf.about(write(made, "bf16"))
    sizes = {"context_length": 64, "embedding_length": 32, "feed_forward_length": 96, "block_count": 2}
    sizes["attention.head_count"] = 2
    assert found["general.architecture"] == "gpt2"
    assert {key: found[f"gpt2.{key}"] for key in sizes} == sizes
    assert found["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert found["tokenizer.ggml.eos_token_id"] == made.tokenizer.end_id
    assert found["tokenizer.ggml.add_bos_token"] is False
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == made.config.vocab_size
    assert tokens[: made.tokenizer.vocab_size] == [
        made.tokenizer.id_to_token(i) for i in range(made.tokenizer.vocab_size)
    ]
    assert kinds[made.tokenizer.end_id] == gguf.CONTROL
    assert kinds[-3:] == [gguf.UNUSED] * 3
    assert set(kinds[: made.tokenizer.end_id]) == {gguf.NORMAL}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_read_back_is_what_was_written_up_to_rounding(make, write, precision):
    made = make()
    back = gguf.read_back(made, write(made, precision), precision)
    ids = [5, 9, 200, 31]
    apart = (scores(back.model, ids) - scores(made.model, ids)).abs().max() / scores(made.model, ids).abs().max()
    assert apart <= {"fp32": 0.0, "fp16": 2e-3, "bf16": 2e-2, "q8_0": 3e-2, "q4_0": 0.6}[precision]


def test_sizes_of_files_follow_the_precision(make, write):
    made = make(n_positions=4, n_embd=128)
    sizes = [write(made, precision).stat().st_size for precision in ("fp32", "bf16", "q8_0")]
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.5 * sizes[2]


def test_rows_that_q8_0_cannot_hold_are_in_float16(make, write, tmp_path):
    made = make(n_embd=24)
    notes = gguf.write(made, tmp_path / "tiny.gguf", "q8_0", "tiny")
    assert "9 matrices are in float16" not in notes  # c_proj of the MLP has rows of 96
    assert "float16" in notes[0]
    assert gguf.read_back(made, tmp_path / "tiny.gguf", "q8_0").model is not None


def test_numbers_too_large_for_float16_are_found(make, write):
    made = make()
    with torch.no_grad():
        made.model.transformer.h[0].mlp.c_fc.weight[0, 0] = 1e6
    with pytest.raises(GateError, match="ffn_up"):
        gguf.read_back(made, write(made, "fp16"), "fp16")
    gguf.read_back(made, write(made, "bf16"), "bf16")


def test_weights_that_are_no_numbers_are_found(make, write):
    made = make()
    with torch.no_grad():
        made.model.transformer.ln_f.weight[0] = float("nan")
    with pytest.raises(GateError, match="output_norm"):
        gguf.read_back(made, write(made), "fp32")


# --- in llama.cpp


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_llama_cpp_writes_our_greedy_text(make, write, sizes):
    pytest.importorskip("xllamacpp")
    made = make(**sizes)
    file = write(made)
    found = check(made, file, "fp32")
    assert found.holds, found
    theirs = LlamaCpp(file, 64)
    ids = made.tokenizer.encode("the cat sat")
    ours = list(ids)
    for _ in range(8):
        ours.append(int(scores(made.model, ours)[-1].argmax()))
    assert theirs.greedy(ids, 8) == ours[len(ids) :]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_check_passes_in_every_precision(make, write, precision):
    pytest.importorskip("xllamacpp")
    made = make()
    found = check(made, write(made, precision), precision)
    assert found.holds, found
    assert bool(found.notes) == (precision != "fp32")


def test_llama_cpp_splits_texts_as_we_do(make, write):
    pytest.importorskip("xllamacpp")
    made = make()
    theirs = LlamaCpp(write(made), 64)
    for text in HARD:
        assert theirs.tokens(text) == made.tokenizer.encode(text), text


def test_the_check_finds_a_weight_that_differs(make, write, monkeypatch):
    pytest.importorskip("xllamacpp")
    made, changed = make(), make()
    with torch.no_grad():
        changed.model.transformer.h[1].mlp.c_proj.weight[3] += 0.5
    file = write(changed)
    with pytest.raises(GateError, match="ffn_down"):
        check(made, file, "fp32")
    monkeypatch.setattr("gptwo.export.gguf_check.read_back", lambda *_: made)
    assert not check(made, file, "fp32").holds


def test_llama_cpp_python_gives_our_scores(make, write):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python, of the extra peers, is not installed")
    made = make()
    model = llama_cpp.Llama(str(write(made)), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    for text in HARD[:5]:
        ids = made.tokenizer.encode(text)
        assert model.tokenize(text.encode(), add_bos=False, special=False) == ids
        model.reset()
        model.eval(ids)
        theirs = torch.from_numpy(model.scores[: len(ids)])
        torch.testing.assert_close(theirs, scores(made.model, ids), atol=0.05, rtol=0.02)


# --- what cannot be


def refused(pretrained) -> str:
    with pytest.raises(UsageError) as caught:
        gguf.refuse(pretrained)
    assert caught.value.why
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_label_head_is_refused(make, head):
    assert f"{head} head" in refused(make(head))


def test_a_model_without_a_tokenizer_is_refused(make):
    assert "without a tokenizer" in refused(create(make().config))


def test_a_bert_vocabulary_is_refused(make):
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "猫", "狗"])}
    tokenizer = BertTokenizer(bert_backend(vocab), end_token="[SEP]", start_token="[CLS]")
    assert "BERT vocabulary" in refused(create(make().config, tokenizer))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "a space before every text"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)}, "a rule of its own"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(False)])}, "a rule of its own"),
        ({"normalizer": normalizers.NFC()}, "changes texts"),
    ],
)
def test_rules_that_llama_cpp_does_not_have_are_refused(make, change, words):
    backend = Backend.from_str(make().tokenizer._backend.to_str())
    assert isinstance(backend.model, models.BPE)
    for name, value in change.items():
        setattr(backend, name, value)
    tokenizer = ByteLevelTokenizer(backend, end_token="<|endoftext|>")
    assert words in refused(create(make().config, tokenizer))
