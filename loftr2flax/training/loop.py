"""The loop, whole: make the network, start it, step through the batches, look at it, keep it.

One function serves both modules; what differs (model, loss, evaluation, start) is a `Task`.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax

from loftr2flax.errors import InputError
from loftr2flax.formats.atomic import new_file
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.training import network, start, together
from loftr2flax.training.checkpoints import Checkpoints
from loftr2flax.training.config import DenseConfig, MatchConfig, TrainConfig
from loftr2flax.training.curves import draw_curves
from loftr2flax.training.evaluation import Evaluation, OutputNotFinite, dense_evaluation, match_evaluation
from loftr2flax.training.export import write_weights
from loftr2flax.training.folder import demand_ahead, demand_empty, demand_run, held
from loftr2flax.training.images import ImageSet, open_images
from loftr2flax.training.metrics import Metrics
from loftr2flax.training.optimiser import make_optimiser, schedule, steps_per_epoch
from loftr2flax.training.pairs import batches
from loftr2flax.training.record import Record
from loftr2flax.training.step import (
    Loss,
    Placement,
    dense_objective,
    make_step,
    matcher_objective,
    new_state,
)

WEIGHTS, CURVES = "weights.npz", "curves.png"


class LossNotFinite(InputError):
    """Loss, gradient or the network's output became NaN or infinite. The last checkpoint is from before that."""

    exit_code = 1


