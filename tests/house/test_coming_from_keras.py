"""docs/coming_from_keras.md keeps its word: its blocks run, on ranks too, and its counts are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phalanx import keras
from tests.house.test_plain_script import DOORS, KERAS_NAMES, with_keras_imports
from tests.jobs import ROOT, run_job

PAGE = (ROOT / "docs" / "coming_from_keras.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("how", ["alone", pytest.param("run 2", marks=pytest.mark.whole)])
def test_the_blocks_run(how: str, tmp_path: Path) -> None:
    first, init, *others = BLOCKS
    text = "\n".join([init, first, *others])
    (tmp_path / "blocks.py").write_text(
        f"import os\nos.chdir({str(tmp_path)!r})\n{text}\nassert accuracy > 0.8 and len(history.history['val_loss']) == 5\n"
    )
    code, output = run_job(how, script=str(tmp_path / "blocks.py"), timeout_s=60)
    assert code == 0, output[-3000:]
    assert output.count("Epoch 5/5") == 1 and output.count('Model: "') == 1


def test_the_counts_of_lines() -> None:
    texts = [(DOORS / f"plain_keras_{name}.py").read_text() for name in KERAS_NAMES]
    lines = sum(len(text.splitlines()) for text in texts)
    changed = sum(
        line != new
        for text in texts
        for line, new in zip(text.splitlines(), with_keras_imports(text).splitlines(), strict=True)
    )
    assert re.findall(r"(\d+) lines,\s+of which (\d+) change", PAGE) == [(str(lines), str(changed))]


def test_what_is_named_is_there() -> None:
    for module in re.findall(r"`keras\.([a-z.]+)`", PAGE):
        found = keras
        for part in module.split("."):
            found = getattr(found, part)
    table = PAGE[PAGE.index("## What there is") : PAGE.index("Weights have")]
    for name in re.findall(r"`([A-Z]\w+)`", table):
        homes = (keras, keras.layers, keras.callbacks, keras.optimizers, keras.losses, keras.metrics)
        assert any(hasattr(home, name) for home in homes), name
