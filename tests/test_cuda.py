"""What must hold on a GPU; skipped where there is none."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.evaluate.report import read_report
from gptwo.generate import gpu_step
from gptwo.generate.decoder import Decoder
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models
from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config
from gptwo.model.loss import linear_cross_entropy
from gptwo.model.pretrained import create
from gptwo.recipe import load_recipe
from gptwo.serve.lane import Lane
from gptwo.serve.scheduler import Scheduler
from gptwo.tokenizer import train_bpe
from gptwo.train.finetune import finetune
from gptwo.train.pretrain import pretrain
from tests.adapt.kinds import config_of, shake
from tests.serve.test_scheduler import WAYS, Speaker, Waiting

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

LENGTHS = (3, 40, 1, 17, 40, 2, 9)
TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 290)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=64, n_embd=64, n_layer=3, n_head=4)
    return create(config.with_dropout(0.0), tokenizer, seed=3)


@pytest.fixture
def recipe(tokenizer, tmp_path):
    """A recipe of 12 steps; `recipe(**settings)` goes over it."""
    tokenizer.save(tmp_path / "tokenizer")
    text = tmp_path / "train.txt"
    text.write_text("\n".join(TEXTS * 40), encoding="utf-8")

    def make(**settings):
        values = {
            "model.tokenizer": str(tmp_path / "tokenizer"),
            "model.n_layer": 2,
            "model.n_embd": 32,
            "model.n_head": 2,
            "model.n_positions": 32,
            "data.train": [str(text)],
            "data.valid": [str(text)],
            "train.steps": 12,
            "train.batch_size": 4,
            "train.log_every": 1,
            "train.evaluate_every": 6,
            "optimizer.learning_rate": 3e-3,
            "track.trackers": ["events"],
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        return load_recipe(None, values, environment={})

    return make


def losses(folder):
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {event["step"]: event["loss"] for event in events if event["kind"] == "step"}


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_states_equal_those_of_the_cpu(model, packed):
    ids = torch.randint(0, 200, (3, 40))
    documents = torch.arange(40).div(13, rounding_mode="floor").expand(3, 40).contiguous() if packed else None
    expected = model.model.transformer(ids, documents=documents)
    moved = copy.deepcopy(model.model).cuda().eval()
    found = moved.transformer(ids.cuda(), documents=documents.cuda() if packed else None)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_loss_and_its_gradients_equal_those_of_the_cpu():
    hidden, weight = torch.randn(500, 48, requires_grad=True), torch.randn(3000, 48, requires_grad=True)
    labels = torch.randint(0, 3000, (500,))
    labels[::7] = -100
    loss = linear_cross_entropy(hidden, weight, labels, label_smoothing=0.1)
    expected = torch.autograd.grad(loss, (hidden, weight))
    there = [tensor.detach().cuda().requires_grad_() for tensor in (hidden, weight)]
    found = linear_cross_entropy(*there, labels.cuda(), label_smoothing=0.1)
    torch.testing.assert_close(found.cpu(), loss, atol=1e-2, rtol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, there), expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, atol=1e-4, rtol=1e-4)


def test_greedy_text_equals_that_of_the_cpu(model):
    prompts = ["the cat", "猫坐"]
    expected = [one.ids for one in Engine(model, precision="fp32").generate(prompts, max_new_tokens=20, temperature=0)]
    found = Engine(model, device="cuda", precision="fp32").generate(prompts, max_new_tokens=20, temperature=0)
    assert [one.ids for one in found] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "num_beams": 3, "n": 2},
        {"seed": 5, "top_p": 0.9, "repetition_penalty": 1.3},
        {"temperature": 0, "no_repeat_ngram": 2, "logprobs": True},
        {"seed": 2, "temperature": 1.5, "stop": ("a", "子"), "n": 3},
    ],
)
def test_texts_equal_those_of_the_cpu_in_any_batch(model, options):
    prompts = ["the cat", "猫坐", "", "the dog sat on the log. the", "x"]

    def texts(**where):
        engine = Engine(model, precision="fp32", **where)
        return [(one.ids, one.finish_reason) for one in engine.generate(prompts, max_new_tokens=90, **options)]

    expected = texts()
    assert texts(device="cuda") == expected
    assert texts(device="cuda", max_batch=3) == expected


def filled(model, lengths):
    """A decoder with a text of each length."""
    decoder = Decoder(model)
    place = decoder.slots.device
    for length in lengths:
        cache = Cache(model.config, 1, length, place)
        model.transformer(torch.arange(length, device=place)[None] * 7 % 200, cache=cache)
        decoder.slots.join(cache, [0], [length])
    return decoder


@pytest.mark.parametrize("plain", [True, False], ids=["own kernels", "recorded network"])
@torch.inference_mode()
def test_recorded_steps_equal_the_network(model, plain, monkeypatch):
    if not plain:
        monkeypatch.setattr(gpu_step, "takes", lambda model: False)
    network = copy.deepcopy(model.model).eval()
    pairs = [filled(network, LENGTHS), filled(copy.deepcopy(network).cuda(), LENGTHS)]
    for turn in range(20):
        if turn in (4, 9, 10, 13):  # rows come down to three
            for decoder in pairs:
                decoder.slots.leave(turn % 3)
        ids = torch.arange(pairs[0].slots.rows) * 13 + turn
        expected, found = pairs[0].step(ids), pairs[1].step(ids.cuda())
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
    assert pairs[0].slots.counts == pairs[1].slots.counts == pairs[1].slots.lengths[:3].tolist()


@pytest.mark.parametrize("kind", ["lora", "houlsby", "ia3", "prefix"])
def test_adapters_write_the_same_on_a_gpu(model, kind):
    adapted = copy.deepcopy(model)
    apply_adapter(adapted.model, config_of(kind))
    shake(adapted.model, 0.3)
    prompts = ["the cat", "猫坐", "x"]
    expected = Engine(adapted, precision="fp32").generate(prompts, max_new_tokens=20, temperature=0)
    found = Engine(adapted, device="cuda", precision="fp32").generate(prompts, max_new_tokens=20, temperature=0)
    assert [one.ids for one in found] == [one.ids for one in expected]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_texts_served_on_a_gpu_equal_those_of_the_cpu_whatever_runs_beside_them(model, way):
    prompts, limits = ["the cat", "猫坐", "", "the dog sat on the log. the", "x"], [3, 30, 7, 25, 1]
    engine = Engine(model, precision="fp32")
    expected = [
        engine.generate([prompt], max_new_tokens=limit, **way)[0].text
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    moved = copy.copy(model)
    moved.model = copy.deepcopy(model.model).cuda()
    speaker, scheduler = Speaker(moved), Scheduler(strict=True)
    scheduler.add("tiny", Lane(speaker.backend, max_batch=3, chunk=4, cache_tokens=None))
    scheduler.start()
    jobs = [Waiting(speaker.prompt(prompt, limit, **way)) for prompt, limit in zip(prompts, limits, strict=True)]
    for job in jobs:
        scheduler.submit(job)
    assert [job.result()[0] for job in jobs] == expected
    assert scheduler.drain(30)
    scheduler.stop()
    assert scheduler.failure is None
    assert speaker.backend.left_over() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "columns"), [(1, 48, 300), (3, 80, 130), (4, 768, 1000)])
@torch.inference_mode()
def test_kernels_equal_torch(dtype, rows, width, columns):
    kernels = pytest.importorskip("gptwo.generate.gpu_kernels")
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 2e-2}
    x, residual = torch.randn(rows, width).cuda().to(dtype), torch.randn(rows, 70).cuda().to(dtype)
    layer, norm = torch.nn.Linear(width, 70).cuda().to(dtype), torch.nn.LayerNorm(width).cuda().to(dtype)
    expected = residual + torch.nn.functional.gelu(layer(norm(x)), approximate="tanh")
    torch.testing.assert_close(kernels.linear(x, layer, norm, gelu=True, residual=residual), expected, **close)

    added = kernels.add_norm(x, x * x, norm)
    torch.testing.assert_close(added, (x + x * x, norm(x + x * x)), **close)
    torch.testing.assert_close(kernels.project(x, layer.weight), x.float() @ layer.weight.float().T, **close)

    heads = 4
    keys, values = (torch.randn(rows, heads, columns, width // 4).cuda().to(dtype) for _ in range(2))
    lengths = torch.tensor([columns // 2, columns - 1, 0, 7][:rows]).cuda()
    qkv = torch.randn(rows, 3 * width).cuda().to(dtype)
    query, key, value = (part.view(rows, heads, width // 4) for part in qkv.split(width, 1))
    for row, length in enumerate(lengths.tolist()):
        keys[row, :, length], values[row, :, length] = key[row], value[row]
    seen = (torch.arange(columns, device="cuda") <= lengths[:, None])[:, None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(query[:, :, None], keys, values, seen, scale=0.3)
    given = torch.randn_like(keys), torch.randn_like(values)
    for mine, theirs in zip(given, (keys, values), strict=True):
        for row, length in enumerate(lengths.tolist()):
            mine[row, :, :length] = theirs[row, :, :length]
    parts = kernels.Parts(rows, heads, width // 4, lengths.device)
    found = kernels.attend(qkv, *given, lengths, 0.3, parts)
    torch.testing.assert_close(found, expected[:, :, 0].flatten(1), **close)


@pytest.mark.parametrize(
    "settings",
    [{}, {"train__compile": True}, {"train__gradient_checkpointing": True}, {"train__precision": "fp32"}],
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pretraining_learns(recipe, tmp_path, settings, optimizer):
    pretrain(recipe(optimizer__name=optimizer, **settings), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == 12
    assert found[12] < found[1] - 0.1


def test_a_resumed_run_goes_on_as_the_uninterrupted_one(recipe, tmp_path):
    plan = {"schedule__name": "constant", "schedule__warmup": 2}
    pretrain(recipe(**plan), tmp_path / "whole")
    pretrain(recipe(**plan, train__steps=6), tmp_path / "run")
    pretrain(recipe(**plan), tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_a_classifier_learns(model, tmp_path):
    rows = [{"text": f"the {word} sat {i}", "label": word} for i in range(40) for word in ("cat", "dog")]
    for name, part in (("train", rows[:64]), ("test", rows[64:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    models.save(model, tmp_path / "base")
    values = {
        "model.base": str(tmp_path / "base"),
        "task.name": "classify",
        "data.train": [str(tmp_path / "train.jsonl")],
        "data.test": [str(tmp_path / "test.jsonl")],
        "train.epochs": 6,
        "train.batch_size": 8,
        "optimizer.learning_rate": 3e-3,
        "track.trackers": ["events"],
    }
    finetune(recipe=load_recipe(None, values, environment={}), out=tmp_path / "run")
    assert read_report(tmp_path / "run").tuned.value("accuracy") > 0.9
