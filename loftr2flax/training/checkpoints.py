"""Checkpoints of a run, by orbax: each appears whole or not at all, and the last good one survives a failed save."""

from __future__ import annotations

import contextlib
import gc
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import Self, TypeVar

import jax
import orbax.checkpoint as ocp

from loftr2flax.errors import CorruptFile, EnvironmentFault, UsageError
from loftr2flax.training.config import TrainConfig
from loftr2flax.training.folder import STATES, no_run
from loftr2flax.training.record import Record, state_hash
from loftr2flax.training.step import TrainState

_NOT_WRITTEN = (OSError, ValueError, RuntimeError)
"""What orbax, tensorstore and jax raise where the disk is full or the system refuses."""

Result = TypeVar("Result")

_LONGEST = 160
"""Characters of a library's error: tensorstore's go on for pages."""

_LINGER = 0.5  # seconds in which the threads of a failed save or restore end


def _ignore(found: object) -> None: ...


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether asyncio complains of something else than a task of orbax whose error nobody asked for."""
    return "orbax" not in logging.Formatter().format(record)


@contextlib.contextmanager
def _threads_die_in_silence() -> Iterator[None]:
    """Orbax's threads end by what ends their work, each with a traceback that would stand amid our error."""
    hooks, callbacks = (threading.excepthook, sys.unraisablehook), logging.getLogger("concurrent.futures")
    level, threading.excepthook, sys.unraisablehook = callbacks.level, _ignore, _ignore
    callbacks.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        callbacks.setLevel(level)


def _tried(work: Callable[[], Result], faults: tuple[type[Exception], ...]) -> tuple[Result | None, str]:
    """What the work gives; or None and the reason, where it ends by one of the faults.

    The error itself is let go at once: orbax's tasks hang on it, and complain when they go.
    """
    with _threads_die_in_silence():
        try:
            return work(), ""
        except (UsageError, MemoryError):
            raise
        except faults as error:
            reason = shorten(str(error), _LONGEST, placeholder=" …") or type(error).__name__
        except BaseException:
            time.sleep(_LINGER)
            raise
        time.sleep(_LINGER)
        gc.collect()
        return None, reason


class Checkpoints:
    """The states of a run by step, in ``checkpoint_dir/states``, each with its record."""

    def __init__(self, config: TrainConfig, images: str = "") -> None:
        """The states of the run with this config and the images of this hash (`ImageSet.sha256`)."""
        self._config, self._images = config, images
        self.folder = Path(config.checkpoint_dir).absolute()
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # what fails is raised, and told by us
        logging.getLogger("asyncio").addFilter(_not_of_orbax)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder / STATES, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The last step that was saved whole."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, state: TrainState) -> None:
        """Saves the state under its step, unless that is there already.

        Raises:
          EnvironmentFault: the disk is full, or the system refuses; older states are intact.
        """
        step = int(jax.device_get(state.step))
        if step == self.latest:
            return
        record = Record.of(self._config, self._images, state_hash(state))
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), record=ocp.args.JsonSave(record.to_json())
        )

        def write() -> None:
            self._manager.save(step, args=parts, force=True)
            self._manager.wait_until_finished()

        _, trouble = _tried(write, _NOT_WRITTEN)
        if trouble:
            self._sweep()
            message = f"{self.folder}: step {step} could not be saved: {trouble}"
            raise EnvironmentFault(message, self._after_failure(step))

    def restore(self, like: TrainState) -> TrainState:
        """The latest state, on the devices of ``like``.

        Raises:
          UsageError: nothing is there, or it is of a run of another module, config or set of images.
          CorruptFile: it cannot be read, or is not what was saved.
        """
        step = self.latest
        if step is None:
            raise no_run(self.folder)

        def read() -> TrainState:
            parts = ocp.args.Composite(record=ocp.args.JsonRestore())
            record = Record.from_json(self._manager.restore(step, args=parts)["record"])
            record.demand_same(Record.of(self._config, self._images), self.folder)
            whole = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()))
            state = TrainState(**self._manager.restore(step, args=whole)["state"])
            if state_hash(state) != record.sha256:
                raise ValueError("it is not what was saved: its hash is another")
            return state

        # of damaged files orbax, tensorstore and their codecs raise whatever comes
        state, trouble = _tried(read, (Exception,))
        if state is None:
            raise CorruptFile(f"{self.folder}: step {step} is damaged: {trouble}", self._without(step))
        return state

    def _without(self, step: int) -> str:
        before = [other for other in self._manager.all_steps() if other != step]
        if not before:
            return "begin again in another --checkpoint-dir"
        return f"move {self.folder / STATES / str(step)} away, and `--resume` goes on from step {max(before)}"

    def _sweep(self) -> None:
        """Takes away what a failed save left; writers that it started may still be at work for a moment."""
        for _ in range(50):
            left = list((self.folder / STATES).glob("*.orbax-checkpoint-tmp*"))
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)
            if not left:
                break
            time.sleep(0.05)

    def _after_failure(self, failed: int) -> str:
        with contextlib.suppress(*_NOT_WRITTEN):
            self._manager.reload()
        steps = [step for step in self._manager.all_steps() if step != failed]
        if not steps:
            return "make room, then run it again: no step had been saved"
        return f"make room, then `--resume`: step {max(steps)} is intact"
