"""Generation: the native engine on a CPU, or the PyTorch engine on a GPU, beside its peers, in turn, in one run.

    python bench/generate.py                                   # GPT-2 124M with random weights, batches of 1, 8, 32
    python bench/generate.py --systems gptwo-int8 --batches 1  # one figure, quickly
    python bench/generate.py --copying TEXT --model gptwo-mini # guessing ahead, on text that repeats itself
    python bench/generate.py --device cuda                     # on a GPU, beside transformers

Each measurement is a process of its own, so that peak memory is its own; the systems take turns in every round, so
that a change of the machine's speed meets all of them. Texts are greedy, of random prompts, and the end token does not
count; tokens are counted, not assumed. Printed are medians over the rounds: new tokens per second after the first, the
share of the limit that reading all weights once a step sets (batch 1), prompt tokens per second of one text of --long
tokens, time to the first token and peak resident memory; and for each precision ours beside the best of the peers.

The share of the limit is measured in turns of a few steps within one process: as many threads read the same weights
and do nothing with them, then write two tokens, and so on. On a GPU the limit is what a copy of 1 GiB moves.

Systems
    gptwo-fp32, -bf16, -int8, -int4         this project's native engine
    transformers-fp32, -bf16                transformers' generate with its cache, sdpa
    transformers-static-bf16                the same with a static cache: its step is compiled and recorded (GPU only)
    ctranslate2-int8                        CTranslate2; the model is converted first
    llama.cpp-bf16, -q8_0, -q4_0            llama.cpp by the package xllamacpp; the model is exported to GGUF first
    openvino-fp16, -int8, -int4             OpenVINO GenAI, from --openvino FOLDER with one folder for each, made by
                                            optimum-cli export openvino --task text-generation-with-past
    onnxruntime-fp32, -int8                 ONNX Runtime with this project's export, whose graph gives the logits of
                                            every token of a prompt; int8 by its quantize_dynamic
A system that is not installed, or cannot take the model, is left out with the reason. Peers may live in a Python
environment of their own: --peer-python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import peers
from peers import PEERS, VOCABULARY, Generate

if TYPE_CHECKING:
    from gptwo.generate.native import NativeEngine
    from gptwo.generate.writer import Writer
    from gptwo.tokenizer import Tokenizer

OURS = ("gptwo-fp32", "gptwo-bf16", "gptwo-int8", "gptwo-int4")
ON_GPU = ("gptwo-fp32", "gptwo-bf16", "transformers-fp32", "transformers-bf16", "transformers-static-bf16")
SAME = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16", "int8": "int8", "q8_0": "int8", "int4": "int4", "q4_0": "int4"}
BEGIN, END = "<!-- by bench/generate.py -->", "<!-- up to here -->"
REPOSITORY = Path(__file__).resolve().parents[1]

Limit = Callable[[float], dict]
"""Steps of one row per second; returns bytes read per second, and what reading the weights takes of a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=[*OURS, *PEERS], help="default: all that run on the device")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 8 32, and 128 on a GPU")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=128, help="new tokens of each text")
    parser.add_argument("--long", type=int, default=1000, help="tokens of the prompt that reading is timed with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="default: the CPUs of this process")
    parser.add_argument("--model", help="a model folder; default: GPT-2 124M with random weights")
    parser.add_argument("--openvino", help="folder with the same model exported for OpenVINO: fp16, int8, int4")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--copying", type=Path, help="a text: continue it where it has begun a second time")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--figures", type=Path, help="measure nothing: report what --json wrote")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="also write the tables here: docs/results.md")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker[0], int(options.worker[1]), options)))
        return
    from gptwo.runtime import available_cpus

    options.threads = options.threads or available_cpus()
    gpu = options.device != "cpu"
    options.systems = options.systems or (ON_GPU if gpu else [*OURS, *PEERS[:-1]])
    options.batches = options.batches or ([1, 8, 32, 128] if gpu else [1, 8, 32])
    if options.copying:
        copying(options)
        return
    if options.figures:
        results = json.loads(options.figures.read_text())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            if options.model is None:
                options.model = random_model(Path(temporary) / "gpt2-random")
            peers.export(options)
            results = run(options)
    machine = f"{options.threads} threads" if options.device == "cpu" else gpu_name()
    model = os.path.basename(str(options.model))
    print(f"{machine}; prompt {options.prompt}, {options.new} new tokens, greedy; {model}")
    print(report(results, options))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.write:
        write(report(results, options), options.write)


