"""A model with its tokenizer and what is known about it: made, loaded, tuned to another head, saved whole."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from gptwo.errors import DataError, GptwoError, MissingError, UsageError
from gptwo.model import folder as folders
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained, create, load, resize_embeddings, save
from gptwo.tokenizer import train_bpe

CONFIG = GPT2Config(vocab_size=300, n_positions=8, n_embd=8, n_layer=1, n_head=2)
UNTIED = GPT2Config(vocab_size=300, n_positions=8, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(iter(["the cat sat on the mat, 猫坐在垫子上 " * 20]), vocab_size=270)


@pytest.fixture
def language(tokenizer):
    return create(CONFIG, tokenizer, seed=1)


def same_weights(one: Pretrained, other: Pretrained) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# ---- making ----


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, other = create(CONFIG, seed=4), create(CONFIG, seed=4)
    assert same_weights(one, other)
    assert not same_weights(one, create(CONFIG, seed=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_model_has_gpt2s_initialisation():
    config = GPT2Config(vocab_size=500, n_positions=64, n_embd=64, n_layer=8, n_head=2)
    model = create(config).model
    block = model.transformer.h[0]
    assert model.transformer.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.mlp.c_fc.bias.abs().max() == 0
    assert torch.equal(block.ln_1.weight, torch.ones(64))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tokenizer):
    with pytest.raises(UsageError, match=f"vocab_size = {tokenizer.vocab_size}"):
        create(GPT2Config(vocab_size=100, n_positions=8, n_embd=8, n_layer=1, n_head=2), tokenizer)


# ---- saving and loading ----


@pytest.mark.parametrize("config", [CONFIG, UNTIED])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, tokenizer, config):
    made = create(config, tokenizer, seed=1)
    made.info = {"task": "language", "recipe": {"steps": 3}, "note": "中文"}
    folder = save(made, tmp_path / "deep" / "model")
    again = load(folder)
    assert same_weights(made, again)
    assert (again.config, again.folder, again.info, again.fresh) == (config, folder, made.info, [])
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    assert not again.model.training
    assert (again.model.lm_head.weight is again.model.transformer.wte.weight) == config.tie_word_embeddings


def test_a_model_folder_has_everything_that_others_expect(tmp_path, language):
    language.info["task"] = "language"
    folder = save(language, tmp_path / "model", dtype=torch.bfloat16)
    names = {file.name for file in folder.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "gptwo.json",
        "model.safetensors",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    }
    end_id = language.tokenizer.end_id
    config = json.loads((folder / "config.json").read_text())
    assert [config[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [end_id] * 3
    assert config["torch_dtype"] == "bfloat16"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == end_id
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gptwo\n")
    assert '| task | "language" |' in card


def test_a_card_of_ones_own_is_written_as_it_is(tmp_path, language):
    folder = save(language, tmp_path / "model", card="# 我的模型\n")
    assert (folder / "README.md").read_text(encoding="utf-8") == "# 我的模型\n"


def test_half_precision_is_the_callers_choice(tmp_path, language):
    folder = save(language, tmp_path / "model", dtype=torch.bfloat16)
    assert load(folder).model.lm_head.weight.dtype == torch.float32
    half = load(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    assert torch.equal(half.model.lm_head.weight, language.model.lm_head.weight.to(torch.bfloat16))


def test_a_folder_without_a_model_says_what_is_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingError, match=r"there is notes\.txt"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(MissingError, match="it is an adapter"):
        load(tmp_path)


# ---- heads ----


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_fresh_head_is_drawn_from_the_seed_on_an_unchanged_network(tmp_path, language, head):
    folder = save(language, tmp_path / "model")
    before = torch.get_rng_state()
    one, other = (load(folder, head=head, labels=["坏", "好"], seed=seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.fresh == [name for name, _ in one.model.named_parameters() if not name.startswith("transformer.")]
    assert one.labels == ["坏", "好"]
    assert same_weights(one, load(folder, head=head, labels=["坏", "好"], seed=torch.Generator().manual_seed(1)))
    assert not torch.equal(one.model.projection.weight, other.model.projection.weight)
    assert 0 < one.model.projection.weight.std() < 0.06
    assert torch.equal(one.model.transformer.wte.weight, language.model.transformer.wte.weight)


def test_a_fresh_head_is_the_same_in_every_precision(tmp_path, language):
    folder = save(language, tmp_path / "model")
    full, half = (load(folder, head="sequence", labels=["a", "b"], dtype=t) for t in (torch.float32, torch.bfloat16))
    assert torch.equal(full.model.score.weight.to(torch.bfloat16), half.model.score.weight)


def test_a_saved_head_is_kept_with_its_labels_and_replaced_for_others(tmp_path, language):
    classifier = create(CONFIG, language.tokenizer, head="sequence", labels=["a", "b"], seed=3)
    classifier.info |= {"task": "classify", "calibration": {"temperature": 2.0}, "problem_type": "regression"}
    folder = save(classifier, tmp_path / "model")
    kept = load(folder)
    assert same_weights(kept, classifier)
    assert kept.info == classifier.info
    assert load(folder, head="sequence", labels=["a", "b"]).fresh == []
    other = load(folder, labels=["a", "b", "c"])
    assert other.fresh == ["score.weight"]
    assert other.model.score.weight.shape == (3, 8)
    assert "calibration" not in other.info
    assert other.info["task"] == "classify"


def test_a_classifier_can_become_a_language_model(tmp_path):
    folder = save(create(CONFIG, head="sequence", labels=["a"], seed=3), tmp_path / "tied")
    tied = load(folder, head="language")
    assert tied.fresh == []
    assert "labels" not in tied.info
    folder = save(create(UNTIED, head="sequence", labels=["a"], seed=3), tmp_path / "untied")
    assert load(folder, head="language").fresh == ["lm_head.weight"]


def test_labels_must_be_given_where_they_are_needed_and_only_there(tmp_path, language):
    folder = save(language, tmp_path / "model")
    with pytest.raises(UsageError, match="needs the names of its labels"):
        load(folder, head="token")
    with pytest.raises(UsageError, match="has no labels"):
        load(folder, labels=["a"])
    with pytest.raises(UsageError, match="Did you mean"):
        load(folder, head="tokens", labels=["a"])


def test_labels_that_do_not_match_the_head_are_not_saved(tmp_path):
    classifier = create(CONFIG, head="sequence", labels=["a", "b"])
    classifier.info["labels"] = ["a"]
    with pytest.raises(UsageError, match="2 labels"):
        save(classifier, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_head_we_do_not_have_is_refused_but_its_network_can_be_used(tmp_path, language):
    folder = save(language, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2ForQuestionAnswering"]}))
    with pytest.raises(UsageError, match="GPT2ForQuestionAnswering"):
        load(folder)
    assert load(folder, head="token", labels=["start", "end"]).fresh == ["classifier.weight", "classifier.bias"]


# ---- more rows ----


@pytest.mark.parametrize("config", [CONFIG, UNTIED])
def test_new_rows_are_the_mean_of_the_old_ones(config):
    model = create(config, seed=2).model
    ids = torch.arange(8)[None]
    old = model.transformer.wte.weight.detach().clone()
    with torch.no_grad():
        before = model(ids)
    resize_embeddings(model, 303)
    with torch.no_grad():
        after = model(ids)
    assert model.config.vocab_size == model.transformer.config.vocab_size == 303
    assert torch.equal(model.transformer.wte.weight[:300], old)
    torch.testing.assert_close(model.transformer.wte.weight[300:], old.mean(0).expand(3, -1))
    torch.testing.assert_close(after[..., :300], before)
    torch.testing.assert_close(after[..., 300:], before.mean(-1, keepdim=True).expand(-1, -1, 3))
    assert (model.lm_head.weight is model.transformer.wte.weight) == config.tie_word_embeddings


def test_rows_cannot_be_taken_away():
    model = create(CONFIG).model
    resize_embeddings(model, 300)
    with pytest.raises(UsageError, match="cannot shrink"):
        resize_embeddings(model, 299)


def test_added_tokens_find_room_or_make_it(tmp_path):
    own = train_bpe(iter(["a b c " * 50]), vocab_size=258)
    config = GPT2Config(vocab_size=own.vocab_size, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = create(config, own)
    user, _ = model.add_special_tokens(["<|user|>", "<|assistant|>"])
    assert model.config is model.model.config
    assert model.config.vocab_size == own.vocab_size == config.vocab_size + 2
    again = load(save(model, tmp_path / "chat"))
    assert again.tokenizer.encode("<|user|>", special=True) == [user]
    assert same_weights(model, again)


def test_rows_kept_in_reserve_are_used_first(language):
    rows = language.config.vocab_size
    language.add_special_tokens(["<|user|>"])
    assert language.config.vocab_size == rows


# ---- whole or not at all ----


def test_a_foreign_folder_is_left_alone(tmp_path, language):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UsageError, match="left alone"):
        save(language, tmp_path / "photos")
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="A file stands"):
        save(language, tmp_path / "file")
    assert {entry.name for entry in tmp_path.iterdir()} == {"photos", "file"}


def test_an_empty_folder_is_filled(tmp_path, language):
    (tmp_path / "model").mkdir()
    assert same_weights(load(save(language, tmp_path / "model")), language)


@pytest.mark.parametrize("exchange", [True, False])
def test_our_own_folder_is_replaced_and_foreign_files_in_it_stay(tmp_path, language, monkeypatch, exchange):
    if not exchange:  # a file system that cannot exchange two folders
        monkeypatch.setattr(folders.ctypes, "CDLL", lambda *args, **options: object())
    folder = save(language, tmp_path / "model", max_shard_size="2KB")
    (folder / "report.json").write_text("{}")
    (folder / "onnx").mkdir()
    other = create(CONFIG, seed=9)
    save(other, folder)
    assert same_weights(load(folder), other)
    names = {entry.name for entry in folder.iterdir()}
    assert names >= {"report.json", "onnx", "model.safetensors"}
    assert not any("-of-" in name or "index" in name or "tokenizer" in name for name in names)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def no_space(*args, **options):
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_old_model(tmp_path, language, monkeypatch):
    folder = save(language, tmp_path / "model")
    monkeypatch.setattr("gptwo.model.pretrained.write_weights", no_space)
    with pytest.raises(GptwoError, match="No space left on device"):
        save(create(CONFIG, seed=9), folder)
    assert same_weights(load(folder), language)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_kill_at_any_moment_leaves_the_old_model_or_the_new_one(tmp_path, language):
    """The saving process is ended at its first, second, third … step on the file system."""
    new = create(CONFIG, seed=9)
    target = tmp_path / "model"
    seen, step, finished = set(), 0, False
    while not finished:
        save(language, target)
        step += 1
        finished = saved_until(step, new, target)
        found = load(target)
        assert same_weights(found, language) or same_weights(found, new)
        seen.add(same_weights(found, new))
    assert seen == {True, False}
    assert step > 15
    save(new, target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]  # what the killed ones left is gone


def saved_until(step: int, model: Pretrained, target: Path) -> bool:
    """Save in a child process that ends at its `step`-th change of the file system; whether it got through."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[1], str) and arguments[1] != "r"
            if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "ctypes.call_function"):
                left -= 1
                if left == 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            save(model, target)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 0


def test_what_a_killed_process_left_aside_is_put_back(tmp_path, language, monkeypatch):
    """Without an exchange of folders a kill between the two steps leaves the old model under another name."""
    folder = save(language, tmp_path / "model")
    folder.rename(tmp_path / f".model.saving-{folders.socket.gethostname()}-999999999-old")
    monkeypatch.setattr("gptwo.model.pretrained.write_weights", no_space)
    with pytest.raises(GptwoError):
        save(create(CONFIG, seed=9), folder)
    assert same_weights(load(folder), language)


def test_a_damaged_info_file_is_a_data_error(tmp_path, language):
    folder = save(language, tmp_path / "model")
    (folder / "gptwo.json").write_text("{")
    with pytest.raises(DataError, match=r"gptwo\.json"):
        load(folder)
