"""Four bits: what they lose of a layer norm's biases, the biases behind it give back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.generate import native_weights
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_packed import layout_of
from tests.native.conftest import made

LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


@pytest.fixture(scope="module")
def biased():
    """A network whose layer norms have larger biases than usual."""
    model = made()
    for name, parameter in model.model.named_parameters():
        if ".ln_2.bias" in name:
            torch.nn.init.normal_(parameter, mean=0.5)
    return model


def unpacked(engine, name: str, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """An int4 matrix (outputs, inputs) and its biases, as csrc/kernels.hpp lays them."""
    parts = {part: piece[-1] for part, piece in zip(layout_of(engine.native), engine.native.pieces(), strict=True)}
    groups = -(-inputs // 32)
    both = np.frombuffer(parts[f"{name}.weight"], np.uint8).reshape(-1, groups, 4, 16, 4)
    halves = np.frombuffer(parts[f"{name}.scales"], np.uint16).reshape(-1, groups, 16)
    scales = (halves.astype(np.uint32) << 16).view(np.float32)
    levels = LEVELS[np.stack([both & 15, both >> 4], 3)]  # (panels, groups, 4, 2, 16, 4)
    weights = levels.transpose(0, 4, 1, 2, 3, 5).reshape(-1, 16, groups, 32) * scales.transpose(0, 2, 1)[..., None]
    biases = np.frombuffer(parts[f"{name}.bias"], np.float32)
    return weights.reshape(-1, groups * 32)[:outputs, :inputs], biases[:outputs]


def test_the_biases_of_a_layer_norm_pass_as_through_float32(biased):
    engine = NativeEngine(biased, precision="int4", max_batch=1, threads=2)
    block = biased.model.transformer.h[1]
    exact = block.mlp.c_fc(block.ln_2.bias).detach().numpy()
    weights, biases = unpacked(engine, "h.1.mlp.c_fc", *block.mlp.c_fc.weight.shape)
    mean = block.ln_2.bias.detach().numpy()
    lost = block.mlp.c_fc.bias.detach().numpy() + weights @ mean - exact
    assert np.abs(lost).max() > 0.05
    np.testing.assert_allclose(weights @ mean + biases, exact, atol=1e-4)


def test_other_biases_are_as_they_were(biased):
    engine = NativeEngine(biased, precision="int4", max_batch=1, threads=2)
    projection = biased.model.transformer.h[0].mlp.c_proj
    _, biases = unpacked(engine, "h.0.mlp.c_proj", *projection.weight.shape)
    np.testing.assert_array_equal(biases, projection.bias.detach().numpy())


def test_a_layer_norm_comes_before_what_takes_its_output(biased, monkeypatch):
    wanted = native_weights.shapes(biased.config)
    late = {name: shape for name, shape in wanted.items() if ".ln_2." not in name}
    monkeypatch.setattr(native_weights, "shapes", lambda *_: late | wanted)
    with pytest.raises(ValueError, match=r"layer norm comes before h\.0\.mlp\.c_fc"):
        NativeEngine(biased, precision="int4", max_batch=1, threads=2)
