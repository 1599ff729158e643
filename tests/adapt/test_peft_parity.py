"""Adapters travel: what is saved here loads in peft with equal logits, and what peft saves loads here."""

from __future__ import annotations

import json

import pytest
import torch

from gptwo.adapt.store import load, save
from tests.adapt.kinds import ADDED, VIRTUAL, shake

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
transformers.logging.set_verbosity_error()

OURS = [name for name in ADDED if name not in ("bitfit", "houlsby", "pfeiffer", "parallel")] + list(VIRTUAL)
CLASSES = {
    "language": transformers.GPT2LMHeadModel,
    "sequence": transformers.GPT2ForSequenceClassification,
    "token": transformers.GPT2ForTokenClassification,
}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
ATTENTION = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
THEIRS = {
    "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, **ATTENTION),
    "lora of all layers": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True
    ),
    "ranks and alphas by layer": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        rank_pattern={"h.1.attn.c_attn": 4},
        alpha_pattern={"h.0.attn.c_attn": 3},
        **ATTENTION,
    ),
    "rank-stabilised dora": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, use_rslora=True, use_dora=True, **ATTENTION
    ),
    "lora and a layer norm": lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=2, modules_to_save=["ln_f"], **ATTENTION),
    "lora and a whole layer": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, modules_to_save=["h.0.mlp.c_fc"], **ATTENTION
    ),
    "adalora": lambda: peft.AdaLoraConfig(task_type="CAUSAL_LM", init_r=4, target_r=2, total_step=9, **ATTENTION),
    "ia3": lambda: peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["c_attn", "mlp.c_proj"],
        feedforward_modules=["mlp.c_proj"],
        fan_in_fan_out=True,
    ),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix with projection": lambda: peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=7
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


def foreign_base(folder, head="language", labels=3):
    return CLASSES[head].from_pretrained(folder, num_labels=labels, pad_token_id=0).eval()


@torch.no_grad()
def logits_of(model, ids):
    """peft gives logits of a prompt's virtual tokens too."""
    return model(input_ids=ids).logits[:, -ids.shape[1] :]


@pytest.mark.parametrize("kind", OURS)
def test_what_is_saved_here_loads_in_peft(adapted, base_folder, ids, tmp_path, kind):
    carrying = adapted(kind)
    save(carrying, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(foreign_base(base_folder), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits_of(theirs, ids), carrying.model.eval()(ids), **CLOSE)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "adalora", "lora and a layer norm"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_with_a_label_head(adapted, base_folder, ids, tmp_path, kind, head):
    carrying = adapted(kind, head, ["a", "b", "c"])
    carrying.info["labels"] = ["a", "b", "c"]
    save(carrying, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(foreign_base(base_folder, head), tmp_path / "adapter").eval()
    ours = carrying.model.eval()(ids)
    wanted = ours[:, -1] if head == "sequence" else ours
    torch.testing.assert_close(theirs(input_ids=ids).logits, wanted, **CLOSE)


def test_cut_triplets_are_not_stored_and_a_layer_may_have_none(adapted, base_folder, ids, tmp_path):
    carrying = adapted("adalora")
    with torch.no_grad():
        carrying.model.transformer.h[0].attn.c_attn.lora_E.zero_()
        carrying.model.transformer.h[1].mlp.c_fc.lora_E[1] = 0
    save(carrying, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(foreign_base(base_folder), tmp_path / "adapter").eval()
    wanted = carrying.model.eval()(ids)
    torch.testing.assert_close(logits_of(theirs, ids), wanted, **CLOSE)
    again = load(tmp_path / "adapter")
    torch.testing.assert_close(again.model(ids), wanted)
    assert again.model.transformer.h[0].attn.c_attn.lora_A.shape == (0, 16)
    assert again.model.transformer.h[1].mlp.c_fc.lora_E.shape == (2,)


def saved_by_peft(base_folder, folder, config, head="language"):
    """An adapter of peft with moved weights, and its model."""
    torch.manual_seed(4)
    model = peft.get_peft_model(foreign_base(base_folder, head), config)
    shake(model, 0.3)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", THEIRS)
def test_what_peft_saves_loads_here(base_folder, ids, tmp_path, kind):
    theirs = saved_by_peft(base_folder, tmp_path / "adapter", THEIRS[kind]())
    ours = load(tmp_path / "adapter")
    torch.testing.assert_close(ours.model(ids), logits_of(theirs, ids), **CLOSE)
    assert ours.adapter.base.folder == str(base_folder.resolve())
    save(ours, tmp_path / "again")
    torch.testing.assert_close(load(tmp_path / "again").model(ids), ours.model(ids))
    back = peft.PeftModel.from_pretrained(foreign_base(base_folder), tmp_path / "again").eval()
    torch.testing.assert_close(logits_of(back, ids), logits_of(theirs, ids), **CLOSE)


@pytest.mark.parametrize(("head", "task"), [("sequence", "SEQ_CLS"), ("token", "TOKEN_CLS")])
def test_a_label_head_of_peft(base_folder, ids, tmp_path, head, task):
    config = peft.LoraConfig(task_type=task, r=2, **ATTENTION)
    theirs = saved_by_peft(base_folder, tmp_path / "adapter", config, head)
    ours = load(tmp_path / "adapter")
    assert ours.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    found = ours.model(ids)
    torch.testing.assert_close(found[:, -1] if head == "sequence" else found, theirs(input_ids=ids).logits, **CLOSE)


def test_the_budget_schedule_is_the_one_peft_follows(base):
    from peft.tuners.adalora.layer import RankAllocator as Theirs

    from gptwo.adapt.adalora import RankAllocator
    from gptwo.adapt.apply import apply_adapter
    from gptwo.adapt.parts import AdapterConfig

    adapter = apply_adapter(base.model, AdapterConfig(name="adalora", rank=2, initial_rank=4, rank_every=3))
    ours = RankAllocator(adapter, 50)
    first, last, total = adapter.schedule
    config = peft.AdaLoraConfig(init_r=4, target_r=2, tinit=first, tfinal=total - last, deltaT=3, total_step=total)
    theirs = object.__new__(Theirs)
    theirs.peft_config, theirs.init_bgt, theirs.target_bgt = config, 32, 16
    assert [ours.budget(step) for step in range(1, 51)] == [theirs.budget_schedule(step)[0] for step in range(1, 51)]


def test_the_file_says_what_peft_asks_for(adapted, base_folder, tmp_path):
    save(adapted("lora of some layers"), tmp_path / "adapter")
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert content["target_modules"] == ["attn.c_attn", "mlp.c_proj"]
    assert (content["r"], content["lora_alpha"], content["fan_in_fan_out"]) == (2, 5, True)
    assert content["base_model_name_or_path"] == str(base_folder.resolve())
