"""What tasks share."""

from __future__ import annotations

import torch

from gptwo.data.batching import Example
from gptwo.tasks.runner import ModelRunner


def test_every_example_goes_through_the_network_once_in_batches_of_like_length(network, tokenizer, monkeypatch):
    monkeypatch.setattr("gptwo.tasks.runner.length_batches.__defaults__", (12,))  # tokens of a batch
    examples = [Example([1] * length) for length in (2, 5, 1, 6, 6, 2)]
    runner = ModelRunner(network("language"), tokenizer, 12)
    found = list(runner.forward_batches(examples, lambda batch: batch.ids.shape))
    assert sorted(place for places, _ in found for place in places) == list(range(6))
    assert found[0] == ([3, 4], (2, 6))
    for places, (rows, width) in found:
        assert rows == len(places)
        assert width == max(len(examples[place].ids) for place in places)


def test_the_network_runs_without_gradients_and_in_the_precision_but_the_caller_does_not(network, tokenizer):
    model = network("language")
    inside = []

    def forward(batch):
        inside.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        return model.logits(model.transformer(batch.ids))

    batches = ModelRunner(model, tokenizer, 12, "bf16").forward_batches([Example([1, 2]), Example([3] * 9)], forward)
    _, scores = next(batches)  # the generator stands in the middle
    assert inside == [(True, True)]
    assert scores.dtype == torch.bfloat16
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
