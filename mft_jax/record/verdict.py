"""The verdict on a run in words, from its record alone: terminal, page, `mft compare`, `mft export`
and Python say the same.

A task is judged by the ratios of its full validation passes (validation loss over that before
training), the run by the mean ratio over its tasks. `best` is the lowest ratio, `rise` the share
by which the last one lies above it, `trend` the median training loss of the last fifth of the
steps over that of the first fifth (unknown with fewer than `TREND_STEPS` in each). The first rule
that holds gives the word:

    diverged     the run could not continue (its record says "stopped", and nothing was changed
                 since); or trend > 1.5; or rise > 10 % without a falling training loss
    starved      a task in fewer than a tenth of the steps, or with a mean weight below a tenth of
                 the equal share, that gained less than half of what the tasks gained on average
    no better than the base    best > 0.995
    overfitting  since best: rise > 10 %, or > 2 % and two passes or more after it, while the
                 training loss does not rise
    stalled      since the first pass within 0.5 % of best, where three passes or more came after
                 it, over half of the run or more
    improved     none of these

Without a validation pass after step 0 nothing can be said: "unknown".

Where the last ratio lies above the lowest one, or above 0.98, no advice raises the learning rate.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mft_jax.record.columns import RunRecord
from mft_jax.record.schema import CHANGED, SKIPPED, STOPPED

Word = Literal[
    "diverged", "starved", "no better than the base", "overfitting", "stalled", "improved",
    "unknown",
]  # fmt: skip

NO_BETTER = 0.995  # a ratio above it is no better than the model before training
NEAR_BASE = 0.98  # a ratio above it is near the base
DIVERGED_TREND = 1.5
DIVERGED_RISE = 0.10
OVERFITTING_RISE = 0.02
OVERFITTING_PASSES = 2
STALLED_MARGIN = 0.005
STALLED_PASSES = 3
STALLED_SHARE = 0.5  # of the run
STARVED_SHARE = 0.1  # of the steps, or of the equal weight
STARVED_GAIN = 0.5  # of the mean gain
TREND_SHARE = 5  # the first and the last fifth of the steps
TREND_STEPS = 5  # fewer say nothing

ADVICE: dict[Word, str] = {
    "diverged": "start again in a new --workdir with a third of optim.learning_rate or more "
    "optim.warmup_steps",
    "starved": "give the task a larger share: data.sampling=temperature, or data.sampling=rates "
    "with data.rates",
    "no better than the base": "look at the data (mft data), and try a lower optim.learning_rate "
    "or more loop.steps",
    "overfitting": "the best checkpoint is the one that is exported; more data, or "
    "loop.patience_evals=2, which stops such a run by itself",
    "stalled": "more steps as they are will not help; a higher optim.learning_rate or "
    "finetune.rank, or other data, may",
    "unknown": "validate more often: a smaller loop.eval_every_steps",
}
# A loss that has risen, or is near the base, may come of too high a rate.
WARY_ADVICE: dict[Word, str] = {
    "stalled": "more steps as they are will not help; a lower optim.learning_rate, a higher "
    "finetune.rank, or other data, may",
}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A word, the step since when it holds (None: the whole run), and the numbers behind it.

    wary  whether the last ratio is above the lowest one, or near the base
    """

    word: Word
    since: int | None
    reason: str
    wary: bool = False

    @property
    def advice(self) -> str:
        """What to do about it. May be empty."""
        return (WARY_ADVICE if self.wary else {}).get(self.word, ADVICE.get(self.word, ""))

    @property
    def short(self) -> str:
        return self.word if self.since is None else f"{self.word} since step {self.since:,}"

    def __str__(self) -> str:
        return f"{self.short}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The run's judgement and that of every task by name.

    better_than_base  whether some validation pass had a mean ratio of at most `NO_BETTER`
    finished          whether the run has come to its end; else it is the verdict so far
    """

    run: Judgement
    tasks: dict[str, Judgement]
    better_than_base: bool
    finished: bool

    @property
    def word(self) -> Word:
        return self.run.word

    @property
    def advice(self) -> str:
        """What to do about it: about the run, and about tasks with another word. May be empty."""
        others: dict[Word, Judgement] = {}
        for judged in self.tasks.values():
            if judged.word != self.word and (judged.wary or judged.word not in others):
                others[judged.word] = judged
        parts = [f"{word}: {judged.advice}" for word, judged in others.items() if judged.advice]
        return "; ".join([self.run.advice] * bool(self.run.advice) + parts)

    def __str__(self) -> str:
        parts = [str(self.run)]
        for word in dict.fromkeys(judged.word for judged in self.tasks.values()):
            if word not in (self.word, "improved"):
                parts.append(_several([n for n, j in self.tasks.items() if j.word == word], word))
        return ("" if self.finished else "so far ") + "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Course:
    """What a judgement rests on. Passes without a value are left out."""

    step: Int[np.ndarray, " passes"]
    ratio: Float[np.ndarray, " passes"]
    trend: float  # NaN: unknown
    presence: float = 1.0  # share of the steps
    weight: float = 1.0  # mean, over the equal share


def verdict(record: RunRecord) -> Verdict:
    """The verdict on a run, finished or not."""
    ratios = record.valid.task["ratio"]
    courses = [_task_course(record, place) for place in range(len(record.header.tasks))]
    known = np.isfinite(ratios)
    means = np.divide(
        np.where(known, ratios, 0.0).sum(axis=1),
        known.sum(axis=1),
        out=np.full(len(ratios), math.nan),
        where=known.any(axis=1),
    )
    whole = _course(record.valid.step, means, _mean([course.trend for course in courses]))
    gain = _mean([1 - float(course.ratio[-1]) for course in courses])
    judged = judge(whole)
    if len(courses) > 1:
        judged = dataclasses.replace(judged, reason=f"{judged.reason}, on average over tasks")
    turns = [event for event in record.events if event.what in (STOPPED, CHANGED, SKIPPED)]
    if record.end is None and turns and turns[-1].what == STOPPED:
        judged = Judgement("diverged", None, turns[-1].text)
    return Verdict(
        run=judged,
        tasks={
            name: judge(course, mean_gain=gain)
            for name, course in zip(record.header.tasks, courses, strict=True)
        },
        better_than_base=bool((whole.ratio <= NO_BETTER).any()),
        finished=record.end is not None and record.end.reason != "interrupted",
    )


def judge(course: Course, mean_gain: float = 0.0) -> Judgement:
    """The judgement of a course; `mean_gain` is 1 - the last ratio, on average over the tasks."""
    best, last = float(course.ratio.min()), float(course.ratio[-1])
    wary = last > best or last > NEAR_BASE
    return dataclasses.replace(_word(course, mean_gain), wary=wary)


def _word(course: Course, mean_gain: float) -> Judgement:
    """The first rule that holds."""
    step, ratio, trend = course.step, course.ratio, course.trend
    place = int(ratio.argmin())
    best, last, passes_after = float(ratio[place]), float(ratio[-1]), len(ratio) - 1 - place
    rise = last / best - 1 if best > 0 else 0.0
    if trend > DIVERGED_TREND:
        return Judgement("diverged", None, f"the training loss is {trend:.1f} times its start")
    if len(ratio) == 1:
        return Judgement("unknown", None, "no validation pass after step 0")
    if rise > DIVERGED_RISE and not trend < 1:
        words = f"validation loss {rise:.0%} above its lowest, and the training loss does not fall"
        return Judgement("diverged", int(step[place]), words)
    rare = course.presence < STARVED_SHARE
    if (rare or course.weight < STARVED_SHARE) and 1 - last < STARVED_GAIN * mean_gain:
        words = f"in {course.presence:.1%} of the steps" if rare else _weight_words(course.weight)
        return Judgement("starved", None, f"{words}; {_against_base(last)}")
    if best > NO_BETTER:
        words = f"{_against_base(last)} at step {step[-1]:,}"
        return Judgement("no better than the base", None, words)
    enough = passes_after >= OVERFITTING_PASSES and rise > OVERFITTING_RISE
    if (enough or rise > DIVERGED_RISE) and not trend >= 1:
        words = f"validation loss {rise:.1%} above its lowest, {_against_base(best)}"
        return Judgement("overfitting", int(step[place]), words)
    near = int(np.flatnonzero(ratio <= best * (1 + STALLED_MARGIN))[0])
    long = step[-1] - step[near] >= STALLED_SHARE * step[-1]
    if len(ratio) - 1 - near >= STALLED_PASSES and long:
        return Judgement("stalled", int(step[near]), _against_base(last))
    return Judgement("improved", None, _against_base(last))


def no_better_note(record: RunRecord, step: int) -> str | None:
    """What must be said of the checkpoint of `step` where it is handed out; None: nothing."""
    judged = verdict(record)
    places = np.flatnonzero(record.valid.step == step)
    row = record.valid.task["ratio"][places[0]] if len(places) else np.array([])
    mean = _mean(row.tolist())
    if mean > NO_BETTER:
        return (
            f"step {step} is no better than the model before training: its mean validation loss "
            f"ratio is {mean:.3f}"
        )
    if math.isnan(mean) and not judged.better_than_base:
        return f"step {step} is not known to be better than the model before training: {judged.run}"
    return None


def _task_course(record: RunRecord, place: int) -> Course:
    train = record.train.task
    weight, tokens = train["weight"][:, place], train["tokens"][:, place]
    enough = len(record.header.tasks) > 1 and len(record.train) >= 2 * TREND_STEPS
    return _course(
        record.valid.step,
        record.valid.task["ratio"][:, place],
        _trend(train["train_loss"][:, place]),
        presence=float((tokens > 0).mean()) if enough else 1.0,
        weight=_mean(weight.tolist()) * len(record.header.tasks) if enough else 1.0,
    )


def _course(
    step: Int[np.ndarray, " passes"], ratio: Float[np.ndarray, " passes"], trend: float, **shares
) -> Course:
    """Without passes that have no value. It begins with the ratio before training, which is 1."""
    known = np.isfinite(ratio)
    step, ratio = step[known], ratio[known]
    if not len(step) or step[0] > 0:
        step, ratio = np.insert(step, 0, 0), np.insert(ratio, 0, 1.0)
    return Course(step, ratio, trend, **shares)


def _trend(loss: Float[np.ndarray, " steps"]) -> float:
    known = loss[np.isfinite(loss)]
    part = len(known) // TREND_SHARE
    if part < TREND_STEPS:
        return math.nan
    first = float(np.median(known[:part]))
    return float(np.median(known[-part:])) / first if first > 0 else math.nan


def _mean(values: list[float]) -> float:
    """Over the known values; NaN where there is none."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _against_base(ratio: float) -> str:
    """
    >>> _against_base(0.931), _against_base(1.02)
    ('validation loss 6.9% below the base', 'validation loss 2.0% above the base')
    """
    if f"{abs(1 - ratio):.1%}" == "0.0%":
        return "validation loss as that of the base"
    return f"validation loss {abs(1 - ratio):.1%} {'below' if ratio < 1 else 'above'} the base"


def _weight_words(weight: float) -> str:
    return f"its mean weight is {weight:.1%} of the equal share"


def _several(names: list[str], word: str) -> str:
    """
    >>> _several(["a", "b", "c", "d"], "stalled")
    '4 tasks stalled (a, b, c and 1 more)'
    """
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{len(names)} task{'s' * (len(names) > 1)} {word} ({shown})"
