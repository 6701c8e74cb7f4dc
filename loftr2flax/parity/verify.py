"""`verify parity` as a function: files in, a report out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loftr2flax.errors import UsageError
from loftr2flax.filehash import FileHash
from loftr2flax.formats import open_checkpoint
from loftr2flax.limits import DEFAULT, Limits
from loftr2flax.mapping import TensorMapping
from loftr2flax.parity.culprit import find_culprit, hold_against_mistakes
from loftr2flax.parity.environment import environment, require
from loftr2flax.parity.factories import custom_candidate, custom_subject, custom_torch, load_factory
from loftr2flax.parity.golden import Bundle, open_golden, write_golden
from loftr2flax.parity.gradients import check_gradients, coverage, differentiable
from loftr2flax.parity.inputs import Size, paths_of
from loftr2flax.parity.network import Network
from loftr2flax.parity.run import Record, Replay, replay
from loftr2flax.parity.source import Pair, load_tree, opened
from loftr2flax.parity.subject import Subject, TorchPart
from loftr2flax.parity.values import InputsInfo, PairRun, ParityReport, WeightsCheck
from loftr2flax.parity.weights import ABSENT, check_weights


@dataclass(frozen=True)
class Trial:
    """What to compare and how; the options of `verify parity`, in a value.

    Attributes:
      mapping: a shipped name, a path, a parsed mapping; None for the one that the target's provenance names.
      prefix, state_dict: as for `convert_checkpoint`.
      facts: what the weights cannot show, where it differs from what the mapping and the target say.
      images: two files, or none for pictures made from ``seed``.
      seed: of the pictures.
      sizes: of the images, rows and columns; one run each, and one with masks.
      gradients: whether to compare gradients, too.
      torch: a user's own torch network, "package.module:factory" or the factory; None for kornia's LoFTR.
      flax: a user's own Flax network, the same; None for the LoFTR of this package.
      save_golden: where to write what torch said.
      force: replace a golden bundle that is there.
      limits: what each file may ask of this machine.
    """

    mapping: str | os.PathLike[str] | TensorMapping | None = None
    prefix: str | None = None
    state_dict: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str | os.PathLike[str]] = ()
    seed: int = 0
    sizes: Sequence[Size] = ()
    gradients: bool = False
    torch: Any = None
    flax: Any = None
    save_golden: str | os.PathLike[str] | None = None
    force: bool = False
    limits: Limits = DEFAULT


def verify_parity(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    mapping: str | os.PathLike[str] | TensorMapping | None = None,
    **options: Any,
) -> ParityReport:
    """Runs the torch and the Flax network on the same inputs and judges every stage.

        report = verify_parity("outdoor_ds.ckpt", "loftr.npz")
        report.passed, report.culprit

    Args:
      source: the torch checkpoint.
      target: the Flax tree.
      mapping: a shipped name or a path; None for the one that the target's provenance names, else the one that fits.
      **options: the other fields of `Trial`.

    Raises:
      Loftr2FlaxError: a file is refused, the mapping does not fit, an image cannot be read.
      EnvironmentFault: torch, kornia, jax or flax is missing.
    """
    started = time.perf_counter()
    trial = Trial(mapping, **options)
    if trial.torch is not None and trial.flax is None:
        raise UsageError("--torch alone: a network of your own has two sides", "add `--flax package.module:factory`")
    require(*(() if trial.torch else ("torch", "kornia")), *(() if trial.flax else ("jax", "flax")))
    with opened(source, target, mapping, trial.facts, trial.prefix, trial.state_dict, trial.limits) as pair:
        report = _compare(pair, trial)
    return replace(
        report,
        source=str(source),
        target=str(target),
        environment=environment(),
        seconds=time.perf_counter() - started,
    )


def verify_golden(
    golden: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    flax: Any = None,
    facts: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT,
) -> ParityReport:
    """Judges a target by a bundle that `verify_parity` saved. Torch is not needed.

    Args:
      golden: the bundle.
      target: the Flax tree.
      flax: a user's own Flax network, as in `Trial`.
      facts: overrule those of the bundle.
      limits: what the target may ask of this machine.

    Raises:
      Loftr2FlaxError: a file is refused, or is no bundle.
    """
    started = time.perf_counter()
    if flax is None:
        require("jax", "flax")
    with open_golden(golden) as bundle, open_checkpoint(target, limits=limits) as actual:
        subject = _described(bundle, {**bundle.facts, **(facts or {})}, flax)
        weights = check_weights(bundle.expected, lambda path: None, actual, subject.stage_of, subject.heads)
        report = ParityReport(
            str(golden), str(target), bundle.mapping, subject.title, (), weights, config=subject.config
        )
        if _runnable(weights):
            candidate = subject.candidate(load_tree(actual))
            runs = [_judged(subject, candidate, *run)[0] for run in zip(bundle.records, bundle.infos, strict=True)]
            report = replace(report, runs=tuple(runs))
    notes = (f"judged by {Path(golden).name}, without torch: causes in the computation were not looked for",)
    return replace(
        report,
        culprit=find_culprit(report),
        environment=environment(),
        notes=notes,
        seconds=time.perf_counter() - started,
    )


def _compare(pair: Pair, trial: Trial) -> ParityReport:
    subject, torch, whole = _parts(pair, trial)
    expected = pair.expected()
    weights = check_weights(expected, pair.array, pair.target, subject.stage_of, subject.heads)
    name = pair.plan.mapping.name
    notes = _told_of_casts(pair)
    report = ParityReport("", "", name, subject.title, (), weights, config=subject.config, notes=notes)
    runnable = _runnable(weights)
    if not runnable and trial.save_golden is None:
        return replace(report, culprit=find_culprit(report))
    infos = [feed.info for feed in torch.feeds]
    records = [torch.record(feed) for feed in torch.feeds]
    if trial.save_golden is not None:
        bundle = _bundle(pair, subject, expected, records, infos, whole)
        write_golden(trial.save_golden, bundle, force=trial.force)
    if not runnable:
        return replace(report, culprit=find_culprit(report))
    candidate = subject.candidate(pair.variables())
    judged = [_judged(subject, candidate, *run) for run in zip(records, infos, strict=True)]
    replays = [replayed for _, replayed in judged]
    runs = [run for run, _ in judged]
    if torch.explain is not None and weights.passed and runs:  # the code is the same in all runs: one tells
        runs[0] = hold_against_mistakes(runs[0], torch.explain, records[0], replays[0])
    report = _with_gradients(replace(report, runs=tuple(runs)), pair, trial, subject, torch, candidate, records)
    return replace(report, culprit=find_culprit(report, torch.explain, records, replays))


def _parts(pair: Pair, trial: Trial) -> tuple[Subject, TorchPart, bool]:
    """The subject and the torch side, and whether the target is the whole network's tree."""
    candidate = None
    if trial.flax is not None:
        candidate = custom_candidate(load_factory("--flax", trial.flax), pair.facts)
    feeding = paths_of(trial.images), trial.seed, trial.sizes
    if trial.torch is not None:
        torch = custom_torch(load_factory("--torch", trial.torch), pair.state(), pair.facts, *feeding)
        assert candidate is not None  # `verify_parity` has seen to it
        title = f"a network of {len(torch.oracle.stage_names)} stages"
        return custom_subject(candidate, torch.oracle.stage_names, title), torch, True
    from loftr2flax.parity.loftr import subject as loftr

    config = loftr.config_of(pair.infos(), pair.facts)
    whole = any(move.leaf.startswith("params/") for move in pair.plan.moves)
    torch = loftr.torch_part(pair.state(), config, *feeding, coarse_only=not whole)
    return loftr.loftr_subject(config, whole, candidate), torch, whole


