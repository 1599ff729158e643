"""Zero-shot suites: the same figures as transformers on the same weights, and a protocol that says what they mean."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gptwo.errors import DataError, UsageError
from gptwo.evaluate.suites import NAMES, run_suite
from gptwo.evaluate.suites.base import Subject, SuiteOptions
from gptwo.evaluate.suites.detokenize import detokenize, detokenize_text, retokenize
from gptwo.evaluate.suites.text import strided_windows
from gptwo.generate.engine import Engine
from gptwo.model.config import GPT2Config
from gptwo.model.loss import IGNORE
from gptwo.model.pretrained import create, save
from gptwo.tokenizer import train_bpe

SENTENCES = ["the cat sat on the mat , and the dog on the log . ", "She said that it was late . ", "猫坐在垫子上。"]
QUICK = SuiteOptions(resamples=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_bpe(iter(SENTENCES * 20), 300)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4
    )
    return save(create(config, tokenizer, seed=3), tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def subject(folder) -> Subject:
    return Subject("tiny", Engine(folder))


@pytest.fixture(scope="module")
def theirs(folder):
    """The same weights in transformers: `theirs(context, continuation)` is its tokens' (log-probabilities, greedy)."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def judge(context: str, continuation: str) -> tuple[list[float], list[bool]]:
        kept = context.rstrip()
        before = tokenizer.encode(kept) or [tokenizer.eos_token_id]
        whole = tokenizer.encode(context + continuation) if kept else before + tokenizer.encode(continuation)
        count = len(whole) - len(before)
        whole = whole[-(model.config.n_positions + 1) :]
        with torch.inference_mode():
            scores = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)[-count:]
        targets = whole[-count:]
        values = [float(line[target]) for line, target in zip(scores, targets, strict=True)]
        return values, [line.argmax() == target for line, target in zip(scores, targets, strict=True)]

    judge.model, judge.tokenizer = model, tokenizer
    return judge


