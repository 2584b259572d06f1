"""Losses, metrics, optimizers and schedules remember what they were made with, so that a saved model can say it."""

from __future__ import annotations

import inspect
from typing import Any


class Described:
    """Base of what ``compile`` takes as objects."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        made.__dict__["_arguments"] = (args, kwargs)
        return made

    def arguments(self) -> dict[str, Any]:
        """By name."""
        args, kwargs = self.__dict__["_arguments"]
        bound = inspect.signature(type(self)).bind(*args, **kwargs).arguments
        found = dict(bound)
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                found |= found.pop(name, {})
        return found


class NoWords(Exception):
    """Something that cannot be written down."""


def described(value: Any) -> Any:
    """The plain form. Raises NoWords for objects and functions of somebody's own."""
    if isinstance(value, Described):
        home = type(value).__module__
        if not home.startswith(__package__ + "."):
            raise NoWords(type(value).__name__)
        part = "schedules" if home.endswith(".schedules") else home.removeprefix(__package__ + ".").split(".")[0]
        return {"object": [part, type(value).__name__, described(value.arguments())]}
    if isinstance(value, dict):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise NoWords(getattr(value, "__name__", type(value).__name__))


def restored(form: Any, homes: dict[str, Any]) -> Any:
    """What :func:`described` wrote; ``homes``: part -> module."""
    if isinstance(form, dict) and form.keys() == {"object"}:
        part, name, arguments = form["object"]
        return getattr(homes[part], name)(**restored(arguments, homes))
    if isinstance(form, dict):
        return {key: restored(part, homes) for key, part in form.items()}
    return [restored(part, homes) for part in form] if isinstance(form, list) else form
