"""The notebooks run from top to bottom, say the same in both languages, and are kept without outputs."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PAIRS = [(path, path.with_suffix(".zh-CN.ipynb")) for path in NOTEBOOKS if ".zh-CN" not in path.name]
A_CELL_AT_MOST = 3600  # seconds: against one that hangs; a busy machine takes long


def name_of(path: Path) -> str:
    return path.name


def cells(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def bare(cell: dict[str, Any]) -> list[str]:
    """A cell's code without comments and texts: of its strings, names with a dot, dash or underline in them stay."""

    def literal(match: re.Match[str]) -> str:
        return match.group() if re.fullmatch(r'"\w+[./_-][\w./_-]*"', match.group(), re.ASCII) else "…"

    code = re.sub(r"(^|\s+)# .*$", "", "".join(cell["source"]), flags=re.MULTILINE)
    code = re.sub(r'""".*?"""', "…", code, flags=re.DOTALL)
    code = re.sub(r'f?"(?:[^"\\]|\\.)*"', literal, code)
    return [line for line in code.split("\n") if line.strip()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_begins_with_a_badge_and_installs_what_is_missing(path):
    first, second = cells(path)[:2]
    assert "colab-badge.svg" in "".join(first["source"])
    assert "pip" in "".join(second["source"])
    install, find = cells(path, "code")[:2]
    model_install, model_find = cells(NOTEBOOKS[0], "code")[:2]
    assert (bare(install), bare(find)) == (bare(model_install), bare(model_find))


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[name_of(path) for path, _ in PAIRS])
def test_both_languages_do_the_same(english, chinese):
    ours, theirs = cells(english), cells(chinese)
    assert [cell["cell_type"] for cell in ours] == [cell["cell_type"] for cell in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one["cell_type"] == "code":
            assert sorted(bare(one)) == sorted(bare(other)), one["id"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_links_of_a_notebook_lead_somewhere(path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("https:")]
    assert targets
    for target in targets:
        assert (path.parent / target).is_file(), f"{path.name}: {target}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_what_a_notebook_imports_from_gptwo_is_there(path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    imports = re.findall(r"^from (gptwo[\w.]*) import (.+)$", text, re.MULTILINE)
    assert imports
    for module, names in imports:
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{path.name}: {module} has no {name}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("GPTWO__TRAIN__THREADS", "1")  # as all tests
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=A_CELL_AT_MOST, kernel_name="python3", resources=resources).execute()
    assert all(cell["execution_count"] for cell in notebook.cells if cell["cell_type"] == "code")
