"""What the tests of the measurements share."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(scope="session")
def same_table():
    """`same_table(text, wanted, digits)`: equal characters, but the last digit of a number may be rounded otherwise."""

    def compare(text: str, wanted: str, digits: int) -> None:
        assert re.sub(r"\d", "9", text) == re.sub(r"\d", "9", wanted)
        numbers = [[float(number) for number in re.findall(r"\d+\.?\d*", table)] for table in (text, wanted)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1.001 * 10**-digits)

    return compare
