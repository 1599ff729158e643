"""The documents say what the code does: commands parse, Python runs, tables match, links lead somewhere.

The English pages are run; the Chinese ones must have the same headings and the same code.
"""

from __future__ import annotations

import doctest
import importlib
import json
import re
import shlex
import shutil
import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest

from gptwo import errors
from gptwo.cli.main import VERBS, app, load_verb
from gptwo.generate.options import SamplingOptions
from gptwo.recipe import Recipe, load_recipe, parse_assignments, toml_value

ROOT = Path(__file__).resolve().parent.parent
GUIDE, CHINESE = ROOT / "docs" / "guide", ROOT / "docs" / "guide.zh-CN"
BOOK = ROOT / "docs" / "how-gpt2-works"
PAIRS = [
    *((page, page.with_name("README.zh-CN.md")) for page in (ROOT / "README.md", ROOT / "notebooks" / "README.md")),
    *((page, CHINESE / page.name) for page in sorted(GUIDE.glob("*.md"))),
    *((page, BOOK.with_suffix(".zh-CN") / page.name) for page in sorted(BOOK.glob("*.md"))),
]
ENGLISH_PAGES = [english for english, _ in PAIRS]
PAGES = [page for pair in PAIRS for page in pair if page.is_file()]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("examples/**/*.md"))]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
MODULES = [path for path in sorted((ROOT / "gptwo").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
UNNAMED = "…"  # stands for a text that differs between the languages


class Fence(NamedTuple):
    """A code block: its language, its content, and the line it begins at."""

    language: str
    code: str
    line: int


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(page: Path) -> list[Fence]:
    found, lines = [], page.read_text(encoding="utf-8").split("\n")
    start = None
    for number, line in enumerate(lines, start=1):
        if line.startswith("```") and start is None:
            start = number
        elif line == "```" and start is not None:
            found.append(Fence(lines[start - 1][3:].strip(), "\n".join(lines[start : number - 1]), start + 1))
            start = None
    assert start is None, f"{page}:{start}: the code block is not closed"
    return found


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(page), flags=re.MULTILINE)]


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Every `gptwo …` of the page's shell blocks: its line and its words."""
    for fence in fences(page):
        if fence.language != "sh":
            continue
        joined, first = "", fence.line
        for number, line in enumerate(fence.code.split("\n"), start=fence.line):
            first = first if joined else number
            joined += line
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            words: list[str] = []
            for word in [*shlex.split(joined, comments=True), "|"]:
                if word not in ("|", ">", "<", "&&"):
                    words.append(word)
                    continue
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words[:1] == ["gptwo"]:
                    yield first, words[1:]
                words = []
            joined = ""


# --- commands


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_gptwo_understands(page):
    for line, words in commands(page):
        try:
            parse(words)
        except Exception as error:
            raise AssertionError(f"{name_of(page)}:{line}: gptwo {shlex.join(words)}: {error}") from error


def parse(words: list[str]) -> None:
    """Read a command line as `gptwo` does, and run nothing."""
    import typer

    while words[:1] == ["--debug"]:
        words = words[1:]
    if words in (["--help"], ["--version"]):
        return
    if words[0] not in VERBS:
        typer.main.get_command(app).resolve_command(None, words)  # type: ignore[attr-defined]
    verb = load_verb(words[0])
    if "--help" in words:
        return
    context = verb.make_context(words[0], words[1:])
    if VERBS[words[0]].verbs:
        rest = [*context._protected_args, *context.args]
        name, verb, rest = verb.resolve_command(context, rest)
        assert verb is not None, f"{words[0]} has no verb {name!r}"
        context = verb.make_context(name, rest, parent=context)
    for assignment in context.params.get("set_") or []:
        load_recipe(None, parse_assignments([assignment]), environment={})
    recipe = context.params.get("recipe")
    if recipe is not None and recipe.parts[0] == "recipes":
        assert (ROOT / recipe).is_file(), f"there is no {recipe}"
    if words[0] == "predict":
        files = [
            text for text in context.params["texts"] or [] if re.search(r"\.(csv|tsv|jsonl?|conll|parquet)$", text)
        ]
        assert not files, f"{files[0]} is given as a text; a file goes to --file"


def test_every_verb_is_shown_somewhere():
    shown = {
        tuple(words[: 2 if VERBS.get(words[0], VERBS["init"]).verbs else 1]) for p in PAGES for _, words in commands(p)
    }
    for verb, about in VERBS.items():
        for path in [(verb, sub) for sub in about.verbs] or [(verb,)]:
            assert path in shown, f"no page shows gptwo {' '.join(path)}"


