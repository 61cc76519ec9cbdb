"""What all pages share: the frame, its parts, and how numbers are written."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from aimet_torch.report import pages
from tests.python.report.test_document import Page

FOLDER = Path(pages.__file__).parent
TEMPLATES = sorted(path.name for path in FOLDER.glob("*.html"))


@pytest.fixture
def render_text(monkeypatch):
    """Render the text of a template that stands beside the package's own."""

    def render(text: str, **context: object) -> str:
        own = pages._jinja()
        loader = jinja2.ChoiceLoader([jinja2.DictLoader({"new.html": text}), own.loader])
        monkeypatch.setattr(pages, "_jinja", lambda: own.overlay(loader=loader))
        return pages.render("new.html", **context)

    return render


@pytest.mark.parametrize("name", [n for n in TEMPLATES if n not in ("base.html", "parts.html")])
def test_every_page_has_the_frame_from_one_place(name) -> None:
    text = (FOLDER / name).read_text()
    assert text.startswith('{% extends "base.html" %}')
    for tag in ("<html", "<head", "<style", "<script", "<main", "<h1", "<h2>Environment"):
        assert tag not in text, f"{tag} belongs into base.html"


def test_a_page_is_its_blocks_in_the_frame(render_text) -> None:
    text = render_text(
        """{% extends "base.html" %}
{% from "parts.html" import bar_chart, filter, key, pairs, sentences, share %}
{% block title %}A <b> title{% endblock %}
{% block lead %}{{ lead }}{% endblock %}
{% block content %}
{{ key([("good", "fine"), ("poor", "not")]) }}
{{ bar_chart("Noise", bars, [(0.5, "half")]) }}
{{ filter("names", "Filter by name", "Filter") }}
{{ pairs("operator", "reason", [("a<b", "because")]) }}
{{ sentences(["one < two"]) }}
<p>{{ share(0.25) }} {{ 1536|bytes }} {{ 1500000|short_count }} {{ 3.14159|number }}</p>
{% endblock %}
""".replace("A <b> title", "{{ title }}"),
        title="A <b> title",
        lead="x < y",
        bars=[
            pages.Bar("first", 0.25, "good", "first: 10 dB"),
            pages.Bar("last<", 1.0, "poor", "last<: 40 dB"),
        ],
        environment={"torch": "2.13.0"},
    )
    page = Page(text)
    assert page.unbalanced == []
    assert page.open == []
    assert page.links == []
    assert page.tags.count("rect") == 2
    assert "b" not in page.tags
    assert page.text.count("A <b> title") == 2  # of the window and of the page
    for expected in (
        "x < y",
        "first: 10 dB",
        "last<: 40 dB",
        "half",
        "a<b",
        "because",
        "one < two",
        "25.0 %",
        "1.50 KiB",
        "1.50 M",
        "3.142",
        "2.13.0",
    ):
        assert expected in page.text
    assert 'class="v poor" x="' in text
    assert 'height="50.0"' in text  # a quarter of 200
    assert 'height="200.0"' in text


def test_a_page_without_environment_ends_with_its_content(render_text) -> None:
    blocks = "".join(
        f"{{% block {name} %}}{name}{{% endblock %}}" for name in ("title", "lead", "content")
    )
    text = render_text('{% extends "base.html" %}' + blocks)
    assert "Environment" not in text
    assert "content" in text


@pytest.mark.parametrize("missing", ["title", "lead", "content"])
def test_a_page_must_fill_every_block(render_text, missing) -> None:
    blocks = "".join(
        f"{{% block {name} %}}{name}{{% endblock %}}"
        for name in ("title", "lead", "content")
        if name != missing
    )
    with pytest.raises(jinja2.TemplateRuntimeError, match=f"Required block '{missing}' not found"):
        render_text('{% extends "base.html" %}' + blocks)


def test_an_unknown_name_is_an_error(render_text) -> None:
    with pytest.raises(jinja2.UndefinedError, match="resutl"):
        render_text("{{ resutl }}")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (3 * 2**20, "3.00 MiB"),
        (2**31, "2.00 GiB"),
    ],
)
def test_format_bytes(count, text) -> None:
    assert pages.format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1000, "1.00 k"), (300_770_000, "300.77 M"), (4_090_000_000, "4.09 G")],
)
def test_format_count(count, text) -> None:
    assert pages.format_count(count) == text
