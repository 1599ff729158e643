"""Which parameter gets which learning rate and decay; what Muon makes of a gradient."""

from __future__ import annotations

import pytest
import torch

from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.train.optim import Muon, build_optimizers, orthogonalise

CONFIG = GPT2Config(vocab_size=19, n_positions=8, n_embd=8, n_layer=3, n_head=2)


def network(head="language", **changes):
    labels = [] if head == "language" else ["a", "b"]
    return create(GPT2Config(**{**vars(CONFIG), **changes}), head=head, labels=labels, seed=1).model


def settings(model, optimizers) -> dict[str, dict]:
    """Parameter name -> the values of its group, and which optimizer it is in."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                assert names[id(tensor)] not in found, "a parameter is tuned twice"
                found[names[id(tensor)]] = {**group, "optimizer": type(optimizer).__name__}
    return found


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", ["language", "sequence", "token"])
def test_every_parameter_is_tuned_once_and_only_matrices_decay(name, tied, head):
    model = network(head, tie_word_embeddings=tied)
    found = settings(model, build_optimizers(model, name=name, learning_rate=0.1, weight_decay=0.2))
    assert found.keys() == dict(model.named_parameters()).keys()
    for parameter, values in found.items():
        is_matrix = dict(model.named_parameters())[parameter].ndim == 2
        assert values["weight_decay"] == (0.2 if is_matrix else 0.0), parameter


def test_frozen_parameters_are_not_in_an_optimizer():
    model = network()
    model.transformer.wte.weight.requires_grad_(False)
    found = settings(model, build_optimizers(model, name="adamw", learning_rate=0.1))
    assert "transformer.wte.weight" not in found
    assert len(found) == len(list(model.parameters())) - 1


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = network("token")
    found = settings(
        model, build_optimizers(model, name="muon", learning_rate=0.1, muon_learning_rate=0.02, weight_decay=0.2)
    )
    for name, values in found.items():
        in_block = ".h." in name and name.endswith("weight") and ".ln_" not in name
        assert values["optimizer"] == ("Muon" if in_block else "AdamW"), name
        assert values["peak"] == (0.02 if in_block else 0.1)


def test_the_learning_rate_falls_from_block_to_block():
    model = network("sequence")
    found = settings(
        model, build_optimizers(model, name="adamw", learning_rate=1.0, layer_decay=0.5, head_learning_rate=4.0)
    )
    peaks = {name: values["peak"] for name, values in found.items()}
    assert peaks["score.weight"] == 4.0
    assert peaks["transformer.ln_f.weight"] == 1.0
    assert [peaks[f"transformer.h.{i}.mlp.c_fc.weight"] for i in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert peaks["transformer.wte.weight"] == peaks["transformer.wpe.weight"] == 0.0625


@pytest.mark.parametrize("shape", [(4, 16, 16), (3, 8, 32), (2, 32, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.max() < 1.4
    assert values.quantile(0.1) > 0.5  # the smallest of a square matrix may be too small to be lifted in five turns


def test_orthogonalised_keeps_the_singular_vectors():
    matrix = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix[0])
    inside = left.T @ orthogonalise(matrix)[0].float() @ right.T
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.1


def test_a_zero_gradient_stays_zero():
    assert (orthogonalise(torch.zeros(1, 4, 4)) == 0).all()


def moved(rows: int, columns: int) -> torch.Tensor:
    """What one step of Muon at learning rate 1 without decay takes away from a zero matrix."""
    weight = torch.nn.Parameter(torch.zeros(rows, columns))
    weight.grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 1e-3
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    return -weight.detach()


def test_an_update_has_the_size_of_adamws():
    for rows, columns in ((16, 16), (16, 64), (64, 16)):
        size = moved(rows, columns).square().mean().sqrt()
        assert size == pytest.approx(0.2, rel=0.3), (rows, columns)


def test_the_joint_projection_is_taken_as_three():
    for part in moved(24, 8).chunk(3):
        values = torch.linalg.svdvals(part / (0.2 * 8**0.5))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_weight_decay_shrinks_by_learning_rate_times_decay():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_momentum_is_nesterovs_average():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weight], lr=0.1, momentum=0.9)
    for _ in range(2):
        weight.grad = torch.ones(4, 4)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[weight]["momentum"], torch.full((4, 4), 1 - 0.9**2))
