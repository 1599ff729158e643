"""Zero-shot suites: one function each, from a model and local data to a `Report` that states its protocol.

Nothing is downloaded: the data are files that the user names. `docs/guide/15-evaluating.md` lists their fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gptwo.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from gptwo.evaluate.report import Report
    from gptwo.evaluate.suites.base import Subject, SuiteOptions

NAMES = ("wikitext2", "lambada", "cloze", "choice", "hellaswag", "copa", "winograd", "bits-per-byte", "bias")


def run_suite(name: str, subject: Subject, data: Sequence[str | Path], options: SuiteOptions) -> Report:
    """Measure a model with a suite.

    Args:
        name: one of `NAMES`.
        data: local files, or a folder where the suite knows the file's name.

    Raises:
        UsageError: an unknown suite, or no data.
        DataError: a record that does not fit; names file and row.
    """
    return suite_of(name)(subject, data, options)


def suite_of(name: str) -> Callable[[Subject, Sequence[str | Path], SuiteOptions], Report]:
    """The function behind a name.

    Raises:
        UsageError: there is no such suite.
    """
    if name not in NAMES:
        raise UsageError(f"There is no suite {name!r}.", where="--suite", fix=did_you_mean(name, NAMES))
    if name in ("wikitext2", "bits-per-byte"):
        from gptwo.evaluate.suites.text import bits_per_byte, wikitext2

        return wikitext2 if name == "wikitext2" else bits_per_byte
    if name == "bias":
        from gptwo.evaluate.suites.bias import bias

        return bias
    if name == "lambada":
        from gptwo.evaluate.suites.lambada import lambada

        return lambada
    from gptwo.evaluate.suites.choices import choose

    return partial(choose, name)
