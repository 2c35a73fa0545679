"""Local training, to be read from top to bottom."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from peft import PeftModel

from potluck.client.training import checkpoints
from potluck.client.training.adapters import trained_parameters
from potluck.client.training.batches import Batch, Batches
from potluck.client.training.checkpoints import Checkpoint
from potluck.client.training.errors import BadCheckpoint, TrainingDiverged
from potluck.client.training.losses import loss_sum
from potluck.client.training.proximal import Proximal
from potluck.client.work import Stride, Word
from potluck.wire.recipe import Training

LOSS: Final = "loss"
TOKENS: Final = "tokens"
MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")  # AdamW's names


@dataclass(frozen=True, slots=True)
class Ran:
    """What training did: steps taken in all, tokens learned from, and the mean loss over them in nats per token."""

    steps: int
    tokens: int
    loss: float


def train(
    model: PeftModel,
    batches: Batches,
    training: Training,
    *,
    folder: Path | None = None,
    on_step: Callable[[Stride], Word] = lambda _: Word.GO,
    proximal: Proximal | None = None,
) -> Ran | None:
    """Train the adapter of *model* in place for *training.steps* steps; None if *on_step* suspended or stopped it.

    With a *folder*, a checkpoint is written there every training.checkpoint_steps steps, before a suspend and after
    the last step; a later call goes on from it, and ends in the same bits as one that was never interrupted, on the
    same machine with the same number of threads.  *proximal*: another pull than the one back to the start.

    Source: ClientUpdate, Algorithm 1 of McMahan et al. 2017, arXiv:1602.05629, on LoRA factors only; AdamW of
    Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101.

    Raises:
        TrainingDiverged: the loss is not finite.
        BadCheckpoint: the checkpoint in *folder* is damaged.
    """
    parameters = trained_parameters(model)
    if proximal is None:
        proximal = Proximal.at(model, training.proximal)  # before a checkpoint moves the adapter away from its start
    optimiser = torch.optim.AdamW(parameters.values(), lr=training.learning_rate, weight_decay=training.weight_decay)
    device = next(iter(parameters.values())).device
    todo: list[Iterator[Batch]] = []  # begun where the checkpoint says

    def take(done: int) -> torch.Tensor:
        if not todo:
            todo.append(batches.after(done))
        return step(model, next(todo[0]).to(device), optimiser, proximal, training, done)

    steps = Steps(parameters, optimiser, _job(parameters, batches, training), take)
    return run(model, steps, training, folder, on_step)


@dataclass(frozen=True, slots=True)
class Steps:
    """A way to train: what it changes, and how step *done* + 1 is taken."""

    parameters: Mapping[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    job: str
    """Names what is trained, on what and how."""
    take: Callable[[int], torch.Tensor]
    """Takes the step after so many; returns (summed loss, tokens), float64 on the CPU."""


def run(
    model: PeftModel, steps: Steps, training: Training, folder: Path | None, on_step: Callable[[Stride], Word]
) -> Ran | None:
    """Take *steps*, with checkpoints in *folder*, until there are training.steps of them; `train` says the rest.

    Raises:
        BadCheckpoint: the checkpoint in *folder* is damaged.
    """
    done, sums = _resume(folder, steps.job, steps.parameters, steps.optimiser)
    with _training(model):
        while done < training.steps:
            loss = steps.take(done)
            sums += loss
            done += 1
            seen = float(loss[0] / loss[1]) if loss[1] else None
            word = on_step(Stride(done, training.steps, loss=seen))
            last = done == training.steps
            if folder and (last or word is Word.SUSPEND or done % training.checkpoint_steps == 0):
                checkpoints.save(folder, Checkpoint(done, steps.job, _state(steps.parameters, steps.optimiser, sums)))
            if word is Word.STOP or (word is Word.SUSPEND and not last):
                return None
    return Ran(done, int(sums[1]), float(sums[0] / sums[1]) if sums[1] else 0.0)


def step(
    model: PeftModel,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    proximal: Proximal,
    training: Training,
    done: int,
) -> torch.Tensor:
    """Take one step and return its (summed loss, tokens), float64 on the CPU; the loss is without *proximal*.

    Raises:
        TrainingDiverged: the loss is not finite; nothing was changed.
    """
    tokens = batch.trained_tokens
    loss = loss_sum(model, batch) / max(1, tokens)
    if not math.isfinite(float(loss.detach())):
        raise TrainingDiverged(
            f"the loss is {float(loss.detach())} at step {done + 1} of {training.steps}",
            fix=f"lower training.learning_rate, now {training.learning_rate:g}, or set training.clip_grad_norm to 1",
        )
    proximal.added_to(loss).backward()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if training.clip_grad_norm:
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_grad_norm)
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate * min(1.0, (done + 1) / (training.warmup_steps + 1))
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return torch.tensor([float(loss.detach()) * tokens, tokens], dtype=torch.float64)


def _state(
    parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer, sums: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return all that the next step depends on."""
    state = {LOSS: sums[0].clone(), TOKENS: sums[1].clone()}
    for name, parameter in parameters.items():
        state[name] = parameter.detach().cpu().contiguous()
        state |= {f"{name}.{moment}": optimiser.state[parameter][moment].cpu().contiguous() for moment in MOMENTS}
    return state


def _resume(
    folder: Path | None, job: str, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> tuple[int, torch.Tensor]:
    """Put the checkpoint of *job* in *folder* into the model and the optimiser; return (steps done, sums so far)."""
    found = checkpoints.load(folder, job) if folder else None
    if found is None:
        return 0, torch.zeros(2, dtype=torch.float64)
    expected = {LOSS, TOKENS, *parameters, *(f"{name}.{moment}" for name in parameters for moment in MOMENTS)}
    if expected != set(found.tensors):
        raise BadCheckpoint(f"the checkpoint in {folder} is of another adapter", fix="delete it; training starts again")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found.tensors[name])
            moments = {moment: found.tensors[f"{name}.{moment}"] for moment in MOMENTS}
            optimiser.state[parameter] = {  # the count of steps stays on the CPU, where AdamW keeps it
                moment: value.clone() if moment == "step" else value.to(parameter.device)
                for moment, value in moments.items()
            }
    return found.step, torch.stack([found.tensors[LOSS], found.tensors[TOKENS]])


def _job(parameters: Mapping[str, torch.nn.Parameter], batches: Batches, training: Training) -> str:
    """Name what is trained, on what and how, so that another job's checkpoint is never gone on from."""
    name = hashlib.sha256(
        f"{training.model_dump_json()}\0{batches.max_tokens}\0{batches.rows}\0{batches.seed}".encode()
    )
    for sample in batches.samples:
        name.update(repr(sample.ids).encode())
    for key, parameter in parameters.items():
        name.update(key.encode())
        name.update(parameter.detach().cpu().numpy().tobytes())
    return name.hexdigest()


@contextlib.contextmanager
def _training(model: PeftModel) -> Iterator[None]:
    """Put *model* into training mode, and back into evaluation mode whatever happens."""
    model.train()
    try:
        yield
    finally:
        model.eval()
