"""Merging: the plain model does the same, and is written only when that is shown."""

from __future__ import annotations

import json

import pytest
import torch

from gptwo.adapt import gate
from gptwo.adapt.gate import PROMPTS, compare, merge
from gptwo.adapt.merge import MERGEABLE, merged
from gptwo.adapt.store import load, save
from gptwo.errors import GateError, UsageError
from gptwo.model import pretrained as models
from tests.adapt.kinds import KINDS, MERGED

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("kind", MERGED)
@pytest.mark.parametrize("head", ["language", "sequence", "token"])
def test_merged_equals_unmerged(adapted, ids, tmp_path, kind, head):
    carrying = adapted(kind, head, None if head == "language" else ["a", "b"])
    carrying.info["labels"] = [] if head == "language" else ["a", "b"]
    wanted = carrying.model.eval()(ids)
    copy = merged(carrying)
    assert torch.equal(carrying.model(ids), wanted), "the adapter stays as it was"
    assert copy.adapter is None
    torch.testing.assert_close(copy.model(ids), wanted, **CLOSE)
    models.save(copy, tmp_path / "plain")
    torch.testing.assert_close(models.load(tmp_path / "plain").model(ids), wanted, **CLOSE)


def test_every_kind_is_merged_or_says_that_it_cannot_be(adapted):
    for kind in KINDS:
        carrying = adapted(kind)
        if carrying.adapter.config.name in MERGEABLE:
            merged(carrying)
        else:
            with pytest.raises(UsageError, match="cannot be merged"):
                merged(carrying)


def test_a_plain_model_has_nothing_to_merge(base, base_folder, tmp_path):
    with pytest.raises(UsageError, match="no adapter to merge"):
        merged(base)
    with pytest.raises(UsageError, match="nothing to merge"):
        merge(base_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_gate_lets_through_what_is_equal(adapted, ids, tmp_path):
    carrying = adapted("lora")
    save(carrying, tmp_path / "adapter")
    parity = merge(tmp_path / "adapter", tmp_path / "plain")
    assert parity.holds
    assert (parity.prompts, parity.same_text, parity.same_tokenizer) == (len(PROMPTS), len(PROMPTS), True)
    plain = load(tmp_path / "plain")
    assert plain.adapter is None
    torch.testing.assert_close(plain.model(ids), carrying.model.eval()(ids), **CLOSE)
    assert (tmp_path / "plain" / "tokenizer.json").is_file()
    assert not list(tmp_path.glob(".*")), "nothing is left of the writing"


def spoil_weights(monkeypatch):
    real = gate.merged

    def wrong(pretrained):
        copy = real(pretrained)
        with torch.no_grad():
            copy.model.transformer.h[0].mlp.c_fc.weight[0] += 0.5
        return copy

    monkeypatch.setattr(gate, "merged", wrong)
    return "logits differ"


def spoil_tokenizer(monkeypatch):
    from gptwo.tokenizer import train_bpe

    real = gate.merged

    def wrong(pretrained):
        copy = real(pretrained)
        copy.tokenizer = train_bpe(iter(["quite another text"] * 9), 270)
        return copy

    monkeypatch.setattr(gate, "merged", wrong)
    return "tokenizers differ"


@pytest.mark.parametrize("spoil", [spoil_weights, spoil_tokenizer])
@pytest.mark.parametrize("there", [False, True])
def test_the_gate_stops_what_differs_and_nothing_is_written(adapted, tmp_path, monkeypatch, spoil, there):
    carrying = adapted("lora")
    save(carrying, tmp_path / "adapter")
    if there:
        merge(tmp_path / "adapter", tmp_path / "plain")
    before = {path.name: path.read_bytes() for path in (tmp_path / "plain").glob("*")}
    words = spoil(monkeypatch)
    with pytest.raises(GateError, match=words):
        merge(tmp_path / "adapter", tmp_path / "plain")
    assert {path.name: path.read_bytes() for path in (tmp_path / "plain").glob("*")} == before
    assert (tmp_path / "plain").exists() == there


def test_weights_that_are_no_numbers_do_not_pass(adapted, tmp_path):
    carrying = adapted("lora")
    with torch.no_grad():
        carrying.model.transformer.h[1].attn.c_proj.lora_B[0] = float("nan")
    save(carrying, tmp_path / "adapter")
    with pytest.raises(GateError, match="nan"):
        merge(tmp_path / "adapter", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_a_model_compared_with_another(base, adapted):
    assert compare(base, base).holds
    parity = compare(base, adapted("lora"))
    assert not parity.holds
    assert "greedy texts differ" in parity.why_not()


def test_the_command(adapted, tmp_path, monkeypatch, capsys):
    from gptwo.cli.main import main

    def command(*arguments) -> int:
        monkeypatch.setattr("sys.argv", ["gptwo", "merge", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    carrying = adapted("lora", "sequence", ["a", "b"])
    carrying.info["labels"] = ["a", "b"]
    save(carrying, tmp_path / "adapter")
    (tmp_path / "prompts.txt").write_text("the cat\n\n猫\n", encoding="utf-8")
    assert (
        command(tmp_path / "adapter", "--out", tmp_path / "plain", "--prompts", tmp_path / "prompts.txt", "--json") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["prompts"], found["same_text"], found["same_tokenizer"]) == (2, None, True)
    with torch.no_grad():
        carrying.model.score.weight[0] = float("nan")
    save(carrying, tmp_path / "adapter")
    assert command(tmp_path / "adapter", "--out", tmp_path / "broken") == 5
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "broken").exists()
    assert command(tmp_path / "plain", "--out", tmp_path / "again") == 2
