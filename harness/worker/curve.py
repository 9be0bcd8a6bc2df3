"""A loss curve of bounded length, however many points train.py reports."""

from harness.store.records import Point

MOST_POINTS = 1000


class Curve:
    """Attributes: `points`, those that are kept, in the order in which they came."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._stride = 1

    def add(self, point: Point) -> None:
        """Thinned by step, so that equal runs give equal curves."""
        if point.step % self._stride == 0:
            self.points.append(point)
        if len(self.points) > MOST_POINTS:
            kept = [each for each in self.points if each.step % (2 * self._stride) == 0]
            if len(kept) < len(self.points):
                self._stride, self.points = 2 * self._stride, kept
            else:
                self.points.pop()
