"""A small table of real measurements with missing values, which Debian has among the examples of its package weka."""

from __future__ import annotations

import os

import numpy as np

from ...errors import DataError
from .. import sources
from ..tables import Table
from .pictures import file_set

DEBIAN_PACKAGE = "weka"
DEBIAN_FOLDER = "/usr/share/doc/weka/examples"
DIGESTS = {"diabetes.arff": "01c38ba089121a39a4ee5bafb3c9bddd71e4337d8f0268c85a999a37c1a027e6"}
COLUMNS = ("pregnancies", "glucose", "pressure", "skin", "insulin", "mass", "pedigree", "age")
NEVER_ZERO = ("glucose", "pressure", "skin", "insulin", "mass")
"""Of a living person; a 0 in the file means that nobody measured it."""
POSITIVE = "tested_positive"


class PimaDiabetes:
    """768 women, eight measurements of each, and whether they have diabetes (Smith et al. 1988); 268 have.

    Not a Dataset of samples: ``table`` is a :class:`phalanx.data.tables.Table` to be prepared, whose column ``diabetes`` is 0 or 1. Values
    that nobody measured, which the file has as 0, are missing (652 in all). Sources, in order: the cache under ``root``, Debian's
    installed package weka, $PHALANX_DATA_MIRROR, the package fetched without root.

    Raises DataError that lists each source and why it failed.

    >>> pima = phalanx.data.datasets.PimaDiabetes()  # doctest: +SKIP
    >>> len(pima.table), pima.table.missing()["insulin"]  # doctest: +SKIP
    (768, 374)
    """

    classes = ("healthy", "diabetes")

    def __init__(self, root: str | os.PathLike[str] | None = None, download: bool = True) -> None:
        files = file_set(
            "Pima diabetes",
            ("PimaDiabetes",),
            DIGESTS,
            root,
            download,
            local=[sources.folder(DEBIAN_FOLDER)],
            remote=[sources.debian_package(DEBIAN_PACKAGE, DEBIAN_FOLDER)],
        )
        self.table = read(files.load(list(DIGESTS))["diabetes.arff"])

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"PimaDiabetes({len(self)} rows)"


def read(content: bytes) -> Table:
    """The rows behind ``@data`` of Weka's format.

    >>> read(b"@relation pima\\n@data\\n6,148,72,35,0,33.6,0.627,50,tested_positive\\n")["insulin"].tolist()
    [nan]
    """
    head, found, body = content.decode("ascii").partition("@data")
    if not found:
        raise DataError(f"not a table of Weka: it begins with {head[:20]!r} and has no @data")
    rows = [line.split(",") for line in body.split()]
    numbers = np.array([row[:-1] for row in rows], np.float64)
    columns = dict(zip(COLUMNS, numbers.T.copy(), strict=True))
    for name in NEVER_ZERO:
        columns[name][columns[name] == 0] = np.nan
    return Table({**columns, "diabetes": np.array([row[-1] == POSITIVE for row in rows])}, source="Pima diabetes")
