"""Images of a run: a folder of files, or synthetic ones; each has an identity, the finger that it shows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loftr2flax.errors import MissingInput, UsageError
from loftr2flax.training.config import TrainConfig

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")
"""What is taken for an image, in capitals too."""

_FVC = re.compile(r"^(?P<finger>\d+)_(?P<impression>\d+)$")
_SD4 = re.compile(r"^[fs](?P<finger>\d{4})(?:_\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSet:
    """Images by number, each with its identity.

    Attributes:
      identities: the name of the finger for each image; images of one name show one finger.
      read: image number → [H, W] float32, 0 … 1, ridges dark.
      skipped: files that could not be read, with the reason.
      about: one line for people.
      sha256: of the files' names and bytes; empty for images that a config makes.
    """

    identities: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    skipped: tuple[str, ...] = ()
    about: str = ""
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.identities)


def identity_of(path: Path, root: Path) -> str:
    """The finger that a file shows, by the conventions of FVC and NIST, else the file itself.

    FVC (`DB1_A/101_3.tif`): the number before ``_`` is the finger, within its database. NIST SD4 (`f0001_01.png` and
    `s0001_10.png`): the four figures are the finger, ``f`` and ``s`` its first and second print. NIST SD300 and SD302
    (`00001000_roll_500_01.png`): subject and finger are the first number and the last.
    """
    stem, folder = path.stem, path.parent.relative_to(root).as_posix()
    if found := _FVC.match(stem):
        return f"{folder}/{found['finger']}"
    if found := _SD4.match(stem):
        return found["finger"]
    if found := re.match(r"^(\d{8})_(?:roll|plain|slap|\w+)_\d+_(\d{2})$", stem):
        return f"{found[1]}/{found[2]}"
    return path.relative_to(root).as_posix()


def open_images(config: TrainConfig, held_out: bool = False) -> ImageSet:
    """The images of a config: those trained on, or those held out for the evaluation.

    Of a folder every tenth identity is held out (with fewer than ten, the same images serve both).

    Raises:
      MissingInput: the folder is not there, or holds no image that can be read.
      UsageError: a batch is larger than the data set.
    """
    if not config.dataset_root:
        return _synthetic(config, held_out)
    images = _folder(Path(config.dataset_root), config.image_size)
    fingers = list(dict.fromkeys(images.identities))
    if len(images) < config.batch_size and not held_out:
        raise UsageError(
            f"batch_size={config.batch_size}: the data set has only {len(images)} images",
            f"`--batch-size {len(images)}`, or more images",
        )
    if len(fingers) < 10:
        return images
    kept = set(fingers[::10]) if held_out else set(fingers) - set(fingers[::10])
    numbers = [n for n, finger in enumerate(images.identities) if finger in kept]
    identities = tuple(images.identities[n] for n in numbers)
    return replace(images, identities=identities, read=lambda n: images.read(numbers[n]))


def _synthetic(config: TrainConfig, held_out: bool) -> ImageSet:
    from loftr2flax.training.prints import synthetic_print
    from loftr2flax.training.scenes import synthetic_scene

    height, width = config.image_size
    count = min(config.num_prints, config.eval_pairs) if held_out else config.num_prints
    first = 1_000_000 if held_out else 1000 * config.seed
    kinds = {"prints": ("print",), "scenes": ("scene",), "both": ("print", "scene")}[config.synthetic]

    @lru_cache(maxsize=1024)
    def read(number: int) -> np.ndarray:
        make = synthetic_print if kinds[number % len(kinds)] == "print" else synthetic_scene
        return make(first + number, height, width)

    names = tuple(f"{kinds[n % len(kinds)]} {first + n}" for n in range(count))
    return ImageSet(names, read, (), f"{count} synthetic {' and '.join(f'{kind}s' for kind in kinds)}")


def _folder(root: Path, size: tuple[int, int]) -> ImageSet:
    if not root.is_dir():
        raise MissingInput(
            f"{root}: no such folder", "`--dataset-root` names a folder of images; without it prints are made"
        )
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    good: list[Path] = []
    skipped: list[str] = []
    digest = hashlib.sha256()
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            data = path.read_bytes()
            _check_image(data)
        except (OSError, SyntaxError, ValueError) as error:
            skipped.append(f"{name}: {next(iter(str(error).splitlines()), type(error).__name__)}")
        else:
            good.append(path)
            digest.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    if not good:
        what = f"none of its {len(paths)} images can be read" if paths else "holds no image"
        raise MissingInput(f"{root}: {what}", f"images end in {', '.join(ENDINGS)}")

    @lru_cache(maxsize=1024)
    def read(number: int) -> np.ndarray:
        return _read(good[number], size)

    identities = tuple(identity_of(path, root) for path in good)
    about = f"{len(good)} images of {len(set(identities))} identities in {root}"
    return ImageSet(identities, read, tuple(skipped), about, digest.hexdigest())


def _check_image(data: bytes) -> None:
    """Raises OSError, SyntaxError or ValueError for what is no image; that a file ends early shows in decoding."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as file:
            _grey(file)
    except Image.DecompressionBombError:
        raise ValueError("too many pixels") from None
    except UnidentifiedImageError:
        raise ValueError("no image that can be read") from None


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The image, grey, fitted into ``size`` with its proportions, on white."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        grey = ImageOps.pad(_grey(file), (size[1], size[0]), Image.Resampling.LANCZOS, color=255)
        return np.asarray(grey, np.float32) / 255


def _grey(file: Image.Image) -> Image.Image:
    """The picture in 8 bits of grey; what is transparent lies on white.

    Scanners write 10 to 16 bits too: such numbers are parts of the least of 8, 10, 12, 14 and 16 bits that holds them
    all. Real numbers are parts of 1, or of 255 where one is above 1.

    Raises:
      ValueError: its numbers are below zero, above 16 bits or not finite.
    """
    from PIL import Image

    if file.mode.startswith(("I", "F")):
        values = np.asarray(file, np.float64)
        most = values.max(initial=0)
        steps = (1, 255) if file.mode == "F" else [2**bits - 1 for bits in (8, 10, 12, 14, 16)]
        if not np.isfinite(values).all() or values.min(initial=0) < 0 or most > steps[-1]:
            raise ValueError(f"its numbers are not 0 to {steps[-1]}")
        white = next(step for step in steps if most <= step)
        return Image.fromarray(np.rint(255 * values / white).astype(np.uint8))
    if file.has_transparency_data:
        picture = file.convert("RGBA")
        file = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return file.convert("L")
