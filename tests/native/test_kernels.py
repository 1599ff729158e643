"""Every kernel of every instruction set beside the plain one (kernels_test.cpp), and what this processor lacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptwo.generate.native import isas

from .emulated import run_emulated, why_not, with_avx_vnni

ROOT = Path(__file__).resolve().parents[2]
EMULATED = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
PYTEST = """
import importlib.util, sys, pytest
spec = importlib.util.spec_from_file_location("gptwo.generate._native", sys.argv[1])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def kernels_test(tmp_path_factory) -> Path:
    if not shutil.which("cmake"):
        pytest.skip("cmake is not here")
    folder = tmp_path_factory.mktemp("kernels")
    for command in (["-S", ROOT, "-B", folder, "-DGPTWO_KERNEL_TESTS=ON"], ["--build", folder]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "kernels_test"


@pytest.mark.slow
def test_every_kernel_gives_the_numbers_of_the_plain_one(kernels_test):
    done = subprocess.run([kernels_test, *isas()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@EMULATED
@pytest.mark.slow
def test_every_kernel_of_avx_vnni_gives_the_numbers_of_the_plain_one(kernels_test, tmp_path):
    program = with_avx_vnni(kernels_test, tmp_path)
    names = [name for each in isas() for name in ((each, "avx2_vnni") if each == "avx2" else (each,))]
    assert run_emulated([program, *names], tmp_path) > 100_000


@EMULATED
def test_the_engine_as_it_is_installed_runs_networks_with_avx_vnni(tmp_path):
    """Tests of smaller shapes, in a process that loads a copy which finds AVX-VNNI."""
    from gptwo.generate import _native

    copy = with_avx_vnni(Path(_native.__file__), tmp_path)
    options = ["-p", "no:faulthandler", "-p", "no:cacheprovider"]  # the first would take the signal
    options += ["-k", "avx2_vnni and (sizes0 or sizes1 or kept or chosen)"]
    files = ["tests/native/test_logits.py", "tests/native/test_native.py"]
    assert run_emulated([sys.executable, "-c", PYTEST, copy, *options, *files], tmp_path, cwd=ROOT) > 10_000
