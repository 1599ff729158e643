"""Do written records help? The same classifiers on k records of each label, without and with what was written.

For every k and every draw of the records: a writer is tuned on them and writes (`augment`); then TF-IDF + logistic
regression, and where a recipe for it is given a tuned network, learn from the given records, from these and the
written ones, and from these and as many copies with words swapped. The network takes as many steps each time.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gptwo import runtime
from gptwo.data.files import file_sha256
from gptwo.data.sources import Record, Rejects
from gptwo.data.swaps import swap_words
from gptwo.errors import UsageError
from gptwo.evaluate import metrics
from gptwo.evaluate.baselines import TfidfLogisticRegression
from gptwo.evaluate.report import DataFile, Report, SizePoint, System
from gptwo.evaluate.statistics import Comparison, compare_runs
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe, load_recipe
from gptwo.train.augment import TFIDF, Wish, augment, label_of, plain_data, read_labelled, write_rows, writer_recipe
from gptwo.train.finetune import finetune
from gptwo.train.run import write_text

NETWORK = "Network"
GIVEN, WRITTEN, SWAPPED = "given records", "written texts added", "words swapped"
WAYS = (GIVEN, WRITTEN, SWAPPED)
FIGURES = ("macro_f1", "accuracy")
Figures = dict[str, float]


def measure_augmentation(
    model: str | Path | Pretrained | None = None,
    *,
    train: str | Path | Sequence[str | Path] | None = None,
    test: Sequence[str | Path],
    out: str | Path = "runs/augment",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    classify: Recipe | str | Path | None = None,
    sizes: Sequence[int] = (10, 50, 100),
    draws: int = 3,
    judge: str | Path | None = None,
    wish: Wish | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Report:
    """What written records change in macro-F1, at several numbers of given records.

    Args:
        model, recipe, settings, wish: as `augment` has them.
        train: records to draw from; test: the whole test set of every measurement.
        out: a folder for each number and draw, measure.json, and the report.
        classify: recipe of a network that classifies, tuned from the same model; none: TF-IDF only.
        sizes: given records of each label; a label that has fewer gives all it has.
        draws: of the given records; the seeds are that of the recipe and the following ones.
        judge: as `augment` has it; none: the network tuned on the given records, without `classify` TF-IDF.
        resume: keep the draws that were measured before in `out`; the same must be asked for, but for sizes and draws.

    Returns:
        The report: systems at the smallest number, the curve over all, and in its notes every change with its spread.

    Raises:
        UsageError: no numbers or draws, no test data, a recipe for another task; otherwise as `augment`.
    """
    if not sizes or min(sizes) < 2 or draws < 1:
        raise UsageError("Two records of each label and one draw are needed at least.", where="--measure")
    if not test:
        raise UsageError("What shall the classifiers be measured on?", where="--test", fix="--test test.jsonl")
    chosen = writer_recipe(recipe, model, train, settings)
    classifier = _classifier(classify)
    folder = Path(out).expanduser()
    asked = {
        "writer": chosen.model_dump(mode="json"),
        "classifier": classifier and classifier.model_dump(mode="json"),
        "test": [str(file) for file in test],
        "judge": judge and str(judge),
        "wish": asdict(wish or Wish()),
    }
    _check_asked(folder / "asked.json", asked, resume=resume, overwrite=overwrite)
    with Rejects(folder / "rejects.jsonl", strict=chosen.data.strict) as rejects:
        records = read_labelled(chosen.data.train, chosen, rejects)
        tested = read_labelled(test, chosen, rejects)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in folder.glob("*/seed-*/figures.json"):
            old.unlink()
    write_text(folder / "asked.json", json.dumps(asked, ensure_ascii=False, indent=1) + "\n")
    bench = _Bench(model, chosen, classifier, tested, folder, judge, wish or Wish(), resume)
    runs: dict[int, list[dict[str, Figures]]] = {}
    written: dict[int, list[int]] = defaultdict(list)
    used = {}
    for size in sorted(set(sizes)):
        for seed in range(chosen.train.seed, chosen.train.seed + draws):
            given = some_of_each(records, size, seed)
            used[size] = len(given)
            found, count = bench.run(size, seed, given)
            runs.setdefault(size, []).append(found)
            written[size].append(count)
            write_text(folder / "measure.json", json.dumps(runs, ensure_ascii=False, indent=1) + "\n")
    report = report_of(runs, used, written, tested, f"{Path(chosen.data.train[0]).name}, {draws} draws")
    report.data = [
        DataFile(part, str(file), len(found), 0, file_sha256(Path(file)) if Path(file).is_file() else "")
        for part, files, found in (("train", chosen.data.train, records), ("test", test, tested))
        for file in files
    ]
    if rejects.total:
        report.notes.append(f"{rejects.summary()}.")
    report.recipe = {**chosen.model_dump(exclude_none=True), "runs": {str(size): found for size, found in runs.items()}}
    report.machine = runtime.describe_machine()
    report.write(folder)
    return report


def _check_asked(file: Path, asked: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """A folder that holds a measurement goes on with the same one, or is begun anew.

    Raises:
        UsageError: neither was asked for, or another measurement stands there.
    """
    if not file.is_file() or overwrite:
        return
    if not resume:
        raise UsageError(
            "There is a measurement in this folder already.",
            where=file.parent,
            fix="go on with --resume, start anew with --overwrite, or choose another --out",
        )
    before = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key, value in asked.items() if before.get(key) != value]
    if changed:
        raise UsageError(
            "The measurement in this folder is another one.",
            where=file,
            why=f"there differ: {', '.join(changed)}",
            fix="the same recipes and flags (--measure and --draws may change), or --overwrite",
        )


def _classifier(recipe: Recipe | str | Path | None) -> Recipe | None:
    """The recipe of the network that is to be helped."""
    if recipe is None:
        return None
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if found.task.name != "classify" or found.task.multi_label:
        raise UsageError(
            f"Texts with one label each are written; the recipe's task is {found.task.name}.",
            where="--classify",
            fix='[task] name = "classify"',
        )
    return found


class _Bench:
    """One measurement: a writer and all classifiers on one draw of records."""

    def __init__(
        self,
        model: str | Path | Pretrained | None,
        writer: Recipe,
        classifier: Recipe | None,
        tested: Sequence[Record],
        folder: Path,
        judge: str | Path | None,
        wish: Wish,
        resume: bool,
    ):
        self.model, self.writer, self.classifier = model or writer.model.base, writer, classifier
        self.folder, self.judge, self.wish, self.resume = folder, judge, wish, resume
        self.texts = [str(record.fields["text"]) for record in tested]
        self.gold = [label_of(record) for record in tested]
        write_rows(folder / "test.jsonl", [_row(record) for record in tested])

    def run(self, size: int, seed: int, given: Sequence[Record]) -> tuple[dict[str, Figures], int]:
        """Figures of every classifier with every kind of records, and how many texts were written."""
        folder = self.folder / f"{size:04d}" / f"seed-{seed}"
        done = folder / "figures.json"
        if self.resume and done.is_file():
            kept = json.loads(done.read_text(encoding="utf-8"))
            return kept["figures"], kept["written"]
        rows = {GIVEN: [_row(record) for record in given]}
        write_rows(folder / "given.jsonl", rows[GIVEN])
        found: dict[str, Figures] = {}
        judge = self.judge or TFIDF
        if self.classifier:
            found[f"{NETWORK}, {GIVEN}"] = self._network(folder, GIVEN, rows[GIVEN], len(given), seed)
            judge = self.judge or folder / _folder_of(GIVEN)
        writer = self.writer.model_copy(update={"data": plain_data(self.writer, [folder / "given.jsonl"])})
        writer.train = writer.train.model_copy(update={"seed": seed})
        made = augment(
            self.model,
            recipe=writer,
            out=folder / "augment",
            judge=judge,
            wish=self.wish,
            held_out=self.texts,
            overwrite=True,  # what stands here was broken off
        )
        new = [json.loads(line) for line in (made.folder / "written.jsonl").read_text(encoding="utf-8").splitlines()]
        rows[WRITTEN] = [*rows[GIVEN], *({"text": one["text"], "label": one["label"]} for one in new)]
        rows[SWAPPED] = [*rows[GIVEN], *swapped(rows[GIVEN], made.written, seed)]
        for way in WAYS:
            if self.classifier and way != GIVEN:
                found[f"{NETWORK}, {way}"] = self._network(folder, way, rows[way], len(given), seed)
            found[f"{TfidfLogisticRegression.name}, {way}"] = self._tfidf(rows[way])
        for name in (*map(_folder_of, WAYS), "augment/writer"):  # reports stay, weights go
            for part in ("checkpoints", "best"):
                shutil.rmtree(folder / name / part, ignore_errors=True)
        write_text(done, json.dumps({"figures": found, "written": len(new)}, ensure_ascii=False, indent=1) + "\n")
        return found, len(new)

    def _tfidf(self, rows: Sequence[dict]) -> Figures:
        texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
        return self._figures(TfidfLogisticRegression().fit_predict(texts, labels, self.texts).labels)

    def _network(self, folder: Path, way: str, rows: Sequence[dict], given: int, seed: int) -> Figures:
        """A network tuned for as many steps as the given records alone would take; its last state counts."""
        assert self.classifier is not None
        file = folder / f"{_folder_of(way)}.jsonl"
        write_rows(file, rows)
        recipe = self.classifier.model_copy(deep=True)
        batch = recipe.train.batch_size * recipe.train.accumulate
        steps = recipe.train.steps or max(1, round(recipe.train.epochs * max(1, given / batch)))
        recipe.data = plain_data(recipe, [file], valid=[folder / "given.jsonl"], test=[self.folder / "test.jsonl"])
        recipe.train = recipe.train.model_copy(
            update={
                **{key: getattr(self.writer.train, key) for key in ("device", "precision", "threads")},
                "steps": steps,
                "evaluate_every": steps,
                "patience": None,
                "seed": seed,
            }
        )
        run = finetune(self.model, recipe=recipe, out=folder / _folder_of(way), overwrite=True)
        tuned = run.report.tuned
        assert tuned is not None
        return {key: float(tuned.value(key) or 0.0) for key in FIGURES}

    def _figures(self, said: Sequence[str]) -> Figures:
        return {
            "macro_f1": metrics.class_table(self.gold, list(said)).average("macro").f1,
            "accuracy": metrics.accuracy(self.gold, list(said)),
        }


def some_of_each(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """`size` records of each label, drawn at random; all of a label that has fewer."""
    by_label: dict[str, list[Record]] = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(len(records)):
        by_label[label_of(records[place])].append(records[place])
    return [record for label in sorted(by_label) for record in by_label[label][:size]]


def swapped(rows: Sequence[dict], counts: Mapping[str, int], seed: int) -> list[dict]:
    """Copies of records with words swapped, so many of each label."""
    draw, found = random.Random(seed), []
    for label, count in counts.items():
        own = [row["text"] for row in rows if row["label"] == label]
        found += [{"text": swap_words(own[i % len(own)], draw), "label": label} for i in range(count)]
    return found


def _row(record: Record) -> dict:
    return {"text": str(record.fields["text"]), "label": label_of(record)}


def _folder_of(way: str) -> str:
    return way.split()[0]


def report_of(
    runs: Mapping[int, Sequence[Mapping[str, Figures]]],
    used: Mapping[int, int],
    written: Mapping[int, Sequence[int]],
    tested: Sequence[Record],
    title: str,
) -> Report:
    """Means and deviations over the draws, and every change with its interval."""
    sizes = sorted(runs)
    names = list(runs[sizes[0]][0])
    kinds = list(dict.fromkeys(name.rpartition(", ")[0] for name in names))
    order = [f"{kind}, {way}" for kind in kinds for way in WAYS]
    main = order[WAYS.index(WRITTEN)]
    systems = []
    for name in order:
        figures: Figures = {}
        for key in FIGURES:
            values = np.array([found[name][key] for found in runs[sizes[0]]])
            figures[key] = float(values.mean())
            if len(values) > 1:
                figures[f"{key}_spread"] = deviation(values)
        role = "tuned" if name == main else "other" if name.startswith(NETWORK) else "baseline"
        systems.append(System(name, figures, role))
    report = Report(
        f"Written records: {title}; {sizes[0]} of each label",
        "classify",
        "macro_f1",
        systems,
        records=len(tested),
        comparisons=[_comparison(main, name, runs[sizes[0]]) for name in order if name != main],
        sizes=[
            SizePoint(
                used[size],
                {name: float(np.mean([found[name]["macro_f1"] for found in runs[size]])) for name in [main, *order]},
            )
            for size in sizes
        ],
    )
    for size in sizes:
        report.notes.append(
            f"{size} of each label: {used[size]:,} given records, {np.mean(written[size]):,.0f} written ones kept."
        )
        for kind in kinds:
            for way in (WRITTEN, SWAPPED):
                report.notes.append(change_text(kind, way, size, runs[size]))
    if len(runs[sizes[0]]) > 1:
        report.notes.append(
            "Mean ± deviation over the draws of the given records; the change is that of each draw. "
            "Intervals of differences are over the draws (Student's t)."
        )
    else:
        report.notes.append("The given records were drawn once: how much other draws would differ is not known.")
    return report


def change_text(kind: str, way: str, size: int, runs: Sequence[Mapping[str, Figures]]) -> str:
    """A sentence on what a kind of further records changed in the macro-F1 of a classifier."""
    before, after = (100 * np.array([found[f"{kind}, {one}"]["macro_f1"] for found in runs]) for one in (GIVEN, way))
    change = after - before
    if len(change) == 1:
        return (
            f"{kind}, {size} of each label, {way}: macro F1 {before[0]:.1f} to {after[0]:.1f}, "
            f"change {change[0]:+.1f} (one draw)."
        )
    return (
        f"{kind}, {size} of each label, {way}: macro F1 {before.mean():.1f} ± {deviation(before):.1f} to "
        f"{after.mean():.1f} ± {deviation(after):.1f}, change {change.mean():+.1f} ± {deviation(change):.1f} "
        f"({int((change > 0).sum())} of {len(change)} draws better)."
    )


def deviation(values: np.ndarray) -> float:
    """Standard deviation over two draws or more."""
    return float(values.std(ddof=1))


def _comparison(system: str, other: str, runs: Sequence[Mapping[str, Figures]]) -> Comparison:
    """The mean difference of two systems over the draws."""
    ours, theirs = ([found[name]["macro_f1"] for found in runs] for name in (system, other))
    return Comparison(system, other, "macro_f1", *compare_runs(ours, theirs), "paired t")