class Task(NamedTuple):
    """What a module brings to the loop.

    Attributes:
      variables: the network's variables at their random start.
      objective, evaluate: the loss of a batch, and the figures of an epoch.
    """

    variables: dict[str, Any]
    objective: Loss
    evaluate: Evaluation


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
      folder: where its files are.
      step, steps: the step that it reached, and the last one it was to reach.
      resumed: the step that it went on from; 0 for a new run.
      signal: the signal that ended it early, or None.
      first, last: the first and the last evaluation.
      images_per_second: images stepped through per second, compiling and evaluating apart; 0 for no step.
      rows: all metrics.
    """

    folder: Path
    step: int
    steps: int
    resumed: int
    signal: int | None
    first: dict[str, Any]
    last: dict[str, Any]
    images_per_second: float
    rows: list[dict[str, Any]]


class Watcher:
    """What a run tells while it goes; a caller overrides what it wants to hear."""

    def began(self, images: ImageSet, loaded: start.Loaded | None, devices: int, processes: int) -> None:
        """The data and the start are known; None for a run that is resumed."""

    def stepped(self, step: int, steps: int, loss: float) -> None:
        """A row of metrics was written."""

    def evaluated(self, epoch: int, figures: dict[str, float]) -> None:
        """An epoch is over."""


def dense_task(config: DenseConfig, images: ImageSet) -> Task:
    """Module 1."""
    model = network.dense_model(config)
    return Task(network.initial(model, config), dense_objective(model, config), dense_evaluation(model, config))


def match_task(config: MatchConfig, images: ImageSet) -> Task:
    """Module 2."""
    model = network.matcher_model(config, len(set(images.identities)))
    return Task(network.initial(model, config), matcher_objective(model, config), match_evaluation(model, config))


def train(
    config: TrainConfig,
    make_task: Callable[[Any, ImageSet], Task],
    *,
    resume: bool = False,
    watcher: Watcher | None = None,
    limits: Limits = DEFAULT,
) -> Outcome:
    """Trains to the end, or to a signal.

    Args:
      config: the run.
      make_task: `dense_task` or `match_task`.
      resume: go on from the last checkpoint, exactly as if the run had never stopped.
      watcher: hears of what happens.
      limits: what the file that starts the run may ask of this machine.

    Raises:
      LossNotFinite: with the step at which it happened.
      OutputExists: a run has been in the folder, and ``resume`` is not set.
      Loftr2FlaxError: the data, the start or the folder are refused, or the disk is full.
    """
    watcher = watcher or Watcher()
    folder = Path(config.checkpoint_dir).absolute()
    rank, processes = jax.process_index(), jax.process_count()
    with ExitStack() as run:
        with together.all_or_none():
            if resume:
                demand_run(folder)
            per_epoch = steps_per_epoch(config)
            steps = per_epoch * config.num_epochs
            images = open_images(config)
            placement = Placement(config.batch_size)
            incoming = None if resume else start.read_start(config, limits)
            if rank == 0:
                run.enter_context(held(folder))
        together.demand_same(Record.of(config, images.sha256), resume)
        checkpoints = run.enter_context(Checkpoints(config, images.sha256))
        caught = run.enter_context(_signals())
        with together.all_or_none():
            if not resume:
                demand_empty(folder, checkpoints.latest, WEIGHTS, CURVES)
            task = make_task(config, images)
            loaded = None if resume else start.put_in(task.variables, config, incoming)
        variables = loaded.variables if loaded else task.variables
        optimiser = make_optimiser(config, variables["params"])
        state = placement.state(new_state(variables, optimiser))
        step = make_step(task.objective, optimiser, config)
        rate = schedule(config)
        resumed = 0
        if resume:
            state = checkpoints.restore(state)
            resumed = int(state.step)
            demand_ahead(folder, resumed, steps, per_epoch)
        watcher.began(images, loaded, jax.device_count(), processes)
        metrics = Metrics(folder, resumed, enabled=rank == 0)

        def diverged(what: str, step: int) -> LossNotFinite:
            last = checkpoints.latest
            saved = "no checkpoint was saved" if last is None else f"the last checkpoint is of step {last}"
            message = f"{folder}: {what} at step {step}; {saved}"
            where = "" if last is None else ", in another --checkpoint-dir"
            return LossNotFinite(message, f"a lower --lr, or a smaller --clip-norm{where}")

        def look(step: int, epoch: int) -> None:
            try:
                figures = task.evaluate(state.params, state.batch_stats)
            except OutputNotFinite:
                raise diverged("the network's output is not finite", step) from None
            metrics.add("evaluation", step, epoch, figures)
            watcher.evaluated(epoch, figures)

        if not metrics.of("evaluation"):
            look(resumed, resumed // per_epoch)

        clock = _Clock()
        number, stopped = resumed, 0
        waiting: list[tuple[int, dict[str, Any]]] = []

        def flush() -> None:
            """Writes the metrics of steps that are done; they are fetched here alone, so that steps need not wait."""
            for done, found in jax.device_get(waiting):
                figures = {name: float(value) for name, value in found.items()}
                for name in ("loss", "gradient"):
                    if not math.isfinite(figures[name]):
                        raise diverged(f"the {name} is {figures[name]}", done)
                if done % config.log_every == 0 or done == steps:
                    metrics.add("train", done, done / per_epoch, {**figures, "lr": float(rate(done - 1))})
                    watcher.stepped(done, steps, figures["loss"])
            waiting.clear()

        for rows in batches(config, images, resumed, steps, rank, processes):
            state, found = step(state, placement.batch(rows))
            number += 1
            waiting.append((number, found))
            stopped = together.latest(caught[0] if caught else 0)
            if number % config.log_every == 0 or number % per_epoch == 0 or stopped:
                flush()
            clock.tick(config.batch_size)
            if number % per_epoch == 0:
                epoch = number // per_epoch
                look(number, epoch)
                if epoch % config.save_every == 0 or number == steps:
                    checkpoints.save(state)
                clock.rest()
            if stopped:
                break
        flush()
        checkpoints.save(state)
        if rank == 0:
            write_weights(state, config, folder / WEIGHTS)
            with new_file(folder / CURVES, force=True) as file:
                file.write(draw_curves(metrics.rows))
    looks = metrics.of("evaluation")
    return Outcome(
        folder, number, steps, resumed, stopped or None, looks[0], looks[-1],
        clock.images_per_second, metrics.rows,
    )  # fmt: skip


class _Clock:
    """Images per second of the steps alone: the first, which compiles, and the evaluations are left out."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._images = 0
        self._seconds = 0.0

    def tick(self, images: int) -> None:
        """A step has been taken."""
        now = time.perf_counter()
        if self._since is not None:
            self._images += 2 * images
            self._seconds += now - self._since
        self._since = now

    def rest(self) -> None:
        """What follows is no step."""
        self._since = time.perf_counter() if self._since is not None else None

    @property
    def images_per_second(self) -> float:
        """Two images a pair; 0 where too few steps were taken to say."""
        return self._images / self._seconds if self._seconds else 0.0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT end the run after the step at hand, and are listed; a second one does what it did before."""
    caught: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        if caught:
            restore()
            signal.raise_signal(number)
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        restore()
