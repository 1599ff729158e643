"""AVX-VNNI for programs that run on a processor without it: avx_vnni.cpp, compiled and preloaded."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gptwo.generate.native import isas

CPUID, UD0 = b"\x0f\xa2", b"\x0f\xff"  # two bytes each; no compiler writes the second
COMPILERS = ("c++", "g++", "clang++")


def why_not() -> str | None:
    """Why AVX-VNNI cannot be emulated here, or need not be."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "AVX-VNNI is emulated on x86-64 Linux only"
    if "avx2_vnni" in isas():
        return "this processor has AVX-VNNI, and the other tests run it"
    if "avx2" not in isas():
        return "this processor has no AVX2, beside which AVX-VNNI is emulated"
    if not any(map(shutil.which, COMPILERS)):
        return "there is no C++ compiler"
    return None if shutil.which("objdump") else "objdump (binutils) is not here"


def with_avx_vnni(program: Path, folder: Path) -> Path:
    """A copy of a program or library, the same but for ud0 where it asks the processor what it has."""
    listing = subprocess.run(
        ["objdump", "--section-headers", "--disassemble", "--section=.text", str(program)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    heading = re.search(r" \.text +[0-9a-f]+ +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) ", listing)
    asked = re.findall(r"^ *([0-9a-f]+):.*\tcpuid", listing, re.MULTILINE)
    assert heading is not None
    assert asked
    address, place = (int(number, 16) for number in heading.groups())
    code = bytearray(program.read_bytes())
    for each in asked:
        at = int(each, 16) - address + place
        assert code[at : at + 2] == CPUID
        code[at : at + 2] = UD0
    copy = folder / program.name
    copy.write_bytes(code)
    copy.chmod(0o755)
    return copy


def run_emulated(command: list[str | Path], folder: Path, **options) -> int:
    """Run a command that must succeed; how many instructions of AVX-VNNI were emulated for it."""
    compiler, library = next(filter(None, map(shutil.which, COMPILERS))), folder / "avx_vnni.so"
    source = Path(__file__).with_name("avx_vnni.cpp")
    subprocess.run([compiler, "-std=c++20", "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**kept, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return int(re.findall(r"vpdpbusd: (\d+)", done.stderr)[-1])
