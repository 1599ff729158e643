"""Importing gptwo is cheap, and its public names are where it says they are."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gptwo

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "polars", "sklearn", "tokenizers", "pydantic", "huggingface_hub")
VERB_FILES = sorted(path.stem for path in (ROOT / "gptwo" / "cli").glob("*.py") if path.stem != "__init__")


def heavy_after(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter holds after running some code."""
    report = f"\nimport sys; print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()[-1].split()[1:]


def test_import_gptwo_loads_nothing_heavy():
    assert heavy_after("import gptwo; gptwo.__version__; dir(gptwo)") == []


def test_help_loads_nothing_heavy():
    code = "import sys; sys.argv = ['gptwo', '--help']\nfrom gptwo.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass"
    assert heavy_after(code) == []


def test_no_verb_imports_torch_before_it_runs():
    imports = "\n".join(f"import gptwo.cli.{name}" for name in VERB_FILES)
    assert "torch" not in heavy_after(imports)


@pytest.mark.parametrize("name", gptwo.__all__)
def test_every_public_name_is_there(name):
    assert getattr(gptwo, name) is not None
    assert name in dir(gptwo)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        gptwo.lod  # noqa: B018


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert gptwo.__version__ == project["version"]
    assert f"## {gptwo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
