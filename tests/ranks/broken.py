"""Run the example with one rule of exactness broken on purpose: `broken.py rank-order|dropout-by-rank arguments...`."""

import runpy
import sys

from phalanx.core import rng
from phalanx.dist import group
from phalanx.dist.reduction import tree
from tests.jobs import EXAMPLE

breakage = sys.argv.pop(1)
if breakage == "rank-order":
    tree.RANK_ORDER_SUM = True
else:
    right = rng.next_key

    def by_rank(purpose):
        key = right(purpose)
        return rng.Key(key.seed, key.purpose, key.step, group.rank(), key.call)

    rng.next_key = by_rank
sys.argv[0] = EXAMPLE
runpy.run_path(EXAMPLE, run_name="__main__")
