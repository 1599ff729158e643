"""Logits, losses and gradients equal those of transformers, and folders travel both ways."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, load, save

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

PLAIN = {"vocab_size": 31, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
SIZES = {
    "plain": PLAIN,
    "one of everything": {"vocab_size": 5, "n_positions": 3, "n_embd": 1, "n_layer": 1, "n_head": 1},
    "odd sizes": {"vocab_size": 29, "n_positions": 13, "n_embd": 21, "n_layer": 3, "n_head": 7},
    "wide inside": PLAIN | {"n_inner": 37},
    "scaled by layer": PLAIN | {"n_layer": 3, "scale_attn_by_inverse_layer_idx": True},
    "untied": PLAIN | {"tie_word_embeddings": False},
    "other epsilon": PLAIN | {"layer_norm_epsilon": 1e-3},
}
CLASSES = {
    "language": "GPT2LMHeadModel",
    "sequence": "GPT2ForSequenceClassification",
    "token": "GPT2ForTokenClassification",
}


def foreign(head: str, sizes: dict, labels: int = 3):
    """A transformers model whose every parameter is random, biases and layer norms too."""
    config = transformers.GPT2Config(**sizes, num_labels=labels, bos_token_id=None, eos_token_id=None)
    config.pad_token_id = None if head == "language" else sizes["vocab_size"] - 1
    model = getattr(transformers, CLASSES[head])(config).eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return model


def some_ids(sizes: dict, rows: int = 3) -> torch.Tensor:
    """Random ids, without the last of the vocabulary."""
    shape = (rows, sizes["n_positions"])
    return torch.randint(0, sizes["vocab_size"] - 1, shape, generator=torch.Generator().manual_seed(2))


def gradients(model, logits, ids) -> dict[str, torch.Tensor]:
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def is_transposed(name: str) -> bool:
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


@pytest.mark.parametrize("size", SIZES)
def test_logits_and_gradients_equal_those_of_transformers(tmp_path, size):
    theirs, ids = foreign("language", SIZES[size]), some_ids(SIZES[size])
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path).model
    our_logits, their_logits = ours(ids), theirs(ids).logits
    torch.testing.assert_close(our_logits, their_logits, atol=1e-4, rtol=1e-4)
    our_gradients = gradients(ours, our_logits, ids)
    their_gradients = gradients(theirs, their_logits, ids)
    assert our_gradients.keys() == their_gradients.keys()
    for name, expected in their_gradients.items():
        expected = expected.t() if is_transposed(name) else expected
        torch.testing.assert_close(
            our_gradients[name], expected, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("size", SIZES)
def test_what_we_save_transformers_loads_whole(tmp_path, size):
    ours = create(GPT2Config(**SIZES[size]), seed=1)
    save(ours, tmp_path / "saved")
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = some_ids(SIZES[size])
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, ours.model(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shard", [None, "3KB"])
def test_a_round_trip_through_transformers_keeps_every_bit(tmp_path, shard):
    ours = create(GPT2Config(**PLAIN), seed=1)
    save(ours, tmp_path / "ours", max_shard_size=shard)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard or "1GB")
    again = load(tmp_path / "theirs")
    assert again.config == ours.config
    state = ours.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())
    for name in ("ours", "theirs"):
        assert (len(list((tmp_path / name).glob("*.safetensors"))) > 1) == (shard is not None)


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_classifiers_travel_both_ways(tmp_path, head):
    theirs, ids = foreign(head, PLAIN), some_ids(PLAIN)
    theirs.config.id2label = {0: "坏", 1: "好", 2: "O"}
    theirs.config.label2id = {"坏": 0, "好": 1, "O": 2}
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert (ours.model.head_kind, ours.labels, ours.fresh) == (head, ["坏", "好", "O"], [])
    with torch.no_grad():
        scores = ours.model(ids)
        expected = theirs(ids).logits
        torch.testing.assert_close(scores[:, -1] if head == "sequence" else scores, expected, atol=1e-4, rtol=1e-4)

    save(ours, tmp_path / "ours")
    again, report = getattr(transformers, CLASSES[head]).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.id2label == {0: "坏", 1: "好", 2: "O"}
    again.config.pad_token_id = PLAIN["vocab_size"] - 1
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, expected)


def test_a_padded_text_gets_the_score_that_transformers_gives_it(tmp_path):
    """Their pad id on the right, their way; ours is -1 in the same places."""
    theirs, ids = foreign("sequence", PLAIN, labels=2), some_ids(PLAIN)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path).model
    lengths = torch.tensor([5, 16, 9])
    padding = torch.arange(16) >= lengths[:, None]
    with torch.no_grad():
        expected = theirs(ids.masked_fill(padding, theirs.config.pad_token_id), attention_mask=(~padding).long()).logits
        scores = ours(ids.masked_fill(padding, -1))[torch.arange(3), lengths - 1]
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_loaded_in_that_precision(tmp_path, dtype):
    ours = create(GPT2Config(**PLAIN), seed=1)
    save(ours, tmp_path / "saved", dtype=dtype)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved", dtype="auto")
    assert theirs.dtype == dtype
    assert torch.equal(theirs.transformer.wte.weight, ours.model.transformer.wte.weight.to(dtype))


def test_the_auto_classes_know_what_we_save(tmp_path):
    save(create(GPT2Config(**PLAIN), head="token", labels=["O", "B-LOC"]), tmp_path / "saved")
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "saved")
    assert type(model).__name__ == "GPT2ForTokenClassification"
    assert model.config.label2id == {"O": 0, "B-LOC": 1}


def test_a_bare_network_of_transformers_is_a_language_model(tmp_path):
    theirs = foreign("language", PLAIN)
    theirs.transformer.save_pretrained(tmp_path)
    ours, ids = load(tmp_path), some_ids(PLAIN)
    assert ours.model.head_kind == "language"
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_generation_in_transformers_stops_at_our_end_id(tmp_path, data_set):
    from gptwo.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(data_set("gpt2_bpe"))
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    save(create(config, tokenizer), tmp_path / "saved")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    assert theirs.generation_config.eos_token_id == tokenizer.end_id == 50256
    assert theirs.config.pad_token_id == 50256
    again = load(tmp_path / "saved").tokenizer
    assert again.fingerprint == tokenizer.fingerprint
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")("Hello 世界").input_ids == again.encode(
        "Hello 世界"
    )
