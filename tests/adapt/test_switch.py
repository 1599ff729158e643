"""Several adapters over one base: each says what it says alone, whatever spoke before."""

from __future__ import annotations

import pytest
import torch

from gptwo.adapt.store import load, save
from gptwo.adapt.switch import AdapterSet
from gptwo.errors import UsageError
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models


@pytest.fixture
def folders(adapted, tmp_path):
    """Adapters of several kinds and heads over one base."""
    made = {}
    for kind, head in (("lora", "language"), ("ia3", "sequence"), ("prefix", "language"), ("parallel", "token")):
        carrying = adapted(kind, head, None if head == "language" else ["a", "b"])
        if head != "language":
            carrying.info["labels"] = ["a", "b"]
        made[kind] = save(carrying, tmp_path / kind)
    return made


def test_each_says_what_it_says_alone(folders, base_folder, ids):
    adapters = AdapterSet.open(base_folder, **folders)
    assert adapters.names == list(folders)
    alone = {name: load(folder).model(ids) for name, folder in folders.items()}
    plain = models.load(base_folder).model(ids)
    for name in ("lora", "prefix", "ia3", "lora", "parallel", "ia3", "prefix"):
        model = adapters.activate(name)
        assert torch.equal(model.model(ids), alone[name]), name
        assert model.config == load(folders[name]).config
        assert torch.equal(adapters.activate(None).model(ids), plain)


def test_the_base_is_in_memory_once(folders, base_folder):
    adapters = AdapterSet.open(base_folder, **folders)
    weights = {name: adapters.activate(name).model.transformer.h[0].mlp.c_fc.weight for name in folders}
    assert len({weight.data_ptr() for weight in weights.values()}) == 1


def test_for_the_length_of_a_block(folders, base_folder):
    adapters = AdapterSet.open(base_folder, **folders)
    adapters.activate("lora")
    with adapters.use("prefix") as model:
        one = Engine(model).generate("the cat", max_new_tokens=6, temperature=0)
    assert adapters.active == "lora"
    assert one == Engine(folders["prefix"]).generate("the cat", max_new_tokens=6, temperature=0)
    with pytest.raises(ZeroDivisionError), adapters.use(None):
        _ = 1 / 0
    assert adapters.active == "lora"


def test_names_and_folders_that_cannot_be(folders, base_folder):
    adapters = AdapterSet.open(base_folder, lora=folders["lora"])
    with pytest.raises(UsageError, match="Did you mean 'lora'"):
        adapters.activate("lroa")
    with pytest.raises(UsageError, match="already"):
        adapters.add("lora", folders["ia3"])
    with pytest.raises(UsageError, match="holds no adapter"):
        adapters.add("base", base_folder)
    assert adapters.names == ["lora"]
