"""`gptwo generate` with the native backend: the same texts, no PyTorch, and a notice where it is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gptwo.cli.common import run
from gptwo.cli.main import app
from gptwo.model.pretrained import save

GREEDY = ("--temperature", "0", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return str(save(tiny, tmp_path_factory.mktemp("cli") / "model"))


@pytest.fixture
def gptwo(folder, monkeypatch, capsys):
    """Call the command; returns exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gptwo", "generate", "--model", folder, *arguments])
        with pytest.raises(SystemExit) as ended:
            run(app)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def test_both_backends_print_the_same_text(gptwo):
    native = gptwo("the quick", "--backend", "native", "--precision", "fp32", *GREEDY)
    assert native == gptwo("the quick", "--backend", "torch", *GREEDY)
    assert native == gptwo("the quick", "--backend", "native", "--precision", "fp32", "--stream", *GREEDY)
    assert native[0] == 0


def test_packed_precisions_start_without_pytorch(folder):
    code = f"""
import sys
sys.argv = ["gptwo", "generate", "--model", {folder!r}, "the quick", "--precision", "int8", "--max-new-tokens", "4"]
from gptwo.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)


def test_without_the_native_engine_pytorch_writes_and_a_notice_says_so(gptwo, monkeypatch):
    expected = gptwo("the quick", "--backend", "torch", *GREEDY)
    monkeypatch.setattr("gptwo.generate.native.isas", list)
    code, out, err = gptwo("the quick", "--backend", "native", *GREEDY)
    assert (code, out) == (0, expected[1])
    assert "not built" in err
    code, _, err = gptwo("the quick", "--precision", "int4", *GREEDY)
    assert code == 4
    assert "int4" in err


def test_an_unknown_backend_or_precision_is_refused(gptwo):
    for arguments in (("--backend", "quick"), ("--precision", "int3"), ("--backend", "native", "--precision", "int3")):
        code, _, err = gptwo("the quick", *arguments, *GREEDY)
        assert code == 2
        assert arguments[-1] in err
