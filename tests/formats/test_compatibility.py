"""`docs/pytorch-files.md` says what the program does, for every type and layout that `torch.save` writes."""

from __future__ import annotations

import re

import pytest
import torch
from formats import compatibility


@pytest.mark.filterwarnings("ignore")
def test_the_page_is_what_the_program_does() -> None:
    """Making the page compares every leaf that both read, bit for bit."""
    page = compatibility.PAGE.read_text("utf-8")
    (version,) = re.findall(r"`torch.load` of torch (\S+)\.\s", page)
    if version != torch.__version__.split("+")[0]:
        pytest.skip(f"the page is of torch {version}, this is {torch.__version__}")
    assert compatibility.page() == page


@pytest.mark.filterwarnings("ignore")
def test_every_type_of_this_torch_agrees_or_is_refused_by_name() -> None:
    """Whatever the version: a type that torch gains tomorrow, too."""
    for row in compatibility.dtype_rows():
        name = row.content.strip("`").removeprefix("torch.")
        quantized = name.startswith(("qint", "quint"))
        reason = "quantized tensor" if quantized else f"tensor of type {name}"
        assert set(row.here) <= {"same bits", "—", f"refused: {reason}"}, row


def test_a_reader_that_errs_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "bits", lambda value: bytes(str(type(value)), "ascii"))
    with pytest.raises(AssertionError):
        list(compatibility.layout_rows())
