"""Trained networks of others, with their stored activations: a sorter of letters, and OpenAI's gpt2."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gptwo.model.pretrained import load
from gptwo.tokenizer import load_tokenizer

GPT2 = os.environ.get("GPTWO_GPT2_DIR")
needs_gpt2 = pytest.mark.skipif(
    not GPT2, reason="set GPTWO_GPT2_DIR to a folder with the weights of OpenAI's gpt2 (124M)"
)


def attention_weights(model, ids: torch.Tensor) -> torch.Tensor:
    """(layers, B, H, T, T) attention of every head, from the projections of a forward pass."""
    projected: list[torch.Tensor] = []
    hooks = [
        block.attn.c_attn.register_forward_hook(lambda module, given, out: projected.append(out))
        for block in model.transformer.h
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    B, T = ids.shape
    heads, future = model.config.n_head, torch.ones(T, T, dtype=torch.bool).triu(1)
    layers = []
    for out in projected:
        query, key, _ = (part.view(B, T, heads, -1).transpose(1, 2) for part in out.chunk(3, dim=-1))
        scores = query @ key.transpose(-1, -2) / model.config.head_dim**0.5
        layers.append(scores.masked_fill(future, float("-inf")).softmax(-1))
    return torch.stack(layers)


# ---- the sorter: six letters A-C in, then the same six in order ----


@pytest.fixture(scope="module")
def sorter(data_set):
    return load(data_set("gpt_nano_sort")).model


@pytest.fixture(scope="module")
def partials(data_set):
    """Activations that minGPT stored for three inputs, by name."""
    file = data_set("fixtures_llmviz_nanogpt_sort") / "gpt-nano-sort-t0-partials.json"
    stored = json.loads(file.read_text())
    return {
        name: torch.from_numpy(np.frombuffer(base64.b64decode(entry["data"]), "<f4").reshape(entry["shape"]).copy())
        for name, entry in stored.items()
        if name != "config"
    }


def test_the_sorter_sorts_all_729_inputs(sorter):
    letters = torch.tensor(list(itertools.product(range(3), repeat=6)))
    ids = letters
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, sorter(ids)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids[:, 6:], letters.sort(dim=1).values)


def test_every_stored_activation_of_the_sorter_is_reproduced(sorter, partials):
    ids = partials["idx"].long()
    assert not sorter.config.tie_word_embeddings
    found: dict[str, torch.Tensor] = {}

    def keep(name, of_input=False):
        def hook(module, given, out):
            found[name] = given[0] if of_input else out

        return hook

    network = sorter.transformer
    first = network.h[0]
    for module, name, of_input in [
        (network.wte, "tok_emb", False),
        (network.wpe, "pos_emb", False),
        (network.drop, "x", False),
        (first.ln_1, "ln1", False),
        (first.attn.c_attn, "qkv", False),
        (first.attn.c_proj, "y", True),
        (first.attn.c_proj, "yProj", False),
        (first.ln_2, "attnResid", True),
        (first.ln_2, "ln2", False),
        (first.mlp.c_fc, "fc", False),
        (first.mlp.c_proj, "gelu", True),
        (first.mlp.c_proj, "mlp", False),
        (first, "mlpResid", False),
        (network.h[0], "block0", False),
        (network.h[1], "block1", False),
        (network.h[2], "block2", False),
        (network.ln_f, "ln_f", False),
        (sorter.lm_head, "lm_head", False),
    ]:
        module.register_forward_hook(keep(name, of_input))
    with torch.no_grad():
        sorter(ids)
    heads = [part.view(3, 11, 3, 16).transpose(1, 2) for part in found["qkv"].chunk(3, dim=-1)]
    found |= dict(zip("qkv", heads, strict=True))
    future = torch.ones(11, 11, dtype=torch.bool).triu(1)
    found["att"] = (found["q"] @ found["k"].transpose(-1, -2) / 4).masked_fill(future, float("-inf"))
    found["attSm"] = attention_weights(sorter, ids)[0]
    found["probs"] = found["lm_head"].softmax(-1)

    assert found.keys() == partials.keys() - {"idx"}
    for name, expected in partials.items():
        if name != "idx":
            actual = found[name].reshape(expected.shape)
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


# ---- OpenAI's gpt2 (124M): logits and attention for five prompts ----


@pytest.fixture(scope="module")
def prompts(data_set):
    file = data_set("fixtures_transformer_explainer") / "gpt2_small_reference_logits.json.gz"
    return json.loads(gzip.decompress(file.read_bytes()))


def test_the_prompts_have_the_ids_that_gpt2_saw(prompts, data_set):
    tokenizer = load_tokenizer(data_set("gpt2_bpe"))
    for prompt in prompts:
        assert tokenizer.encode(prompt["prompt"]) == prompt["tokenIds"]
        assert [tokenizer.decode([token_id]) for token_id in prompt["tokenIds"]] == prompt["tokens"]
        assert [tokenizer.decode([token_id]) for token_id, _, _ in prompt["top50"]] == [
            token for _, token, _ in prompt["top50"]
        ]


@needs_gpt2
def test_gpt2_gives_its_true_logits(prompts):
    model = load(Path(GPT2)).model
    for prompt in prompts:
        with torch.no_grad():
            logits = model(torch.tensor([prompt["tokenIds"]]))[0, -1]
        torch.testing.assert_close(logits, torch.tensor(prompt["last_logits"]), atol=1e-2, rtol=1e-4)
        assert logits.topk(10).indices.tolist() == [token_id for token_id, _, _ in prompt["top50"][:10]]


@needs_gpt2
def test_gpt2_attends_as_it_truly_does(prompts, data_set):
    stored = np.load(data_set("fixtures_transformer_explainer") / "gpt2_small_reference_attention.npz")
    model = load(Path(GPT2)).model
    for number, prompt in enumerate(prompts):
        expected = torch.from_numpy(stored[f"ex{number}_softmax"])  # (layers, H, T, T)
        actual = attention_weights(model, torch.tensor([prompt["tokenIds"]]))[:, 0]
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)
