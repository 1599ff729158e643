"""Options say what is wrong with a value, and where."""

import pytest

from gptwo.errors import UsageError
from gptwo.generate.options import DEFAULT_NEW_TOKENS, SamplingOptions, as_prompts, model_defaults


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("top_p", 1.5, "0 < top_p <= 1"),
        ("top_p", 0, "0 < top_p <= 1"),
        ("top_k", -1, "0 <= top_k"),
        ("top_k", 2.5, "whole number"),
        ("temperature", -0.1, "0 <= temperature"),
        ("temperature", float("nan"), "nan"),
        ("temperature", "hot", "'hot'"),
        ("min_p", 2, "0 <= min_p <= 1"),
        ("repetition_penalty", 0, "0 < repetition_penalty"),
        ("presence_penalty", 3, "-2 <= presence_penalty <= 2"),
        ("max_new_tokens", -1, "0 <= max_new_tokens"),
        ("n", 0, "1 <= n"),
        ("n", True, "True"),
        ("seed", 2**63, "seed"),
        ("logit_bias", {3: 200}, "logit_bias[3]"),
        ("logit_bias", {"a": 1}, "token ids"),
        ("stop", ["\n", ""], "non-empty"),
        ("ignore_end", 1, "true or false"),
        ("early_stopping", "sometimes", "never"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(name, value, told):
    with pytest.raises(UsageError) as caught:
        SamplingOptions(**{name: value})
    assert name in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"temperature": 0, "n": 2}, "n"),
        ({"num_beams": 2, "n": 3}, "n"),
        ({"num_beams": 2, "top_p": 0.5}, "top_p"),
        ({"num_beams": 2, "temperature": 0.7}, "temperature"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, where):
    with pytest.raises(UsageError) as caught:
        SamplingOptions(**options)
    assert caught.value.where == where


def test_an_unknown_option_comes_with_the_nearest_known_one():
    with pytest.raises(UsageError, match="Did you mean 'temperature'"):
        SamplingOptions.make(temprature=1)
    with pytest.raises(UsageError, match="Here it is called no_repeat_ngram"):
        SamplingOptions.make(no_repeat_ngram_size=3)


def test_both_limits_hold_and_one_of_them_suffices():
    assert SamplingOptions().new_tokens(10) == DEFAULT_NEW_TOKENS
    assert SamplingOptions(max_new_tokens=5).new_tokens(10) == 5
    assert SamplingOptions(max_length=12).new_tokens(10) == 2
    assert SamplingOptions(max_length=12).new_tokens(20) == 0
    assert SamplingOptions(max_length=12, max_new_tokens=1).new_tokens(10) == 1


def test_one_stop_string_need_not_be_a_list():
    assert SamplingOptions(stop="\n").stop == ("\n",)


def test_a_generation_config_counts_only_where_it_samples():
    assert model_defaults({"top_k": 50, "temperature": 0.7, "repetition_penalty": 1.2}) == {"repetition_penalty": 1.2}
    assert model_defaults({"do_sample": True, "top_k": 50, "eos_token_id": 3}) == {"top_k": 50}


def test_prompts_are_texts_or_token_ids():
    assert as_prompts("a") == ["a"]
    assert as_prompts(["a", [1, 2]]) == ["a", [1, 2]]
    with pytest.raises(UsageError, match=r"\[\[1, 2, 3\]\]"):
        as_prompts([1, 2, 3])
