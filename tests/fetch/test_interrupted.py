"""Downloads that are stopped, and several at once: a whole file under its name, or none, and nothing beside it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
import urllib3
from website import Website, stalling, whole

from loftr2flax.fetch.http import Unavailable, answer, opened


def begun(site: Website, *words: str) -> subprocess.Popen[str]:
    """The real program, fetching outdoor_ds from the page /a of the site."""
    command = [sys.executable, "-m", "loftr2flax", "fetch", "outdoor_ds", "--from", f"{site.url}/a", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_leaves_nothing_behind(site: Website, data: bytes, cache: Path, number: int, code: int) -> None:
    site.pages["/a"] = stalling(data, 100_000)
    program = begun(site)
    while not site.asked or not cache.exists():
        assert program.poll() is None, program.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    program.send_signal(number)
    out, err = program.communicate()
    assert (program.returncode, out, err) == (code, "", "")
    assert list(cache.iterdir()) == []


def test_two_at_once(site: Website, data: bytes, cache: Path) -> None:
    together = threading.Barrier(2, timeout=60)

    def page(handler):
        together.wait()
        whole(data)(handler)

    site.pages["/a"] = page
    programs = [begun(site, "--quiet") for _ in range(2)]
    ended = [(*program.communicate(), program.returncode) for program in programs]
    assert ended == [(f"{cache / 'outdoor_ds.ckpt'}\n", "", 0)] * 2
    assert (cache / "outdoor_ds.ckpt").read_bytes() == data
    assert len(list(cache.iterdir())) == 2


def test_two_at_once_that_get_different_files(site: Website, data: bytes, other: bytes, cache: Path) -> None:
    together = threading.Barrier(2, timeout=60)

    def page(handler):
        whole((data, other)[together.wait()])(handler)

    site.pages["/a"] = page
    programs = [begun(site) for _ in range(2)]
    errors = {error: program.returncode for program in programs for error in [program.communicate()[1]]}
    (winner, _), (loser, _) = sorted(errors.items(), key=lambda pair: pair[1])
    assert sorted(errors.values()) == [0, 3]
    assert "remembered" in winner
    assert "has changed: sha256" in loser
    assert (cache / "outdoor_ds.ckpt").read_bytes() in (data, other)


class _Leads(requests.adapters.BaseAdapter):
    """A server that answers every request by leading to plain http."""

    def send(self, request, **options):
        found = requests.Response()
        found.status_code, found.request, found.url = 302, request, request.url
        found.headers["Location"] = "http://127.0.0.1/a"
        found.raw = urllib3.HTTPResponse(io.BytesIO(), preload_content=False)
        return found

    def close(self) -> None:
        pass


def test_https_never_leads_to_http() -> None:
    with opened() as session:
        session.mount("https://", _Leads())
        with pytest.raises(Unavailable) as refused, answer(session, "https://host.invalid/a?key=secret", {}, 1.0):
            pass
    assert refused.value.message == "https://host.invalid/a: leads to http://127.0.0.1/a, which is less safe"
