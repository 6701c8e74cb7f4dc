"""A website, a checkpoint that it publishes, and a cache that is empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from website import Website

from loftr2flax.fetch import download
from tools.sample import write_sample

pytest.importorskip("requests", reason="the extra `fetch` is not installed")


@pytest.fixture
def site() -> Iterator[Website]:
    with Website().open() as open_site:
        yield open_site


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint: three pieces of a download."""
    path = tmp_path_factory.mktemp("published") / "sample.ckpt"
    write_sample(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of another checkpoint."""
    path = tmp_path_factory.mktemp("other") / "other.npz"
    np.savez(path, a=np.arange(6.0).reshape(2, 3))
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of the cache, which is not there yet."""
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _alone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no ~/.netrc, the test's own cache, and no waiting between attempts."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOFTR2FLAX_CACHE", str(cache))
    monkeypatch.setattr(download, "_PAUSE", 0.01)
