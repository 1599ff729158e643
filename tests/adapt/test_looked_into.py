"""Adapter folders are explained and measured for harm like whole models: what is shown is of the adapter's network."""

from __future__ import annotations

import math

import pytest
import torch

from gptwo.adapt.merge import merged
from gptwo.adapt.prefix import prefix_of
from gptwo.adapt.store import load, save
from gptwo.cli.suites import subject_of
from gptwo.evaluate.suites import run_suite
from gptwo.evaluate.suites.base import SuiteOptions
from gptwo.evaluate.suites.card import write_section
from gptwo.explain import explain

TEXT = "the cat sat on"
KINDS = ("lora", "adalora", "houlsby", "parallel", "prefix", "prompt", "bitfit", "ia3")
LABELS = {"language": None, "sequence": ["bad", "good"]}


@pytest.fixture
def saved(adapted, tmp_path):
    """`saved("lora", head)`: the folder of an adapter whose weights were moved."""

    def make(kind, head="language"):
        return save(adapted(kind, head=head, labels=LABELS[head]), tmp_path / f"{kind}-{head}")

    return make


def shares_of(folder, text=TEXT) -> torch.Tensor:
    """What a saved model says of a text, or would write next."""
    made = load(folder)
    with torch.inference_mode():
        return made.model(torch.tensor([made.tokenizer.encode(text)]))[0, -1].float().softmax(-1)


@pytest.mark.parametrize("head", LABELS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_explained(saved, kind, head):
    folder = saved(kind, head)
    found = explain(folder, TEXT, steps=16)
    shares = shares_of(folder)
    assert found.target["probability"] == pytest.approx(float(shares.max()), rel=1e-4)
    assert found.target["id"] == int(shares.argmax())
    assert found.lens[-1]["target"] == pytest.approx(found.target["probability"], rel=1e-3)
    values = [*found.integrated_gradients, *found.leave_one_out, *(x for row in found.heads for x in row)]
    assert all(map(math.isfinite, values))
    assert any(abs(value) > 1e-6 for row in found.heads for value in row)
    rows = [sum(line) for layer in found.attention for one in layer for line in one]
    if kind in ("prefix", "prompt"):
        assert all(0 <= row < 1 for row in rows)
        assert any("5 virtual tokens" in note and "not drawn" in note for note in found.notes)
    else:
        assert rows == pytest.approx([1.0] * len(rows), abs=1e-3)
    assert len(found.layers) == len(found.heads) == 2
    assert "<script" not in found.html()


@pytest.mark.parametrize("kind", ["lora", "bitfit"])
def test_an_adapter_and_its_merged_model_are_explained_alike(saved, kind):
    folder = saved(kind)
    one, other = explain(folder, TEXT, steps=8), explain(merged(load(folder)), TEXT, steps=8)
    assert one.leave_one_out == pytest.approx(other.leave_one_out, abs=1e-3)
    assert one.heads[0] == pytest.approx(other.heads[0], abs=1e-3)
    assert one.integrated_gradients == pytest.approx(other.integrated_gradients, abs=1e-3)


def test_a_prompt_is_explained_as_the_prefix_it_becomes(saved):
    folder = saved("prompt")
    prompt, prefix = load(folder), load(folder)
    network = prefix.model.transformer
    with torch.no_grad():
        network.prefix = prefix_of(*network.prefix.keys_and_values(network))
    one, other = explain(prompt, TEXT, steps=8), explain(prefix, TEXT, steps=8)
    assert one.heads == other.heads
    assert one.attention == other.attention
    assert one.lens == other.lens
    assert type(prompt.model.transformer.prefix).__name__ == "Prompt"  # put back


def test_the_attention_to_virtual_tokens_is_what_the_rows_lack(saved):
    made = load(saved("prefix"))
    with torch.no_grad():
        made.model.transformer.prefix.prompt_embeddings.zero_()  # keys of zero have the weight of an average key
    found = explain(made, "the", steps=2)
    (share,) = found.attention[0][0][0]
    assert 0 < share < 1


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_an_adapter_is_measured_for_harm_and_its_card_says_so(saved, base_folder, kind):
    folder = saved(kind)
    options = SuiteOptions(resamples=20, samples=1, languages=("en",))
    report = run_suite("bias", subject_of(str(folder), "cpu", "fp32"), [], options)
    plain = run_suite("bias", subject_of(str(base_folder), "cpu", "fp32"), [], options)
    values, base = ({key: found.value for key, found in one.tuned.metrics.items()} for one in (report, plain))
    assert set(values) == set(base)
    assert values["bias_effect/largest"] != base["bias_effect/largest"]
    write_section(folder, report, "Bias, toxicity, memorisation")
    assert "Bias, toxicity, memorisation" in (folder / "README.md").read_text(encoding="utf-8")
    assert load(folder).adapter is not None
