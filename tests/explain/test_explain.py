"""`explain` on every head: complete, plain JSON, one page without scripts, coloured tokens."""

from __future__ import annotations

import io
import json
import re
import zlib
from base64 import b64decode

import pytest
import torch

from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.explain import explain
from gptwo.explain.explanation import token_text
from gptwo.explain.page import picture

TEXT = "the cat <b>sat</b> & 猫"
TRAIN = [
    Record({"text": text, "label": label}, "train.csv", row)
    for row, (text, label) in enumerate([("the cat sat", "good"), ("the dog", "bad"), ("猫坐在垫子上", "good")], 2)
]


@pytest.fixture(scope="module", params=["language", "sequence", "token"])
def found(request, made):
    labels = {"language": (), "sequence": ("bad", "good"), "token": ("O", "B-X", "I-X")}[request.param]
    return explain(made(request.param, labels), TEXT, train=TRAIN, steps=8, neighbours=2)


def test_every_part_has_its_shape(found):
    T = len(found.tokens)
    assert len(found.integrated_gradients) == len(found.leave_one_out) == T
    assert len(found.attention) == len(found.heads) == len(found.layers) == 3
    assert all(len(head) == T and len(head[0]) == T for layer in found.attention for head in layer)
    assert [line["layer"] for line in found.lens] == [0, 1, 2, 3]
    assert all(len(line["top"]) == T for line in found.lens)
    assert found.lens[-1]["target"] == pytest.approx(found.target["probability"], rel=1e-3)
    assert found.target == found.outcomes[0]
    assert found.lens[-1]["rank"] == 1
    shares = [outcome["probability"] for outcome in found.outcomes]
    assert shares == sorted(shares, reverse=True)
    if found.head != "language":
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    if found.head != "token":
        assert len(found.neighbours) == 2
        assert {"similarity", "text", "file", "row"} < set(found.neighbours[0])


def test_it_is_plain_json(found):
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


def test_the_page_is_whole_and_loads_nothing(found):
    page = found.html()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "<script" not in page
    assert "<b>sat</b>" not in page
    assert "&lt;b&gt;sat" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    for heading in ("What the model says", "Which tokens", "Layer by layer", "Heads and layers", "Attention"):
        assert heading in page
    assert page.count("<img") == 2 * 3 * 2
    for tag in ("section", "table", "figure", "details", "span"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>")


def test_the_terminal_shows_coloured_tokens(found):
    from rich.console import Console

    out = io.StringIO()
    found.print(Console(file=out, force_terminal=True, color_system="truecolor", width=160))
    text = out.getvalue()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "Integrated gradients" in plain
    assert "".join(found.tokens[-2:]) in plain or found.head == "token"
    assert "block 3" in plain


def test_the_tokens_are_the_text(made):
    model = made()
    text = "the cat sat on the log, Anna"
    found = explain(model, text, steps=2)
    assert "".join(found.tokens) == text
    emoji = model.tokenizer.encode("🙂")
    assert "".join(token_text(model.tokenizer, i) for i in emoji).startswith("⟨f0⟩")
    assert token_text(model.tokenizer, model.tokenizer.end_id) == "<|endoftext|>"


def test_a_target_and_a_place_can_be_chosen(made):
    model = made()
    ids = model.tokenizer.encode("the cat sat on")
    found = explain(model, "the cat sat on", target=" dog", at=1, steps=2)
    assert len(found.tokens) == 2
    assert found.target["id"] == model.tokenizer.encode(" dog")[0]
    with torch.no_grad():
        shares = model.model(torch.tensor([ids[:2]]))[0, -1].softmax(-1)
    assert found.target["probability"] == pytest.approx(float(shares[found.target["id"]]), rel=1e-4)
    assert explain(model, "the cat sat on", at=1 - len(ids), steps=2).tokens == found.tokens
    with pytest.raises(UsageError, match="--at"):
        explain(model, "the cat", at=99)


def test_labels_are_explained_by_name(made):
    model = made("sequence", ("bad", "good"))
    for label in ("bad", "good"):
        assert explain(model, "the cat", target=label, steps=2).target["name"] == label
    with pytest.raises(UsageError, match="'good'"):
        explain(model, "the cat", target="goood")
    both = made("sequence", ("a", "b"))
    both.info["problem_type"] = "multi_label_classification"
    shares = [outcome["probability"] for outcome in explain(both, "the cat", steps=2).outcomes]
    assert sum(shares) != pytest.approx(1, abs=1e-3)


def test_a_tag_is_explained_at_its_word(made):
    model = made("token", ("O", "B-X", "I-X"))
    found = explain(model, "Anna lives in Berlin", at=3, steps=2)
    assert found.notes == ["explained is the tag of word 3, 'Berlin'"]
    assert found.target["name"] in ("O", "B-X", "I-X")


def test_long_texts(made):
    with pytest.raises(UsageError, match="48 positions"):
        explain(made(), "the cat sat " * 60)
    long = made(n_positions=200)
    found = explain(long, "the cat sat " * 40, steps=2)
    assert found.attention is None
    assert "left out" in found.notes[0]
    assert "Attention" not in re.findall(r"<h2>(.*?)</h2>", found.html())
    classifier = made("sequence", ("bad", "good"))
    assert any("cut out" in note for note in explain(classifier, "the cat sat " * 60, steps=2).notes)


def test_the_picture_of_a_map_holds_its_weights():
    image = b64decode(picture([[1.0, 0.0], [0.25, 0.75]]).partition(",")[2])
    assert image.startswith(b"\x89PNG")
    start = image.index(b"IDAT")
    size = int.from_bytes(image[start - 4 : start], "big")
    lines = zlib.decompress(image[start + 4 : start + 4 + size])
    assert len(lines) == 2 * (1 + 2 * 4)
    assert [lines[i] for i in (4, 8)] == [255, 0]
    assert lines[1 + 8 + 1 + 3] == 128
