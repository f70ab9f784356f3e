"""Decayed means remember what the rewards of a problem or of a domain were in earlier steps."""


class DecayedMeans:
    """`DecayedMeans` hold one running mean for each name; older values count less and less.

    A mean m becomes decay^n * m + (1 - decay^n) * x with n new values of mean x.  The first mean
    of a name begins at `start` or, if that is None, at its first x.
    """

    def __init__(self, decay: float, start: float | None = None):
        self._decay, self._start = decay, start
        self._means: dict[str, float] = {}

    def get(self, name: str) -> float | None:
        """Return the mean of a name; `start` if it has no values yet."""
        return self._means.get(name, self._start)

    def add(self, name: str, value: float, count: int = 1) -> float:
        """Add `count` values of mean `value` to a name, and return its new mean."""
        before, keep = self.get(name), self._decay**count
        mean = value if before is None else keep * before + (1 - keep) * value
        self._means[name] = mean
        return mean

    def get_state(self) -> dict[str, float]:
        """Return all means as plain JSON."""
        return dict(self._means)

    def set_state(self, state: dict[str, float]) -> None:
        """Continue from a state of `get_state`."""
        self._means = dict(state)
