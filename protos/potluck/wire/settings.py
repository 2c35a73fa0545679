"""What every settings model can do: be read strictly, and say what is wrong and how to mend it."""

import json
import reprlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from potluck.aggregation.errors import BadSetting, PotluckError, UnknownName

if TYPE_CHECKING:  # a type of pydantic's core, only named in an annotation
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Line = Annotated[str, StringConstraints(max_length=400)]
"""A short text in a settings file."""


class Settings(BaseModel):
    """Read strictly: nothing unknown, mistyped, or out of range is let through.  Has no fields of its own."""

    model_config = ConfigDict(
        strict=True,  # "5" is not 5, and True is not 1
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # the docstring under a field is its help, and its fix
    )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file at *path*, as strictly as parse does: JSON if its name ends in .json, otherwise TOML.

        Raises:
            BadSetting: the file cannot be read, is not TOML, or holds a wrong value.
            UnknownName: a key that no setting has.
        """
        try:
            text = path.read_text("utf-8")
            table = {} if path.suffix == ".json" else tomllib.loads(text)
        except OSError as error:
            raise BadSetting(f"{path} cannot be read: {error.strerror}", fix="check the path and its rights") from None
        except ValueError as error:
            raise BadSetting(f"{path} is not TOML: {error}", fix="correct that line") from None
        if path.suffix == ".json":
            return cls.parse(text)
        # By way of JSON: there strict mode still takes a list for a tuple and a string for an Enum.
        return cls.parse(json.dumps(table, default=str))

    @classmethod
    def parse(cls, text: str | bytes, *, context: Mapping[str, Any] | None = None) -> Self:
        """Read JSON, from a file or off the wire; validators see *context*.

        Raises:
            BadSetting: a value of the wrong type, or out of range.  All other findings are in its notes.
            UnknownName: a key that no setting has.
        """
        try:
            return cls.model_validate_json(text, context=context)
        except ValidationError as error:
            first, *others = (_explained(cls, details) for details in error.errors())
            for other in others:
                for line in (f"also: {other}", *getattr(other, "__notes__", [])):
                    first.add_note(line)
            raise first from None


def idle(table: Settings, where: str, uses: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the keys of *table* that say something although nothing listens, as (what is wrong, what to do).

    *uses*: what would use each key that nothing uses now.  Defaults may stay: a recipe writes all of them out.
    """
    for key, use in uses.items():
        value = getattr(table, key)
        if value != type(table).model_fields[key].default:
            shown = json.dumps(value)
            yield f"{where}.{key} is {shown}, and nothing here uses it", f"leave {key} out: it is for {use}"


def _explained(model: type[BaseModel], details: "ErrorDetails") -> PotluckError:
    """Turn one of pydantic's findings about *model* into our error, with its fix."""
    *path, key = details["loc"] or ("document",)
    where = ".".join(map(str, [*path, key]))
    fields = _fields_at(model, path)
    if details["type"] == "extra_forbidden":
        guess = get_close_matches(str(key), fields, n=1)
        return UnknownName(
            f"no setting is called {where}",
            fix=f"did you mean {guess[0]!r}?" if guess else f"settings here are {', '.join(fields)}",
        )
    if details["type"] == "missing":
        help_text = fields[str(key)].description if str(key) in fields else None
        return BadSetting(f"{where} is missing", fix=f"set {key}: {help_text or 'see docs/recipe.md'}")
    help_text = fields[str(key)].description if str(key) in fields else None
    value = reprlib.repr(details["input"])  # shortened: it may have come off the wire
    return BadSetting(f"{where} is {value}: {details['msg']}", fix=f"{key}: {help_text or 'see docs/recipe.md'}")


def _fields_at(model: type[BaseModel], path: Sequence[str | int]) -> "Mapping[str, FieldInfo]":
    """Walk from *model* along *path* through nested models; return the fields found there, or none."""
    here: Any = model
    for step in path:
        if isinstance(step, int):  # a place in a list of tables, all of them alike
            continue
        field = here.model_fields.get(str(step))
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        nested = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not nested:
            return {}
        here = nested[0]
    fields: Mapping[str, FieldInfo] = here.model_fields
    return fields
