"""Every kernel of every instruction set of this machine, beside the plain one: kernels_test.cpp, compiled and run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gptwo.generate.native import isas

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not here")
def test_every_kernel_gives_the_numbers_of_the_plain_one(tmp_path):
    configure = ["cmake", "-S", ROOT, "-B", tmp_path, "-DGPTWO_KERNEL_TESTS=ON"]
    for command in (configure, ["cmake", "--build", tmp_path], [tmp_path / "kernels_test", *isas()]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
