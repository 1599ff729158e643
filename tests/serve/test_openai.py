"""OpenAI's own client against a started server: every option of completions."""

from __future__ import annotations

import json
import math
import threading

import openai
import pytest

from gptwo.serve.answers import Completion, ModelList
from tests.serve.conftest import PROMPTS, built, serving

GREEDY = {"temperature": 0, "max_tokens": 12}
SAMPLED = {"temperature": 1.3, "seed": 7, "max_tokens": 12}


@pytest.fixture(scope="module", params=["torch", pytest.param("native", marks=built)])
def server(tiny, request):
    with serving({"tiny": tiny}, backend=request.param, precision="fp32") as running:
        yield running


def written(engine, prompt, **options):
    (one,) = engine.generate([prompt], **{"max_new_tokens": 12, **options})
    return one


def joined(stream):
    """The texts of a stream by index, and its other news."""
    texts, reasons, usage = {}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return texts, reasons, usage


def test_the_models_are_listed(client, server):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    raw = client.models.with_raw_response.list().content
    ModelList.model_validate_json(raw)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_completion_is_the_engine_s_text_whole_and_streamed(prompt, options, client, engine):
    ours = {"temperature": options["temperature"], "seed": options.get("seed")}
    wanted = written(engine, prompt, **ours)
    said = client.completions.with_raw_response.create(model="tiny", prompt=prompt, **options)
    Completion.model_validate_json(said.content)
    said = said.parse()
    assert said.choices[0].text == wanted.text
    assert said.choices[0].finish_reason == ("length" if wanted.finish_reason == "length" else "stop")
    assert said.usage.prompt_tokens == wanted.prompt_tokens
    assert said.usage.completion_tokens == len(wanted.ids)
    stream = client.completions.create(
        model="tiny", prompt=prompt, stream=True, stream_options={"include_usage": True}, **options
    )
    texts, reasons, usage = joined(stream)
    assert texts == {0: wanted.text}
    assert reasons == {0: said.choices[0].finish_reason}
    assert usage == said.usage


def test_a_prompt_may_be_ids_or_several_of_either(client, tokenizer):
    ids = [tokenizer.encode(text) for text in ("the quick", "春眠")]
    texts = client.completions.create(model="tiny", prompt=["the quick", "春眠"], **GREEDY)
    tokens = client.completions.create(model="tiny", prompt=ids, **GREEDY)
    single = client.completions.create(model="tiny", prompt=ids[0], **GREEDY)
    assert [one.text for one in texts.choices] == [one.text for one in tokens.choices]
    assert single.choices[0].text == texts.choices[0].text
    assert [one.index for one in texts.choices] == [0, 1]


def test_n_texts_are_the_engine_s_and_a_stream_has_them_too(client, engine):
    wanted = [one.text for one in engine.generate(["the"], n=3, max_new_tokens=12, temperature=1.3, seed=7)]
    said = client.completions.create(model="tiny", prompt="the", n=3, **SAMPLED)
    assert [one.text for one in said.choices] == wanted
    texts, _, _ = joined(client.completions.create(model="tiny", prompt="the", n=3, stream=True, **SAMPLED))
    assert [texts[i] for i in range(3)] == wanted


