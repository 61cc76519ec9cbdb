"""The page of a choice of precisions: positions of the marks, and what a reader finds in it."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import pytest

from aimet_torch.report.precision_curve import GroupRow, Point, PrecisionCurve


def curve(**options: object) -> PrecisionCurve:
    points = [
        Point(1.0, 90.0, "all at W8A16"),
        Point(0.5, 88.0, "conv1 to W8A8", is_chosen=True),
        Point(0.25, 60.0, "fc <out> to W4A8"),
        Point(0.3, None),
    ]
    groups = [
        GroupRow("conv1", "W8A16", "W8A8", {"W8A8": 89.0, "W4A8": 80.0}),
        GroupRow("fc <out>", "A16", "A16", {"A8": 60.0}),
    ]
    arguments = {
        "headline": "half of the bit-operations",
        "value_name": "score",
        "points": points,
        "levels": {"FP32": 91.0},
        "groups": groups,
        "group_value_name": "score of phase 1",
        **options,
    }
    return PrecisionCurve(**arguments)


def test_marks_stand_where_their_numbers_say() -> None:
    marks = curve().marks()
    assert [mark.is_chosen for mark in marks] == [False, True, False]
    few, half, all_ = marks
    assert few.x < half.x < all_.x
    # Downwards is more in SVG; distances are those of the values.
    assert (few.y - half.y) / (half.y - all_.y) == pytest.approx((88 - 60) / (90 - 88), rel=0.01)
    assert (half.x - few.x) / (all_.x - half.x) == pytest.approx(0.25 / 0.5, rel=0.01)
    assert "50.0 % of the bit-operations: score 88 (conv1 to W8A8)" in half.tip
    ((level, text),) = curve().level_lines()
    assert text == "FP32 91"
    assert level < all_.y


def test_losses_have_decades() -> None:
    points = [Point(share, loss) for share, loss in ((1.0, 1e-4), (0.5, 1e-3), (0.2, 1e-2))]
    drawn = curve(points=points, levels={}, is_logarithmic=True, is_loss=True)
    ys = [mark.y for mark in drawn.marks()]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2])
    assert not curve(points=[Point(0.5, 0.0)], levels={}, is_logarithmic=True).marks()


def test_the_most_sensitive_group_is_red() -> None:
    good, bad = curve().bars()
    assert (good.grade, bad.grade) == ("good", "poor")
    good, bad = curve(is_loss=True).bars()
    assert (good.grade, bad.grade) == ("poor", "good")
    infinite = [GroupRow("a", "A8", "A8", {"A8": math.inf}), GroupRow("b", "A8", "A8", {"A8": 1.0})]
    assert [bar.height for bar in curve(groups=infinite).bars()]


def test_the_page_needs_nothing_else(tmp_path) -> None:
    path = curve().write_html(tmp_path / "page.html")
    text = path.read_text()
    assert "half of the bit-operations" in text
    assert text.count("<circle") == 3
    assert "fc &lt;out&gt;" in text
    assert "fc <out>" not in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)


def test_a_page_without_points_or_sensitivity() -> None:
    text = curve(points=[], groups=[], levels={}).to_html()
    assert "<svg" not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_draws_it(tmp_path) -> None:
    page = curve().write_html(tmp_path / "page.html")
    text = page.read_text()
    # What a script sees once the page is there, written where --dump-dom finds it.
    probe = (
        "<script>const all = [...document.querySelectorAll('circle')].map((c) => "
        "c.getBoundingClientRect()); document.title = all.filter((b) => b.width > 4).length + "
        "' marks ' + document.querySelectorAll('rect.v').length + ' bars';</script></body>"
    )
    page.write_text(text.replace("</body>", probe))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "<title>3 marks 2 bars</title>" in done.stdout