# --- Python


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """Everything the pages name: small models, files of records, texts, and a tuned model in runs/mine."""
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import create, save
    from gptwo.tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("workspace")
    sentences = ["The history of the city is long.", "Once upon a time there was 🙂.", "春眠不觉晓，处处闻啼鸟。"]
    tokenizer = train_bpe(iter(sentences * 20), 300)
    sizes = {"n_positions": 96, "n_embd": 8, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    for name in ("gptwo-mini", "gpt2"):
        save(create(GPT2Config(tokenizer.vocab_size, **sizes), tokenizer), folder / "models" / name)
    tuned = create(GPT2Config(tokenizer.vocab_size, **sizes), tokenizer, head="sequence", labels=["bad", "good"])
    tuned.info |= {"task": "classify", "max_length": 96}
    save(tuned, folder / "runs" / "mine" / "best")
    tokenizer.save(folder / "tokenizer")

    def write(path: str, content: str) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")

    rows = [(f"a {word} {thing}", label) for word, label in (("fine", "good"), ("dull", "bad")) for thing in
            ("film", "book", "meal", "phone", "room", "song", "coat", "lamp")]  # fmt: skip
    for part, chosen in (("train", rows), ("valid", rows[4:12]), ("test", rows[6:10]), ("new", rows[:2])):
        write(f"{part}.csv", "text,label\n" + "".join(f"{text},{label}\n" for text, label in chosen))
        write(
            f"{part}.conll", "".join(f"a O\n{text.split()[1]} O\n{text.split()[2]} B-THING\n\n" for text, _ in chosen)
        )
        lines = [json.dumps({"title": label, "text": text}) + "\n" for text, label in chosen]
        write(f"{part}.jsonl", "".join(lines))
    for part in ("texts", "held-out"):
        write(f"{part}/a.txt", "\n<|endoftext|>\n".join(sentences * 40))
    write("recipe.toml", '[model]\nbase = "gptwo-mini"\n')
    return folder


@pytest.mark.parametrize(
    "page", [page for page in ENGLISH_PAGES if any(f.language == "python" for f in fences(page))], ids=name_of
)
def test_the_python_of_a_page_runs(page, workspace, monkeypatch, tmp_path):
    shutil.copytree(workspace, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("GPTWO_MODELS", str(tmp_path / "work" / "models"))
    for key, value in (("THREADS", "1"), ("PRECISION", "fp32"), ("EPOCHS", "1")):
        monkeypatch.setenv(f"GPTWO__TRAIN__{key}", value)
    names: dict[str, Any] = {}
    for fence in fences(page):
        if fence.language != "python":
            continue
        for out in re.findall(r'out="([^"]+)"', fence.code):
            shutil.rmtree(out, ignore_errors=True)
        blank = "\n" * (fence.line - 1)  # so that a traceback shows the page's own line
        exec(compile(blank + fence.code, name_of(page), "exec"), names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_examples_of_a_module_hold(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


# --- recipes


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_loads(path):
    load_recipe(path, environment={})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_recipe_in_a_page_loads(page, tmp_path):
    for fence in fences(page):
        if fence.language == "toml":
            (tmp_path / "recipe.toml").write_text(fence.code, encoding="utf-8")
            load_recipe(tmp_path / "recipe.toml", environment={})


CHINESE_WORDS = {"text": "文本", "texts": "文本或列表", "table": "表", "number": "数", "whole number": "整数"}


def value_words(annotation: Any, metadata: list, chinese: bool) -> str:
    """What a key may be, as the tables write it: `"a"`, `"b"`; whole number ≥ 1; …"""

    def word(text: str) -> str:
        return CHINESE_WORDS[text] if chinese else text

    choices = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{toml_value(choice)}`" for choice in choices)
    if get_origin(annotation) in (types.UnionType, Union):
        return ", ".join(value_words(choice, metadata, chinese) for choice in choices)
    origin = get_origin(annotation) or annotation
    if origin is bool:
        return "`true`, `false`"
    if origin is dict:
        return word("table")
    if origin is str:
        return word("text")
    if origin is list or "list" in str(annotation):
        return word("texts")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(limit, key):g}" for limit in metadata for key, sign in signs.items() if hasattr(limit, key)
    ]
    return " ".join([word("whole number" if origin is int else "number"), ", ".join(bounds)]).strip()


def recipe_rows(section: str, chinese: bool = False) -> dict[str, tuple[str, str]]:
    """Key to (default, values), as the page's table of a section must have them."""
    model = Recipe.model_fields[section].annotation
    rows = {}
    for key, info in model.model_fields.items():  # type: ignore[union-attr]
        default = "–" if info.default is None else f"`{toml_value(info.default)}`"
        rows[f"`{key}`"] = (default, value_words(info.annotation, info.metadata, chinese))
    return rows


def tables(page: Path) -> dict[str, dict[str, list[str]]]:
    """The first table under each heading: first cell to the other cells."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in page.read_text(encoding="utf-8").split("\n"):
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif line.startswith("|"):
            first, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, {})[first] = rest
    return found


@pytest.mark.parametrize("folder", [GUIDE, CHINESE], ids=name_of)
@pytest.mark.parametrize("section", Recipe.model_fields)
def test_the_page_of_recipes_has_every_key_with_its_default(folder, section):
    table = tables(folder / "9-recipes.md")[f"[{section}]"]
    wanted = recipe_rows(section, chinese=folder == CHINESE)
    rows = {key: tuple(cells[:2]) for key, cells in table.items() if key.startswith("`")}
    assert rows == wanted
    assert all(len(cells[2]) > 2 for key, cells in table.items() if key in wanted), "a key has no meaning"


@pytest.mark.parametrize("folder", [GUIDE, CHINESE], ids=name_of)
def test_the_page_of_generation_has_every_option_with_its_default(folder):
    rows = {key: cells for table in tables(folder / "7-generating.md").values() for key, cells in table.items()}
    for option in fields(SamplingOptions):
        default = "–" if option.default in (None, ()) else f"`{option.default}`"
        assert rows[f"`{option.name}`"][0] == default, option.name
        for limit in ("low", "high", "above"):
            if option.metadata[limit] is not None and option.name != "seed":
                shown = rows[f"`{option.name}`"][1].replace("−", "-")
                assert f"{option.metadata[limit]:g}" in shown, f"{option.name}: {limit}"


@pytest.mark.parametrize("folder", [GUIDE, CHINESE], ids=name_of)
def test_the_table_of_exit_codes_has_all_of_them(folder):
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GptwoError)]
    rows = {key: cells[-1] for table in tables(folder / "10-errors.md").values() for key, cells in table.items()}
    for kind in kinds:
        assert f"`{kind.__name__}`" in rows[str(kind.exit_code)]


@pytest.mark.parametrize("folder", [GUIDE, CHINESE], ids=name_of)
def test_the_page_of_data_explains_every_finding_of_the_doctor(folder):
    found = set()
    for file in (ROOT / "gptwo" / "data").glob("*.py"):
        found |= set(re.findall(r'\b(?:Finding|look)\(\s*"([a-z-]+)"', file.read_text(encoding="utf-8")))
    page = (folder / "3-data.md").read_text(encoding="utf-8")
    assert len(found) > 20
    assert {name for name in found if f"`{name}`" not in page} == set()


# --- pages


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in {slug(title) for _, title in headings(file)}, f"{name_of(page)}: {target}"


def slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[name_of(page) for page, _ in PAIRS])
def test_both_languages_say_the_same(english, chinese):
    assert chinese.is_file(), f"{name_of(english)} has no Chinese page"
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    assert [len(rows) for rows in tables(english).values()] == [len(rows) for rows in tables(chinese).values()]
    ours, theirs = fences(english), fences(chinese)
    assert [fence.language for fence in ours] == [fence.language for fence in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one.language in ("sh", "python", "toml"):
            assert bare(one.code) == bare(other.code), f"{name_of(chinese)}:{other.line}"


def bare(code: str) -> list[str]:
    """Lines of code without comments; texts that a reader sees in his own language are left open."""

    def literal(match: re.Match[str]) -> str:
        return f'"{UNNAMED}"' if " " in match.group() or not match.group().isascii() else match.group()

    lines = [re.sub(r"(^|\s+)# .*", "", line).rstrip() for line in code.split("\n")]
    return [re.sub(r'"[^"]*"', literal, line) for line in lines if line]


def test_the_guide_and_its_index_name_the_same_pages():
    for folder in (GUIDE, CHINESE):
        listed = re.findall(r"\]\((\d+-[\w-]+\.md)\)", (folder / "index.md").read_text(encoding="utf-8"))
        assert listed == sorted((page.name for page in folder.glob("*-*.md")), key=lambda name: int(name.split("-")[0]))