def test_best_of_gives_the_likeliest_by_mean(client, engine):
    several = engine.generate(["the"], n=5, max_new_tokens=12, temperature=1.3, seed=7, logprobs=True)
    best = sorted(several, key=lambda one: -sum(one.logprobs) / len(one.logprobs))[:2]
    said = client.completions.create(model="tiny", prompt="the", n=2, best_of=5, **SAMPLED)
    assert [one.text for one in said.choices] == [one.text for one in best]
    assert said.usage.completion_tokens == sum(len(one.ids) for one in several)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_and_logprobs_are_of_the_whole_text(stream, client, engine, tokenizer):
    prompt = "春眠 the quick"
    options = {"model": "tiny", "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 8, "temperature": 0}
    if stream:
        text, parts = "", {"tokens": [], "token_logprobs": [], "text_offset": [], "top_logprobs": []}
        for chunk in client.completions.create(stream=True, **options):
            text += chunk.choices[0].text
            for name, values in parts.items():
                values += getattr(chunk.choices[0].logprobs, name)
    else:
        choice = client.completions.create(**options).choices[0]
        text, parts = choice.text, choice.logprobs.model_dump()
    wanted = written(engine, prompt, temperature=0, max_new_tokens=8, logprobs=True)
    assert text == prompt + wanted.text
    ids = tokenizer.encode(prompt)
    shown = [i for i in range(len(wanted.ids)) if wanted.ids[i] != tokenizer.end_id]
    assert len(parts["tokens"]) == len(ids) + len(shown)
    assert parts["token_logprobs"][0] is None
    assert parts["token_logprobs"][len(ids) :] == pytest.approx([wanted.logprobs[i] for i in shown], abs=1e-4)
    assert parts["text_offset"] == sorted(parts["text_offset"])
    assert parts["top_logprobs"][0] is None
    for top, own in zip(parts["top_logprobs"][1:], parts["token_logprobs"][1:], strict=True):
        assert 2 <= len(top) <= 3
        assert min(top.values()) <= own <= max(top.values()) <= 0
    whole = [(offset, token) for offset, token in zip(parts["text_offset"], parts["tokens"], strict=True)
             if not token.startswith("bytes:")]  # fmt: skip
    assert whole
    assert all(text[offset : offset + len(token)] == token for offset, token in whole)


def test_a_prompt_is_scored_without_writing(client, engine):
    said = client.completions.create(model="tiny", prompt="the quick brown", echo=True, logprobs=0, max_tokens=0)
    likelihood = engine.loglikelihood(["the"], [" quick brown"])[0]
    count = len(likelihood.logprobs)
    assert said.choices[0].text == "the quick brown"
    assert said.choices[0].logprobs.token_logprobs[-count:] == pytest.approx(likelihood.logprobs, abs=1e-4)
    assert said.usage.completion_tokens == 0
    texts, reasons, _ = joined(
        client.completions.create(model="tiny", prompt="the quick brown", echo=True, max_tokens=0, stream=True)
    )
    assert texts == {0: "the quick brown"}
    assert reasons == {0: "length"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_found_across_tokens_and_never_told(stream, client, engine):
    whole = written(engine, "the", temperature=1.3, seed=7, max_new_tokens=40).text
    assert len(whole) > 12
    for start in (2, 5, 8):
        stop = whole[start : start + 3]
        wanted = whole[: whole.index(stop)]
        said = client.completions.create(
            model="tiny", prompt="the", temperature=1.3, seed=7, max_tokens=40, stop=stop, stream=stream, logprobs=0
        )
        if stream:
            texts, reasons, _ = joined(said)
            text, reason = texts.get(0, ""), reasons[0]
        else:
            text, reason = said.choices[0].text, said.choices[0].finish_reason
            assert all(offset < max(1, len(text)) for offset in said.choices[0].logprobs.text_offset)
        assert (text, reason) == (wanted, "stop")


def test_several_stops(client, engine):
    whole = written(engine, "the", temperature=1.3, seed=7, max_new_tokens=40).text
    stops = [whole[9:11], "no such text", whole[4:6]]
    said = client.completions.create(model="tiny", prompt="the", temperature=1.3, seed=7, max_tokens=40, stop=stops)
    assert said.choices[0].text == min((whole[: whole.index(stop)] for stop in stops if stop in whole), key=len)


FILTERS = {
    "top_p": ({"top_p": 0.7}, {"top_p": 0.7}),
    "nothing but the likeliest": ({"top_p": 0}, {"temperature": 0, "seed": None}),
    "top_k": ({"extra_body": {"top_k": 3}}, {"top_k": 3}),
    "top_k off": ({"extra_body": {"top_k": -1}}, {}),
    "min_p": ({"extra_body": {"min_p": 0.2}}, {"min_p": 0.2}),
    "presence": ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
    "frequency": ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
    "repetition": ({"extra_body": {"repetition_penalty": 1.5}}, {"repetition_penalty": 1.5}),
    "no_repeat_ngram": ({"extra_body": {"no_repeat_ngram": 1}}, {"no_repeat_ngram": 1}),
    "logit_bias": ({"logit_bias": {"70": 100}}, {"logit_bias": {70: 100.0}}),
    "min_tokens": ({"extra_body": {"min_tokens": 9}}, {"min_new_tokens": 9}),
    "ignore_eos": ({"extra_body": {"ignore_eos": True}}, {"ignore_end": True}),
}


@pytest.mark.parametrize("name", FILTERS)
def test_an_option_does_what_the_engine_s_does(name, client, engine):
    theirs, ours = FILTERS[name]
    wanted = written(engine, "the quick", **{"temperature": 1.3, "seed": 7, **ours})
    said = client.completions.create(model="tiny", prompt="the quick", **{**SAMPLED, **theirs})
    assert said.choices[0].text == wanted.text


def test_the_same_seed_gives_the_same_text_and_none_gives_others(client):
    def ask(**options):
        return (
            client.completions.create(model="tiny", prompt="the", max_tokens=12, temperature=1.5, **options)
            .choices[0]
            .text
        )

    assert ask(seed=3) == ask(seed=3)
    assert ask(seed=-1) == ask(seed=-1)
    assert len({ask() for _ in range(5)}) > 1


def test_many_clients_at_once_get_what_each_would_get_alone(client, engine):
    wanted = {
        (prompt, seed): written(engine, prompt, temperature=1.3, seed=seed).text
        for prompt in PROMPTS
        for seed in (1, 2)
    }
    found = {}

    def ask(prompt, seed, stream):
        said = client.completions.create(
            model="tiny", prompt=prompt, seed=seed, temperature=1.3, max_tokens=12, stream=stream
        )
        found[prompt, seed] = joined(said)[0][0] if stream else said.choices[0].text

    threads = [threading.Thread(target=ask, args=(*key, i % 2 == 0)) for i, key in enumerate(wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {key: text for key, text in wanted.items() if text or key in found}


def test_numbers_in_answers_are_numbers(client):
    said = client.completions.with_raw_response.create(
        model="tiny", prompt="the", max_tokens=4, temperature=0, logprobs=5, logit_bias={"70": -100}
    )
    values = json.loads(said.content, parse_constant=lambda name: pytest.fail(name))
    assert all(math.isfinite(value) for value in values["choices"][0]["logprobs"]["token_logprobs"])


def test_errors_are_the_client_s_own_classes(client):
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.completions.create(model="gpt-5", prompt="x")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="tiny", prompt="x", temperature=-1)
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(model="tiny", prompt="x", suffix="y")
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny", prompt="x " * 500)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="96 tokens"):
        client.completions.create(model="tiny", prompt="x", max_tokens=96)
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(model="tiny", prompt="x", n=3, best_of=2)
    with pytest.raises(openai.BadRequestError, match="template"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])
