"""Write the golden ledgers for this processor: only when a change of the trained bits is meant, and said in its message."""

import os
import shutil
import tempfile
from pathlib import Path

from tests.jobs import train
from tests.ranks.test_equal_bits import ARGUMENTS, MODELS, golden_path

for model in MODELS:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PHALANX_TESTS_FLIGHT"] = folder
        train("alone", Path(folder), "--model", model, *ARGUMENTS, limits=False)
        shutil.copy(Path(folder) / "ledger", golden_path(model))
        print(golden_path(model))
