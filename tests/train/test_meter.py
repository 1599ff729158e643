"""What the meter counts is what PyTorch multiplies: whole networks, frozen ones, and those with an adapter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.freeze import freeze, thaw
from gptwo.data.batching import Batch, Example, collate
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.recipe import TaskSection
from gptwo.tasks import make_task
from gptwo.tasks.candidates import join
from gptwo.train.meter import Meter, Work, pairs_of, work_of
from gptwo.train.pretrain import NextToken
from tests.adapt.kinds import KINDS, config_of

CONFIG = GPT2Config(vocab_size=32, n_positions=24, n_embd=16, n_layer=3, n_head=2).with_dropout(0.0)
TUNED = [name for name in KINDS if name not in ("dora", "prefix", "prompt")]


def network(head="language", labels=()):
    return create(CONFIG, head=head, labels=labels, seed=3).model.eval()  # in training a CPU computes GELU twice


def running_text(length: int = 8) -> Batch:
    ids = torch.randint(0, 32, (4, length), generator=torch.Generator().manual_seed(1))  # a multiple of SHAPES
    return Batch(ids=ids, labels=ids.roll(-1, 1))


def records() -> Batch:
    return collate([Example(list(range(1, size)), target=size % 2) for size in (5, 9, 4)])


def multiplied(model, objective, batch) -> float:
    """Operations of matrix products as PyTorch counts them, without those of attention."""
    with FlopCounterMode(display=False) as counter:
        objective.loss(model, batch, 0.0).backward()
    kinds = counter.get_flop_counts()["Global"]
    return float(sum(count for kind, count in kinds.items() if str(kind) in ("aten.mm", "aten.addmm")))


def counted(model, batch) -> float:
    work = work_of(model)
    return Work(work.token, work.read, 0.0, work.batch).of(batch)


@pytest.mark.parametrize("policy", ["all", "last", "head", "embeddings", "pattern"])
def test_a_language_model_under_each_freezing_policy(policy):
    model = network()
    freeze(model, policy, last=1, pattern=r"h\.1\.mlp\.c_fc")
    assert counted(model, running_text()) == multiplied(model, NextToken(), running_text())


@pytest.mark.parametrize("name", TUNED)
def test_a_language_model_with_each_adapter(name):
    model = network()
    apply_adapter(model, config_of(name), seed=1)
    assert counted(model, running_text()) == multiplied(model, NextToken(), running_text())


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_virtual_tokens(name):
    model = network()
    apply_adapter(model, config_of(name), seed=1)
    found = counted(model, running_text())
    assert found == pytest.approx(multiplied(model, NextToken(), running_text()), rel=0.05)
    assert work_of(model).virtual == 5


def test_a_frozen_network_costs_two_thirds_of_a_tuned_one_and_the_lowest_layers_less():
    whole, frozen, last = (network() for _ in range(3))
    apply_adapter(frozen, config_of("bitfit"), seed=1)
    freeze(last, "last", last=1)
    work = [counted(model, running_text()) for model in (whole, frozen, last)]
    assert work[1] == pytest.approx(work[0] * 2 / 3, rel=0.01)
    assert work[2] < work[0] * 2 / 3


def test_a_label_head_reads_the_last_tokens_alone():
    model = network("sequence", ["a", "b"])
    job = make_task(TaskSection(name="classify", labels=["a", "b"]))
    batch = records()
    freeze(model, "head")
    assert counted(model, batch) <= multiplied(model, job, batch)
    assert work_of(model).of(batch) < 0.6 * work_of(network("sequence", ["a", "b"])).of(batch)


@pytest.mark.parametrize("score", ["head", "likelihood"])
def test_candidates_are_counted_as_the_rows_they_are_judged_in(score):
    job = make_task(TaskSection(name="choice", score=score))
    model = network(job.head, job.labels)
    lists = [[[1, 2, 3, 4, 5], [1, 2, 3, 6, 7], [1, 2, 3, 8, 9]], [[4, 2, 1, 4, 5], [4, 2, 1, 5, 7]]]
    joined = [join(rows, [1] + [0] * (len(rows) - 1), i, counted_from=[3] * len(rows)) for i, rows in enumerate(lists)]
    for batch in (collate(joined), collate(joined, row_tokens=32)):
        read = job.as_read(batch)
        assert read.tokens == batch.tokens == 25
        assert pairs_of(read) == 5 * (5 * 6 / 2)  # a candidate sees itself alone
        assert counted(model, read) == multiplied(model, job, batch)
        meter = Meter(model, 1e9, job.as_read)
        meter.add([batch], 1.0)
        assert meter.work == work_of(model).of(read) < work_of(model).of(batch)


def test_what_thaws_is_counted_from_then_on():
    model = network()
    meter = Meter(model, 1e9)
    tuned = freeze(model, "embeddings")
    found = []
    for step in range(4):
        thaw(model, tuned, step, 1)
        meter.add([running_text()], 1.0)
        found.append(meter.work)
        meter.read()
    assert found == sorted(found)
    assert found[0] < found[3]


def test_a_token_sees_its_own_document_up_to_itself():
    assert pairs_of(Batch(torch.tensor([[1, 2, 3], [4, -1, -1]]))) == 6 + 1
    packed = collate([Example([1, 2, 3]), Example([4])], row_tokens=8)
    assert pairs_of(packed) == 6 + 1
    assert Work(0.0, 0.0, 1.0, virtual=2).of(packed) == 7 + 4 * 2


def test_the_share_of_the_ceiling_is_of_the_work_done():
    model = network()
    meter = Meter(model, 1e6)
    meter.add([running_text(), running_text()], 2.0)
    found = meter.read()
    assert found["tokens_per_second"] == 32.0
    assert found["share_of_ceiling"] == pytest.approx(work_of(model).of(running_text()) / 1e6, abs=1e-4)
    assert meter.read()["share_of_ceiling"] == 0.0
