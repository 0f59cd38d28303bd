"""CoBa in float64 from its equations, with naive full histories. Slow, and easy to read."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class CobaOracle:
    """Histories are lists over every update since the first, one list per task."""

    initial_loss: np.ndarray
    history: int  # N
    warmup: int  # W
    tau: float
    ablate: str

    def __post_init__(self):
        num_tasks = len(self.initial_loss)
        self.ratios = [[] for _ in range(num_tasks)]
        self.steps = [[] for _ in range(num_tasks)]
        self.slopes = [[] for _ in range(num_tasks)]
        self.ratio, self.slope = np.ones(num_tasks), np.zeros(num_tasks)
        self.max_slopes = []
        self.num_updates = 0

    def update(self, step, losses):
        """`losses[i]` is None where task i is absent. Returns every quantity of this update."""
        self.num_updates += 1
        for i, loss in enumerate(losses):
            if loss is None:
                continue
            self.ratio[i] = loss / self.initial_loss[i]
            self.ratios[i].append(self.ratio[i])
            self.steps[i].append(step)
            self.slope[i] = self.fit(i)
            self.slopes[i].append(self.slope[i])
        scores = {"rcs": self.rcs(), "acs": self.acs(), "df": self.df()}
        return {
            "ratio": self.ratio.copy(),
            "slope": self.slope.copy(),
            **scores,
            "weight": self.weight(**scores),
        }

    def fit(self, i):
        """Eq. 2-3: least squares over the last N observations, their own steps as abscissae."""
        x = np.array(self.steps[i][-self.history :], float)
        y = np.array(self.ratios[i][-self.history :])
        if len(x) < 2:
            return 0.0
        design = np.stack([x - x.mean(), np.ones_like(x)], axis=1)
        return np.linalg.lstsq(design, y, rcond=None)[0][0]

    def rcs(self):
        """Eq. 4"""
        total = np.abs(self.slope).sum()
        return softmax(len(self.slope) * self.slope / total if total > 0 else 0 * self.slope)

    def acs(self):
        """Eq. 5"""
        z = np.zeros(len(self.slope))
        for i, slopes in enumerate(self.slopes):
            window = np.abs(slopes[-self.history :])
            if window.sum() > 0:
                z[i] = -len(window) * self.slope[i] / window.sum()
        return softmax(z)

    def df(self):
        """Eq. 7 with absolute values in the denominator, clamped to 1; 1 during warm-up."""
        if self.num_updates <= self.warmup:
            return 1.0
        self.max_slopes.append(self.slope.max())
        a, num = np.array(self.max_slopes), len(self.max_slopes)
        total = np.abs(a).sum()
        z = -self.tau * num * a / total if total > 0 else 0 * a
        return min(num * softmax(z)[-1], 1.0)

    def weight(self, rcs, acs, df):
        """Eq. 6, and its parts left out one at a time."""
        if self.num_updates <= self.warmup:
            return np.full(len(rcs), 1 / len(rcs))
        return {
            "none": df * rcs + (1 - df) * acs,
            "rcs": acs,
            "acs": rcs,
            "df": (rcs + acs) / 2,
        }[self.ablate]


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()
