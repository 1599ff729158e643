"""The book on how GPT-2 works and the code agree: names exist, quotations are true, pictures are there.

That its Python runs, its links lead somewhere and its languages match is in test_docs.py.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"en": ROOT / "docs" / "how-gpt2-works", "zh": ROOT / "docs" / "how-gpt2-works.zh-CN"}
PAGES = [page for folder in FOLDERS.values() for page in sorted(folder.glob("*.md"))]
REFERENCE = re.compile(r"\[`([\w.]+)`\]\(((?:\.\./)+gptwo/[\w/]+\.py)\)")
LARGEST_PICTURE = 50_000  # bytes


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def definitions(file: Path) -> dict[str, str]:
    """Every class, function, method and constant of a module, and its source."""
    text = file.read_text(encoding="utf-8")
    found: dict[str, str] = {}

    def enter(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[prefix + node.name] = ast.get_source_segment(text, node) or ""
                if isinstance(node, ast.ClassDef):
                    enter(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found[prefix + target.id] = ast.get_source_segment(text, node) or ""

    enter(ast.parse(text).body, "")
    return found


def lines(code: str) -> list[str]:
    """Lines of code without their indent and comments."""
    bare = (re.sub(r"(^|\s+)# .*$", "", line).strip() for line in code.split("\n"))
    return [line for line in bare if line]


def quotations(page: Path) -> list[tuple[str, Path, str]]:
    """The blocks of code quoted: the name and file of the last reference above, and what is quoted."""
    text, found = page.read_text(encoding="utf-8"), []
    for block in re.finditer(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        name, file = REFERENCE.findall(text[: block.start()])[-1]
        found.append((name, (page.parent / file).resolve(), block.group(1)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_name_that_a_page_refers_to_exists(page):
    for name, file in REFERENCE.findall(page.read_text(encoding="utf-8")):
        assert name in definitions((page.parent / file).resolve()), f"{name_of(page)}: {file} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_quotation_is_word_for_word_but_for_comments(page):
    for name, file, quoted in quotations(page):
        source = lines(definitions(file)[name])
        at = 0
        for part in re.split(r"^ *# …\n", dedent(quoted), flags=re.MULTILINE):
            wanted = lines(part)
            places = [i for i in range(at, len(source)) if source[i : i + len(wanted)] == wanted]
            assert places, f"{name_of(page)}: {name} does not say\n{part}"
            at = places[0] + len(wanted)


def test_every_chapter_shows_code_and_something_to_try():
    for folder in FOLDERS.values():
        for page in folder.glob("[0-9]*.md"):
            assert quotations(page), f"{name_of(page)} quotes nothing"
            assert "```python\n" in page.read_text(encoding="utf-8"), f"{name_of(page)} has nothing to try"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_formulas_in_a_line_are_such_that_they_are_drawn(page):
    """A page on the web takes `$` for a formula only with white space before it and no letter behind it, and reads
    a backslash before punctuation, and a pair of stars, as Markdown."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "", text)
    for line in text.split("\n"):
        assert line.count("$") % 2 == 0, f"{name_of(page)}: {line}"
        for before, formula, behind in re.findall(r"(.?)\$([^$]+)\$(.?)", line):
            where = f"{name_of(page)}: ${formula}$ in {line}"
            assert before in ("", " ", "|"), where
            assert not re.match(r"\w", behind), where
            assert formula == formula.strip(), where
            assert not re.search(r"\\[^a-zA-Z]|\*|[<>]\S", formula), where


# --- pictures


def pictures_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pictures").glob("*"))


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=name_of)
def test_every_picture_is_shown_with_words_for_those_who_do_not_see_it(folder):
    shown = {}
    for page in folder.glob("*.md"):
        for words, file in re.findall(r"!\[([^\]]*)\]\(pictures/([^)]+)\)", page.read_text(encoding="utf-8")):
            assert len(words) > 3, f"{name_of(page)}: {file} has no description"
            shown[file] = page
    assert sorted(shown) == pictures_of(folder)


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=name_of)
def test_pictures_are_small_whole_and_load_nothing(folder):
    for path in (folder / "pictures").glob("*"):
        assert path.suffix == ".svg"
        assert path.stat().st_size < LARGEST_PICTURE, f"{name_of(path)} has {path.stat().st_size} bytes"
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        for element in root.iter():
            assert not element.tag.endswith("script")
            assert element.get("href", "data:").startswith("data:")


@pytest.fixture
def drawing(monkeypatch):
    """The module that draws."""
    monkeypatch.syspath_prepend(str(FOLDERS["en"]))
    yield importlib.import_module("draw")
    for name in ("draw", "drawing", "words"):
        sys.modules.pop(name, None)


def test_both_languages_have_the_same_words(drawing):
    english, chinese = drawing.WORDS["en"], drawing.WORDS["zh"]
    assert english.keys() == chinese.keys()
    for name in drawing.PICTURES:
        assert (FOLDERS["en"] / "pictures" / f"{name}.svg").is_file()
        assert (FOLDERS["zh"] / "pictures" / f"{name}.svg").is_file()


@pytest.mark.slow
def test_the_pictures_are_those_that_are_drawn_today(drawing, tmp_path):
    """Equal but for digits, which another processor may round the other way."""
    folders = {language: tmp_path / language for language in FOLDERS}
    drawing.draw(folders)
    for language, folder in folders.items():
        kept = FOLDERS[language] / "pictures"
        assert sorted(path.name for path in folder.glob("*")) == pictures_of(FOLDERS[language])
        for path in folder.glob("*.svg"):
            new, old = (ElementTree.parse(file).getroot() for file in (path, kept / path.name))
            assert [element.tag for element in new.iter()] == [element.tag for element in old.iter()], path.name
            assert new.attrib == old.attrib, path.name