def _described(bundle: Bundle, facts: Mapping[str, Any], flax: Any) -> Subject:
    """A bundle's subject."""
    candidate = None if flax is None else custom_candidate(load_factory("--flax", flax), facts)
    if bundle.kind == "custom":
        if candidate is None:
            message = "the bundle is of a network of its own"
            raise UsageError(message, "name its factory: `--flax package.module:factory`")
        stages = tuple(bundle.records[0].stages) if bundle.records else ()
        return custom_subject(candidate, stages, bundle.title)
    from loftr2flax.parity.loftr import subject as loftr

    return loftr.loftr_subject(loftr.config_from_json(bundle.config, facts), bundle.whole, candidate)


def _told_of_casts(pair: Pair) -> tuple[str, ...]:
    """By what a tree in a narrower type is judged."""
    kinds = " and ".join(sorted(set(pair.casts.values())))
    rest = "torch ran with its weights rounded likewise. The verdict is on the computation, not on what the cast costs"
    return (f"the conversion cast weights to {kinds}, and {rest}",) if kinds else ()


def _runnable(weights: WeightsCheck) -> bool:
    """Whether a network can be built from the target: every leaf is there, in its shape."""
    return weights.compared > 0 and not any(finding.cause in ABSENT for finding in weights.findings)


def _judged(subject: Subject, candidate: Network, record: Record, info: InputsInfo) -> tuple[PairRun, Replay]:
    """One run of the candidate."""
    replayed = replay(record, candidate, subject.apart)
    matches = subject.match(record, replayed) if subject.match is not None else None
    return PairRun(info, replayed.rows, matches), replayed


def _with_gradients(
    report: ParityReport,
    pair: Pair,
    trial: Trial,
    subject: Subject,
    torch: TorchPart,
    candidate: Network,
    records: Sequence[Record],
) -> ParityReport:
    """Adds coverage, and gradients where they are asked for."""
    oracle: Any = torch.oracle
    if not differentiable(oracle):
        return replace(
            report,
            notes=(
                *report.notes,
                "coverage is not measured: the torch side gives no gradients",
            ),
        )
    moves = pair.plan.moves
    covered = coverage(moves, pair.key, oracle, records, subject.outputs)
    report = replace(report, coverage=covered)
    if not trial.gradients or not records:
        return report
    sides: Any = (oracle, torch.reference, candidate)
    if not differentiable(*sides):
        return replace(
            report,
            notes=(
                *report.notes,
                "gradients are not compared: one side gives none",
            ),
        )
    found = check_gradients(moves, pair.key, sides, records[0], subject.outputs, report.runs[0].inputs.title)
    return replace(report, gradients=found)


def _bundle(
    pair: Pair,
    subject: Subject,
    expected: Mapping[str, str],
    records: Sequence[Record],
    infos: Sequence[InputsInfo],
    whole: bool,
) -> Bundle:
    mapping = pair.plan.mapping
    digest = FileHash(pair.source.files).hexdigest()
    return Bundle(
        subject.kind, mapping.name, mapping.sha256, digest, dict(subject.config), dict(pair.facts), whole,
        subject.title, dict(expected), records, infos,
    )  # fmt: skip
