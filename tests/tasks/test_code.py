"""Code: run only where that is asked for; pass@k over several tries."""

from __future__ import annotations

import pytest

from gptwo.errors import DataError, UsageError
from gptwo.tasks.code import Code, program_of
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import Written

ADD = {"prompt": "add one", "code": "def f(x):\n    return x + 1", "tests": ["assert f(1) == 2", "assert f(2) == 3"]}


def test_code_is_not_run_unless_asked_for(record, monkeypatch):
    monkeypatch.setattr("gptwo.tasks.code.run_programs", lambda *_: pytest.fail("it was run"))
    task, given = Code(max_target=9), [record(**ADD)]
    assert task.measures == ("chrf", "exact_match")
    report = task.report("t", given, {"Tuned": Written([ADD["code"]]), **task.baselines(given, given)})
    assert report.tuned.value("exact_match") == 1.0
    assert report.systems[1].predictions == [ADD["code"]]
    assert "task.execute is off" in " ".join(report.notes)


def test_pass_at_k_of_several_tries(record):
    task, given = Code(execute=True, tries=5), [record(**ADD), record(**{**ADD, "setup": "import math"})]
    wrong = "def f(x): return x"
    said = Written([wrong, wrong], tries=[[wrong, ADD["code"], wrong, wrong, wrong], [wrong] * 5])
    found = task.measured(given, said)
    assert found["pass_1"].value == pytest.approx(0.1)
    assert found["pass_5"].value == pytest.approx(0.5)
    assert task.measures[0] == "pass_1"


def test_a_program_is_setup_code_and_tests(record):
    assert program_of(record(**{**ADD, "setup": "import math"}), "x").split("\n") == ["import math", "x", *ADD["tests"]]
    with pytest.raises(DataError, match=r"no tests to run[\s\S]*data\.csv:3"):
        program_of(record(3, prompt="x", code="y"), "y")


def test_several_tries_are_drawn(record, tokenizer, network):
    assert Code(tries=3).decode["temperature"] == 0.8
    with pytest.raises(UsageError, match=r"task\.decode"):
        Code(tries=3, decode={"num_beams": 1})
    task = Code(tries=3, max_target=8)
    task.fit([record(**ADD)])
    assert not task.single_line
    said = task.predict(ModelRunner(network("language"), tokenizer, 32), [record(**ADD), record(prompt="x", code="y")])
    assert [len(each) for each in said.tries] == [3, 3]
    assert said.texts == [each[0] for each in said.tries]
    assert len(set(said.tries[0])) > 1


HEAD = {
    "prompt": 'def f(x):\n    """ add one """\n',
    "code": "    return x + 1\n",
    "tests": "def check(candidate):\n    assert candidate(1) == 2\n",
    "entry_point": "f",
}


def test_a_completion_keeps_its_white_space_and_is_run_behind_its_prompt(record, tokenizer):
    given = record(**HEAD)
    assert program_of(given, "    return x + 1").split("\n")[-4:] == [
        "def check(candidate):",
        "    assert candidate(1) == 2",
        "",
        "check(f)",
    ]
    task = Code("{prompt}", execute=True, max_target=30)
    assert task.references_of(given) == ["    return x + 1"]
    (example,) = task.encode(given, tokenizer, 200)
    assert tokenizer.decode(example.ids).startswith(HEAD["prompt"] + "    return x + 1")
    assert task.options(64)["stop"][0] == "\ndef "
    right, wrong = "    return x + 1", "    return x"
    found = task.measured([given, given], Written([right, wrong], tries=[[right], [wrong]]))
    assert found["pass_1"].value == pytest.approx(0.5)
    assert found["exact_match"].value == pytest.approx(0.5)


def test_levels_of_indentation_are_one_tab_to_the_network_and_four_spaces_to_the_reader(record, tokenizer):
    codes = ["def f(x):\r\n  if x:\r\n    return 1\r\n  return (x +\n          2)", "def f(x):\n\tif x:\n\t\treturn 1"]
    task = Code(max_target=60)
    given = [record(**{**ADD, "code": code}) for code in codes]
    task.fit(given)
    (example,) = task.encode(given[0], tokenizer, 200)
    written = tokenizer.decode([token for token in example.labels if token >= 0], skip_special=True)
    assert written == "def f(x):\n\tif x:\n\t\treturn 1\n\treturn (x +\n          2)"
    assert task.finish(written) == "def f(x):\n    if x:\n        return 1\n    return (x +\n          2)"
    assert [task.references_of(one) for one in given] == [
        [task.finish(written)],
        ["def f(x):\n    if x:\n        return 1"],
    ]
    assert task.finish("def f(x:\n\treturn") == "def f(x:\n\treturn"


def test_a_program_ends_where_no_training_program_goes_on(record):
    task = Code(max_target=30)
    task.fit([record(**ADD), record(**{**ADD, "code": "import math\nprint(math.pi)\n\n\n\nprint( 1)"})])
    stops = task.options(64)["stop"]
    assert "\nassert" in stops
    assert "\nprint" not in stops
    assert (" " * 9) in stops
    assert "\n" * 5 in stops
    again = Code.restored({**task.describe(), "decode": {}})
    assert (again.options(64)["stop"], again.tabs) == (stops, True)
    own = Code(max_target=30, decode={"stop": ["END"]})
    own.fit([record(**ADD)])
    assert own.options(64)["stop"] == ["END"]


def test_a_model_of_before_writes_as_it_learned(record):
    info = {"task": "code", "prompt": None, "decode": {}, "max_target": 30, "single_line": False}
    assert Code.restored(info).references_of(record(**{**ADD, "code": "if x:\n  y"})) == ["if x:\n  y"]
