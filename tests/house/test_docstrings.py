"""Every public name says what it is in one line, names its options, and has an example that runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim

BESIDE = ("nn.utils", "nn.utils.rnn", "optim.lr_scheduler", "optim.swa_utils", "data.utils")
"""Public modules that ``__all__`` of those above does not list, as in PyTorch."""
FOREIGN = {
    "dtype": "NumPy's class",
    "Size": "Python's tuple, as PyTorch's users write it",
}
FAMILIAR = {
    "phalanx.data.transforms": "torchvision's classes with torchvision's options",
    "phalanx.data.tables": "scikit-learn's steps with scikit-learn's options",
    "phalanx.keras": "Keras's names with Keras's options",
}
"""Where options mean what they do elsewhere, beside the names that PyTorch has."""
COMMON = frozenset(
    """
    args axis columns data dataset device download dtype encoding generator ignore_index input inplace keepdim kwargs
    maximize model name of_torch options other params path requires_grad root sample_weight self target_transform tensor tensors
    transform
    """.split()  # noqa: SIM905
)
"""Options that mean the same wherever they come."""
UNRUN = {
    "phalanx.data.datasets": "fetches files that not every machine can reach",
    "phalanx.request_stop": "ends the process's training",
    "phalanx.keras.datasets": "fetches files that not every machine can reach",
}
"""Whose examples may be skipped."""
AS_ANOTHER = re.compile(r"\b[Aa]s (in |for )?:(class|func|meth):`")
"""A docstring that sends the reader to another one for its options."""


def _modules() -> dict[str, ModuleType]:
    """The public modules by their dotted names: ``phalanx``, and what its modules list in ``__all__``."""
    found = {"phalanx": phalanx}
    found |= {f"phalanx.{path}": importlib.import_module(f"phalanx.{path}") for path in BESIDE}
    queue = list(found)
    while queue:
        path = queue.pop(0)
        for name in getattr(found[path], "__all__", ()):
            value = getattr(found[path], name)
            if isinstance(value, ModuleType) and value not in found.values():
                found[f"{path}.{name}"] = value
                queue.append(f"{path}.{name}")
    return found


MODULES = _modules()


def _public() -> dict[str, Any]:
    """Dotted name -> class or function; each once, under the first name by which it is found."""
    found: dict[str, Any] = {}
    known: set[int] = set()
    for path, module in MODULES.items():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isroutine(value)) and id(value) not in known and name not in FOREIGN:
                known.add(id(value))
                found[f"{path}.{name}"] = value
    return found


PUBLIC = _public()


def words(value: Any) -> str:
    """A class's own words, not its base's."""
    return inspect.cleandoc(value.__doc__ or "") if inspect.isclass(value) else inspect.getdoc(value) or ""


def first_line_fails(text: str) -> bool:
    """Whether the first line is none, or does not end as a sentence does."""
    first = text.partition("\n")[0].rstrip()
    return not first.endswith((".", ":", ".)", ".``"))


def unnamed(value: Any) -> list[str]:
    """Options that its words don't mention."""
    try:
        signature = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    except (TypeError, ValueError):
        return []
    names = [name for name in signature.parameters if name not in COMMON and not name.startswith("_")]
    return [name for name in names if not re.search(rf"\b{re.escape(name)}\b", words(value))]


def test_there_is_something_to_check() -> None:
    assert len(PUBLIC) > 800
    without = [path for path, module in MODULES.items() if not getattr(module, "__all__", ())]
    assert not without, f"public modules that list no names in __all__: {', '.join(without)}"
    assert {
        "phalanx.nn.functional",
        "phalanx.optim.lr_scheduler",
        "phalanx.data.transforms",
        "phalanx.keras.layers",
    } <= {*MODULES}


def test_every_name_begins_with_a_sentence_and_has_an_example() -> None:
    without = [name for name, value in PUBLIC.items() if first_line_fails(words(value))]
    assert not without, f"a first line that ends with a full stop is missing: {', '.join(without)}"
    without = [name for name, value in PUBLIC.items() if ">>> " not in words(value)]
    assert not without, f"an example is missing: {', '.join(without)}"


def test_examples_are_run() -> None:
    skipped = [name for name, value in PUBLIC.items() if "+SKIP" in words(value) and not name.startswith(tuple(UNRUN))]
    assert not skipped, f"examples that would never run: {', '.join(skipped)}"


def methods(value: Any) -> dict[str, str]:
    """Name -> words of a class's public methods and properties, inherited ones of this package too."""
    found = {}
    own = [base for base in value.__mro__ if base.__module__.startswith("phalanx")] if inspect.isclass(value) else []
    for base in reversed(own):
        for key, member in vars(base).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            shown = getattr(value, key)  # an attribute may stand in for a base's property
            if not key.startswith("_") and inspect.isfunction(function) and (callable(shown) or shown is member):
                found[key] = inspect.getdoc(shown) or ""
    return found


def test_every_method_says_what_it_does() -> None:
    without = {
        f"{name}.{key}"
        for name, value in PUBLIC.items()
        for key, text in methods(value).items()
        if first_line_fails(text)
    }
    assert not without, f"a first line that ends with a full stop is missing: {', '.join(sorted(without))}"


@pytest.mark.torch
def test_options_that_pytorch_does_not_have_are_named() -> None:
    torch = pytest.importorskip("torch")

    def is_pytorchs(name: str) -> bool:
        value, path = torch, name.removeprefix("phalanx.")
        for part in (f"utils.{path}" if path.startswith("data.") else path).split("."):
            value = getattr(value, part, None)
        return value is not None

    lacking = {
        name: unnamed(value)
        for name, value in PUBLIC.items()
        if not name.startswith(tuple(FAMILIAR)) and not is_pytorchs(name) and not AS_ANOTHER.search(words(value))
    }
    lacking = {name: options for name, options in lacking.items() if options}
    assert not lacking, f"options that the docstring does not name: {lacking}"


def run_example(name: str, text: str) -> str:
    """What a doctest has to complain of."""
    known = {"phalanx": phalanx, "nn": nn, "optim": optim, "np": np, "F": nn.functional}
    test = doctest.DocTestParser().get_doctest(text, known, name, None, 0)
    told: list[str] = []
    phalanx.manual_seed(0)
    with np.errstate(all="ignore"):  # one example makes a NaN to have it found
        doctest.DocTestRunner().run(test, out=told.append)
    return "".join(told)


GROUPS = sorted({name.rpartition(".")[0] for name in PUBLIC})


@pytest.mark.parametrize("group", GROUPS)
def test_examples_print_what_they_say(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = [run_example(name, words(value)) for name, value in PUBLIC.items() if name.rpartition(".")[0] == group]
    assert not any(told), "".join(told)


def test_a_wrong_example_is_told() -> None:
    assert "Got" in run_example("wrong", ">>> 1 + 1\n3\n") and not run_example("right", ">>> 1 + 1\n2\n")
    assert first_line_fails("No full stop") and not first_line_fails("A sentence.\n\nMore")
    assert unnamed(lambda rate, inplace=False: None) == ["rate"]
