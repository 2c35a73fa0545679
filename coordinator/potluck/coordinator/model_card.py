"""README.md of a release: where the adapter comes from, in words, and how to load it."""

import json
from collections.abc import Mapping
from typing import Any

from potluck.coordinator.store.records import Version
from potluck.wire.recipe import Recipe


def model_card(recipe: Recipe, version: Version, facts: Mapping[str, Any]) -> str:
    """Return the model card of *version* as Markdown with the front matter that model hubs read."""
    base, licence = _plain(recipe.model.base), _plain(recipe.run.licence)
    return f"""---
base_model: {json.dumps(recipe.model.base)}
library_name: peft
license: {json.dumps(licence.lower())}
tags: [lora, federated-learning, potluck]
---

# {recipe.run.name}, version {version.version}

{_plain(recipe.run.purpose) or "A LoRA adapter that volunteers trained together."}

Volunteers trained this adapter on text that never left their machines; only low-rank changes of the adapter travelled,
and a coordinator combined them.

| | |
|---|---|
| base model | {base} (revision {_plain(recipe.model.revision)}) |
| SHA-256 of the base model's files | `{recipe.model.digest}` |
| licence of the base model | {_plain(recipe.model.licence) or "see the base model"} |
| licence of this adapter | {licence} |
| run | {recipe.run.name} (`{facts["run_id"]}`) |
| coordinator | `{facts["coordinator_id"]}` |
| version | {version.version}{_origin(version)} |
| contributors to this version | {_nominal(recipe, version.contributors)} |
| training examples in this version | {_nominal(recipe, version.examples)} |
| mean loss that contributors reported | {_losses(version)} |
| combined by | {recipe.aggregation.rule}, weighted by {", ".join(recipe.aggregation.weights)}; outer step \
{recipe.aggregation.outer} |
| counted less than half of what they stated | {_down(facts)} |
| loss on the coordinator's own text | {_probe(facts["probe"])} |
| differential privacy | {_private(recipe)} |
| relative error of the cut to rank {facts["rank"]} | {version.truncation:.2e} |
| recipe, SHA-256 | `{facts["recipe_digest"]}` |

The losses are what contributors measured on their own held-out text, in nats per token, before and after their part of
the training; nobody else can check them.

## Load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({json.dumps(recipe.model.base)})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

## Check it

`potluck verify path/to/this/folder` checks the coordinator's signature and the digest of every file. The entry of this
version in the run's log is number {facts["log_index"]}, `{facts["log_hash"]}`.
"""


def _plain(text: str) -> str:
    """Return *text* as words on one line that cannot end a table's cell or begin anything else."""
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")


def _origin(version: Version) -> str:
    return "" if version.rolled_back_to is None else f", which is version {version.rolled_back_to} again"


def _nominal(recipe: Recipe, count: int) -> str:
    return f"{count} by the recipe; the real number is not told" if recipe.privacy.differential.by_user else f"{count}"


def _down(facts: Mapping[str, Any]) -> str:
    if facts.get("summed") and not facts.get("noised"):
        return f"unknown: a secure sum of {facts['updates']} updates, of which nobody saw a single one"
    if facts.get("noised"):
        return "none: all weigh the same, and noise is added to their sum"
    return f"{facts['weighted_down']} of {facts['updates']} updates" if facts["updates"] else "no updates"


def _private(recipe: Recipe) -> str:
    """Say what is promised, never an epsilon without its unit, delta and neighbours."""
    terms = recipe.privacy.differential
    numbers = (
        f"epsilon {terms.epsilon:g}, delta {terms.delta:g}, over at most {terms.participations} rounds of a client"
    )
    if terms.by_example:
        return f"{numbers}, for one record of a volunteer that is there or not; every client counts with dp-accounting"
    if terms.by_user:
        return (
            f"{numbers}, at least {terms.separation} apart, for one volunteer who is there or not, from everybody but "
            "the coordinator"
        )
    return "none"


def _probe(probe: Mapping[str, Any] | None) -> str:
    if probe is None:
        return "not measured"
    before = probe["loss_before"]
    return f"{'no number' if before is None else format(before, '.4f')} before, {probe['loss_after']:.4f} after"


def _losses(version: Version) -> str:
    if not version.loss_after:
        return "none reported"
    before = f"{version.loss_before:.4f}" if version.loss_before else "not reported"
    return f"{before} before, {version.loss_after:.4f} after"
