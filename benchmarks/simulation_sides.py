"""What simulation.py measures on itself and two peers: each side trains every client of a workload, several times."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from simulation_base import ALPHA, CLIP, TARGETS, Workload, adapted, counted, rows_of, texts


def ours(work: Workload, cache: Path, base: str, *, batched: bool, times: int) -> dict[str, Any]:
    """Train with one of our engines, from folders as `potluck join` reads them."""
    from potluck.client.lessons import Lesson, Term
    from potluck.client.training.completing import completed
    from potluck.client.training.together.batched import BatchedEngine
    from potluck.client.training.together.sequential import SequentialEngine
    from potluck.wire.recipe import Recipe

    recipe = completed(
        Recipe.parse(
            json.dumps(
                {
                    "run": {"name": "speed"},
                    "model": {"base": base},
                    "adapter": {"rank": work.rank, "alpha": ALPHA, "targets": TARGETS},
                    "data": {"max_tokens": work.tokens, "held_out": 0.5},
                    "training": {
                        "steps": work.steps,
                        "batch": work.rows,
                        "learning_rate": work.rate,
                        "clip_grad_norm": CLIP,
                    },
                }
            )
        ),
        cache,
    )
    with tempfile.TemporaryDirectory() as folder:
        lessons = []
        for number, text in enumerate(texts(work)):
            home = Path(folder) / f"{number:03d}"
            home.mkdir()
            said = text.decode("ascii", "replace")
            lines = [json.dumps({"text": said}), json.dumps({"text": f"held out {number}"})]  # one of two is held out
            (home / "text.jsonl").write_text("\n".join(lines), "utf-8")
            lessons.append(Lesson(home, order=number))
        engine = BatchedEngine(cache, dtype="float32") if batched else SequentialEngine(cache, dtype="float32")
        term = Term(recipe, 0, 1, b"")
        engine.train(term, lessons)
        begun = time.process_time()
        for _ in range(times):
            results = engine.train(term, lessons)
        cpu = time.process_time() - begun
    change = max(float(abs(delta).max()) for one in results for delta in one.deltas.values())
    return counted(work, times, cpu) | {"change": change, "tokens": results[0].tokens, "steps": results[0].steps}


def pfl(work: Workload, base: str, times: int) -> dict[str, Any]:
    """Train with pfl-research's FedAvg: its model wrapper, local SGD bridge, simulated backend and aggregation."""
    import numpy as np
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel

    class Learner(torch.nn.Module):
        """What pfl asks of a model."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = adapted(base, work)

        def loss(self, ids: Any, *_: Any, **__: Any) -> Any:
            self.inner.train()
            return self.inner(input_ids=ids, labels=ids, use_cache=False).loss

        @torch.no_grad()
        def metrics(self, ids: Any, *_: Any, **__: Any) -> Any:
            self.inner.eval()
            return {"loss": Weighted(float(self.inner(input_ids=ids, labels=ids, use_cache=False).loss), 1)}

    learner = Learner()
    learned = [p for p in learner.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learned]

    def optimiser(parameters: Any, **settings: Any) -> Any:
        return torch.optim.AdamW([p for p in parameters if p.requires_grad], weight_decay=0.0, **settings)

    model = PyTorchModel(learner, optimiser, torch.optim.SGD(learned, lr=1.0))
    clients = {number: [torch.from_numpy(ids)] for number, ids in enumerate(rows_of(work))}
    data = FederatedDataset(
        lambda number: Dataset(clients[number], user_id=str(number)), get_user_sampler("minimize_reuse", list(clients))
    )
    moments: list[float] = []
    changes: list[float] = []

    class Watch(TrainingProcessCallback):
        """Notes the CPU time after every round, and what the first one changed."""

        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            from pfl.metrics import Metrics

            moments.append(time.process_time())
            if not changes:
                pairs = zip(before, learned, strict=True)
                changes.append(max(float((new.detach() - old).abs().max()) for old, new in pairs))
            return False, Metrics()

    np.random.seed(0)  # noqa: NPY002 - pfl draws from it
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=1 + times,
            evaluation_frequency=10**6,
            train_cohort_size=work.clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(
            local_batch_size=work.rows,
            local_num_epochs=1,
            local_learning_rate=work.rate,
            local_max_grad_norm=CLIP,
        ),
        NNEvalHyperParams(local_batch_size=None),
        [Watch()],
    )
    return counted(work, times, moments[-1] - moments[0]) | {"change": changes[0], "steps": work.steps}


def trainer(work: Workload, base: str, times: int) -> dict[str, Any]:
    """Train with a new transformers Trainer for every client, whose adapter is put back before each."""
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = adapted(base, work)
    learned = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learned]
    steps: list[int] = []
    change = 0.0
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=work.steps,
            per_device_train_batch_size=work.rows,
            learning_rate=work.rate,
            weight_decay=0.0,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        begun = 0.0
        for number in range(1 + times):
            for ids in rows_of(work)[: 4 if number == 0 else None]:  # the first few are not counted
                with torch.no_grad():
                    for parameter, old in zip(learned, before, strict=True):
                        parameter.copy_(old)
                rows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(ids)]
                steps.append(Trainer(model=model, args=settings, train_dataset=rows).train().global_step)
                pairs = zip(before, learned, strict=True)
                change = max(change, *(float((new.detach() - old).abs().max()) for old, new in pairs))
            begun = begun or time.process_time()
    return counted(work, times, time.process_time() - begun) | {"change": change, "steps": steps[-1]}
