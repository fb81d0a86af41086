# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib>=3.8"]
# ///
"""
Draw every panel of the dashboard from a Prometheus, without Grafana.

    uv run grafana/draw.py --prometheus http://localhost:9090 --minutes 5 --out grafana/dashboard.png

The dashboard's JSON says what is drawn: its rows, panels, expressions and legends; variables stand for everything.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

BOARD = Path(__file__).parent / "dashboards" / "redurable.json"
INK, FAINT, PAPER, CARD = "#d8d9da", "#8e8e9b", "#111217", "#181b1f"
COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#fade2a", "#96d98d", "#ffa6b0"]
Series = list[tuple[str, list[tuple[float, float]]]]


class Source:
    """A Prometheus and the time to show."""

    def __init__(self, url: str, minutes: float, step: float, job: str) -> None:
        self.url = url.rstrip("/")
        self.end = time.time()
        self.start = self.end - minutes * 60
        self.step = step
        self._given = {
            "$job": job, "$queue": ".*", "$__range": f"{round(minutes * 60)}s",
            "$__rate_interval": f"{max(round(step * 4), 5)}s",
        }  # fmt: skip

    def series(self, target: dict[str, Any], *, instant: bool) -> Series:
        """Return what *target* of a panel gives, by its legend."""
        expression = target["expr"]
        for name, value in self._given.items():
            expression = expression.replace(name, value)
        if instant:
            found = self._ask("query", query=expression, time=self.end)
        else:
            found = self._ask("query_range", query=expression, start=self.start, end=self.end, step=self.step)
        series: Series = []
        for row in found:
            points = [row["value"]] if instant else row["values"]
            kept = [(float(at), float(value)) for at, value in points if math.isfinite(float(value))]
            if kept:
                series.append((_legend(target["legendFormat"], row["metric"]), kept))
        return series

    def _ask(self, path: str, **words: Any) -> list[dict[str, Any]]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def _legend(form: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form


def worded(value: float, unit: str) -> str:
    """Return *value* as people read it."""
    if unit == "s":
        for size, name in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1e6:.3g} µs" if value else "0 s"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    text = f"{value / 1000:.3g}k" if abs(value) >= 1000 else f"{value:.3g}"
    return text + ("/s" if unit == "ops" else "")


def _frame(axes: Any, title: str) -> None:
    axes.set_facecolor(CARD)
    axes.set_title(title, loc="left", fontsize=8, color=INK, pad=5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(colors=FAINT, labelsize=6, length=0)


def _number(axes: Any, panel: dict[str, Any], series: Series, unit: str) -> None:
    value = worded(series[0][1][-1][1], unit) if series else "no data"
    axes.text(0.5, 0.45, value, ha="center", va="center", fontsize=17, color=COLOURS[0], transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _bars(axes: Any, panel: dict[str, Any], series: Series, unit: str) -> None:
    values = [points[-1][1] for _, points in series]
    places = range(len(values))
    axes.barh(places, values, color=[COLOURS[i % len(COLOURS)] for i in places], height=0.62)
    axes.set_yticks(places, [name for name, _ in series])
    axes.invert_yaxis()
    axes.set_xticks([])
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {round(value):,}", va="center", fontsize=7, color=INK)
    axes.set_xlim(0, max([*values, 1]) * 1.2)


def _lines(axes: Any, panel: dict[str, Any], series: Series, unit: str) -> None:
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    below: dict[float, float] = {}
    busy = [found for found in series if any(value for _, value in found[1])]  # a legend of what is always 0 is no help
    for i, (name, points) in enumerate((busy or series)[:10]):
        colour = COLOURS[i % len(COLOURS)]
        times = [mdates.date2num(time_of(at)) for at, _ in points]
        low = [below.get(at, 0.0) if stacked else 0.0 for at, _ in points]
        high = [base + value for base, (_, value) in zip(low, points, strict=True)]
        axes.fill_between(times, low, high, color=colour, alpha=0.35 if stacked else 0.08, linewidth=0)
        axes.plot(times, high, color=colour, linewidth=1, label=name)
        below |= {at: value for (at, _), value in zip(points, high, strict=True)}
    axes.grid(color="#2c3235", linewidth=0.5)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: worded(value, unit)))
    if any(name for name, _ in series):
        axes.legend(fontsize=5.5, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.1), frameon=False,
                    labelcolor=INK, handlelength=1, columnspacing=1)  # fmt: skip
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", color=FAINT, fontsize=8, transform=axes.transAxes)


def time_of(seconds: float) -> Any:
    """Return a local time for an axis."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC)


def draw(source: Source, out: Path) -> None:
    """Draw the whole dashboard into *out*."""
    board = json.loads(BOARD.read_text())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    unit_high = 0.29  # inches of a grid row
    figure = plt.figure(figsize=(16, height * unit_high), facecolor=PAPER)
    kinds = {"stat": _number, "bargauge": _bars, "timeseries": _lines}
    for panel in board["panels"]:
        place = panel["gridPos"]
        left, wide = place["x"] / 24, place["w"] / 24
        top, high = 1 - place["y"] / height, place["h"] / height
        if panel["type"] == "row":
            figure.text(left + 0.008, top - high * 0.7, panel["title"], fontsize=11, color=INK, weight="bold")
            continue
        lines = panel["type"] == "timeseries"
        low, used = (0.24, 0.6) if lines else (0.08, 0.74)
        indent = 0.035 if lines else (0.07 if panel["type"] == "bargauge" else 0.008)
        axes = figure.add_axes((left + indent, top - high * (1 - low), wide - indent - 0.012, high * used))
        series = [found for target in panel["targets"] for found in source.series(target, instant=not lines)]
        _frame(axes, panel["title"])
        kinds[panel["type"]](axes, panel, series, panel["fieldConfig"]["defaults"]["unit"])
    figure.savefig(out, dpi=90, facecolor=PAPER)


def main() -> None:
    """Do what the command line says."""
    asked = argparse.ArgumentParser(description="Draw every panel of the dashboard from a Prometheus.")
    asked.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    asked.add_argument("--minutes", type=float, default=15.0, help="how far back")
    asked.add_argument("--step", type=float, default=5.0, help="seconds between points; not less than the scrapes'")
    asked.add_argument("--job", default=".*", help="a regular expression")
    asked.add_argument("--out", type=Path, default=Path("dashboard.png"))
    given = asked.parse_args()
    draw(Source(given.prometheus, given.minutes, given.step, given.job), given.out)


if __name__ == "__main__":
    main()
