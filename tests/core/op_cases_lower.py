"""Cases of the op that takes a parameter from a flat copy of lower precision. Its gradient is the parameter's, as if it were x itself."""

from __future__ import annotations

from tests.core.op_cases import Case, draw

CASES = [
    Case("lower", (draw(3, 4), draw(20)), {"lo": 5}, numpy=lambda x, copy: copy[5:17].reshape(3, 4), gradient=False, with_gradient=(0,)),
    Case("lower", (draw(), draw(3)), {"lo": 2}, numpy=lambda x, copy: copy[2], gradient=False, with_gradient=(0,)),
    Case("lower", (draw(0, 4), draw(6)), {"lo": 6}, numpy=lambda x, copy: copy[:0].reshape(0, 4), gradient=False, with_gradient=(0,)),
]  # fmt: skip