def run(options: argparse.Namespace) -> dict:
    """All systems and batches in turn, `rounds` times."""
    found: dict = {"systems": {}, "left out": {}}
    for number in range(options.rounds):
        for batch in options.batches:
            for system in options.systems:
                if system in found["left out"]:
                    continue
                python = sys.executable if system in OURS else options.peer_python
                command = [python, __file__, "--worker", system, str(batch), "--model", str(options.model)]
                for name in ("prompt", "new", "long", "threads", "openvino", "device"):
                    if getattr(options, name) is not None:
                        command += [f"--{name}", str(getattr(options, name))]
                environment = os.environ if system in OURS else {**os.environ, "PYTHONPATH": str(REPOSITORY)}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    found["left out"][system] = done.stderr.strip().splitlines()[-1][:200]
                    print(f"{system} is left out: {found['left out'][system]}", file=sys.stderr)
                    continue
                figures = json.loads(done.stdout.splitlines()[-1])
                found["systems"].setdefault(system, {}).setdefault(batch, []).append(figures)
                print(f"round {number + 1} {system} b{batch}: {figures['decode']:.0f} tokens/s", file=sys.stderr)
    return found


def measure(system: str, batch: int, options: argparse.Namespace) -> dict:
    """One system's figures for one batch."""
    from gptwo.runtime import peak_memory

    name, precision = system.rsplit("-", 1)
    start = time.perf_counter()
    if name == "gptwo":
        generate, limit = load_gptwo(options, precision, batch)
    else:
        generate, limit = peers.LOADERS[name](options, precision, batch), None
    loaded = time.perf_counter() - start
    draw = random.Random(batch)

    def prompts(length: int) -> list[list[int]]:
        return [[draw.randrange(VOCABULARY - 1) for _ in range(length)] for _ in range(batch)]

    def timed(length: int, new: int) -> float:
        given = prompts(length)
        start = time.perf_counter()
        written = generate(given, new)
        seconds = time.perf_counter() - start
        if written != batch * new:
            raise SystemExit(f"{system} wrote {written} tokens instead of {batch * new}")
        return seconds

    generate(prompts(8), 2)  # warm
    generate(prompts(options.prompt), 2)
    before, whole, after = (timed(options.prompt, new) for new in (1, options.new, 1))
    first = (before + after) / 2  # reading long batches takes as long as writing: what the machine drifts, evens out
    found = {"decode": batch * (options.new - 1) / max(1e-9, whole - first), "first": first}
    if batch == 1:
        found["prefill"] = options.long / min(timed(options.long, 1) for _ in range(3))
    found |= {"load": loaded, "peak": peak_memory()}
    return found | limit(found["decode"]) if limit and batch == 1 else found


# --- ours: what generates, and what measures the limit of its weights


def load_gptwo(options: argparse.Namespace, precision: str, batch: int) -> tuple[Generate, Limit]:
    if options.device != "cpu":
        from gptwo.generate.engine import Engine

        on_gpu = Engine(options.model, device=options.device, precision=precision, max_batch=batch)
        parameters = on_gpu.backend.model.parameters()
        weight_bytes = sum(one.numel() * one.element_size() for one in parameters)
        return _greedy(on_gpu), lambda rate: share_of_copying(rate, weight_bytes)
    from gptwo.generate.native import NativeEngine

    engine = NativeEngine(
        options.model, precision=precision, threads=options.threads, max_batch=batch, share=False, speculate=False
    )  # prompts come twice: nothing of the first time may help the second
    return _greedy(engine), lambda _: share_of_reading(engine, options.prompt)


def share_of_reading(engine: NativeEngine, prompt: int, turns: int = 100) -> dict:
    """What reading the weights takes of a step of one row behind `prompt` tokens, in turns with reading them only."""
    from gptwo.generate._native import Sampling

    native, greedy = engine.native, Sampling()
    greedy.temperature, greedy.vocab_size = 0.0, VOCABULARY
    sequence = native.open([7] * prompt, prompt, 0, greedy)
    while not native.step([(sequence, min(native.left(sequence), native.max_tokens), [])])[0]:
        pass
    reading, writing = [], []
    for _ in range(turns):
        start = time.perf_counter()
        count = native.read_through()
        read = time.perf_counter()
        for _ in range(2):
            native.step([(sequence, 1, [])])
        reading.append(read - start)
        writing.append((time.perf_counter() - read) / 2)
    native.close(sequence)
    seconds = statistics.median(reading)
    return {"bandwidth": count / seconds, "share": seconds / statistics.median(writing)}


def _greedy(engine: Writer) -> Generate:
    def generate(prompts: list[list[int]], new: int) -> int:
        texts = engine.generate(prompts, max_new_tokens=new, temperature=0, ignore_end=True)
        return sum(len(text.ids) for text in texts)

    return generate


# --- guessing ahead


