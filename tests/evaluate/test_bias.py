"""Bias, toxicity, memorisation: signs and sizes on models whose answer is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gptwo.errors import UsageError
from gptwo.evaluate.suites import run_suite
from gptwo.evaluate.suites.base import Subject, SuiteOptions
from gptwo.evaluate.suites.bias import counterfactual
from gptwo.evaluate.suites.card import write_section
from gptwo.evaluate.suites.counterfactuals import CONTRASTS, Contrast, effect_interval, effect_size
from gptwo.evaluate.suites.memorisation import expose, regurgitate
from gptwo.evaluate.suites.toxicity import PROMPTS, lexicon_hits
from gptwo.generate.engine import Engine
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, save
from gptwo.tokenizer import train_bpe

TRAIN = (
    "it is late. she is a nurse. he is a pilot. she is a dancer. he is a driver. "
    "my number is 4711 and that is all there is. "
    "the cat sat on the mat and the dog sat on the log while it was raining. "
)
CONTRAST = Contrast(
    "gender", "en", ("women", "men"), (("she", "he"),), (". {group} is a",), ("nurse", "dancer"), ("pilot", "driver")
)
QUICK = SuiteOptions(resamples=50, samples=1, languages=("en",))


@pytest.fixture(scope="module")
def made():
    tokenizer = train_bpe(iter([TRAIN.replace("4711", "")] * 9), 300)  # no merge knows the canary
    config = GPT2Config(tokenizer.vocab_size, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    return create(config, tokenizer, seed=0)


@pytest.fixture(scope="module")
def trained(made) -> Subject:
    """A model that has learned one passage by heart."""
    model, tokenizer = made.model, made.tokenizer
    ids = torch.tensor([[tokenizer.end_id, *tokenizer.encode(TRAIN)]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    places = torch.randint(ids.shape[1] - 24, (200, 6), generator=torch.Generator().manual_seed(0))
    for starts in places.tolist():
        part = torch.stack([ids[0, first : first + 25] for first in starts])
        loss = torch.nn.functional.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return Subject("learned", Engine(made))


@pytest.fixture(scope="module")
def fresh() -> Subject:
    tokenizer = train_bpe(iter([TRAIN.replace("4711", "")] * 9), 300)  # no merge knows the canary
    config = GPT2Config(tokenizer.vocab_size, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    return Subject("fresh", Engine(create(config, tokenizer, seed=1)))


def test_a_model_that_learned_a_stereotype_shows_it(trained, fresh):
    effect, gap = counterfactual(trained, CONTRAST, QUICK)
    assert effect.value > 0.8
    assert gap.value > counterfactual(fresh, CONTRAST, QUICK)[1].value
    turned = Contrast(**{**vars(CONTRAST), "pairs": (("he", "she"),)})
    assert counterfactual(trained, turned, QUICK)[0].value == pytest.approx(-effect.value)
    same = Contrast(**{**vars(CONTRAST), "pairs": (("she", "she"),)})
    assert counterfactual(trained, same, QUICK)[0].value == 0
    assert counterfactual(trained, same, QUICK)[1].value == 0


def test_the_effect_size_is_the_difference_in_deviations():
    first, second = [1.0, 1.2, 0.8], [-1.0, -1.2, -0.8]
    assert effect_size(first, second) == pytest.approx(2 / np.std(first + second, ddof=1))
    found = effect_interval(first, second, resamples=200, seed=0)
    assert found.low <= found.value <= found.high
    assert effect_size([0.5], [0.5]) == 0


def test_the_templates_are_whole_and_balanced():
    assert {(one.kind, one.language) for one in CONTRASTS} == {
        (kind, language) for kind in ("gender", "region", "nationality", "profession") for language in ("en", "zh")
    }
    for contrast in CONTRASTS:
        assert len(contrast.first) == len(contrast.second) >= 8
        assert not set(contrast.first) & set(contrast.second)
        assert len(contrast.pairs) >= 3
        assert all(template.count("{group}") == 1 for template in contrast.templates)
        for attribute, one, other in contrast.sentences():
            assert one != other
            assert attribute.startswith(" ") == (contrast.language == "en")


def test_the_lexicon_finds_insults_and_leaves_words_that_hold_them():
    assert lexicon_hits("What an IDIOT you are, shut up!") == ["IDIOT", "shut up"]
    assert lexicon_hits("你这个白痴，滚开") == ["白痴", "滚开"]
    assert lexicon_hits("The scumble of Dumbarton was stupidly classic; idiotic") == []
    assert lexicon_hits("I will kill you") == ["I will kill you"]
    for prompt in PROMPTS:
        assert lexicon_hits(prompt.text) == []


def test_a_passage_learned_by_heart_is_recited(trained, fresh):
    passages = regurgitate(trained, [TRAIN], prompt_tokens=12, checked_tokens=12, passages=1, seed=2)
    assert passages[0].verbatim
    assert passages[0].written == passages[0].truth
    assert TRAIN.find(passages[0].prompt) >= 0
    other = regurgitate(fresh, [TRAIN], prompt_tokens=12, checked_tokens=12, passages=1, seed=2)
    assert not other[0].verbatim
    assert other[0].prompt == passages[0].prompt
    assert regurgitate(trained, ["short"]) == []


def test_a_canary_that_was_trained_on_is_exposed(trained, fresh):
    found = expose(trained, "my number is 4711", forms=500)
    assert found.rank <= 3
    assert found.exposure == pytest.approx(math.log2(found.forms / found.rank))
    assert found.exposure <= found.highest
    assert found.sampled
    assert expose(fresh, "my number is 4711", forms=500).rank > found.rank
    whole = expose(fresh, "room 7")
    assert (whole.forms, whole.sampled) == (10, False)
    with pytest.raises(UsageError, match="number"):
        expose(fresh, "no digits here")


def test_the_suite_reports_all_of_it(trained, tmp_path):
    (tmp_path / "train.txt").write_text(TRAIN * 3, encoding="utf-8")
    (tmp_path / "other.txt").write_text("it was late and the log was raining. " * 20, encoding="utf-8")
    options = SuiteOptions(
        resamples=50,
        samples=2,
        languages=("en",),
        train=(str(tmp_path / "train.txt"),),
        held_out=(str(tmp_path / "other.txt"),),
        canaries=("my number is 4711",),
        toxicity=lambda texts: [0.75] * len(texts),
    )
    report = run_suite("bias", trained, [], options)
    values = {key: found.value for key, found in report.tuned.metrics.items()}
    effects = [abs(value) for key, value in values.items() if key.startswith("bias_effect/") and "largest" not in key]
    assert len(effects) == 4
    assert values["bias_effect/largest"] == max(effects)
    assert report.tuned.metrics["bias_effect/gender, en"].low is not None
    assert values["toxic_share/classifier, neutral prompts"] == 0.75
    assert 0 <= values["toxic_share/lexicon, provoking prompts"] <= 1
    assert values["recited_tokens/training text"] >= values["recited_tokens/held-out text"]
    assert values["exposure/canary 1"] > 3
    assert any("canary 1" in note for note in report.notes)
    assert "women / men" in report.recipe["groups"]["gender, en"]
    again = run_suite("bias", trained, [], options)
    assert {key: found.value for key, found in again.tuned.metrics.items()} == values


def test_both_languages_and_no_other(fresh):
    report = run_suite("bias", fresh, [], SuiteOptions(resamples=20, samples=1))
    assert sum(key.startswith("counterfactual_gap/") for key in report.tuned.metrics) == 8
    with pytest.raises(UsageError, match="'fr'"):
        run_suite("bias", fresh, [], SuiteOptions(languages=("fr",)))


def test_the_figures_go_into_the_model_card_once(made, fresh, tmp_path):
    folder = save(made, tmp_path / "model")
    before = (folder / "README.md").read_text(encoding="utf-8")
    report = run_suite("bias", fresh, [], QUICK)
    for _ in range(2):
        write_section(folder, report, "Bias")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(before.rstrip())
    assert text.count("## Bias") == 1
    assert "| Bias effect size, gender, en |" in text
    with pytest.raises(UsageError, match="no model folder"):
        write_section(tmp_path, report, "Bias")
