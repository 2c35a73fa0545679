"""Differentially private training on a volunteer's machine, to be read from top to bottom.

Every record is drawn for a step or not by a coin of its own that nobody else can see; every drawn record's gradient is
shrunk to a bound; noise is added; the sum is divided by a number that was fixed before.  A step that drew nobody is a
step of noise.  So whatever one record says, the outcome is nearly as likely without it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from peft import PeftModel

from potluck.client.account import Account
from potluck.client.accounting import Spending
from potluck.client.errors import NotPaid
from potluck.client.home import store, sync_folder
from potluck.client.readers import Sample
from potluck.client.training.adapters import trained_parameters
from potluck.client.training.errors import TrainingDiverged
from potluck.client.training.loop import Ran, Steps, run
from potluck.client.training.private_gradients import Engine, checked_engine, norms
from potluck.client.training.private_records import Records, records_of
from potluck.client.work import Job, Stride, Word
from potluck.wire.noise import SEED_BYTES, SecretNoise, new_seed
from potluck.wire.recipe import Training

TOGETHER: Final = 8  # examples whose gradients exist at one time
CHECKED: Final = 2  # examples on which engines are compared
SEED: Final = "noise.seed"


@final
@dataclass(frozen=True, slots=True)
class Privately:
    """What one round of private training is made with."""

    records: Records
    spending: Spending
    """How often a record is drawn, and how much noise there is, as it will be accounted."""
    clip: float
    """Largest norm of one example's gradient, over all trained parameters together."""
    noise: SecretNoise
    """What draws records and noise; never used for another round."""

    def drawn(self, step: int) -> list[int]:
        """Return the numbers of the records drawn for *step*: each by itself, with the same chance; perhaps none.

        Where more than the cap were drawn, a random choice of that many.
        """
        coins = self.noise.uniform(f"draw/{step}", len(self.records))
        chosen = np.flatnonzero(coins < self.spending.chance)
        if self.spending.cap and len(chosen) > self.spending.cap:
            order = np.argsort(self.noise.uniform(f"cap/{step}", len(chosen)))
            chosen = np.sort(chosen[order[: self.spending.cap]])
        return [int(i) for i in chosen]


def train_privately(
    model: PeftModel,
    how: Privately,
    training: Training,
    *,
    folder: Path | None = None,
    on_step: Callable[[Stride], Word] = lambda _: Word.GO,
) -> Ran | None:
    """Train the adapter of *model* in place as `loop.train` does, but so that no record can be told from its absence.

    Checkpoints as there: an interrupted job draws the same records and the same noise again, so nothing is learned
    twice of one step.

    Source: Abadi et al. 2016, Algorithm 1, arXiv:1607.00133; AdamW on the noised gradient is post-processing.

    Raises:
        TrainingDiverged: a gradient is not finite.
        BadCheckpoint: the checkpoint in *folder* is damaged.
    """
    parameters = trained_parameters(model)
    optimiser = torch.optim.AdamW(parameters.values(), lr=training.learning_rate, weight_decay=training.weight_decay)
    device = next(iter(parameters.values())).device
    engine = checked_engine(model, how.records.batch(range(min(CHECKED, len(how.records)))).to(device))

    def take(done: int) -> torch.Tensor:
        total, seen = clipped_sum(model, how, how.drawn(done), engine)
        put_gradient(parameters, total, how, done)
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * min(1.0, (done + 1) / (training.warmup_steps + 1))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return seen

    return run(model, Steps(parameters, optimiser, _job(parameters, how, training), take), training, folder, on_step)


