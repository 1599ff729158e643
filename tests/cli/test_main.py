"""The gptwo command: its help, its verbs, and how it ends."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from gptwo import __version__
from gptwo.cli.main import VERBS, Verb, load_verb, main
from gptwo.errors import DataError, GptwoError


@pytest.fixture
def gptwo(monkeypatch, capsys):
    """Run the command with some arguments; gives exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gptwo", *arguments])
        monkeypatch.delenv("GPTWO_DEBUG", raising=False)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def verb(monkeypatch):
    """Add a verb `probe` whose function is given."""

    def add(function, **subverbs: str) -> None:
        module = ModuleType("gptwo.cli.probe")
        for name in subverbs or ["probe"]:
            setattr(module, name, function)
        monkeypatch.setitem(sys.modules, "gptwo.cli.probe", module)
        monkeypatch.setitem(VERBS, "probe", Verb("Look around.", subverbs))

    return add


def test_help_names_every_verb(gptwo):
    code, out, _ = gptwo("--help")
    assert code == 0
    for name, verb in VERBS.items():
        assert name in out
        assert verb.summary[:40] in out


def test_version(gptwo):
    assert gptwo("--version") == (0, f"gptwo {__version__}\n", "")


def test_no_verb_shows_the_help_and_is_wrong_usage(gptwo):
    code, out, err = gptwo()
    assert code == 2
    assert "pretrain" in out + err


def test_a_mistyped_verb_gets_the_nearest_one(gptwo):
    code, out, err = gptwo("pretrian", "x.toml")
    assert (code, out) == (2, "")
    assert "Did you mean 'pretrain'?" in err


def test_a_verb_of_its_own_runs_with_its_arguments(gptwo, verb):
    def probe(prompt: str, seed: int = 1) -> None:
        print(f"{prompt} {seed}")

    verb(probe)
    assert gptwo("probe", "hello", "--seed", "5")[:2] == (0, "hello 5\n")


def test_a_verb_of_verbs(gptwo, verb):
    def pack(text: str) -> None:
        print("packed", text)

    verb(pack, pack="Pack it.")
    assert gptwo("probe", "pack", "x")[:2] == (0, "packed x\n")
    code, out, _ = gptwo("probe", "--help")
    assert code == 0
    assert "pack" in out
    assert gptwo("probe", "unpack")[0] == 2


def test_an_unknown_flag_is_wrong_usage(gptwo, verb):
    def probe(seed: int = 1) -> None: ...

    verb(probe)
    code, _, err = gptwo("probe", "--sed", "5")
    assert code == 2
    assert "--sed" in err


def test_an_error_is_a_message_with_its_exit_code_not_a_traceback(gptwo, verb):
    def probe() -> None:
        raise DataError("Row 7 has no label.", where="train.csv:7", fix="add one")

    verb(probe)
    code, out, err = gptwo("probe")
    assert (code, out) == (3, "")
    assert err == "gptwo: Row 7 has no label.\n  where: train.csv:7\n  fix:   add one\n"


def test_debug_shows_the_traceback(gptwo, verb, monkeypatch):
    def probe() -> None:
        raise GptwoError("no")

    verb(probe)
    monkeypatch.setenv("GPTWO_DEBUG", "")  # so that what --debug sets is undone afterwards
    with pytest.raises(GptwoError):
        gptwo("--debug", "probe")


def test_interrupted_is_130(gptwo, verb):
    def probe() -> None:
        raise KeyboardInterrupt

    verb(probe)
    assert gptwo("probe")[0] == 130


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_shows_its_help(gptwo, name):
    code, out, _ = gptwo(name, "--help")
    assert code == 0
    for subverb in VERBS[name].verbs:
        assert subverb in out
        assert gptwo(name, subverb, "--help")[0] == 0


@pytest.mark.parametrize(
    "option", ["device", "precision", "threads", "set", "columns", "format", "encoding", "delimiter", "fail-under"]
)
def test_an_option_of_one_name_has_one_meaning_in_every_verb(option):
    commands = [each for verb in map(load_verb, VERBS) for each in getattr(verb, "commands", {"": verb}).values()]
    found = [param for each in commands for param in each.params if f"--{option}" in param.opts]
    assert found
    assert len({param.help for param in found}) == 1
