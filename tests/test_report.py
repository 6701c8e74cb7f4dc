"""The HTML report: well-formed, self-contained, deaf to what names say, and clear about the verdict."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import parity_reports as reports
import pytest

from loftr2flax.errors import OutputExists
from loftr2flax.markup import counted, element, number, ratio
from loftr2flax.parity.values import Culprit, PairRun, ParityReport, StageRow, WeightsCheck
from loftr2flax.report import render_report, write_report
from loftr2flax.report.pairs import Layout, shared
from loftr2flax.report.tracks import short, tracks

VOID = {"meta", "br", "hr"}
KINDS = {"passing": reports.passing, "failing": reports.failing, "hostile": reports.hostile}


class Page(HTMLParser):
    """Elements, attributes and text of a page; closing tags must match."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + " "

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    @property
    def banner(self) -> str:
        (found,) = (str(f["class"]) for f in self.having("section") if f.get("aria-label") == "verdict")
        return found


@pytest.fixture(params=KINDS)
def page(request: pytest.FixtureRequest) -> str:
    return render_report(KINDS[request.param]())


def test_page_is_well_formed(page):
    assert page.startswith('<!doctype html>\n<html lang="en">')
    parsed = Page(page)
    identities = [found["id"] for _, found in parsed.tags if "id" in found]
    assert len(identities) == len(set(identities))
    uses = {str(found["href"]).removeprefix("#") for found in parsed.having("use")}
    assert uses <= set(identities)


