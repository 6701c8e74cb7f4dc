"""A system that refuses at some moment: the old file stays, nothing is left, exit code 4."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conversion import Conversion
from program import Outcome

Run = Callable[..., Outcome]
CALLS = {"open": errno.EMFILE, "write": errno.ENOSPC, "fsync": errno.EIO, "link": errno.EDQUOT, "replace": errno.EROFS}
REWRITE = "pwrite"  # of a header that cannot be final at the beginning: safetensors alone has one, in small files


@pytest.mark.parametrize("name", CALLS)
def test_the_kth_call_fails_for_all_k(
    call: Run, conversion: Conversion, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All calls of one kind in one conversion, each in its turn; past the last one the output is whole."""
    _fail_all(call, conversion, monkeypatch, name, nameless=True)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"link"}))
def test_the_same_where_temporaries_have_names(
    call: Run, npz: Conversion, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _fail_all(call, npz, monkeypatch, name, nameless=False)


@pytest.mark.parametrize("conversion", ["safetensors"], indirect=True)
def test_the_rewriting_of_a_header_fails(call: Run, conversion: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALLS, REWRITE, errno.EIO)
    _fail_all(call, conversion, monkeypatch, REWRITE, nameless=True)


def _fail_all(call: Run, conversion: Conversion, monkeypatch: pytest.MonkeyPatch, name: str, *, nameless: bool) -> None:
    real = getattr(os, name)
    for k in itertools.count():
        conversion.prepare()
        calls = itertools.count()

        def failing(*arguments, k=k, calls=calls, **options):
            if _ours(arguments, conversion.folder) and next(calls) == k:
                raise OSError(CALLS[name], os.strerror(CALLS[name]))
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            if not nameless:
                patch.delattr(os, "O_TMPFILE", raising=False)
            patch.setattr(os, name, failing)
            done = call(*conversion.words)
        whole = conversion.judge(done.code, f"{name} {k}: {done.err}")
        assert "Traceback" not in done.err
        if next(calls) <= k:
            break
        if done.code:
            assert (done.code, whole) == (4, False) or name in ("link", "replace"), done.err
            assert done.error
            assert done.hint
    assert (done.code, whole) == (0, True)
    assert k, "no call was ever made to fail"


def _ours(arguments: tuple[object, ...], folder: Path) -> bool:
    """Whether a call is the conversion's own: it is given a descriptor above the streams, or a path in its folder."""
    first = arguments[0]
    if isinstance(first, int):
        return first > 2
    text = os.fspath(first)  # type: ignore[call-overload]
    return text.startswith(("/proc/self/fd/", str(folder))) or not os.path.isabs(text)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_disk_that_fills_up(conversion: Conversion, share: float) -> None:
    """A limit on a file's size stands for a full disk: the kernel writes part of it, then refuses."""
    limit = int(share * len(conversion.outputs[conversion.output]))

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    program = conversion.start(preexec_fn=limited)
    out, err = program.communicate()
    assert not conversion.judge(program.returncode, err)
    assert program.returncode == 4
    assert err.splitlines()[0] == f"error: {conversion.output}: cannot be written: File too large"
    assert len(err.splitlines()) == 2
    assert out == ""
