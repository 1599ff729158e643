"""Generation on a CPU: the native engine in each precision beside its peers, in turn, in one run.

    python bench/generate.py                                   # GPT-2 124M with random weights, batches of 1, 8, 32
    python bench/generate.py --systems gptwo-int8 --batches 1  # one figure, quickly

Each measurement is a process of its own, so that peak memory is its own; the systems take turns in every round, so
that a change of the machine's speed meets all of them, and every round begins with a probe of how fast memory can be
read. Texts are greedy, of random prompts, and the end token does not count; tokens are counted, not assumed. Printed
are medians over the rounds: new tokens per second after the first, the share of the limit that reading all weights
once a step sets (batch 1), tokens of prompt read per second, and peak resident memory.

Systems
    gptwo-fp32, -bf16, -int8, -int4     this project's native engine
    transformers-fp32, -bf16            transformers' generate with its cache, sdpa
    ctranslate2-int8                    CTranslate2; the model is converted first
    llama.cpp-bf16, -q8_0               llama-cpp-python, batch 1; the model is exported to GGUF first
    openvino-int8                       OpenVINO GenAI, from a folder in its own format (--openvino FOLDER)
A system that is not installed, or cannot take the model, is left out with the reason.
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
import threading
import time
from collections.abc import Callable
from pathlib import Path

OURS = ("gptwo-fp32", "gptwo-bf16", "gptwo-int8", "gptwo-int4")
PEERS = (
    "transformers-fp32", "transformers-bf16", "ctranslate2-int8", "llama.cpp-bf16", "llama.cpp-q8_0", "openvino-int8"
)  # fmt: skip
BITS = {"fp32": 32, "bf16": 16, "int8": 8, "q8_0": 8.5, "int4": 4.5}
VOCABULARY = 50257

Generate = Callable[[list[list[int]], int], int]
"""Prompts and how many tokens to add to each; returns how many tokens were written in all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=128, help="new tokens of each text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="default: the CPUs of this process")
    parser.add_argument("--model", help="a model folder; default: GPT-2 124M with random weights")
    parser.add_argument("--openvino", help="the same model exported for OpenVINO")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker[0], int(options.worker[1]), options)))
        return
    from gptwo.runtime import available_cpus

    options.threads = options.threads or available_cpus()
    with tempfile.TemporaryDirectory() as temporary:
        if options.model is None:
            options.model = random_model(Path(temporary) / "gpt2-random")
        results = run(options)
    show(results, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def run(options: argparse.Namespace) -> dict:
    """All systems and batches in turn, `rounds` times."""
    found: dict = {"bandwidth": [], "systems": {}, "left out": {}}
    for number in range(options.rounds):
        found["bandwidth"].append(read_bandwidth(options.threads))
        for batch in options.batches:
            for system in options.systems:
                if system in found["left out"] or (system.startswith("llama.cpp") and batch > 1):
                    continue
                command = [sys.executable, __file__, "--worker", system, str(batch), "--model", str(options.model)]
                for name in ("prompt", "new", "threads", "openvino"):
                    if getattr(options, name) is not None:
                        command += [f"--{name}", str(getattr(options, name))]
                done = subprocess.run(command, capture_output=True, text=True)
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
    generate, weight_bytes = LOADERS[name](options, precision, batch)
    loaded = time.perf_counter() - start
    draw = random.Random(batch)
    prompts = [[draw.randrange(VOCABULARY - 1) for _ in range(options.prompt)] for _ in range(batch)]
    generate([prompt[:8] for prompt in prompts], 2)  # warm
    times = {}
    for new in (1, options.new):
        start = time.perf_counter()
        written = generate(prompts, new)
        times[new] = time.perf_counter() - start
        if written != batch * new:
            raise SystemExit(f"{system} wrote {written} tokens instead of {batch * new}")
    return {
        "decode": batch * (options.new - 1) / max(1e-9, times[options.new] - times[1]),
        "prefill": batch * options.prompt / times[1],
        "first": times[1],
        "load": loaded,
        "weight_bytes": weight_bytes,
        "peak": peak_memory(),
    }


# --- systems: each returns what generates, and the bytes of its weights where it knows them


def load_gptwo(options: argparse.Namespace, precision: str, batch: int) -> tuple[Generate, int | None]:
    from gptwo.generate.native import NativeEngine

    engine = NativeEngine(
        options.model, precision=precision, threads=options.threads, max_batch=batch, share=False, speculate=False
    )  # prompts come twice: nothing of the first time may help the second

    def generate(prompts: list[list[int]], new: int) -> int:
        texts = engine.generate(prompts, max_new_tokens=new, temperature=0, ignore_end=True)
        return sum(len(text.ids) for text in texts)

    return generate, engine.native.usage()["weight_bytes"]


def load_transformers(options: argparse.Namespace, precision: str, batch: int) -> tuple[Generate, int | None]:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(options.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = GPT2LMHeadModel.from_pretrained(options.model, dtype=dtype).eval()

    def generate(prompts: list[list[int]], new: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new,
                pad_token_id=0,
            )  # fmt: skip
        return (out.shape[1] - ids.shape[1]) * out.shape[0]

    return generate, None


def load_ctranslate2(options: argparse.Namespace, precision: str, batch: int) -> tuple[Generate, int | None]:
    import ctranslate2

    folder = Path(options.model).with_suffix(".ct2")
    if not folder.is_dir():
        ctranslate2.converters.TransformersConverter(str(options.model)).convert(str(folder), quantization=precision)
    generator = ctranslate2.Generator(str(folder), device="cpu", intra_threads=options.threads, inter_threads=1)

    def generate(prompts: list[list[int]], new: int) -> int:
        tokens = [[f"token{token}" for token in prompt] for prompt in prompts]
        found = generator.generate_batch(
            tokens, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False
        )
        return sum(len(one.sequences_ids[0]) for one in found)

    return generate, None


def load_llama(options: argparse.Namespace, precision: str, batch: int) -> tuple[Generate, int | None]:
    import llama_cpp

    file = Path(options.model).with_suffix(f".{precision}.gguf")
    if not file.is_file():
        command = [sys.executable, "-m", "gptwo", "export", str(options.model), "--to", "gguf", "--out", str(file)]
        subprocess.run([*command, "--precision", precision], check=True, capture_output=True)
    model = llama_cpp.Llama(
        str(file), n_threads=options.threads, n_threads_batch=options.threads, n_ctx=1024, verbose=False
    )

    def generate(prompts: list[list[int]], new: int) -> int:
        model.reset()
        written = 0
        for _ in model.generate(prompts[0], temp=0.0, reset=True):
            written += 1
            if written == new:
                break
        return written

    return generate, None


def load_openvino(options: argparse.Namespace, precision: str, batch: int) -> tuple[Generate, int | None]:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    if not options.openvino:
        raise SystemExit("openvino needs --openvino FOLDER, which optimum-cli writes")
    settings = {"INFERENCE_NUM_THREADS": options.threads}
    pipe = genai.LLMPipeline(options.openvino, "CPU", **settings)

    def generate(prompts: list[list[int]], new: int) -> int:
        ids = ov.Tensor(np.array(prompts, np.int64))
        mask = ov.Tensor(np.ones((len(prompts), len(prompts[0])), np.int64))
        chosen = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        return sum(len(tokens) for tokens in pipe.generate(genai.TokenizedInputs(ids, mask), chosen).tokens)

    return generate, None


LOADERS = {
    "gptwo": load_gptwo,
    "transformers": load_transformers,
    "ctranslate2": load_ctranslate2,
    "llama.cpp": load_llama,
    "openvino": load_openvino,
}


# --- the machine


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read together, the best of three passes over 256 MiB each."""
    import numpy as np

    blocks = [np.ones(2**25, np.float64) for _ in range(threads)]

    def once() -> float:
        readers = [threading.Thread(target=block.max) for block in blocks]
        start = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return sum(block.nbytes for block in blocks) / (time.perf_counter() - start)

    return max(once() for _ in range(3))


def random_model(folder: Path) -> str:
    """GPT-2 124M with random weights; every tool's speed is that of the published one."""
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import create, save

    return str(save(create(GPT2Config(vocab_size=VOCABULARY)), folder))


def show(results: dict, options: argparse.Namespace) -> None:
    bandwidth = statistics.median(results["bandwidth"])
    print(f"{options.threads} threads; memory is read at {bandwidth / 1e9:.0f} GB/s (median of the rounds)")
    print(f"prompt {options.prompt}, {options.new} new tokens, greedy; {os.path.basename(str(options.model))}")
    print("system | batch | tokens/s | of the limit | prompt tokens/s | first token s | load s | peak GB")
    for batch in options.batches:
        for system, by_batch in results["systems"].items():
            if batch not in by_batch:
                continue
            rounds = by_batch[batch]
            median = {name: statistics.median(one[name] for one in rounds) for name in ("decode", "prefill", "first")}
            size = rounds[0]["weight_bytes"] or 124e6 * BITS[system.rsplit("-", 1)[1]] / 8
            share = f"{median['decode'] * size / bandwidth:.0%}" if batch == 1 else ""
            load, peak = (statistics.median(one[name] for one in rounds) for name in ("load", "peak"))
            print(
                f"{system} | {batch} | {median['decode']:.0f} | {share} | {median['prefill']:.0f} | "
                f"{median['first']:.3f} | {load:.2f} | {peak / 1e9:.2f}"
            )
    for system, reason in results["left out"].items():
        print(f"left out: {system}: {reason}")


if __name__ == "__main__":
    main()
