"""How many more labels reach a wanted Dice: the learning curve dice(n) = a - b n^-c through the runs at hand.

Sources: Figueroa et al., "Predicting sample size required for classification performance", BMC Medical Informatics and
Decision Making 2012 (inverse power law); Bates & Watts, "Nonlinear regression analysis", 1988, chapter 6 (profile
intervals); Bahri et al., "Explaining neural scaling laws", PNAS 2024 (errors fall no faster than 1 / n once labels are
many). Departures: every run weighs the same; the bounds a <= 1, b >= 0 and the range of c are kept throughout.
The interval is of the curve over draws of labels and seeds, on the test cases that the runs were judged by; it knows
nothing of other test cases, nor of a curve that is no power law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

FEWEST = 3  # different numbers of labels, because the curve has three parameters
LEVEL = 0.95
FARTHEST = 1e6  # times the largest number of labels: beyond it nothing is told apart from never
# Exponents c that are tried. Above 1 a curve that flattens by chance over few labels would be at its level already.
POWERS = np.geomspace(0.02, 1, 240)


@dataclass(frozen=True)
class Point:
    """One run: labels it had and its mean Dice on the test cases. curve: what must be equal to share a curve."""

    labels: int
    dice: float
    curve: str = ""


@dataclass(frozen=True)
class Curve:
    """dice(n) = a - b n^-c; at c's lower bound nearly a logarithm. ``squares``: what is left, over ``runs`` runs."""

    a: float
    b: float
    c: float
    squares: float
    runs: int

    def dice(self, labels: float) -> float:
        return self.a - self.b * labels**-self.c

    def labels(self, dice: float) -> float:
        """Labels at which the curve reaches ``dice``; infinite where it levels off below."""
        return float((self.b / (self.a - dice)) ** (1 / self.c)) if self.a > dice else math.inf


@dataclass(frozen=True)
class Needed:
    """labels: where the curve reaches the wanted Dice, infinite for never. low, high: its 95% interval, or None when
    there are no more runs than parameters."""

    curve: Curve
    labels: float
    low: float | None
    high: float | None


def fit_curve(points: Sequence[Point]) -> Curve:
    """The least-squares curve. Raises ValueError with fewer than FEWEST different numbers of labels."""
    n, y = _arrays(points)
    best = int(_lines(n, y, POWERS)[2].argmin())
    near = np.log(POWERS[[max(best - 1, 0), min(best + 1, len(POWERS) - 1)]])
    found = optimize.minimize_scalar(
        lambda log: float(_lines(n, y, np.exp([log]))[2][0]), bounds=near, method="bounded", options={"xatol": 1e-10}
    )
    power = math.exp(found.x)
    level, slope, squares = (float(values[0]) for values in _lines(n, y, np.array([power])))
    return Curve(level, slope, power, squares, len(y))


def labels_to_reach(points: Sequence[Point], dice: float) -> Needed:
    """The number of labels that reaches ``dice`` with its profile interval.

    The interval holds every number for which the best curve through (number, ``dice``) fits the runs no worse than an
    F test with 1 and (runs - 3) degrees of freedom allows. Raises ValueError as ``fit_curve`` does.
    """
    n, y = _arrays(points)
    curve = fit_curve(points)
    free = len(y) - 3
    if free < 1:
        return Needed(curve, curve.labels(dice), None, None)
    allowed = curve.squares * (1 + stats.f.ppf(LEVEL, 1, free) / free) + 1e-12

    def allows(number: float) -> bool:
        return squares_through(n, y, number, dice) <= allowed

    numbers = [*np.geomspace(1.0, n.max() * FARTHEST, 200).tolist(), math.inf]
    best = curve.labels(dice)
    inside = sorted({*filter(allows, numbers), best})
    low, high = inside[0], inside[-1]
    below = max((number for number in numbers if number < low), default=low)
    above = min((number for number in numbers if number > high), default=high)
    return Needed(curve, best, _edge(allows, low, below), _edge(allows, high, above))


def _edge(allows: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where ``allows`` turns false between two numbers, by bisection to a thousandth."""
    if math.isinf(inside) or math.isinf(outside):
        return inside
    while abs(math.log(outside / inside)) > 1e-3:
        middle = math.sqrt(inside * outside)
        inside, outside = (middle, outside) if allows(middle) else (inside, middle)
    return inside


def squares_through(n: np.ndarray, y: np.ndarray, number: float, dice: float) -> float:
    """Sum of squares left by the best curve with curve(``number``) = ``dice``; an infinite number means a <= ``dice``.

    n: labels ``[runs]``; y: Dice ``[runs]``.
    """
    if math.isinf(number):
        return float(_lines(n, y, POWERS, highest=dice)[2].min())
    there = number**-POWERS  # [powers]
    x = n[None] ** -POWERS[:, None] - there[:, None]  # [powers, runs]; the curve is dice - b x
    free = ((dice - y) * x).sum(1) / np.maximum((x**2).sum(1), 1e-300)
    slope = free.clip(0, (1 - dice) / there)  # a = dice + b number^-c may be 1 at most
    return float(((y - dice + slope[:, None] * x) ** 2).sum(1).min())


def _lines(
    n: np.ndarray, y: np.ndarray, powers: np.ndarray, highest: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best a <= ``highest``, b >= 0 and the squares they leave, for each power ``[powers]``.

    For a fixed power the curve is a straight line in n^-c. Squares are convex, so that the best line within the bounds
    lies on one of them where the free one does not lie within.
    """
    x = n[None] ** -powers[:, None]  # [powers, runs]
    middle, mean = x.mean(1, keepdims=True), y.mean()
    slope = np.maximum(-((x - middle) * (y - mean)).sum(1) / ((x - middle) ** 2).sum(1), 0)
    level = mean + slope * middle[:, 0]
    bounded = np.maximum(((highest - y) * x).sum(1) / (x**2).sum(1), 0)
    slope, level = np.where(level > highest, bounded, slope), np.minimum(level, highest)
    return level, slope, ((y - level[:, None] + slope[:, None] * x) ** 2).sum(1)


def _arrays(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    n = np.array([float(point.labels) for point in points])
    y = np.array([point.dice for point in points])
    if len(set(n.tolist())) < FEWEST:
        raise ValueError(f"{len(set(n.tolist()))} different numbers of labels; the curve needs {FEWEST}")
    return n, y
