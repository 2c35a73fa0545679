"""What arguments are for, in --help: typer 0.20 tells click 8.5 nothing of it, and loses it on the way."""

from collections.abc import Callable
from typing import Any, get_type_hints

import typer
from typer.main import get_command


def explained(app: typer.Typer) -> Callable[[], Any]:
    """Return *app* as a program whose arguments have the help that they were declared with."""
    program: Any = get_command(app)
    for command in program.commands.values():
        declared = get_type_hints(command.callback, include_extras=True)
        for parameter in command.params:
            if parameter.param_type_name == "argument" and not parameter.help:
                parameter.help = declared[parameter.name].__metadata__[0].help
    run: Callable[[], Any] = program
    return run
