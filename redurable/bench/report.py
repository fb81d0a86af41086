"""
A figure and how it is judged.

A row's value is the median of its repeats; its ratio is the median of (value / floor measured right before it). The
target bounds the ratio, or the value where the target has a unit of its own. Rows without a target inform only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

__all__ = ["BELOW", "OK", "Row", "Target", "at_least", "at_most", "percentile", "row"]

OK, BELOW = "ok", "below"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure owes: its ratio to the floor, or its value, at least or at most *bound*."""

    bound: float
    of: Literal["ratio", "value"]
    least: bool

    def reached(self, value: float, ratio: float | None) -> float:
        """Return how much of the target is reached; 1 and more is all of it."""
        seen = value if self.of == "value" or ratio is None else ratio
        if self.least:
            return seen / self.bound
        return self.bound / seen if seen > 0 else 1.0

    def text(self, unit: str) -> str:
        """Return the target for people."""
        sign = ">=" if self.least else "<="
        return f"{sign} {self.bound:g} of floor" if self.of == "ratio" else f"{sign} {self.bound:,g} {unit}"


def at_least(bound: float, of: Literal["ratio", "value"] = "value") -> Target:
    """Return the target of a figure that should be high."""
    return Target(bound, of, True)


def at_most(bound: float, of: Literal["ratio", "value"] = "value") -> Target:
    """Return the target of a figure that should be low."""
    return Target(bound, of, False)


@dataclass(frozen=True, slots=True)
class Row:
    """
    One figure.

    Attributes:
        name: What was measured. value, unit: The median.
        runs: Every repeat's value. floor: The floor's median beside it, in the unit of the value.
        ratio: value / floor, None where there is no floor to compare with.
        target, reached, verdict: What it owes, the share of it that it reaches, "ok" or "below"; None: nothing.
        detail: What else was seen, for machines.
    """

    name: str
    value: float
    unit: str
    runs: tuple[float, ...]
    floor: float | None = None
    ratio: float | None = None
    target: str | None = None
    reached: float | None = None
    verdict: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        low, high = min(self.runs), max(self.runs)
        return (
            self.name,
            figure(self.value),
            self.unit,
            f"{figure(low)} to {figure(high)}" if high > low else "",
            "" if self.ratio is None else f"{self.ratio:.3f}" if self.ratio < 1 else f"{self.ratio:.2f}",
            self.target or "",
            self.verdict or "",
        )


COLUMNS = ("figure", "value", "unit", "range", "of floor", "target", "verdict")


def row(
    name: str,
    unit: str,
    values: Sequence[float],
    floors: Sequence[float] = (),
    target: Target | None = None,
    **detail: Any,
) -> Row:
    """Return the row of *values*, each beside the floor of its own repeat."""
    value = median(values)
    ratio = median(v / f for v, f in zip(values, floors, strict=True)) if floors else None
    reached = None if target is None else target.reached(value, ratio)
    return Row(
        name=name,
        value=value,
        unit=unit,
        runs=tuple(values),
        floor=median(floors) if floors else None,
        ratio=ratio,
        target=None if target is None else target.text(unit),
        reached=reached,
        verdict=None if reached is None else OK if reached >= 1.0 else BELOW,
        detail=detail,
    )


def figure(value: float) -> str:
    """Return *value* with three or four digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of *values* that at least *share* of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]
