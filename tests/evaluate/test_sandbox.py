"""Programs run within limits, and pass@k is the unbiased estimator."""

from __future__ import annotations

import itertools
import os

import pytest

from gptwo.errors import UsageError
from gptwo.evaluate.sandbox import Limits, pass_at_k, run_program, run_programs

SHORT = Limits(seconds=1, memory=512, file=1)


def test_a_program_passes_where_its_tests_do():
    found = run_programs(["def f(x): return x + 1\nassert f(1) == 2", "assert 1 == 2, 'wrong'", "f("])
    assert [outcome.passed for outcome in found] == [True, False, False]
    assert found[1].why == "AssertionError: wrong"
    assert found[2].why.startswith("SyntaxError")


@pytest.mark.parametrize(
    "program", ["import sys\nsys.exit(0)", "import os\nos._exit(0)", "print('x')\nraise SystemExit"]
)
def test_ending_early_is_not_passing(program):
    assert not run_program(program, SHORT).passed


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("while True: pass", "time"),
        ("x = bytearray(2 << 30)", "MemoryError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "refused: socket"),
        ("import subprocess\nsubprocess.run(['true'])", "refused"),
        ("import os\nos.system('true')", "refused: os.system"),
        ("import os\nos.fork()", "refused: os.fork"),
        ("import os\nos.remove('/tmp/nothing-here')", "refused: os.remove"),
        ("open('/tmp/gptwo-sandbox-test', 'w')", "refused: open"),
        ("f = open('big', 'wb')\nf.write(bytes(4 << 20))\nf.flush()", ""),
    ],
)
def test_what_is_refused(program, why):
    outcome = run_program(program, SHORT)
    assert not outcome.passed
    assert why in outcome.why
    assert not os.path.exists("/tmp/gptwo-sandbox-test")


def test_small_files_of_its_own_are_allowed_and_gone_afterwards():
    program = "open('a', 'w').write('x')\nassert open('a').read() == 'x'\nimport os\nos.remove('a')"
    assert run_program(program, SHORT).passed


def test_a_program_sees_no_environment(monkeypatch):
    monkeypatch.setenv("GPTWO_SECRET", "1")
    assert run_program("import os\nassert 'GPTWO_SECRET' not in os.environ", SHORT).passed


def test_pass_at_k_is_the_share_of_drawn_groups_with_a_pass():
    for n, c in itertools.product(range(1, 7), range(7)):
        if c > n:
            continue
        results = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            groups = list(itertools.combinations(results, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, groups)) / len(groups))


def test_pass_at_k_needs_k_samples():
    with pytest.raises(UsageError, match=r"pass@5 needs 5 samples"):
        pass_at_k(3, 1, 5)
