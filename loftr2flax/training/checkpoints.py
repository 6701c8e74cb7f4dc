"""Checkpoints of a run, by orbax: each appears whole or not at all, and the last good one survives a failed save."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from loftr2flax.errors import CorruptFile, EnvironmentFault, OutputExists, UsageError
from loftr2flax.training.config import TrainConfig
from loftr2flax.training.step import TrainState

_FREE = {"num_epochs", "checkpoint_dir", "save_every", "keep", "log_every", "workers"}
"""What a resumed run may have otherwise without another result; more epochs stretch the learning rate's schedule."""
_NOT_WRITTEN = (OSError, ValueError, RuntimeError)
"""What orbax, tensorstore and jax raise where the disk is full or the system refuses."""

_LINGER = 0.2  # seconds in which the threads of a failed save end


def _ignore(found: object) -> None: ...


@contextlib.contextmanager
def _threads_die_in_silence() -> Iterator[None]:
    """Orbax's threads end by what ends the save, each with a traceback that would stand in the middle of our error."""
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = _ignore, _ignore
    try:
        yield
    except BaseException:
        time.sleep(_LINGER)
        raise
    finally:
        threading.excepthook, sys.unraisablehook = hooks


class Checkpoints:
    """The states of a run by step, in ``checkpoint_dir/states``, each with its config."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.folder = Path(config.checkpoint_dir).absolute()
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"{self.folder}: {error.strerror}", "name another --checkpoint-dir") from None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder / "states", options=options)

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

    def demand_empty(self, *results: str) -> None:
        """Raises OutputExists where a run has been here already, or a file of these names is."""
        if self.latest is not None:
            raise OutputExists(
                f"{self.folder}: holds a run at step {self.latest}",
                "`--resume` continues it; else name another --checkpoint-dir",
            )
        for name in results:
            if (self.folder / name).exists():
                raise OutputExists(
                    f"{self.folder / name}: is there, and no state to go on from", "name another --checkpoint-dir"
                )

    def save(self, state: TrainState) -> None:
        """Saves the state under its step, unless that is there already.

        Raises:
          EnvironmentFault: the disk is full, or the system refuses; older states are intact.
        """
        step = int(jax.device_get(state.step))
        if step == self.latest:
            return
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), config=ocp.args.JsonSave(self._config.to_json())
        )
        try:
            with _threads_die_in_silence():
                self._manager.save(step, args=parts, force=True)
                self._manager.wait_until_finished()
        except _NOT_WRITTEN as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self._sweep()
            kept = self._last_good(step)
            hint = f"make room, then `--resume`: {kept}"
            raise EnvironmentFault(f"{self.folder}: step {step} could not be saved: {reason}", hint) from error

    def restore(self, like: TrainState) -> TrainState:
        """The latest state, on the devices of ``like``.

        Raises:
          UsageError: nothing is there, or it is of a run with another config.
          CorruptFile: it cannot be read.
        """
        step = self.latest
        if step is None:
            raise UsageError(f"{self.folder}: holds no run to resume", "leave out --resume")
        try:
            stored = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
            self._check_same(dict(stored))
            parts = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()))
            return TrainState(**self._manager.restore(step, args=parts)["state"])
        except (ValueError, KeyError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CorruptFile(
                f"{self.folder}: step {step} cannot be read: {reason}",
                f"remove {self.folder / 'states' / str(step)} to go on from the one before",
            ) from error

    def _check_same(self, stored: dict[str, Any]) -> None:
        now = self._config.to_json()
        for name, value in stored.items():
            if name not in _FREE and now.get(name) != value:
                raise UsageError(
                    f"{name}={now.get(name)}: the run at {self.folder} has {name}={value}",
                    "resume with the same config, or begin another run in another --checkpoint-dir",
                )

    def _sweep(self) -> None:
        """Takes away what a failed save left; writers that it started may still be at work for a moment."""
        for _ in range(50):
            left = list((self.folder / "states").glob("*.orbax-checkpoint-tmp*"))
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)
            if not left:
                break
            time.sleep(0.05)

    def _last_good(self, failed: int) -> str:
        with contextlib.suppress(*_NOT_WRITTEN):
            self._manager.reload()
        steps = [step for step in self._manager.all_steps() if step != failed]
        return f"step {max(steps)} is intact" if steps else "no step has been saved yet"