def test_page_needs_nothing_else(page):
    parsed = Page(page)
    assert not re.search(r"https?:|//[a-z]", page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {name for name, _ in parsed.tags}
    assert not [name for _, found in parsed.tags for name in found if name.startswith("on")]
    for name, found in parsed.tags:
        for attribute in ("href", "src"):
            if attribute in found:
                assert str(found[attribute]).startswith(("data:image/jpeg;base64,", "#")), (name, found)
    assert "@import" not in page
    assert "url(" not in page
    (policy,) = (f["content"] for f in parsed.having("meta") if f.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_every_picture_has_words(page):
    parsed = Page(page)
    for found in parsed.having("svg"):
        assert found.get("role") == "img" or found.get("aria-hidden") == "true"
    assert page.count('role="img"') == len(re.findall(r'<svg[^>]*role="img"[^>]*><title>[^<]', page))


def test_names_cannot_become_markup():
    page = render_report(reports.hostile())
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert not any(line.startswith("::") for line in page.splitlines())
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert "<script>alert(1)</script>\\n::error::\\x1b[31m\\u202e" in Page(page).text


def test_pass_says_so():
    parsed = Page(render_report(reports.passing()))
    assert parsed.banner == "banner passes"
    assert "Pass: both networks compute the same function." in parsed.text
    assert "fail" not in parsed.text.lower()
    assert "1.29 times torch’s own rounding error, where 2 is allowed" in parsed.text
    assert "194 leaves with 11,567,088 numbers compared: all equal bit for bit." in parsed.text
    assert "1 that one side alone has: a tie, decided by rounding" in parsed.text
    assert "8 gradients compared: all agree." in parsed.text
    assert "All 8 leaves exercised." in parsed.text


def test_fail_names_the_culprit_first():
    parsed = Page(render_report(reports.failing()))
    assert parsed.banner == "banner fails"
    assert "Fail: the networks do not compute the same function." in parsed.text
    assert "q_proj/kernel is transposed" in parsed.text
    assert parsed.text.index("q_proj/kernel is transposed") < parsed.text.index("The two curves")
    assert parsed.having("rect", class_="culprit")
    assert "20 that rounding does not explain" in parsed.text
    assert "params/coarse_matching/bin_score" in parsed.text
    assert len(parsed.having("path", class_="alone")) == 20


def test_nothing_compared_is_no_pass():
    empty = reports.report((), weights=WeightsCheck(0, 0))
    parsed = Page(render_report(empty))
    assert parsed.banner == "banner nothing"
    assert "Nothing was compared" in parsed.text
    assert "✓" not in parsed.text


def test_absent_stage_and_no_number_are_shown():
    absent = StageRow("conf_matrix", (), (), ("conf_matrix",))
    wrong = StageRow("backbone", (reports.judgement("backbone/0", math.nan, reason="no finite number"),), ())
    parsed = Page(render_report(reports.report((PairRun(reports.inputs("one"), (wrong, absent)),))))
    assert parsed.banner == "banner fails"
    assert "absent: conf_matrix" in parsed.text
    assert "At worst: backbone/0, free run: no finite number." in parsed.text
    for found in parsed.having("circle"):
        assert math.isfinite(float(str(found["cx"])))


def test_worst_elements_are_given_with_place_and_both_values():
    text = Page(render_report(reports.failing())).text
    assert "[0, 12, 5, 7]" in text
    assert "0.48213345" in text


def test_the_page_holds_only_what_it_was_given():
    """No path of the machine that makes it, and no time: the same report gives the same bytes."""
    page = render_report(reports.passing())
    assert page == render_report(reports.passing())
    assert not re.search(r"(?<![<\w])/(home|root|tmp|usr|work)/", page)


def test_images_are_in_the_page_once():
    page = render_report(reports.passing())
    assert page.count("data:image/jpeg") == 2
    assert page.count("<use ") == 4


def test_many_matches_do_not_swell_the_page():
    image = reports.picture(1200, 1600)
    points = reports.points(image, 20_000)
    many = dataclasses.replace(reports.matches(image), torch=points, flax=points, common=len(points), flips=())
    page = render_report(
        reports.report((PairRun(reports.inputs("large", (image, image)), reports.stage_rows(0), many),))
    )
    assert "(150 drawn, the surest)" in page
    assert len(page) < 1_000_000


@pytest.mark.parametrize("shapes", [((120, 160), (120, 160)), ((400, 100), (300, 120)), ((50, 500), (300, 200))])
def test_layout_keeps_points_inside(shapes):
    layout = Layout.of(*shapes)
    for side, (height, width) in enumerate(shapes):
        corners = layout.placed(side, np.array([[0.0, 0.0], [width - 1.0, height - 1.0]]))
        assert (corners >= 0).all()
        assert (corners <= layout.whole).all()
    first, second = layout.placed(0, np.array([[0.0, 0.0]])), layout.placed(1, np.array([[0.0, 0.0]]))
    assert (np.abs(first - second) > 50).any()


def test_shared_matches_are_found_by_place():
    image = reports.picture()
    theirs, ours = reports.matches(image, lost=(2, 5)).torch, reports.matches(image, lost=(2, 5)).flax
    np.testing.assert_array_equal(np.flatnonzero(~shared(theirs, ours)), [2, 5])
    assert shared(ours, theirs).all()


def test_a_culprit_without_stage_or_run():
    changes = {"culprit": Culprit("", "leaves left over", "weights", leaves=tuple(f"a/{n}" for n in range(20)))}
    text = Page(render_report(reports.report(reports.failing().runs, **changes))).text
    assert "The first mistake is in the weights" in " ".join(text.split())
    assert "and 12 more" in text


def test_write_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_report(reports.passing(), path)
    before = path.read_bytes()
    with pytest.raises(OutputExists):
        write_report(reports.failing(), path)
    assert path.read_bytes() == before
    write_report(reports.failing(), path, force=True)
    assert path.read_text("utf-8") == render_report(reports.failing())


def test_without_pillow_the_extra_is_told():
    hidden = "import sys; sys.modules['PIL'] = None"
    code = f"{hidden}\ntry:\n import loftr2flax.report\nexcept Exception as error:\n print(repr(error), error.hint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("EnvironmentFault")
    assert "pip install 'loftr2flax[parity]'" in done.stdout


def test_small_words():
    assert (number(4.1e-7), number(math.inf), number(math.nan), number(2.0)) == ("4.1e−7", "∞", "–", "2")
    assert (ratio(1.2), ratio(2.66e5), ratio(0.0), ratio(99.999)) == ("1.20", "2.66e5", "0", "100.00")
    assert (counted(1, "leaf", "leaves"), counted(2048, "run")) == ("1 leaf", "2,048 runs")
    assert short("loftr_coarse/layers.3") == "coarse 3"
    assert len(short("a_name_that_is_longer_than_a_line")) == 16
    assert element("td", "a < b", None, class_="x", hidden=True, title=None) == '<td class="x" hidden>a &lt; b</td>'


def test_tracks_take_the_worst_run():
    first, second = (PairRun(reports.inputs("x"), reports.stage_rows(seed)) for seed in (0, 1))
    for n, track in enumerate(tracks((first, second))):
        assert track.drift is not None
        assert track.drift.ratio == max(first.stages[n].drift_ratio, second.stages[n].drift_ratio)
        assert track.passed


def test_report_is_a_value_of_the_parity_module():
    assert isinstance(reports.passing(), ParityReport)
    assert reports.passing().exit_code == 0
    assert reports.failing().exit_code == reports.hostile().exit_code == 1
