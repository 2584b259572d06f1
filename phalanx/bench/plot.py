"""The plot of ``phalanx bench``; matplotlib is optional and loaded here alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from . import table

MISSING = "no plot: matplotlib is not installed (pip install 'phalanx[plot]')"
COLOURS = (
    "#111111",
    "#1f77b4",
    "#17becf",
    "#2ca02c",
    "#d62728",
    "#ff7f0e",
    "#e7a6a6",
    "#9467bd",
    "#8c564b",
    "#e377c2",
)


def draw(file: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Bus bandwidth over size, one panel for each number of ranks; what to tell of it."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return MISSING
    counts = sorted({row["ranks"] for row in rows})
    figure, panels = pyplot.subplots(1, len(counts), figsize=(7.5 * len(counts), 5.5), squeeze=False, sharey=True)
    titles = [title for title in rows[0]["seconds"] if title != "memcpy"]
    for panel, ranks in zip(panels[0], counts, strict=True):
        part = sorted((row for row in rows if row["ranks"] == ranks), key=lambda row: row["nbytes"])
        for colour, title in zip(COLOURS, titles, strict=False):
            _line(panel, part, title, colour, 2e-9 * (ranks - 1) / ranks)
        panel.set(xscale="log", yscale="log", xlabel="size of the array", title=f"{ranks} ranks")
        panel.set_xticks([row["nbytes"] for row in part], [table.size_words(row["nbytes"]) for row in part])
        panel.minorticks_off()
        panel.grid(True, alpha=0.3)
    panels[0][0].set_ylabel("bus bandwidth in GB/s (median; bars: all rounds)")
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9, frameon=False)
    figure.suptitle(f"all-reduce of float32, {about['processor']}, {about['cores']} cores", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return f"plot: {file}"


def _line(panel: Any, part: list[dict[str, Any]], title: str, colour: str, factor: float) -> None:
    sizes = [row["nbytes"] for row in part]
    least, middle, most = zip(*(table.spread(row["seconds"][title]) for row in part), strict=True)
    speeds = [size * factor / seconds for size, seconds in zip(sizes, middle, strict=True)]
    below = [speed - size * factor / slow for speed, size, slow in zip(speeds, sizes, most, strict=True)]
    above = [size * factor / fast - speed for speed, size, fast in zip(speeds, sizes, least, strict=True)]
    dashed = "--" if "limit" in title else ":" if "gloo" in title or title.startswith("MPI") else "-"
    panel.errorbar(
        sizes,
        speeds,
        yerr=[below, above],
        label=title,
        color=colour,
        linestyle=dashed,
        marker="o",
        markersize=3,
        capsize=2,
    )
