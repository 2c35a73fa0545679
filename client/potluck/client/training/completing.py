"""A recipe as a person writes it, filled in with what its base model says: digest, licence, modules and shapes."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from potluck.client.training.bases import resolve, shapes
from potluck.client.training.errors import BadBase
from potluck.wire.recipe import Recipe

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_LARGEST: Final = 9_999  # in a range, as the recipe reads one


def completed(recipe: Recipe, cache: Path, progress: Callable[[str], None] = lambda _: None) -> Recipe:
    """Return *recipe* with the base model's digest, licence and modules; fetches the base model where it is missing.

    Raises:
        NoBase: the base model is nowhere.
        BadBase: it is not the one whose digest the recipe already states, or lacks a target.
    """
    base = resolve(recipe.model.base, revision=recipe.model.revision, cache=cache, progress=progress)
    if recipe.model.digest not in ("", base.digest):
        raise BadBase(
            f"{recipe.model.base} here has digest {base.digest[:16]}…, the recipe says {recipe.model.digest[:16]}…",
            fix="use the base model and the revision that the recipe was made for, or leave model.digest out",
        )
    filled = {
        "digest": base.digest,
        "licence": recipe.model.licence or base.licence,
        "modules": ranges(shapes(base.folder, recipe.adapter.targets)),
    }
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=filled)})


def ranges(modules: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return *modules* with runs of numbered names of one shape written as one: "layers.{0..29}.q".

    A name is folded at its first number only, and only where no number is missing, so that expanding gives *modules*.
    """
    groups: dict[tuple[str, str, tuple[int, int]], set[int]] = defaultdict(set)
    plain: dict[str, tuple[int, int]] = {}
    for name, sides in modules.items():
        found = _NUMBER.search(name)
        if found is None or str(int(found.group())) != found.group():
            plain[name] = sides
        else:
            groups[name[: found.start()], name[found.end() :], sides].add(int(found.group()))
    for (head, tail, sides), numbers in groups.items():
        whole = len(numbers) == max(numbers) - min(numbers) + 1 > 1 and max(numbers) <= _LARGEST
        names = [f"{{{min(numbers)}..{max(numbers)}}}"] if whole else [str(n) for n in numbers]
        plain |= {f"{head}{number}{tail}": sides for number in names}
    return dict(sorted(plain.items()))