def records(path, rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- running text


def their_perplexity(theirs, text: str, stride: int, units: int | None, first: list[int]) -> float:
    """The loop of transformers' guide "Perplexity of fixed-length models"; per token, or per `units`."""
    ids = torch.tensor([first + theirs.tokenizer.encode(text)])
    size, nats, tokens, before = theirs.model.config.n_positions, 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + size, ids.shape[1])
        part, targets = ids[:, begin:end], ids[:, begin:end].clone()
        targets[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = theirs.model(part, labels=targets).loss
        count = int((targets[:, 1:] != -100).sum())
        nats, tokens, before = nats + float(loss) * count, tokens + count, end
        if end == ids.shape[1]:
            break
    return math.exp(nats / (units or tokens))


@pytest.mark.parametrize("stride", [7, 20, 40])
def test_wikitext_in_both_protocols_equals_transformers(subject, theirs, tmp_path, stride):
    text = " \n = The cat = \n \n" + "".join(f" {sentence}\n" for sentence in SENTENCES * 3)
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    report = run_suite("wikitext2", subject, [tmp_path], SuiteOptions(stride=stride))
    natural = detokenize_text(text)
    assert "the mat, and the dog on the log." in natural.text
    assert natural.unrestored == 0
    found = report.tuned.value
    assert found("perplexity/token") == pytest.approx(their_perplexity(theirs, text, stride, None, []), rel=1e-3)
    end = [theirs.tokenizer.eos_token_id]
    words = natural.words + natural.lines
    by_word = their_perplexity(theirs, natural.text, stride, words, end)
    if stride < 40:  # at a stride of the whole context the guide's loop leaves tokens out
        assert found("perplexity/word") == pytest.approx(by_word, rel=1e-3)
    said = " ".join(report.notes)
    assert f"stride: {stride} of 40 tokens" in said
    assert "de-tokenizer" in said
    assert "normaliser" in said
    assert report.recipe["words"] == natural.words == len(text.split())
    assert report.recipe["line_ends"] == text.count("\n")


@pytest.mark.parametrize(("count", "size", "stride"), [(100, 10, 3), (100, 10, 10), (5, 10, 2), (11, 10, 9), (1, 4, 2)])
def test_strided_windows_judge_every_token_at_most_once(count, size, stride):
    judged = []
    for window in strided_windows(range(count), size, stride):
        assert len(window.ids) == len(window.labels) < size
        for seen, label in zip(window.ids, window.labels, strict=True):
            if label != IGNORE:
                assert label == seen + 1
                judged.append(label)
    assert len(judged) == len(set(judged))
    if stride < size:
        assert sorted(judged) == list(range(1, count))


LINES = [
    " = = The 24 @-@ inch gun = = ",
    ' It weighed 1 @,@ 200 kg ( 2 @,@ 646 lb ) , more than " Old Bess " ; nobody knew why . ',
    " Mr. Smith 's gun couldn 't hit at 3 @.@ 5 km : it was the U.S. Navy 's . ",
    ' He said : " Wait ! " , then left ... What ? ',
    " <unk> [ sic ] & 50 % of @-@ edge <unk> 's ' quoted ' text ",
    " ",
]


@pytest.mark.parametrize("line", LINES)
def test_the_detokenizer_can_be_undone(line):
    assert retokenize(detokenize(line)) == line.split()


def test_the_detokenizer_makes_text_natural():
    assert detokenize(LINES[0]) == "== The 24-inch gun =="
    assert detokenize(LINES[1]) == 'It weighed 1,200 kg (2,646 lb), more than "Old Bess"; nobody knew why.'
    assert detokenize(LINES[2]) == "Mr. Smith's gun couldn't hit at 3.5 km: it was the U.S. Navy's."


def test_the_words_of_wikitext_2_are_those_that_papers_divide_by(data_set):
    text = (data_set("wikitext2_valid_test") / "test.txt").read_text(encoding="utf-8")
    found = detokenize_text(text)
    assert found.words + found.lines == 245569
    assert found.unrestored < 0.01 * found.words


def test_bits_per_byte_of_any_file(subject, tmp_path):
    first, second = tmp_path / "notes.log", tmp_path / "a.txt"
    first.write_text(SENTENCES[0] * 3, encoding="utf-8")
    second.write_text(SENTENCES[2] * 5, encoding="utf-8")
    report = run_suite("bits-per-byte", subject, [first, second], SuiteOptions(stride=10))
    values = {key: found.value for key, found in report.tuned.metrics.items()}
    sizes = [len(path.read_bytes()) for path in (first, second)]
    parts = values["bits_per_byte/notes.log"] * sizes[0] + values["bits_per_byte/a.txt"] * sizes[1]
    assert values["bits_per_byte"] == pytest.approx(parts / sum(sizes))
    assert any(f"{sum(sizes):,} bytes" in note for note in report.notes)


# --- last words


def test_lambada_in_both_readings_equals_transformers(subject, theirs, tmp_path):
    passages = [
        "the cat sat on the",
        "She said that it was late , and the dog sat on the mat",
        "it was the cat on the log",
    ]
    data = records(tmp_path / "lambada.jsonl", [{"text": text} for text in passages])
    report = run_suite("lambada", subject, [data], QUICK)
    judged = [theirs(" ".join(text.split(" ")[:-1]), " " + text.split(" ")[-1]) for text in passages]
    found = report.tuned.value
    assert found("accuracy/last word") == sum(all(greedy) for _, greedy in judged) / 3
    assert found("accuracy/last token") == sum(greedy[-1] for _, greedy in judged) / 3
    word = math.exp(-sum(sum(values) for values, _ in judged) / 3)
    token = math.exp(-sum(values[-1] for values, _ in judged) / 3)
    assert found("perplexity/last word") == pytest.approx(word, rel=1e-3)
    assert found("perplexity/last token") == pytest.approx(token, rel=1e-3)
    assert len(report.notes) >= 4


def test_lambada_on_real_passages(subject, theirs, data_set):
    path = data_set("lambada") / "lambada_test.jsonl"
    report = run_suite("lambada", subject, [path], SuiteOptions(limit=8, resamples=20))
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:8]]
    nats = [-sum(theirs(text.rpartition(" ")[0], " " + text.rpartition(" ")[2])[0]) for text in texts]
    assert report.tuned.value("perplexity/last word") == pytest.approx(math.exp(sum(nats) / 8), rel=1e-3)
    assert any("longer than the context" in note for note in report.notes)


def test_a_passage_of_one_word_is_told_with_its_row(subject, tmp_path):
    data = records(tmp_path / "bad.jsonl", [{"text": "the cat sat"}, {"text": "cat"}])
    with pytest.raises(DataError, match=r"bad.jsonl:2"):
        run_suite("lambada", subject, [data], QUICK)


# --- choices

