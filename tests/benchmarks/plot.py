"""
The picture: how many times ahead ours is of every peer, one dot each, on a scale where each line is ten times.

It is drawn in an environment of its own (matplotlib), like the peers, by this very file run as a script.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["dots", "draw"]

PACKAGES = ["matplotlib"]
TIE = 1.4


def dots(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the dots of each panel: the measure, the peer, how many times ahead, whether that is a bound."""
    from tests.benchmarks import tables
    from tests.benchmarks.peers import OURS

    panels = {}
    for kind, title in tables.TITLES.items():
        found = [
            {"measure": measure.title, "side": name, "ratio": cell.ratio, "bound": cell.bound}
            for name, row in tables.cells(report, kind).items()
            for measure, cell in zip(tables.MEASURES[kind], row, strict=True)
            if name != OURS and cell.ratio is not None
        ]
        if found:
            panels[title] = found
    return panels


def draw(report: dict[str, Any], path: Path, cache: Path) -> None:
    """Draw the picture of *report* into *path*."""
    from tests.benchmarks.peers import installed

    machine = report["machine"]
    text = f"{report['date']}, {machine['cores']} cores, {machine['server']}, medians of {report['repeat']}"
    python = installed("plot", PACKAGES, cache)
    asked = json.dumps({"panels": dots(report), "path": str(path.resolve()), "text": text})
    subprocess.run([python, __file__], input=asked, text=True, check=True)


def main(asked: dict[str, Any]) -> None:
    """Draw what was *asked*; runs where matplotlib is."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = asked["panels"]
    figure, axes = plt.subplots(1, len(panels), figsize=(7.2 * len(panels), 5.8), squeeze=False)
    for axis, (title, found) in zip(axes[0], panels.items(), strict=True):
        measures = list(dict.fromkeys(dot["measure"] for dot in found))
        sides = list(dict.fromkeys(dot["side"] for dot in found))
        axis.axvspan(1 / TIE, TIE, color="0.9", zorder=0)
        axis.axvline(1, color="0.6", linewidth=0.8, zorder=1)
        colours = plt.get_cmap("tab10" if len(sides) <= 10 else "tab20")
        for k, side in enumerate(sides):
            mine = [dot for dot in found if dot["side"] == side]
            for bound, marker in ((False, "o"), (True, ">")):
                some = [dot for dot in mine if dot["bound"] is bound]
                heights = [measures.index(dot["measure"]) + (k - (len(sides) - 1) / 2) * 0.06 for dot in some]
                label = side if bound is all(dot["bound"] for dot in mine) else None
                ratios = [dot["ratio"] for dot in some]
                axis.scatter(ratios, heights, s=42, marker=marker, color=colours(k), label=label, zorder=3)
        axis.set_xscale("log")
        axis.set_yticks(range(len(measures)), measures)
        axis.invert_yaxis()
        axis.grid(axis="x", color="0.92", zorder=0)
        axis.set_title(title)
        axis.set_xlabel("times that redurable is ahead (grey: a tie; arrow: at least)")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}x")
        axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=5, fontsize=8, frameon=False)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.text(0.995, 0.005, asked["text"], ha="right", va="bottom", fontsize=7, color="0.4")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(asked["path"], dpi=110)


if __name__ == "__main__":
    main(json.load(sys.stdin))
