"""What packing costs: perplexity, mean KL divergence and top-1 agreement of each precision beside float32.

    python bench/precision.py --model gptwo-mini valid/en.txt valid/zh.txt

Every token of the texts' beginnings is predicted from those before it by the native engine, one step each; the whole
distributions are compared. `cache` is the precision of the keys and values.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

PRECISIONS = (("bf16", "bf16"), ("bf16", "int8"), ("int8", "bf16"), ("int8", "int8"), ("int4", "int8"))


def main() -> None:
    from gptwo.generate.native import NativeEngine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--model", default="gptwo-mini")
    parser.add_argument("--tokens", type=int, default=1000, help="of each text, up to the model's positions")
    options = parser.parse_args()

    exact = NativeEngine(options.model, precision="fp32", cache="fp32")
    assert exact.tokenizer is not None
    tokens = min(options.tokens, exact.config.n_positions)
    texts = [exact.tokenizer.encode(file.read_text(encoding="utf-8")[: 20 * tokens])[:tokens] for file in options.texts]
    given = distributions(exact, texts)
    count = sum(len(ids) - 1 for ids in texts)
    print(f"{options.model}: {count} tokens, perplexity {perplexity(given, texts):.3f} in float32")
    print("precision | cache | perplexity | mean KL divergence | top-1 agreement")
    for precision, cache in PRECISIONS:
        found = distributions(NativeEngine(options.model, precision=precision, cache=cache), texts)
        growth = perplexity(found, texts) / perplexity(given, texts) - 1
        apart = np.mean([(np.exp(p) * (p - q)).sum() for p, q in zip(given, found, strict=True)])
        agreed = np.mean([p.argmax() == q.argmax() for p, q in zip(given, found, strict=True)])
        print(f"{precision} | {cache} | {growth:+.3%} | {apart:.2e} | {agreed:.1%}", flush=True)


def distributions(engine, texts: list[list[int]]) -> list[np.ndarray]:
    """Log-probabilities (V) of what comes after each token but the last of every text."""
    from gptwo.generate._native import Sampling

    found = []
    for ids in texts:
        number = engine.native.open(ids[:1], 1, 0, Sampling())
        for token in ids[1:]:
            logits = engine.native.logits([(number, 1, [])])[0].astype(np.float64)
            top = logits.max()
            found.append(logits - top - np.log(np.exp(logits - top).sum()))
            engine.native.append(number, token)
        engine.native.close(number)
    return found


def perplexity(found: list[np.ndarray], texts: list[list[int]]) -> float:
    targets = [token for ids in texts for token in ids[1:]]
    return float(np.exp(-np.mean([one[token] for one, token in zip(found, targets, strict=True)])))


if __name__ == "__main__":
    main()
