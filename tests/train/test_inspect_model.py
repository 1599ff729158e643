"""A model folder looked at: damaged weights, another model's tokenizer and a wrong merge are found."""

from __future__ import annotations

import json

import pytest
import torch

from gptwo.errors import MissingError
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, load, save
from gptwo.tokenizer import train_bpe
from gptwo.train.inspect_model import inspect_model


def checks(folder, **given):
    return {finding.check: finding for finding in inspect_model(folder, **given)}


def test_a_good_model(base_folder):
    found = checks(base_folder)
    assert not [finding for finding in found.values() if finding.severity == "error"]
    assert "language model" in found["loads"].what
    assert found["no-better-than-guessing"].severity == "warning"  # its weights are random


def test_weights_that_are_no_numbers(base_folder, tmp_path):
    model = load(base_folder)
    with torch.no_grad():
        model.model.transformer.h[0].mlp.c_fc.weight[0, 0] = float("nan")
        model.model.transformer.h[1].mlp.c_fc.weight.zero_()
    save(model, tmp_path / "broken")
    found = checks(tmp_path / "broken")
    assert found["finite-weights"].severity == "error"
    assert found["finite-weights"].rows == ["transformer.h.0.mlp.c_fc.weight"]
    assert found["flat-weights"].rows == ["transformer.h.1.mlp.c_fc.weight"]
    assert found["finite-scores"].severity == "error"


def test_a_tokenizer_that_does_not_fit(base_folder, tmp_path):
    larger = train_bpe(iter(["other words entirely, and more of them than before "] * 20), 280)
    rows = larger.vocab_size - 5
    small = create(GPT2Config(vocab_size=rows, n_positions=16, n_embd=8, n_layer=1, n_head=1), None)
    save(small, tmp_path / "model")
    assert checks(tmp_path / "model")["tokenizer"].severity == "error"
    larger.save(tmp_path / "model")
    found = checks(tmp_path / "model")
    assert found["tokenizer"].severity == "error"
    assert f"only {rows} rows" in found["tokenizer"].what
    spare = create(GPT2Config(vocab_size=900, n_positions=16, n_embd=8, n_layer=1, n_head=1), larger)
    save(spare, tmp_path / "spare")
    assert checks(tmp_path / "spare")["spare-rows"].severity == "warning"


def test_a_folder_that_does_not_load(base_folder, tmp_path):
    import shutil

    shutil.copytree(base_folder, tmp_path / "cut")
    (weights,) = (tmp_path / "cut").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    (found,) = inspect_model(tmp_path / "cut")
    assert (found.check, found.severity) == ("loads", "error")
    assert found.fix
    with pytest.raises(MissingError):
        inspect_model(tmp_path / "nothing")


def test_a_task_that_is_not_known(base_folder, tmp_path):
    model = load(base_folder)
    model.info["task"] = "juggle"
    save(model, tmp_path / "odd")
    assert checks(tmp_path / "odd")["task"].severity == "error"


def test_calibration_is_told(base_folder, tmp_path):
    plain = load(base_folder)
    made = create(plain.config, plain.tokenizer, head="sequence", labels=["a", "b"])
    made.info |= {"task": "classify", "calibration": {"temperature": 1.5, "records": 30, "abstain_below": 0.8}}
    save(made, tmp_path / "tuned")
    assert json.loads((tmp_path / "tuned" / "gptwo.json").read_text())["calibration"]["temperature"] == 1.5
    assert "temperature 1.50, abstains below 0.800" in checks(tmp_path / "tuned")["calibration"].what
