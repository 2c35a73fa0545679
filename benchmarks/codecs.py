"""What each codec costs and loses: bytes a value, one-shot error on Gaussian and heavy-tailed values, and CPU time.

    python benchmarks/codecs.py                        # 4.6 million drawn values in 336 tensors: a minute
    python benchmarks/codecs.py --deltas update.safetensors   # and the sizes of a real update, float32 or half

The error is ‖x − decoded‖ / ‖x‖ of one message by itself: what topk and sparse2bit leave out is what error feedback
sends later.  Sizes are whole messages, names and all, beside the same tensors as a float32 safetensors file.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from potluck.aggregation import Limits, decode, encode

LAYERS, RANK = 24, 16
MODULES = {
    "self_attn.q_proj": (704, 704),
    "self_attn.k_proj": (176, 704),
    "self_attn.v_proj": (176, 704),
    "self_attn.o_proj": (704, 704),
    "mlp.gate_proj": (1760, 704),
    "mlp.up_proj": (1760, 704),
    "mlp.down_proj": (704, 1760),
}
CASES: Sequence[tuple[str, dict[str, int]]] = (
    ("fp32", {}),
    ("fp16", {}),
    ("int8", {}),
    ("int8", {"block": 64}),
    ("nf4", {}),
    ("int4", {}),
    ("levels", {"levels": 4}),
    ("levels", {"levels": 3}),
    ("levels", {"levels": 2}),
    ("levels", {"levels": 2, "block": 128, "of": 2}),
    ("topk", {"k": 410}),
    ("topk", {"k": 256}),
    ("topk", {"k": 64}),
    ("sparse2bit", {"k": 1024}),
    ("sparse2bit", {"k": 512}),
    ("sparse2bit", {"k": 256}),
    ("sparse2bit", {"k": 64}),
)
Tensors = Mapping[str, NDArray[np.floating]]
ROOMY = Limits()


@dataclass(frozen=True, slots=True)
class Measured:
    """One codec on one set of tensors."""

    codec: str
    bytes_plain: float
    """Bytes a value without the lossless stage."""
    bytes_lossless: float
    times_smaller: float
    """Than a float32 safetensors file of the same tensors, with the lossless stage."""
    error: float
    encode_s: float
    """CPU-seconds a million values, lossless stage included."""
    decode_s: float


def drawn(draw: Callable[..., NDArray[np.floating]]) -> dict[str, NDArray[np.floating]]:
    """Return an adapter of 336 tensors whose values *draw* gives, about a thousandth in size."""
    shapes = {}
    for layer in range(LAYERS):
        for name, (d, k) in MODULES.items():
            shapes[f"model.layers.{layer}.{name}.lora_A"] = (RANK, k)
            shapes[f"model.layers.{layer}.{name}.lora_B"] = (d, RANK)
    return {name: (1e-3 * draw(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def measured(tensors: Tensors, codec: str, settings: Mapping[str, int]) -> Measured:
    """Send *tensors* through a codec, with and without the lossless stage."""
    values = sum(tensor.size for tensor in tensors.values())
    plain = len(encode(tensors, codec, **settings))
    began = time.process_time()
    data = encode(tensors, codec, lossless=True, **settings)
    encoded = time.process_time()
    found = decode(data, limits=ROOMY)
    decoded = time.process_time()
    lost = sum(float(np.sum((found[name].astype(float) - value) ** 2)) for name, value in tensors.items())
    whole = sum(float(np.sum(value.astype(float) ** 2)) for value in tensors.values())
    return Measured(
        codec=" ".join([codec, *(f"{name}={value}" for name, value in settings.items())]),
        bytes_plain=plain / values,
        bytes_lossless=len(data) / values,
        times_smaller=len(encode(tensors, "fp32")) / len(data),
        error=float(np.sqrt(lost / whole)),
        encode_s=(encoded - began) / values * 1e6,
        decode_s=(decoded - encoded) / values * 1e6,
    )


def table(title: str, rows: Sequence[Measured]) -> None:
    """Print *rows* as the table that docs/benchmarks.md has."""
    print(f"\n{title}\n")
    print("| codec | bytes a value | with zstandard | times smaller | error | encode, CPU-s | decode, CPU-s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.codec} | {row.bytes_plain:.4f} | {row.bytes_lossless:.4f} | {row.times_smaller:.1f} "
            f"| {row.error:.4f} | {row.encode_s:.3f} | {row.decode_s:.3f} |"
        )


def main() -> None:
    """Measure, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deltas", type=Path, help="a real update as a safetensors file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    sets: dict[str, Tensors] = {
        "Gaussian values": drawn(rng.normal),
        "t values with 3 degrees of freedom": drawn(partial(rng.standard_t, 3)),
    }
    if asked.deltas:
        sets[f"the update in {asked.deltas.name}"] = decode(asked.deltas.read_bytes(), limits=ROOMY)
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, ", end="")
    print(f"zstandard {zstandard.__version__}")
    for title, tensors in sets.items():
        count, values = len(tensors), sum(tensor.size for tensor in tensors.values())
        rows = [measured(tensors, codec, settings) for codec, settings in CASES]
        if asked.json:
            print(json.dumps({"tensors": title, "count": count, "values": values, "rows": [asdict(r) for r in rows]}))
        else:
            table(f"{title}: {count} tensors, {values:,} values", rows)


if __name__ == "__main__":
    main()
