"""Where there is no compiler the package installs all the same, PyTorch writes, and what is missing is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptwo.model.pretrained import save

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if not type(finder).__name__.startswith("ScikitBuild")]
sys.path.insert(0, {target!r})
import gptwo
assert gptwo.__file__.startswith({target!r}), gptwo.__file__
"""


def environment_without_compilers(folder: Path) -> dict[str, str]:
    """PATH holds what builds are run by, and no compiler."""
    folder.mkdir()
    for tool in ("cmake", "ninja", "make", "uname", "sh"):
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "PYTHONPATH")}
    return {**kept, "PATH": str(folder)}


def environment_of_broken_compilers(folder: Path) -> dict[str, str]:
    return {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}


@pytest.mark.slow
@pytest.mark.parametrize("environment", [environment_without_compilers, environment_of_broken_compilers])
def test_without_a_compiler_gptwo_installs_and_writes_with_pytorch(environment, tiny, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not here; pip would fetch it")
    target, model = tmp_path / "target", str(save(tiny, tmp_path / "model"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    own = environment(tmp_path / "bin")
    done = subprocess.run(
        [*pip, "--target", str(target), str(ROOT)], env=own, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(target.rglob("*.so"))

    def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["gptwo", "generate", "the quick", "--model", model, "--temperature", "0", "--max-new-tokens", "4"]
        code = START.format(target=str(target)) + f"sys.argv = {[*argv, *arguments]!r}\n"
        code += "from gptwo.cli.main import main\nmain()\n"
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path
        )

    expected = generate()
    assert (expected.returncode, expected.stderr) == (0, "")
    asked = generate("--backend", "native")
    assert (asked.returncode, asked.stdout) == (0, expected.stdout)
    assert "no C++20 compiler" in asked.stderr
    assert "install g++" in asked.stderr
    packed = generate("--precision", "int8")
    assert packed.returncode == 4
    assert "install g++" in packed.stderr
