"""What gpu.py found, as lines, as Markdown, as JSON and as a picture."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from gpu_models import Size, Workload

NAME, COLUMN = 10, 30
PAIRS = (("phalanx", "PyTorch"), ("phalanx.capture", "PyTorch"), ("torch.compile", "PyTorch"))


def summarize(row: dict[str, Any], case: Workload, size: Size, peak: float | None) -> None:
    """Medians in ms, items a second, the share of the peak, and theirs / ours."""
    medians = {side: statistics.median(rounds) for side, rounds in row["rounds"].items()}
    items, flops = case.items(size), case.flops(size, row["parameters"]) if case.flops and "parameters" in row else None
    row["ms"] = {side: 1e3 * seconds for side, seconds in medians.items()}
    row["speed"] = {side: items / seconds for side, seconds in medians.items()}
    row["unit"] = case.unit
    row["share"] = {side: flops / seconds / peak for side, seconds in medians.items()} if flops and peak else {}
    row["ratio"], row["spread"] = {}, {}
    for ours, theirs in PAIRS:
        if ours in medians and theirs in medians:
            row["ratio"][ours] = medians[theirs] / medians[ours]
            each = [b / a for a, b in zip(row["rounds"][ours], row["rounds"][theirs], strict=False)]
            row["spread"][ours] = [min(each), max(each)]


def head(found: dict[str, Any]) -> str:
    """The card, the libraries and the columns."""
    about = found["about"]
    ours, theirs = about.get("phalanx", {}), about.get("torch", {})
    peak = ours.get("peak")
    stated = f"stated peak {peak / 1e12:.0f} TFLOP/s in bfloat16" if peak else "peak unknown"
    lines = ["REHEARSAL: these figures mean nothing"] if about["rehearsal"] else []
    lines += [
        f"{ours.get('device', '?')} ({stated}); {about['processor']}, {about['cores']} cores; {ours.get('kernels', '')}",
        f"PyTorch {theirs.get('version', 'none')}; medians of {about['rounds']} rounds in turn, ms a step; in brackets PyTorch / this column",
        *(f"without {side}: {reason}" for side, reason in found["missing"].items()),
        "",
        f"{'':<{NAME}}" + "".join(f"{side:>{COLUMN}}" for side in found["sides"]),
    ]
    return "\n".join(lines)


def cell(row: dict[str, Any], side: str) -> str:
    """``68.21 ms (1.08), 480,000 tokens/s, MFU 42%``; a dash for what could not run."""
    if side not in row["ms"]:
        return "-"
    ms = row["ms"][side]
    text = f"{ms:.3f}" if ms < 10 else f"{ms:.2f}"
    if side in row["ratio"]:
        text += f" ({row['ratio'][side]:.2f})"
    text += f" {row['speed'][side]:,.0f}/s"
    if side in row["share"]:
        text += f" {row['share'][side]:.0%}"
    return text


def line(found: dict[str, Any], name: str) -> str:
    """One workload; below it what a side said instead of a figure."""
    row = found["results"][name]
    text = f"{name:<{NAME}}" + "".join(f"{cell(row, side):>{COLUMN}}" for side in found["sides"])
    return "\n".join([text, *(f"{'':<{NAME}}{side}: {words}" for side, words in row["said"].items())])


def profiles(found: dict[str, Any]) -> str:
    """The steps that were taken apart."""
    lines: list[str] = []
    for name, sides in found["profiles"].items():
        for side, rows in sides.items():
            lines += ["", f"{name}, {side}: ms and calls in one step (plain, one op after the other)"]
            if isinstance(rows, str):
                lines.append(f"  {rows}")
                continue
            lines += [f"  {ms:9.3f} {calls:5d}  {what}" for what, ms, calls in rows]
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """The whole table for people."""
    about, sides = found["about"], found["sides"]
    ours = about.get("phalanx", {})
    lines = ["# phalanx against PyTorch on a GPU", ""]
    if about["rehearsal"]:
        lines += ["**A rehearsal at tiny sizes: these figures mean nothing.**", ""]
    lines += [
        f"`{about['command']}`, {about['date']}, {about.get('seconds', '?')} s. {ours.get('device', '?')}; {about['processor']}, "
        f"{about['cores']} cores; PyTorch {about.get('torch', {}).get('version', 'none')}; {ours.get('kernels', '')}.",
        "",
        f"Medians of {about['rounds']} rounds in turn, ms a step; in brackets PyTorch's time over the column's: above 1 the column is "
        "faster; then samples, images or tokens a second, and the share of the card's stated bfloat16 peak. Weights, batches and losses are "
        "the same on all sides (verified). TF32 for float32 products on both sides; PyTorch with fused optimizers, channels last, "
        "cudnn.benchmark.",
        "",
        *(f"No column {side}: {reason}.\n" for side, reason in found["missing"].items()),
        f"| workload | {' | '.join(sides)} |",
        f"|{'---|' * (len(sides) + 1)}",
    ]
    lines += [
        f"| {row['label']} | {' | '.join(cell(row, side) for side in sides)} |" for row in found["results"].values()
    ]
    notes = [
        f"- {name}, {side}: {words}" for name, row in found["results"].items() for side, words in row["said"].items()
    ]
    spreads = [
        f"- {name}, {side}: {low:.2f} to {high:.2f}"
        for name, row in found["results"].items() for side, (low, high) in row["spread"].items()
    ]  # fmt: skip
    lines += ["", "Lowest and highest ratio of a round:", "", *spreads] if spreads else []
    lines += ["", "What was said instead of figures:", "", *notes] if notes else []
    if found["profiles"]:
        lines += [
            "",
            "Steps taken apart, where PyTorch is ahead by most:",
            "",
            "```",
            profiles(found).strip("\n"),
            "```",
        ]
    return "\n".join([*lines, ""])


def write(found: dict[str, Any], folder: Path) -> list[Path]:
    """``gpu.md``, ``gpu.json`` and, with matplotlib, ``gpu.png`` in ``folder``; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "gpu.md", folder / "gpu.json"]
    paths[0].write_text(markdown(found))
    paths[1].write_text(json.dumps(found, indent=1, default=str) + "\n")
    try:
        import matplotlib
    except ImportError:
        return paths
    matplotlib.use("Agg")
    return [*paths, _plot(found, folder / "gpu.png")]


def _plot(found: dict[str, Any], path: Path) -> Path:
    """Bars of PyTorch / column for each workload; the line at 1 is PyTorch."""
    from matplotlib import pyplot

    results = found["results"]
    columns = [side for side in found["sides"] if any(side in row["ratio"] for row in results.values())]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(results) + 1.6))
    height = 0.8 / max(1, len(columns))
    for number, side in enumerate(columns):
        rows = [(place, row["ratio"][side]) for place, row in enumerate(results.values()) if side in row["ratio"]]
        places = [place - 0.4 + height * (number + 0.5) for place, _ in rows]
        axes.barh(places, [ratio for _, ratio in rows], height, label=side)
        for place, (_, ratio) in zip(places, rows, strict=True):
            axes.text(ratio + 0.02, place, f"{ratio:.2f}", va="center", fontsize=6)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(results)), [row["label"] for row in results.values()], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("PyTorch's time / the column's: above 1 the column is faster", fontsize=8)
    if columns:
        axes.legend(fontsize=7)
    about = found["about"]
    rehearsal = "REHEARSAL, figures mean nothing. " if about["rehearsal"] else ""
    axes.set_title(f"{rehearsal}{about.get('phalanx', {}).get('device', '?')}, {about['date']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    return path