def copying(options: argparse.Namespace) -> None:
    """One text whose beginning comes a second time, with guesses and without, in turn; the texts must be equal.

    What is compared is writing: the time to the first token is taken off.
    """
    from gptwo.generate.native import NativeEngine

    print("precision | plain tokens/s | guessing tokens/s | ratio")
    for system in OURS:
        precision = system.rpartition("-")[2]
        plain, guessing = (
            NativeEngine(options.model, precision=precision, threads=options.threads, share=False, speculate=speculate)
            for speculate in (False, True)
        )
        assert plain.tokenizer is not None
        ids = plain.tokenizer.encode(options.copying.read_text(encoding="utf-8"))[: 2 * options.new]
        seconds: dict[NativeEngine, list[float]] = {plain: [], guessing: []}
        texts = {}
        for _ in range(3 * options.rounds):
            for engine, times in seconds.items():
                ends = [time.perf_counter()]
                for new in (1, options.new):
                    prompt = [*ids, *ids[: options.new // 2]]
                    texts[engine] = engine.generate([prompt], max_new_tokens=new, temperature=0, ignore_end=True)[0].ids
                    ends.append(time.perf_counter())
                times.append((ends[2] - ends[1]) - (ends[1] - ends[0]))
        assert texts[plain] == texts[guessing]
        rates = [(options.new - 1) / statistics.median(times) for times in seconds.values()]
        print(f"{precision} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.2f}", flush=True)


# --- the machine


def share_of_copying(rate: float, weight_bytes: int) -> dict:
    """Bytes per second that the GPU reads and writes when it copies 1 GiB, the best of ten; steps' share of them."""
    import torch

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)

    def once() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        return 2 * source.numel() / (time.perf_counter() - start)

    bandwidth = max(once() for _ in range(10))
    return {"bandwidth": bandwidth, "share": rate * weight_bytes / bandwidth}


def random_model(folder: Path) -> str:
    """GPT-2 124M with random weights and a tokenizer of random merges; every tool's speed is that of the real one."""
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import create, save

    config = GPT2Config(vocab_size=VOCABULARY)
    return str(save(create(config, random_tokenizer(folder.with_suffix(".tokenizer"))), folder))


def random_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers.pre_tokenizers import ByteLevel

    from gptwo.tokenizer import load_tokenizer

    draw, tokens, merges = random.Random(0), sorted(ByteLevel.alphabet()), []  # the characters that stand for bytes
    known = set(tokens)
    while len(tokens) < VOCABULARY - 1:
        left, right = draw.choice(tokens), draw.choice(tokens)
        if len(left + right) <= 8 and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    folder.mkdir(parents=True)
    names = {token: number for number, token in enumerate([*tokens, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def report(results: dict, options: argparse.Namespace) -> str:
    """Medians of every system, and ours beside the best peer of equal bits, as Markdown."""
    found = {
        system: {
            int(batch): {name: statistics.median(one[name] for one in rounds) for name in rounds[0] if rounds[0][name]}
            for batch, rounds in by_batch.items()
        }
        for system, by_batch in results["systems"].items()
    }
    heads = [f"b{batch} tokens/s | first s | peak GB" for batch in options.batches]
    lines = [" | ".join(["| system", *heads, "of the limit", "GB/s", "prompt tokens/s", "load s |"])]
    lines.append("|---" * (5 + 3 * len(options.batches)) + "|")
    for system, by_batch in found.items():
        cells = [system]
        for batch in options.batches:
            one = by_batch.get(batch)
            cells += [f"{one['decode']:,.0f}", f"{one['first']:.3f}", f"{one['peak'] / 1e9:.2f}"] if one else [""] * 3
        one = by_batch.get(1, {})
        cells += [f"{one['share']:.0%}", f"{one['bandwidth'] / 1e9:.0f}"] if "share" in one else [""] * 2
        cells += [f"{one['prefill']:,.0f}", f"{one['load']:.2f}"] if one else [""] * 2
        lines.append(f"| {' | '.join(cells)} |")
    columns = [*[("decode", batch) for batch in options.batches], ("prefill", 1)]
    names = [f"b{batch}" if what == "decode" else "reading" for what, batch in columns]
    lines += ["", f"| ours, × the best peer | {' | '.join(names)} |", "|---" * (1 + len(columns)) + "|"]
    for ours in [system for system in OURS if system in found]:
        cells = [ours]
        for what, batch in columns:
            others = {
                name: by[batch][what]
                for name, by in found.items()
                if name in PEERS
                and SAME[name.rpartition("-")[2]] == ours.rpartition("-")[2]
                and what in by.get(batch, {})
            }
            best = max(others, key=lambda name: others[name], default="")
            own = found[ours].get(batch, {}).get(what)
            cells.append(f"{own / others[best]:.2f} {best}" if own and best else "")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"left out: {system}: {reason}" for system, reason in results["left out"].items()]
    return "\n".join(lines)


def write(text: str, page: Path) -> None:
    """Put a report into a page, between two lines that mark its place."""
    old = page.read_text(encoding="utf-8")
    before, mark, rest = old.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not mark or not end:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END} for the report to stand between")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
