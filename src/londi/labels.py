"""`Labels`: puts text into a plot where it covers neither lines, points nor other text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

_DIRECTIONS = ((1, 0), (0, 1), (0, -1), (-1, 0), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7))


@dataclass
class Labels:
    """Tries a few dozen places for each label, and takes the cheapest.

    The figure must have 72 dots per inch while labels are placed, so that a pixel is a point.
    """

    axes: Any
    paper: str
    """Colour of the thin halo that lifts a label off grid lines."""
    obstacles: list[tuple[float, float, float, str]] = field(default_factory=list)
    """(x, y, weight, owner), x and y in points of the figure."""
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    """(left, bottom, right, top) of the labels placed so far, in points."""

    def avoid(self, line: Sequence[tuple[float, float]], owner: str = "") -> None:
        """Keep labels off a line through points in data units; labels of another owner keep more distance."""
        at = [self._at(point) for point in line]
        for (x0, y0), (x1, y1) in pairwise(at):
            parts = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / 3))
            steps = [i / parts for i in range(parts + 1)]
            self.obstacles += [(x0 + t * (x1 - x0), y0 + t * (y1 - y0), 1.0, owner) for t in steps]

    def avoid_points(self, points: Sequence[tuple[float, float]], radius: float = 4.5, owner: str = "") -> None:
        """Keep labels off markers with a radius in points."""
        for x, y in map(self._at, points):
            turns = [math.pi * i / 4 for i in range(8)]
            self.obstacles += [(x + radius * math.cos(a), y + radius * math.sin(a), 3.0, owner) for a in turns]

    def place(
        self,
        text: str,
        anchors: Sequence[tuple[float, float]],
        color: str,
        *,
        size: float,
        weight: str = "normal",
        gap: float = 7.0,
        owner: str = "",
        optional: bool = False,
    ) -> bool:
        """Write `text` near one of the anchors (data units), with a hair line where that is not close.

        `size` and `gap` are in points; with an `owner` it stays clear of the lines of others. An optional label is
        left out where no place is free; returns whether it was written.
        """
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground=self.paper)]
        style = {"fontsize": size, "fontweight": weight, "path_effects": halo, "zorder": 7, "parse_math": False}
        artist = self.axes.text(0, 0, text, color=color, va="bottom", **style)
        extent = artist.get_window_extent()
        tries = [gap + 8 * i for i in range(1 if optional else 3)]
        cost, x, y, anchor = self._cheapest(anchors, extent.width, extent.height, tries, owner)
        if optional and cost >= 1.0:
            artist.remove()
            return False
        artist.set_position(self._data((x, y)))
        box = (x, y, x + extent.width, y + extent.height)
        self.boxes.append(box)
        self._lead(anchor, box, color, gap)
        return True

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        x, y = self.axes.transData.transform(point)
        return float(x), float(y)

    def _data(self, point: tuple[float, float]) -> tuple[float, float]:
        x, y = self.axes.transData.inverted().transform(point)
        return float(x), float(y)

    def _lead(
        self, anchor: tuple[float, float], box: tuple[float, float, float, float], color: str, gap: float
    ) -> None:
        near = (min(max(anchor[0], box[0]), box[2]), min(max(anchor[1], box[1]), box[3]))
        distance = math.dist(anchor, near)
        if distance > gap + 5:
            start = tuple(a + (gap - 2) / distance * (b - a) for a, b in zip(anchor, near, strict=True))
            (x0, y0), (x1, y1) = self._data((start[0], start[1])), self._data(near)
            self.axes.plot([x0, x1], [y0, y1], color=color, linewidth=0.7, zorder=2.5)

    def _cheapest(
        self, anchors: Sequence[tuple[float, float]], width: float, height: float, gaps: Sequence[float], owner: str
    ) -> tuple[float, float, float, tuple[float, float]]:
        best = (math.inf, 0.0, 0.0, (0.0, 0.0))
        for ax, ay in map(self._at, anchors):
            for far in gaps:
                for dx, dy in _DIRECTIONS:
                    x = ax + far * dx - width * (0.5 if dx == 0 else dx < 0)
                    y = ay + far * dy - height * (0.5 if dy == 0 else dy < 0)
                    cost = self._cost(x, y, x + width, y + height, owner) + 0.05 * (far - gaps[0])
                    best = min(best, (cost, x, y, (ax, ay)))
        return best

    def _cost(self, x: float, y: float, right: float, top: float, owner: str) -> float:
        frame = self.axes.bbox
        cost: float = 50.0 * (x < frame.x0 + 2 or right > frame.x1 + 4 or y < frame.y0 + 2 or top > frame.y1 + 2)
        cost += sum(w for ox, oy, w, _ in self.obstacles if x - 3 < ox < right + 3 and y - 1 < oy < top)
        cost += 20.0 * sum(x - 5 < b[2] and right + 5 > b[0] and y < b[3] and top > b[1] for b in self.boxes)
        if owner:
            others = ((ox, oy) for ox, oy, _, other in self.obstacles if other not in ("", owner))
            cost += 0.1 * sum(x - 16 < ox < right + 16 and y - 14 < oy < top + 14 for ox, oy in others)
            cost += 2.0 * sum(x < b[2] and right > b[0] and y - 8 < b[3] and top + 8 > b[1] for b in self.boxes)
        return cost
