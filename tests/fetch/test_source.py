"""A name where a checkpoint is read: what it stands for, and that nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Outcome
from website import Website, whole

from loftr2flax.fetch.cache import cache_folder, entry
from loftr2flax.fetch.source import checkpoint
from loftr2flax.limits import DEFAULT
from loftr2flax.training.config import DenseConfig
from loftr2flax.training.incoming import read_incoming

Run = Callable[..., Outcome]


@pytest.mark.parametrize(
    "words",
    [
        "inspect indoor_ds",
        "convert indoor_ds -o a.npz",
        "verify weights indoor_ds a.npz",
        "verify parity indoor_ds a.npz",
        "diff indoor_ds a.npz",
        "diff a.npz indoor_ds",
        "mapping check loftr indoor_ds",
        "match a.png b.png -c indoor_ds",
        "train dense --loftr-pretrained-ckpt indoor_ds --image-size 32 --hidden-dim 16 --transformer-layers 1",
        "train match --dense-weights indoor_ds --image-size 32 --hidden-dim 16 --transformer-layers 1",
    ],
)
def test_what_is_not_cached_names_the_command_that_fetches_it(call: Run, words: str) -> None:
    done = call(*words.split())
    assert (done.code, done.error, done.hint) == (
        3,
        "indoor_ds: is not in the cache",
        "loftr2flax fetch indoor_ds",
    )


def test_a_file_of_that_name_comes_first(call: Run, site: Website, data: bytes, tmp_path: Path) -> None:
    site.pages["/a"] = whole(data)
    assert call("fetch", "indoor_ds", "--from", f"{site.url}/a").code == 0
    (tmp_path / "indoor_ds").write_text("no checkpoint")
    done = call("inspect", "indoor_ds")
    assert (done.code, done.error.split(":")[0]) == (3, "indoor_ds")
    (tmp_path / "indoor_ds").unlink()
    assert call("inspect", "indoor_ds").code == 0
    (tmp_path / "indoor_ds").symlink_to("nowhere")
    assert call("inspect", "indoor_ds").error == "indoor_ds: no such file"


def test_a_run_starts_from_a_cached_name(call: Run, site: Website, data: bytes) -> None:
    site.pages["/a"] = whole(data)
    assert call("fetch", "indoor_ds", "--from", f"{site.url}/a").code == 0
    found = read_incoming("indoor_ds", DenseConfig(), None, DEFAULT)
    assert {"backbone", "loftr_coarse"} <= found.params.keys()
    assert Path(found.path).is_file()


def test_other_words_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("a.ckpt", "", "outdoor", "outdoor_ds.ckpt", "./outdoor_ds", "c:/a", "a\nb"):
        assert checkpoint(word) == Path(word)


class TestFolder:
    @pytest.mark.parametrize(
        ("environment", "folder"),
        [
            ({"LOFTR2FLAX_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
            ({"LOFTR2FLAX_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/loftr2flax"),
            ({"LOFTR2FLAX_CACHE": "", "XDG_CACHE_HOME": "not/absolute", "HOME": "/c"}, "/c/.cache/loftr2flax"),
        ],
    )
    def test_where_it_is(self, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert cache_folder() == Path(folder)
        assert cache_folder("/d") == Path("/d")

    def test_the_option(self, call: Run, site: Website, data: bytes, tmp_path: Path, cache: Path) -> None:
        site.pages["/a"] = whole(data)
        done = call("fetch", "indoor_ds_new", "--from", f"{site.url}/a", "--cache", tmp_path / "elsewhere")
        assert Path(done.out.strip()).parent == tmp_path / "elsewhere"
        assert f"convert {done.out.strip()} --fact temp_bug_fix=true -o" in done.err
        assert not cache.exists()

    def test_one_that_cannot_be_made(self, call: Run, site: Website, data: bytes, cache: Path) -> None:
        site.pages["/a"] = whole(data)
        cache.write_text("a file in the way")
        done = call("fetch", "indoor_ds", "--from", f"{site.url}/a")
        assert done.code == 4
        assert "--cache DIR" in done.hint
        assert site.asked == []

    def test_one_that_cannot_be_written_to(
        self, call: Run, site: Website, data: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import errno
        import os

        site.pages["/a"] = whole(data)
        cache.mkdir()
        real = os.open

        def read_only(path: object, flags: int, *rest: object, **options: object) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(cache)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return real(path, flags, *rest, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", read_only)
        done = call("fetch", "indoor_ds", "--from", f"{site.url}/a")
        assert (done.code, done.error) == (4, f"{cache / 'indoor_ds.ckpt'}: cannot be created: Read-only file system")

    def test_a_name_for_every_url(self, tmp_path: Path) -> None:
        urls = [
            "https://a.org/m.ckpt", "https://a.org/m.ckpt?v=2", "https://b.org/m.ckpt", "https://a.org/", "https://a.org",
            "https://a.org/..", "https://a.org/.hidden", "https://a.org/%2e%2e%2fm", "https://a.org/" + "x" * 500,
            "https://a.org/\udcff\n.ckpt",
        ]  # fmt: skip
        names = [entry(url, tmp_path).file.name for url in urls]
        assert len(set(names)) == len(urls)
        for name in names:
            assert name[0] not in "./"
            assert "/" not in name
            assert name.isascii()
            assert len(name) < 150
        assert names[0].endswith(".ckpt")
        assert entry(urls[0] + "#part", tmp_path).file.name == names[0]


def test_a_removed_cache_is_no_trouble(call: Run, site: Website, data: bytes, cache: Path) -> None:
    site.pages["/a"] = whole(data)
    call("fetch", "indoor_ds", "--from", f"{site.url}/a")
    shutil.rmtree(cache)
    assert call("inspect", "indoor_ds").hint == "loftr2flax fetch indoor_ds"
