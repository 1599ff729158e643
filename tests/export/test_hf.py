"""The Hugging Face layout: transformers and CTranslate2 read it, and it keeps what vLLM and llama.cpp look for."""

from __future__ import annotations

import json

import pytest
import torch

from gptwo.export import hf
from gptwo.export.check import scores

transformers = pytest.importorskip("transformers")

AUTO = {
    "language": "AutoModelForCausalLM",
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
}


@pytest.mark.parametrize("head", list(AUTO))
@pytest.mark.parametrize("precision", list(hf.DTYPES))
def test_transformers_gives_our_scores(make, tmp_path, head, precision):
    made = make(head)
    folder = hf.write(made, tmp_path / "out", precision)
    found = hf.check(made, folder, precision)
    assert found.holds, found
    theirs = getattr(transformers, AUTO[head]).from_pretrained(folder, dtype=torch.float32).eval()
    ids = made.tokenizer.encode("the cat sat on")
    with torch.inference_mode():
        logits = theirs(torch.tensor([ids])).logits[0]
    if precision == "fp32":
        torch.testing.assert_close(logits, scores(made.model, ids), atol=1e-4, rtol=1e-4)
    if head != "language":
        assert list(theirs.config.id2label.values()) == ["bad", "good", "neither"]


def test_the_folder_keeps_what_others_look_for(make, tmp_path):
    folder = hf.write(make(), tmp_path / "out", "bf16")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"]  # vLLM chooses by it
    assert config["n_ctx"] == config["n_positions"] == 64  # llama.cpp's converter reads it
    assert config["tie_word_embeddings"] is True
    assert config["torch_dtype"] == "bfloat16"
    assert {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json"} <= {
        file.name for file in folder.iterdir()
    }
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as content:
        names = set(content.keys())
    assert "lm_head.weight" not in names, "tied weights are there once"
    assert "transformer.h.0.attn.c_attn.weight" in names


def test_the_check_finds_weights_that_the_precision_cannot_hold(make, tmp_path):
    made = make()
    with torch.no_grad():
        made.model.transformer.h[0].mlp.c_fc.weight[0, 0] = 1e6
    found = hf.check(made, hf.write(made, tmp_path / "out", "fp16"), "fp16")
    assert not found.holds
    assert "float16" in found.wrong[0]


def test_the_check_finds_another_tokenizer(make, tmp_path):
    from gptwo.tokenizer import train_bpe

    made = make()
    folder = hf.write(made, tmp_path / "out", "fp32")
    train_bpe(iter(["quite another text"] * 9), made.config.vocab_size).save(folder)
    assert "other tokens" in hf.check(made, folder, "fp32").wrong[0]


@pytest.mark.parametrize("tied", [True, False])
def test_ctranslate2_converts_and_writes_our_greedy_text(make, tmp_path, tied):
    ctranslate2 = pytest.importorskip("ctranslate2")
    made = make(tie_word_embeddings=tied)
    folder = hf.write(made, tmp_path / "out", "fp32")
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    converter.convert(str(tmp_path / "ct2"))
    generator = ctranslate2.Generator(str(tmp_path / "ct2"), device="cpu", inter_threads=1, intra_threads=1)
    ids = made.tokenizer.encode("the cat sat on")
    tokens = [made.tokenizer.id_to_token(i) for i in ids]
    ours = list(ids)
    for _ in range(16):
        ours.append(int(scores(made.model, ours)[-1].argmax()))
    found = generator.generate_batch(
        [tokens], max_length=16, beam_size=1, include_prompt_in_result=False, end_token=[], static_prompt=None
    )
    assert found[0].sequences_ids[0] == ours[len(ids) :]
