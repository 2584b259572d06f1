"""Every public function of tensors has an example in its docstring, and it prints what it says."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim

FACES = ["linalg", "autograd", "special", "utils.checkpoint"]


def _public() -> dict[str, Any]:
    found = {name: getattr(phalanx, name) for name, home in phalanx._HOME_OF.items() if home.startswith("core.")}
    for face in FACES:
        module: Any = phalanx
        for part in face.split("."):
            module = getattr(module, part)
        found.update({f"{face}.{name}": getattr(module, name) for name in module.__all__})
    described = {name: value for name, value in found.items() if inspect.isfunction(value) or inspect.isclass(value)}
    return {name: value for name, value in described.items() if value.__module__.startswith("phalanx")}


PUBLIC = _public()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_prints_what_it_says(name: str) -> None:
    words = inspect.getdoc(PUBLIC[name]) or ""
    assert ">>>" in words and words.partition("\n")[0].strip(), f"{name}: a line of words and an example expected"
    globs = {"phalanx": phalanx, "nn": nn, "optim": optim, "np": np, "F": nn.functional}
    test = doctest.DocTestParser().get_doctest(words, globs, name, None, 0)
    told: list[str] = []
    doctest.DocTestRunner().run(test, out=told.append)
    assert not told, "".join(told)
