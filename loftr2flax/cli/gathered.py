"""A parameter of a verb that several options make up: one value in the code, several words on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def gathered(
    verb: Callable[..., None], into: str, options: Mapping[str, Any], gather: Callable[..., Any]
) -> Callable[..., None]:
    """``verb`` as typer is to see it: its parameter ``into`` replaced by ``options``, each absent by default.

    Args:
      verb: what runs; its other parameters stay as they are.
      into: the parameter that takes what ``gather`` makes.
      options: annotations of the options by name, as typer reads them.
      gather: takes the options by name, None for those not given.
    """
    own = inspect.signature(verb, eval_str=True).parameters
    shown: list[inspect.Parameter] = []
    for parameter in own.values():
        if parameter.name == into:
            shown += [inspect.Parameter(n, _BY_NAME, default=None, annotation=option) for n, option in options.items()]
        else:
            shown.append(parameter.replace(kind=_BY_NAME))

    @wraps(verb)
    def command(**given: Any) -> None:
        asked = {name: given.pop(name) for name in options}
        verb(**{into: gather(**asked)}, **given)

    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    vars(command)["__signature__"] = inspect.Signature(shown)
    return command
