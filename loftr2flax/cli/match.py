"""`loftr2flax match`: the converted network on two images, as a table, JSON, or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import emit_json, name_of, plural, say, table
from loftr2flax.errors import UsageError
from loftr2flax.fetch import source

if TYPE_CHECKING:
    from loftr2flax.matching import ImageMatches

EXIT_NONE = 1

Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="An image of any usual format.", show_default=False)]
WeightsFile = Annotated[
    Path,
    typer.Option(
        "--weights",
        "-c",
        metavar="FILE",
        help="A converted LoFTR, or a torch checkpoint of one.",
        show_default=False,
        parser=source.checkpoint,
    ),
]
Size = Annotated[
    int, typer.Option("--size", min=16, max=16384, help="Pixels of the longer side as the network sees it, at most.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", min=0.0, max=1.0, help="The confidence that a match exceeds. Default: 0.2."),
]
Top = Annotated[int | None, typer.Option("--top", min=1, metavar="N", help="Only the N surest matches.")]
Draw = Annotated[Path | None, typer.Option("--draw", metavar="OUT.png", help="Draw the matches into a new picture.")]
Facts = Annotated[
    list[str] | None,
    typer.Option("--fact", metavar="NAME=VALUE", help="What the weights cannot show, where it differs, e.g. heads=1."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT.png if it exists.")]


@options.limited
def match(
    image0: Image,
    image1: Image,
    weights: WeightsFile,
    size: Size = 640,
    threshold: Threshold = None,
    top: Top = None,
    facts: Facts = None,
    state_dict: options.StateDict = None,
    draw: Draw = None,
    force: Force = False,
    *,
    limits: options.Limits,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Match two images with a converted LoFTR: points in pixels of the originals, the surest first."""
    if draw is not None:
        _check_drawing(draw, (image0, image1, weights), force)
    from loftr2flax.matching import load_weights, match_images

    loaded = load_weights(weights, options.parse_facts(facts or []), state_dict, limits)
    found = match_images(image0, image1, loaded, longest=size, threshold=threshold, top=top)
    if draw is not None:
        _draw(found, draw, force)
    if json:
        emit_json("match", _describe(found))
    elif len(found):
        table([("x0", "y0", "x1", "y1", "confidence"), *_rows(found)], right=range(5))
    _conclude(found, draw)
    if not len(found):
        raise typer.Exit(EXIT_NONE)


def _check_drawing(draw: Path, inputs: tuple[Path, ...], force: bool) -> None:
    """Whether the picture can be written, before the work is done."""
    from loftr2flax.formats.atomic import check_target

    if draw.suffix.lower() != ".png":
        raise UsageError(f"{draw}: pictures are written as PNG", f"name it {draw.with_suffix('.png')}")
    if draw.exists() and any(path.exists() and draw.samefile(path) for path in inputs):
        raise UsageError(f"{draw}: is an input itself", "name another output")
    check_target(draw, force=force)


def _draw(found: ImageMatches, path: Path, force: bool) -> None:
    from loftr2flax.formats.atomic import new_file
    from loftr2flax.matching.picture import draw_matches

    picture = draw_matches(found)
    with new_file(path, force=force) as file:
        file.write(picture)


def _rows(found: ImageMatches) -> list[tuple[str, ...]]:
    numbers = zip(found.points0, found.points1, found.confidence, strict=True)
    return [(*(f"{part:.2f}" for part in (*one, *two)), f"{confidence:.4f}") for one, two, confidence in numbers]


def _conclude(found: ImageMatches, draw: Path | None) -> None:
    weights = found.weights
    say(f"{name_of(str(weights.path))}: {weights.model}")
    if weights.assumed:
        listed = ", ".join(f"{name}={_spelled(getattr(weights.config, name))}" for name in weights.assumed)
        say(f"note: taken for granted, as the file does not say: {listed} (`--fact`)")
    seen = " and ".join(f"{width}×{height}" for width, height in found.seen)
    time = f"{found.run_seconds:.2f} s, and {found.compile_seconds:.1f} s to compile"
    count = plural(len(found), "match", "matches")
    of_all = f" of {found.found:,}" if found.found > len(found) else ""
    median = f", median confidence {found.median:.2g}" if found.median is not None else ""
    say(f"{count}{of_all} above {found.threshold:g}{median}; seen at {seen}; {time}")
    if draw is not None:
        say(f"wrote {name_of(str(draw))}")
    if not len(found):
        say("note: no pair of points is sure enough; a lower `--threshold`, or a larger `--size`, may find some")


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe(found: ImageMatches) -> dict[str, Any]:
    images = [
        {"path": str(photo.path), "width": photo.size[0], "height": photo.size[1], "seen": list(seen)}
        for photo, seen in zip(found.photographs, found.seen, strict=True)
    ]
    weights = found.weights
    points = zip(found.points0.tolist(), found.points1.tolist(), found.confidence.tolist(), strict=True)
    return {
        "images": images,
        "weights": {
            "path": str(weights.path),
            "model": weights.model,
            "converted": weights.converted,
            "assumed": {name: getattr(weights.config, name) for name in weights.assumed},
        },
        "threshold": found.threshold,
        "found": found.found,
        "count": len(found),
        "median_confidence": found.median,
        "seconds": {"compile": found.compile_seconds, "run": found.run_seconds},
        "columns": ["x0", "y0", "x1", "y1", "confidence"],
        "matches": [[*one, *two, confidence] for one, two, confidence in points],
    }