def clipped_sum(
    model: PeftModel, how: Privately, drawn: list[int], engine: Engine
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return Σ g·min(1, C/‖g‖) over the records *drawn*, by parameter in float32, and (summed loss, tokens).

    Raises:
        TrainingDiverged: a gradient is not finite.
    """
    parameters = trained_parameters(model)
    device = next(iter(parameters.values())).device
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    seen = torch.zeros(2, dtype=torch.float64)
    ordered = how.records.by_length(drawn)
    for start in range(0, len(ordered), TOGETHER):
        batch = how.records.batch(ordered[start : start + TOGETHER]).to(device)
        gradients, loss = engine(model, batch)
        lengths = norms(gradients)
        if not bool(torch.isfinite(lengths).all()):
            raise TrainingDiverged("a gradient is not finite", fix="lower training.learning_rate")
        factors = (how.clip / (lengths + 1e-12)).clamp(max=1.0).float()
        for name, each in gradients.items():
            total[name] += torch.einsum("b,b...->...", factors, each)
        seen += torch.tensor([loss, batch.trained_tokens], dtype=torch.float64)
    return total, seen


def put_gradient(
    parameters: Mapping[str, torch.nn.Parameter], total: Mapping[str, torch.Tensor], how: Privately, step: int
) -> None:
    """Give *parameters* the gradient (total + σ·C·w)/B, with B the expected number of records, never the drawn one."""
    size = sum(parameter.numel() for parameter in parameters.values())
    draws = torch.from_numpy(how.noise.gaussian(f"noise/{step}", size) * (how.spending.noise * how.clip))
    at = 0
    for name, parameter in parameters.items():
        own = draws[at : at + parameter.numel()].view(parameter.shape)
        noised = (total[name].cpu().double() + own) / how.spending.batch
        parameter.grad = noised.to(parameter.dtype).to(parameter.device)
        at += parameter.numel()


def rehearse(model: PeftModel, how: Privately) -> None:
    """Take the gradients of as many records as exist at one time, and forget them: what does not fit fails here."""
    longest = how.records.by_length(range(len(how.records)))[:TOGETHER]
    device = next(model.parameters()).device
    engine = checked_engine(model, how.records.batch(longest[:CHECKED]).to(device))
    clipped_sum(model, how, longest, engine)


def how_private(job: Job, tokenizer: Any, samples: Sequence[Sample]) -> Privately:  # noqa: ANN401 - untyped
    """Return how *job* is trained on *samples*, if its account allows that.

    Raises:
        OverBudget: the account does not.
        NotPaid: the job has no account.
    """
    recipe = job.recipe
    records = records_of(samples, tokenizer, recipe.data.max_tokens)
    account, noise = account_of(job), noise_at(job.folder).bound(purpose(job, records))
    spending = account.check(recipe, len(records), noise.digest)
    return Privately(records, spending, recipe.privacy.differential.clip, noise)


def purpose(job: Job, records: Records) -> bytes:
    """Return 32 bytes that name what noise is for: the recipe, the adapter, and the text.

    Where one of them is another one, so is the noise, and has to be paid: of two updates under one noise, as a restored
    backup could make them, the difference would be free of it.
    """
    name = hashlib.sha256(job.recipe.digest() + (job.adapter.name if job.adapter else "").encode())
    for row in records.rows:
        name.update(f"\0{row!r}".encode())
    return name.digest()


def account_of(job: Job) -> Account:
    """Return what *job* is paid from.

    Raises:
        NotPaid: it has nothing to be paid from.
    """
    if job.account is None:
        raise NotPaid("this recipe spends privacy, and there is no ledger", fix="train in a home: potluck join")
    return job.account


def noise_at(folder: Path) -> SecretNoise:
    """Return this job's secret noise: from the seed in *folder*, made from the system's randomness where it is missing.

    The seed is as secret as the text, and goes when the job's folder goes.  Without it an interrupted job would draw
    other noise for a step that it had taken, and would have to be paid again.  On return it is on the disk.
    """
    path = folder / SEED
    if not path.exists() or path.stat().st_size != SEED_BYTES:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        store(new_seed(), path, secret=True)
    return SecretNoise(path.read_bytes())


def _job(parameters: Mapping[str, torch.nn.Parameter], how: Privately, training: Training) -> str:
    """Name what is trained, on what and how, so that another job's checkpoint is never gone on from."""
    name = hashlib.sha256(f"private\0{training.model_dump_json()}\0{how.spending}\0{how.clip}".encode())
    for row in how.records.rows:
        name.update(repr(row.ids).encode())
    for key, parameter in parameters.items():
        name.update(key.encode())
        name.update(parameter.detach().cpu().numpy().tobytes())
    return name.hexdigest()
