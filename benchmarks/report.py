"""What bench.py found, as lines, as Markdown, as JSON and as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = 10
COLUMN = 22
LONGEST = 4.0
"""Where a bar of the picture is cut off."""


def head(found: dict[str, Any]) -> str:
    """The machine and the columns."""
    about = found["about"]
    lines = [
        f"{about['processor']}, {about['cores']} cores, load {about['load']:.1f}, {about['platform']}",
        f"Python {about['python']}, NumPy {about['numpy']}, PyTorch {about.get('torch', 'none')}; "
        f"commit {about['commit']}; unset {', '.join(about['unset'])}",
        f"medians of {about['rounds']} rounds in turn, ms a step; in brackets PyTorch / this column with as many threads",
        *(f"without the column {name}: {reason}" for name, reason in found["missing"].items()),
        "",
        f"{'':<{NAME}}" + "".join(f"{name:>{COLUMN}}" for name in found["sides"]),
    ]
    return "\n".join(lines)


def cell(row: dict[str, Any], side: str) -> str:
    """``3.21 (1.40)``: ms and the ratio; a dash for what could not run."""
    if side not in row["ms"]:
        return "-"
    text = f"{_digits(row['ms'][side])}"
    form = row["form"][side]
    if form == "channels_last":
        text += " NHWC"
    if side in row["ratio"]:
        text += f" ({row['ratio'][side]['median']:.2f})"
    return text


def _digits(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def line(found: dict[str, Any], name: str) -> str:
    """One workload; what a side said instead of a number below."""
    row = found["results"][name]
    text = f"{name:<{NAME}}" + "".join(f"{cell(row, side):>{COLUMN}}" for side in found["sides"])
    notes = [f"{'':<{NAME}}{side}: {words}" for side, words in row["said"].items()]
    if row["disturbed"]:
        notes.append(
            f"{'':<{NAME}}{row['disturbed']} rounds were disturbed by other processes, however often they were run"
        )
    return "\n".join([text, *notes])


def memory_line(found: dict[str, Any], name: str) -> str:
    mib = found["results"][name]["mib"]
    return f"{name:<{NAME}}" + "   ".join(f"{side} {value:.1f}" for side, value in mib.items())


def markdown(found: dict[str, Any]) -> str:
    """The whole table for people."""
    about, sides = found["about"], found["sides"]
    lines = [
        "# phalanx against PyTorch on the CPU",
        "",
        f"`{about['command']}`, commit {about['commit']}, {about['date']}, {about.get('minutes', '?')} minutes. "
        f"{about['processor']}, {about['cores']} cores; Python {about['python']}, NumPy {about['numpy']}, "
        f"PyTorch {about.get('torch', 'none')}; unset: {', '.join(about['unset'])}.",
        "",
        f"Medians of {about['rounds']} rounds in turn, ms a step; in brackets the time of PyTorch (eager, its better form, Adam "
        "with fused=True, as many threads) over the column's: above 1 the column is faster. NHWC: channels last was PyTorch's better "
        "form. Weights, batches and losses are the same on all sides (verified to 1e-3).",
        "",
        *(f"No column {name}: {reason}.\n" for name, reason in found["missing"].items()),
        f"| workload | {' | '.join(sides)} |",
        f"|{'---|' * (len(sides) + 1)}",
    ]
    for row in found["results"].values():
        lines.append(f"| {row['label']} | {' | '.join(cell(row, side) for side in sides)} |")
    lines += ["", "Lowest and highest ratio of a round, PyTorch / phalanx:", ""]
    ours = [side for side in sides if side in {s for row in found["results"].values() for s in row["ratio"]}]
    lines += [f"| workload | {' | '.join(ours)} |", f"|{'---|' * (len(ours) + 1)}"]
    for row in found["results"].values():
        spreads = [row["ratio"].get(side) for side in ours]
        cells = [f"{s['lowest']:.2f} to {s['highest']:.2f}" if s else "-" for s in spreads]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    measured = {name: row["mib"] for name, row in found["results"].items() if "mib" in row}
    if measured:
        columns = list(next(iter(measured.values())))
        words = "Peak memory of a model and its first steps above data and above what the library loads or sets up once"
        lines += ["", f"{words}, MiB, in processes of their own:", ""]
        lines += [f"| workload | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
        for name, mib in measured.items():
            lines.append(
                f"| {found['results'][name]['label']} | {' | '.join(f'{mib[column]:.1f}' for column in columns)} |"
            )
    disturbed = sum(row["disturbed"] for row in found["results"].values())
    if disturbed:
        lines += [
            "",
            f"{disturbed} rounds with one thread were disturbed by other processes, however often they were run.",
        ]
    notes = [
        f"- {name}, {side}: {words}" for name, row in found["results"].items() for side, words in row["said"].items()
    ]
    return "\n".join([*lines, *(["", *notes] if notes else []), ""])


def write(found: dict[str, Any], folder: Path) -> list[Path]:
    """``cpu.md``, ``cpu.json`` and, with matplotlib, ``cpu.png`` in ``folder``; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "cpu.md", folder / "cpu.json"]
    paths[0].write_text(markdown(found))
    paths[1].write_text(json.dumps(found, indent=1) + "\n")
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (pip install phalanx[plot])")
        return paths
    matplotlib.use("Agg")
    return [*paths, _plot(found, folder / "cpu.png")]


def _plot(found: dict[str, Any], path: Path) -> Path:
    """Bars of PyTorch / phalanx for each workload, with the spread of rounds; the line at 1 is PyTorch."""
    from matplotlib import pyplot

    results = found["results"]
    ours = [side for side in found["sides"] if any(side in row["ratio"] for row in results.values())]
    figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(results) * max(1, len(ours)) ** 0.5 + 1.6))
    height = 0.8 / len(ours) if ours else 0.8
    for number, side in enumerate(ours):
        rows = [(place, row["ratio"][side]) for place, row in enumerate(results.values()) if side in row["ratio"]]
        places = [place - 0.4 + height * (number + 0.5) for place, _ in rows]
        values = [ratio["median"] for _, ratio in rows]
        below = [max(0.0, ratio["median"] - ratio["lowest"]) for _, ratio in rows]
        above = [max(0.0, ratio["highest"] - ratio["median"]) for _, ratio in rows]
        axes.barh(places, values, height, label=side, xerr=[below, above], error_kw={"elinewidth": 0.6})
        for place, value in zip(places, values, strict=True):
            axes.text(min(value, LONGEST) + 0.02, place, f"{value:.2f}", va="center", fontsize=5)
    axes.set_xlim(0, min(LONGEST + 0.3, axes.get_xlim()[1]))
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(results)), [row["label"] for row in results.values()], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("PyTorch's time / ours, as many threads: above 1 we are faster", fontsize=8)
    axes.legend(fontsize=7)
    about = found["about"]
    axes.set_title(f"{about['processor']}, commit {about['commit']}, {about['date']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
