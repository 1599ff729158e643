"""ONNX: the graph gives the scores of the network, alone, padded, and with its cache in any parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.export import onnx
from gptwo.export.check import scores
from gptwo.export.onnx_check import OnnxModel, check, padded

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
HEADS = ["language", "sequence", "token"]
SHAPES = [
    {},
    {"n_layer": 3, "n_inner": 24},
    {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    {"tie_word_embeddings": False},
    {"n_embd": 15, "n_head": 3},
]
ROWS = [[5, 9, 200, 31, 7, 7, 80], [3], [17, 260, 4, 4]]


@pytest.fixture
def run(tmp_path):
    """`run(pretrained)`: it in onnxruntime."""

    def run(pretrained, **options):
        return OnnxModel(onnx.write(pretrained.model, tmp_path, {}, **options), pretrained.config)

    return run


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_the_graph_gives_the_scores_of_the_network(make, run, head, sizes):
    made = make(head, **sizes)
    theirs = run(made)
    for row in ROWS:
        torch.testing.assert_close(theirs.one(row), scores(made.model, row), **CLOSE)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("left", [True, False])
def test_a_padded_row_equals_the_row_alone(make, run, head, left):
    made = make(head)
    ids, mask = padded(ROWS, left=left)
    found, _ = run(made).run(ids, mask)
    for row, answer in zip(ROWS, found, strict=True):
        if head != "sequence":
            answer = answer[-len(row) :] if left else answer[: len(row)]
        torch.testing.assert_close(answer, scores(made.model, row), **CLOSE)


@pytest.mark.parametrize("parts", [(1, 6), (6, 1), (3, 4), (1, 1, 1, 1, 1, 1, 1)], ids=str)
def test_with_the_cache_in_parts_equals_the_whole(make, run, parts):
    made = make()
    theirs = run(made)
    whole = scores(made.model, ROWS[0])
    cache, at = None, 0
    for size in parts:
        found, cache = theirs.run(np.array([ROWS[0][at : at + size]], np.int64).reshape(1, size), past=cache)
        torch.testing.assert_close(found[0], whole[at : at + size], **CLOSE)
        at += size
    assert {part.shape for part in cache} == {(1, 2, 7, 16)}


def test_rows_padded_on_the_left_go_on_together(make, run):
    made = make()
    theirs = run(made)
    ids, mask = padded(ROWS, left=True)
    _, cache = theirs.run(ids, mask)
    new = np.array([[11], [12], [13]], np.int64)
    found, _ = theirs.run(new, np.concatenate([mask, np.ones_like(new)], 1), cache)
    for row, token, answer in zip(ROWS, new[:, 0].tolist(), found, strict=True):
        torch.testing.assert_close(answer[0], scores(made.model, [*row, token])[-1], **CLOSE)


def test_the_whole_context_fits(make, run):
    made = make()
    ids = torch.randint(0, made.config.vocab_size, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    torch.testing.assert_close(run(made).one(ids), scores(made.model, ids), **CLOSE)


def test_many_weights_get_a_file_of_their_own(make, run, tmp_path):
    made = make()
    theirs = run(made, inline=0)
    count = sum(parameter.numel() for parameter in made.model.parameters())
    assert 0 <= (tmp_path / onnx.DATA).stat().st_size - 4 * count < onnx.ALIGNED * len(list(made.model.parameters()))
    assert (tmp_path / onnx.FILE).stat().st_size < 50_000
    torch.testing.assert_close(theirs.one(ROWS[0]), scores(made.model, ROWS[0]), **CLOSE)


def test_tied_weights_are_in_the_file_once(make, tmp_path):
    made = make()
    size = onnx.write(made.model, tmp_path, {}).stat().st_size
    assert size < 4 * sum(parameter.numel() for parameter in made.model.parameters()) + 50_000


def test_inputs_and_outputs_have_the_names_that_others_expect(make, tmp_path):
    import onnx as package

    file = onnx.write(make().model, tmp_path, {"task": "language", "labels": ["一", "二"]})
    proto = package.load(file)
    package.checker.check_model(proto, full_check=True)
    caches = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    assert [value.name for value in proto.graph.input] == [
        "input_ids",
        "attention_mask",
        *(f"past_key_values.{name}" for name in caches),
    ]
    assert [value.name for value in proto.graph.output] == ["logits", *(f"present.{name}" for name in caches)]
    assert {node.domain for node in proto.graph.node} == {""}, "no vendor's operators"
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"task": "language", "labels": '["一", "二"]'}


@pytest.mark.parametrize("head", HEADS)
def test_the_check_passes_what_is_equal_and_says_so(make, tmp_path, head):
    made = make(head)
    found = check(made, onnx.write(made.model, tmp_path, {}))
    assert found.holds, found
    assert found.largest < 1e-5
    assert found.same_text == (found.prompts if head == "language" else None)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [0.01, float("nan")])
def test_the_check_finds_a_weight_that_differs(make, tmp_path, head, size):
    made = make(head)
    file = onnx.write(made.model, tmp_path, {})
    changed = make(head)
    with torch.no_grad():
        changed.model.transformer.h[1].mlp.c_fc.weight[3] += size
    assert not check(changed, file).holds
