"""`fetch` against a server on the loopback address: what comes, what is kept, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from program import Outcome, words_of
from schemas import validated
from website import Website, cut, redirect, stalling, status, whole

from loftr2flax.fetch.urls import as_safe

Run = Callable[..., Outcome]


def kept(cache: Path) -> list[str]:
    """What is in the cache: names only."""
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SEEN = {
    "name": "outdoor_ds",
    "url": "https://example.org/a",
    "sha256": "0" * 64,
    "size": 3,
    "time": "2025-01-01T00:00:00Z",
}
BOTH = ["outdoor_ds.ckpt", "outdoor_ds.ckpt.seen.json"]


@pytest.fixture
def fetch(call: Run, site: Website) -> Run:
    """`fetch outdoor_ds` from the page /a.ckpt of the site."""
    return lambda *words: call("fetch", "outdoor_ds", "--from", f"{site.url}/a.ckpt", *words)


def test_a_name_is_fetched_once_and_then_read_by_every_verb(
    run: Run, site: Website, data: bytes, cache: Path, tmp_path: Path
) -> None:
    site.pages["/a.ckpt"] = whole(data)
    first = run("fetch", "outdoor_ds", "--from", f"{site.url}/a.ckpt")
    assert first.code == 0, first.err
    file = Path(first.out.strip())
    assert file == cache / "outdoor_ds.ckpt"
    assert file.read_bytes() == data
    assert kept(cache) == BOTH
    assert f"sha256 {sha256(data)}, remembered" in first.err
    assert "licence Apache-2.0, https://github.com/zju3dv/LoFTR" in first.err
    again = run("fetch", "outdoor_ds")
    assert (again.code, again.out) == (0, first.out)
    assert "as expected" in again.err
    assert len(site.asked) == 1
    (following,) = (line.removeprefix("next: ") for line in again.err.splitlines() if line.startswith("next: "))
    assert run(*words_of(following)).code == 0
    for words in (
        ["inspect", "outdoor_ds"],
        ["verify", "weights", "outdoor_ds", "outdoor_ds.npz"],
        ["diff", "outdoor_ds", "outdoor_ds.npz"],
        ["diff", "outdoor_ds.npz", "outdoor_ds"],
        ["mapping", "check", "loftr", "outdoor_ds"],
    ):
        done = run(*words)
        assert done.code == 0, (words, done.err)
    assert len(site.asked) == 1


def test_json_says_what_is_where(fetch: Run, site: Website, data: bytes, cache: Path) -> None:
    site.pages["/a.ckpt"] = whole(data)
    found = validated(fetch("--json").json)
    assert found == {
        "schema": "loftr2flax.fetch/1",
        "name": "outdoor_ds",
        "path": str(cache / "outdoor_ds.ckpt"),
        "url": f"{site.url}/a.ckpt",
        "sha256": sha256(data),
        "bytes": len(data),
        "downloaded": True,
        "first_sight": True,
        "licence": "Apache-2.0",
    }
    assert fetch("--json").json == {**found, "downloaded": False, "first_sight": False}
    quiet = fetch("--quiet")
    assert (quiet.out, quiet.err) == (f"{cache / 'outdoor_ds.ckpt'}\n", "")


def test_a_url_is_cached_under_a_name_of_its_own(call: Run, site: Website, data: bytes, cache: Path) -> None:
    site.pages |= {"/a/model.ckpt?key=secret": whole(data), "/b/model.ckpt": whole(data), "/": whole(data)}
    urls = [f"{site.url}{path}" for path in site.pages]
    paths = [call("fetch", url).out for url in urls]
    assert len(set(paths)) == 3
    assert len(kept(cache)) == 6
    assert "secret" not in "".join(file.read_text("latin-1") for file in cache.glob("*.json"))
    assert call("inspect", urls[0]).code == 0
    assert call("inspect", f"{urls[0]}2").hint.startswith("loftr2flax fetch ")


def test_the_list(call: Run, fetch: Run, site: Website, data: bytes, cache: Path) -> None:
    empty = call("fetch", "--list")
    assert [line.split()[:2] for line in empty.out.splitlines()[1:]] == [
        ["outdoor_ds", "no"],
        ["indoor_ds", "no"],
        ["indoor_ds_new", "no"],
    ]
    assert not cache.exists()
    site.pages["/a.ckpt"] = site.pages["/b.ckpt"] = whole(data)
    fetch()
    call("fetch", f"{site.url}/b.ckpt")
    lines = call("fetch", "--list").out.splitlines()[1:]
    assert [line.split()[:2] for line in (lines[0], lines[-1])] == [
        ["outdoor_ds", "yes"],
        [f"{site.url}/b.ckpt", "yes"],
    ]
    assert sha256(data)[:16] in lines[0]
    listed = validated(call("fetch", "--list", "--json").json)
    assert listed["schema"] == "loftr2flax.fetch.list/1"
    assert [(c["name"], c["cached"], c["bytes"]) for c in listed["checkpoints"][:2]] == [
        ("outdoor_ds", True, len(data)),
        ("indoor_ds", False, None),
    ]
    assert all(url.startswith("https://") for c in listed["checkpoints"][:3] for url in c["urls"])


def test_what_kornia_publishes_is_what_is_listed() -> None:
    loftr = pytest.importorskip("kornia.feature.loftr.loftr")
    from loftr2flax.fetch.published import PUBLISHED

    theirs = {name.replace("door", "door_ds"): urls for name, urls in loftr.urls.items()}
    assert {name: list(known.urls) for name, known in PUBLISHED.items()} == theirs


class TestTrust:
    def test_a_file_that_has_changed_where_it_is_published(
        self, fetch: Run, site: Website, other: bytes, data: bytes, cache: Path
    ) -> None:
        site.pages["/a.ckpt"] = whole(data)
        assert fetch().code == 0
        site.pages["/a.ckpt"] = whole(other)
        assert fetch().code == 0, "what is in the cache is not asked for again"
        done = fetch("--again")
        assert done.code == 3
        assert f"sha256 {sha256(other)} now, {sha256(data)} when it was first seen" in done.error
        assert (cache / "outdoor_ds.ckpt").read_bytes() == data
        (cache / "outdoor_ds.ckpt").unlink()
        assert fetch().error == done.error, "the hash outlives the file"
        assert kept(cache) == BOTH[1:]

    def test_a_change_that_is_meant(
        self, fetch: Run, call: Run, site: Website, other: bytes, data: bytes, cache: Path
    ) -> None:
        site.pages["/a.ckpt"] = whole(data)
        fetch()
        site.pages["/a.ckpt"] = whole(other)
        hint = fetch("--again").hint
        words = words_of(hint.split("`")[1])
        assert words == ["fetch", "outdoor_ds", "--sha256", sha256(other)]
        assert call(*words, "--from", f"{site.url}/a.ckpt").code == 0
        assert (cache / "outdoor_ds.ckpt").read_bytes() == other
        assert fetch("--again").code == 0

    def test_a_cached_file_that_was_changed(
        self, fetch: Run, call: Run, site: Website, data: bytes, cache: Path
    ) -> None:
        site.pages["/a.ckpt"] = whole(data)
        fetch()
        damaged = data[:-1] + bytes([data[-1] ^ 1])
        (cache / "outdoor_ds.ckpt").write_bytes(damaged)
        done = fetch()
        assert done.code == 3
        assert f"sha256 {sha256(damaged)} now, {sha256(data)} then" in done.error
        for words in (["inspect", "outdoor_ds"], ["convert", "outdoor_ds", "-o", "a.npz"]):
            assert (call(*words).code, call(*words).error) == (3, done.error)
        assert call(*words_of(done.hint), "--from", f"{site.url}/a.ckpt").code == 0
        assert (cache / "outdoor_ds.ckpt").read_bytes() == data

    def test_the_hash_that_is_asked_for(self, fetch: Run, site: Website, data: bytes, cache: Path) -> None:
        site.pages["/a.ckpt"] = whole(data)
        done = fetch("--sha256", "0" * 64)
        assert done.code == 3
        assert f"sha256 {sha256(data)}, not {'0' * 64}" in done.error
        assert kept(cache) == []
        assert fetch("--sha256", sha256(data).upper()).code == 0
        assert fetch("--sha256", "0" * 64).code == 3, "also of what is there"
        assert (cache / "outdoor_ds.ckpt").read_bytes() == data
        assert fetch("--sha256", "abc").code == 2

    def test_a_file_without_its_record_is_not_trusted(
        self, fetch: Run, call: Run, site: Website, data: bytes, cache: Path
    ) -> None:
        cache.mkdir()
        (cache / "outdoor_ds.ckpt").write_bytes(b"put there by hand")
        assert call("inspect", "outdoor_ds").hint == "loftr2flax fetch outdoor_ds"
        site.pages["/a.ckpt"] = whole(data)
        assert fetch().code == 0
        assert (cache / "outdoor_ds.ckpt").read_bytes() == data

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "[" * 100_000,
            '{"sha256": "00"}',
            json.dumps(dict.fromkeys(["name", "url", "sha256", "size", "time"], 1)),
            *(json.dumps(SEEN | wrong) for wrong in ({"name": 5}, {"url": None}, {"size": -1}, {"size": True})),
            json.dumps(SEEN | {"size": 10**400}),
        ],
    )
    def test_a_record_that_is_none(self, fetch: Run, cache: Path, text: str) -> None:
        cache.mkdir()
        (cache / BOTH[1]).write_text(text)
        done = fetch()
        assert (done.code, done.error) == (3, f"{cache / BOTH[1]}: not a record of a download")

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
    def test_a_record_that_is_no_file(self, fetch: Run, cache: Path, make: Callable[[Path], None]) -> None:
        cache.mkdir()
        make(cache / BOTH[1])
        done = fetch()
        assert (done.code, done.error) == (3, f"{cache / BOTH[1]}: not a file, so no record of a download")


class TestConnections:
    def test_a_broken_one_is_taken_up_where_it_broke(self, fetch: Run, site: Website, data: bytes, cache: Path) -> None:
        site.pages["/a.ckpt"] = cut(data, 70_000, 70_000)
        done = fetch()
        assert done.code == 0, done.err
        assert (cache / "outdoor_ds.ckpt").read_bytes() == data
        starts = [int(asked.removeprefix("bytes=").rstrip("-") or 0) for _, asked in site.asked]
        assert starts == sorted(set(starts))
        assert len(starts) == 3
        assert starts[1] >= 65_536

    def test_it_is_begun_anew_where_the_server_cannot(
        self, fetch: Run, site: Website, data: bytes, cache: Path
    ) -> None:
        site.pages["/a.ckpt"] = cut(data, 70_000, ranges=False, then=whole(data, tag=""))
        assert fetch().code == 0
        assert [asked for _, asked in site.asked] == ["", ""]
        assert (cache / "outdoor_ds.ckpt").read_bytes() == data

    def test_it_is_begun_anew_where_the_file_is_another(
        self, fetch: Run, site: Website, other: bytes, data: bytes, cache: Path
    ) -> None:
        site.pages["/a.ckpt"] = cut(data, 70_000, then=whole(other, tag='"second"'))
        assert fetch().code == 0
        assert len(site.asked) == 3
        assert (cache / "outdoor_ds.ckpt").read_bytes() == other

    def test_a_server_that_sends_another_files_range(self, fetch: Run, site: Website, data: bytes, cache: Path) -> None:
        """It overlooks If-Range; its tag tells."""

        def overlooks(handler):
            handler.headers.replace_header("If-Range", '"second"') if "If-Range" in handler.headers else None
            whole(bytes(len(data) - 4) + b"zero", tag='"second"')(handler)

        site.pages["/a.ckpt"] = cut(data, 70_000, then=overlooks)
        done = fetch()
        assert done.code == 3, "what came the second time is no checkpoint; half of each would look like one"
        assert len(site.asked) == 3

    def test_one_that_breaks_for_ever(self, fetch: Run, site: Website, data: bytes, cache: Path) -> None:
        site.pages["/a.ckpt"] = cut(data, *[0] * 9)
        done = fetch("--retries", "3")
        assert (done.code, len(site.asked)) == (4, 4)
        assert done.error.endswith("the connection broke off")
        assert kept(cache) == []

    def test_an_answer_that_does_not_come(self, fetch: Run, site: Website, data: bytes, cache: Path) -> None:
        site.pages["/a.ckpt"] = stalling(data, 70_000)
        done = fetch("--timeout", "1", "--retries", "0")
        assert done.code == 4
        assert "no answer within 1 s after 65,536 bytes" in done.error
        assert kept(cache) == []

    def test_no_server(self, call: Run, cache: Path) -> None:
        done = call("fetch", "http://127.0.0.1:9/a.ckpt")
        assert done.code == 4
        assert done.error == "http://127.0.0.1:9/a.ckpt: cannot be reached: Connection refused"
        assert "offline?" in done.hint
        assert kept(cache) == []

    def test_no_such_host(self, call: Run) -> None:
        done = call("fetch", "https://no-such-host.invalid/a.ckpt")
        assert done.code == 4
        assert "https://no-such-host.invalid/a.ckpt: cannot be reached: " in done.error

    def test_a_server_that_is_no_tls(self, call: Run, site: Website) -> None:
        done = call("fetch", f"{site.url.replace('http', 'https')}/a.ckpt")
        assert done.code == 4
        assert "cannot prove who it is" in done.error
        assert "REQUESTS_CA_BUNDLE" in done.hint

    @pytest.mark.parametrize(("code", "exit_code"), [(404, 3), (403, 3), (410, 3), (500, 4), (503, 4), (429, 4)])
    def test_refusals(self, fetch: Run, site: Website, cache: Path, code: int, exit_code: int) -> None:
        site.pages["/a.ckpt"] = status(code)
        done = fetch("--retries", "1")
        assert done.code == exit_code
        assert f"answers {code}" in done.error
        assert len(site.asked) == (2 if exit_code == 4 else 1)
        assert kept(cache) == []

    def test_the_next_source_is_tried(self, fetch: Run, call: Run, site: Website, data: bytes, cache: Path) -> None:
        site.pages["/b.ckpt"] = whole(data)
        done = fetch("--from", f"{site.url}/b.ckpt")
        assert done.code == 0
        assert f"/a.ckpt: the server answers 404 Not Found; trying {site.url}/b.ckpt" in done.err
        none = call("fetch", "indoor_ds", "--from", f"{site.url}/1", "--from", "http://127.0.0.1:9/2")
        assert none.code == 4
        assert "/1: the server answers 404" in none.error
        assert "/2: cannot be reached" in none.error

    def test_redirects(self, fetch: Run, site: Website, data: bytes) -> None:
        site.pages |= {"/a.ckpt": redirect("/b"), "/b": redirect(f"{site.url}/c?signed", 307), "/c?signed": whole(data)}
        assert fetch().code == 0
        site.pages["/a.ckpt"] = redirect("/a.ckpt")
        done = fetch("--again")
        assert (done.code, "more than 10 other addresses" in done.error) == (4, True)

    def test_a_redirect_whose_body_never_ends(self, fetch: Run, site: Website, data: bytes) -> None:
        def page(handler):
            handler.send_response(302)
            handler.send_header("Location", "/b")
            handler.end_headers()
            site.pages["/stalls"](handler)

        site.pages |= {"/a.ckpt": page, "/b": whole(data), "/stalls": stalling(bytes(1 << 20), 1 << 20)}
        assert fetch("--timeout", "1", "--retries", "0").code == 0

    @pytest.mark.parametrize("target", ["ftp://127.0.0.1/a", "file:///etc/passwd"])
    def test_redirects_to_other_schemes(self, fetch: Run, site: Website, target: str) -> None:
        site.pages["/a.ckpt"] = redirect(target)
        assert "which is less safe" in fetch().error

    @pytest.mark.parametrize("target", ["http://192.0.2.1/a.ckpt", "http://localhost.example/a.ckpt"])
    def test_plain_http_does_not_leave_this_machine(self, fetch: Run, site: Website, target: str) -> None:
        site.pages["/a.ckpt"] = redirect(target)
        done = fetch("--retries", "0", "--timeout", "1")
        assert (done.code, "which is less safe" in done.error) == (4, True)

    def test_a_scheme_in_capitals_is_as_safe(self) -> None:
        assert not as_safe("http://example.org/a", "HTTPS://example.org/a")
        assert as_safe("https://example.org/a", "HTTPS://example.org/a")

    @pytest.mark.parametrize("target", ["http://[", "//[::1", f"http://{'a' * 70}.invalid/", "http://a b/"])
    def test_redirects_to_what_is_no_address(self, fetch: Run, site: Website, target: str) -> None:
        site.pages["/a.ckpt"] = redirect(target)
        assert (done := fetch()).code == 4, done.err
        assert done.error.startswith(f"{site.url}/a.ckpt: ")

    @pytest.mark.parametrize("host", ["a" * 70, "a..b"])
    def test_a_host_that_can_be_none(self, call: Run, host: str) -> None:
        done = call("fetch", f"https://{host}.invalid/a.ckpt")
        assert (done.code, "cannot be fetched: label empty or too long" in done.error) == (4, True)

    def test_a_length_that_is_none(self, fetch: Run, site: Website, data: bytes) -> None:
        def page(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", "9" * 5000)
            handler.end_headers()
            handler.wfile.write(data)

        site.pages["/a.ckpt"] = page
        assert (done := fetch()).code == 0, done.err

    def test_a_proxy(self, call: Run, site: Website, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", site.url)
        monkeypatch.setenv("HTTPS_PROXY", site.url)
        site.pages["http://host.invalid/a.ckpt"] = whole(data)
        assert call("fetch", "http://host.invalid/a.ckpt", "--sha256", sha256(data)).code == 0
        refused = call("fetch", "https://host.invalid/a.ckpt")
        assert refused.code == 4
        assert "the proxy does not let it through: Tunnel connection failed: 403" in refused.error
        assert "HTTPS_PROXY" in refused.hint
        assert site.asked[-1][0] == "CONNECT host.invalid:443"

    def test_a_proxy_that_is_not_there(self, call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        refused = call("fetch", "https://host.invalid/a.ckpt")
        assert (refused.code, "the proxy" in refused.error) == (4, True)


class TestContent:
    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page saved under a checkpoint's name"),
            (b"\n <html>" + b" " * 3000, "a web page saved under a checkpoint's name"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46339826\n", "a git-lfs pointer"),
            (b'{"error": "Entry not found"}', "index"),
            (b"Not found", "not a checkpoint of a known format"),
            (b"", "is empty"),
        ],
    )
    def test_what_is_no_checkpoint_is_not_kept(
        self, fetch: Run, site: Website, cache: Path, content: bytes, error: str
    ) -> None:
        site.pages["/a.ckpt"] = whole(content, kind="text/html")
        done = fetch()
        assert done.code == 3
        assert error in done.error
        assert done.error.startswith(f"{site.url}/a.ckpt: ")
        assert "/proc/" not in done.err
        assert kept(cache) == []

    def test_a_page_without_end_is_left_at_its_beginning(self, fetch: Run, site: Website) -> None:
        site.pages["/a.ckpt"] = stalling(b"<!doctype html>" + bytes(1 << 20), 70_000)
        assert "a web page" in fetch().error

    def test_half_a_file_of_a_server_that_does_not_say_how_long_it_is(
        self, fetch: Run, site: Website, data: bytes, cache: Path
    ) -> None:
        site.pages["/a.ckpt"] = whole(data[:150_000], length=False)
        assert fetch().code == 3
        assert kept(cache) == []
        site.pages["/a.ckpt"] = whole(data, length=False)
        assert fetch().code == 0

    @pytest.mark.parametrize("length", [True, False])
    def test_too_large(self, fetch: Run, site: Website, data: bytes, cache: Path, length: bool) -> None:
        site.pages["/a.ckpt"] = whole(data, length=length)
        done = fetch("--max-bytes", "100000")
        assert done.code == 3
        told = f"{len(data):,} bytes" if length else "more than 100,000 bytes"
        assert done.error == f"{site.url}/a.ckpt: has {told}, the limit is 100,000"
        assert kept(cache) == []
        assert fetch("--max-bytes", len(data)).code == 0


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "error", "hint"),
        [
            ("outdor_ds", "no published checkpoint has that name", "loftr2flax fetch outdoor_ds"),
            ("zebra", "no published checkpoint has that name", "known are outdoor_ds"),
            ("", "not named", "--list"),
            ("outdoor_ds --list", "--list takes no name", "loftr2flax fetch --list"),
            ("http://example.org/a.ckpt", "over plain http", "--sha256"),
            ("outdoor_ds --from http://example.org/a.ckpt", "over plain http", "--sha256"),
            ("ftp://example.org/a.ckpt", "ftp is not fetched", "name its path"),
            ("file:///tmp/a.ckpt", "file is not fetched", "name its path"),
            ("https:///a.ckpt", "names no server", "https://"),
            ("https://[::1/a.ckpt", "not a URL", "https://"),
            ("https://example.org:99999/a.ckpt", "not a URL", "https://"),
            ("https://me:secret@example.org/a.ckpt", "password", "netrc"),
            ("https://example.org/a.ckpt --from https://example.org/b", "--from goes with a published name", "own"),
        ],
    )
    def test_what_is_not_fetched(self, call: Run, cache: Path, words: str, error: str, hint: str) -> None:
        done = call("fetch", *shlex.split(words))
        assert done.code == 2, done.err
        assert error in done.error
        assert hint in done.hint
        assert "secret" not in done.err
        assert kept(cache) == []

    def test_plain_http_is_taken_where_the_hash_is_known(
        self, call: Run, fetch: Run, site: Website, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", site.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        site.pages["http://host.invalid/a.ckpt"] = site.pages["/a.ckpt"] = whole(data)
        assert call("fetch", "outdoor_ds", "--from", "http://host.invalid/a.ckpt").code == 2
        assert fetch().code == 0
        assert call("fetch", "outdoor_ds", "--again", "--from", "http://host.invalid/a.ckpt").code == 0

    def test_without_the_extra(self, run: Run, cache: Path) -> None:
        prefix = "import sys; sys.modules['requests'] = None"
        done = run("fetch", "https://example.org/a.ckpt", prefix=prefix)
        assert (done.code, done.hint) == (4, "pip install 'loftr2flax[fetch]'")
        assert kept(cache) == []
