"""What packing costs beside float32: the perplexity of gptwo-mini on text it was not trained for, and of a sorter."""

from __future__ import annotations

from itertools import product
from math import exp
from pathlib import Path

import pytest

from gptwo.generate.native import NativeEngine

LICENSE = Path(__file__).resolve().parents[2] / "LICENSE"
CHINESE = """
图书馆在河的南岸，每天早上八点开门。管理员先把昨天还回来的书放回书架，再给窗台上的花浇水。来得最早的总是一位退休的
老师，他坐在靠窗的位置，读一份当天的报纸，有时抄下几行字。九点以后，学生们陆续到了，他们带着电脑和水杯，说话的声音很
轻。中午，大家到对面的小店吃面，下午接着读书。到了冬天，河面结冰，从窗户望出去，可以看见孩子们在冰上滑行。管理员说，
这座房子已经有一百多年的历史，最早是一家银行，后来改成学校，二十年前才成为图书馆。墙上挂着的照片记录了这些变化：最老
的一张里，街上还没有汽车，人们坐着马车来办事。现在门前是一条宽阔的马路，公共汽车每隔十分钟经过一次。
"""
GATES = {"bf16": 0.001, "int8": 0.005, "int4": 0.03}  # how much the perplexity may grow


def log_probabilities(precision: str) -> list[float]:
    engine = NativeEngine("gptwo-mini", precision=precision)
    texts = [LICENSE.read_text(encoding="utf-8"), CHINESE]
    return [value for text in texts for value in engine.score(engine.tokenizer.encode(text)[:1000], 1)[0]]


@pytest.fixture(scope="module")
def float32() -> list[float]:
    return log_probabilities("fp32")


@pytest.mark.parametrize("precision", GATES)
def test_perplexity_stays_within_the_gate(precision, float32):
    packed = log_probabilities(precision)
    growth = exp((sum(float32) - sum(packed)) / len(packed)) - 1
    apart = sum(abs(a - b) for a, b in zip(float32, packed, strict=True)) / len(packed)
    print(f"{precision}: perplexity {growth:+.3%}, log-probabilities {apart:.4f} apart, {len(packed)} tokens")
    assert growth < GATES[precision]


@pytest.mark.parametrize("precision", GATES)
def test_a_trained_network_of_others_stays_within_the_gate_and_still_sorts(precision, data_set):
    letters = [list(one) for one in product(range(3), repeat=6)]
    folder = data_set("gpt_nano_sort")
    sums = {}
    for packing in ("fp32", precision):
        engine = NativeEngine(folder, precision=packing)
        found = [engine.score([*six, *sorted(six)[:5]], 1) for six in letters]
        sums[packing] = sum(sum(logprobs[5:]) for logprobs, _ in found)
        assert all(all(likeliest[5:]) for _, likeliest in found)
    growth = exp((sums["fp32"] - sums[precision]) / (5 * len(letters))) - 1
    print(f"{precision}: perplexity {growth:+.4%}")
    assert growth < GATES[precision]
