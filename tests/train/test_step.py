"""One step moves the weights alike, however the gradient of the embedding is held."""

from __future__ import annotations

import pytest
import torch

from gptwo.data.batching import Example, collate
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.recipe import load_recipe
from gptwo.train.schedule import Plan
from gptwo.train.step import Stepper

CONFIG = GPT2Config(vocab_size=40, n_positions=12, n_embd=8, n_layer=2, n_head=2).with_dropout(0.0)


def batches(step: int):
    """Two micro-batches whose words are others in each step."""
    first = 1 + 6 * step
    return [collate([Example([first + k, first + 3], target=k % 2), Example([first], target=1)]) for k in range(2)]


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_rows_among_lasting_zeros_equal_a_whole_gradient(l2, clip):
    settings = {"task.name": "classify", "optimizer.l2": l2, "optimizer.learning_rate": 0.01, "train.clip": clip}
    recipe = load_recipe(None, settings, environment={})
    found = []
    for sparse in (True, False):
        model = create(CONFIG, head="sequence", labels=["a", "b"], seed=3).model.train()
        model.transformer.wte.sparse = sparse
        stepper = Stepper(model, Scores(), recipe, Plan(total=3, warmup=0, evaluate_every=3, checkpoint_every=3))
        norms = [stepper.move(step, batches(step)).grad_norm for step in range(3)]
        found.append((norms, list(model.parameters())))
    torch.testing.assert_close(found[0], found[1])


class Scores:
    """Cross-entropy of the label of each record."""

    def loss(self, model, batch, label_smoothing):
        hidden = model.transformer(batch.ids, batch.positions, batch.documents, read=batch.last)
        return torch.nn.functional.cross_entropy(model.logits(hidden), batch.targets, reduction="sum")

    def count(self, batch):
        return len(batch.targets)