HELLASWAG = {
    "activity_label": "Cats",
    "ctx_a": "The cat is on the mat.",
    "ctx_b": "the dog",
    "endings": ["sat on the log.", "was late.", "[title] said that.", "and the"],
    "label": "0",
}
EXAMPLES = {
    "choice": (
        {"question": "the cat sat on", "choices": ["the mat", "late"], "answer": "B"},
        [("the cat sat on", " the mat"), ("the cat sat on", " late")],
        1,
    ),
    "hellaswag": (
        HELLASWAG,
        [("Cats: The cat is on the mat. The dog", " " + e.replace("[title] ", "")) for e in HELLASWAG["endings"]],
        0,
    ),
    "copa": (
        {
            "premise": "The cat sat.",
            "choice1": "The dog sat.",
            "choice2": "It was late.",
            "question": "cause",
            "label": 1,
        },
        [("The cat sat because", " the dog sat."), ("The cat sat because", " it was late.")],
        1,
    ),
    "winograd": (
        {
            "sentence": "the cat sat on the dog and _ was late",
            "option1": "the cat",
            "option2": "the dog",
            "answer": "2",
        },
        [("the cat sat on the dog and the cat", " was late"), ("the cat sat on the dog and the dog", " was late")],
        1,
    ),
    "cloze": (
        {"context": "the cat sat .", "question": "the XXXXX was late .", "choices": ["cat", "dog"], "answer": "cat"},
        [("the cat sat . the", " cat was late ."), ("the cat sat . the", " dog was late .")],
        0,
    ),
}


@pytest.mark.parametrize("suite", EXAMPLES)
def test_choices_are_scored_as_transformers_scores_them(subject, theirs, tmp_path, suite):
    record, pairs, right = EXAMPLES[suite]
    report = run_suite(suite, subject, [records(tmp_path / "data.jsonl", [record])], QUICK)
    judged = [theirs(*pair)[0] for pair in pairs]
    totals = [sum(values) for values in judged]
    means = [sum(values) / len(values) for values in judged]
    found = report.systems[0].value
    name = "accuracy/partial" if suite == "winograd" else "accuracy/sum"
    assert found(name) == float(totals.index(max(totals)) == right)
    if "accuracy/token" in report.systems[0].metrics:
        assert found("accuracy/token") == float(means.index(max(means)) == right)
    assert report.systems[1].name == "Chance"
    assert report.systems[1].value(report.primary) == 1 / len(pairs)
    assert any("log P" in note for note in report.notes)


def test_the_scores_behind_the_choice_are_those_of_transformers(subject, theirs):
    from gptwo.evaluate.suites.base import judge_pairs

    pairs = [pair for _, pairs, _ in EXAMPLES.values() for pair in pairs] + [("", " the cat"), ("the cat ", "sat")]
    for pair, one in zip(pairs, judge_pairs(subject.engine, pairs), strict=True):
        values, greedy = theirs(*pair)
        assert one.logprobs == pytest.approx(values, rel=1e-3, abs=1e-5)
        assert one.likeliest == greedy


def test_chinese_answers_follow_without_a_space(subject, theirs, tmp_path):
    record = {"question": "猫坐在", "choices": ["垫子上", "木头"], "answer": 0}
    report = run_suite("choice", subject, [records(tmp_path / "zh.jsonl", [record])], QUICK)
    totals = [sum(theirs("猫坐在", choice)[0]) for choice in record["choices"]]
    assert report.systems[0].value("accuracy/sum") == float(totals[0] > totals[1])


@pytest.mark.parametrize(
    ("suite", "record", "message"),
    [
        ("choice", {"question": "a", "choices": ["b", "c"], "answer": 2}, "none of the 2 choices"),
        ("choice", {"question": "a", "choices": ["b"], "answer": 0}, "two or more"),
        ("choice", {"choices": ["b", "c"], "answer": 0}, "'question'"),
        ("copa", {"premise": "a", "choice1": "b", "choice2": "c", "question": "why", "label": 0}, "'why'"),
        ("winograd", {"sentence": "no blank", "option1": "a", "option2": "b", "answer": 1}, "blank"),
        ("winograd", {"sentence": "a _ b", "option1": "a", "option2": "b", "answer": 0}, "none of the 2"),
        ("cloze", {"question": "_ and _", "choices": ["a", "b"], "answer": "a"}, "blank"),
    ],
)
def test_a_record_that_does_not_fit_is_told_with_its_row(subject, tmp_path, suite, record, message):
    with pytest.raises(DataError, match=message) as caught:
        run_suite(suite, subject, [records(tmp_path / "data.jsonl", [record])], QUICK)
    assert "data.jsonl:1" in str(caught.value)


def test_an_unknown_suite_and_missing_data_are_usage_errors(subject, tmp_path):
    with pytest.raises(UsageError, match="lambada"):
        run_suite("lambda", subject, [], QUICK)
    for name in NAMES:
        if name != "bias":
            with pytest.raises(UsageError):
                run_suite(name, subject, [], QUICK)
    with pytest.raises(DataError, match="no such file"):
        run_suite("wikitext2", subject, [tmp_path], QUICK)
