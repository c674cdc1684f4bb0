from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from objectwise.core import UserError
from objectwise.figures import Section, Table, confusion_figure, figure_png, write_report

VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """The page as it is parsed: tags, attributes, text by innermost tag; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and data.strip():
            self.text.setdefault(self.stack[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    figure = confusion_figure(np.array([[3, 1], [0, 4]]))
    return write_report(
        tmp_path / "report.html",
        "AIR on <digits> & more",
        [
            Section(
                "Counts", "First.\n\nSecond <b>bold</b>.", [(figure, 'counts "quoted"'), (figure_png(figure), "bytes")]
            ),
            Section("Per count", table=Table(["count", "accuracy"], [[0, 0.98123], [1, float("nan")]])),
        ],
        summary="Found without labels.",
        notices=["Smoke run: the numbers mean nothing."],
        numbers={"count_accuracy": (0.97312, "95 % interval 0.96 to 0.98"), "images": 1000},
        config="model:\n  likelihood_std: 0.3  # <tag>\n",
        command="objectwise train air-digits --seed 0 && echo '<done>'",
    )


def test_page_is_self_contained(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "//" not in text.replace("/base64", "").split("<body>")[0]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    sources = [a.get("src") or a.get("srcset") for tag in ("img", "source") for a in page.all(tag)]
    assert len(sources) == 3
    for source in sources:
        assert source is not None
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert "@import" not in text
    assert "url(" not in text


def test_page_says_everything_once_and_escaped(written: Path) -> None:
    page = Page(written.read_text(encoding="utf-8"))
    assert page.text["h1"] == page.text["title"] == ["AIR on <digits> & more"]
    assert page.text["h2"] == ["Counts", "Per count", "How this was made"]
    assert "Second <b>bold</b>." in page.text["p"]
    assert "Smoke run: the numbers mean nothing." in page.text["p"]
    assert page.text["code"] == [
        "objectwise train air-digits --seed 0 && echo '<done>'",
        "model:\n  likelihood_std: 0.3  # <tag>\n",
    ]
    assert page.text["summary"] == ["Configuration"]
    assert page.all("details") == [{}]  # folded
    assert page.text["figcaption"] == ['counts "quoted"', "bytes"]
    assert [image["alt"] for image in page.all("img")] == ['counts "quoted"', "bytes"]
    assert "b" not in {tag for tag, _ in page.tags}
    cells = page.text["td"]
    assert cells[:3] == ["0.9731", "95 % interval 0.96 to 0.98", "1000"]
    assert "count accuracy" in page.text["th"]
    assert cells[3:] == ["0", "0.9812", "1", "nan"]


def test_page_suits_phones_and_dark_rooms(written: Path) -> None:
    page = Page(written.read_text(encoding="utf-8"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert {"charset": "utf-8"} in page.all("meta")
    assert page.all("source")[0]["media"] == "(prefers-color-scheme: dark)"
    assert "prefers-color-scheme: dark" in page.text["style"][0]
    assert page.all("html") == [{"lang": "en"}]


def test_same_input_gives_the_same_bytes_and_replaces_the_file(tmp_path: Path) -> None:
    figure = confusion_figure(np.eye(2, dtype=int))
    pages = [
        write_report(tmp_path / "report.html", "t", [Section("s", figures=[(figure, "c")])]).read_bytes()
        for _ in range(2)
    ]
    assert pages[0] == pages[1]
    assert [path.name for path in tmp_path.glob("report*")] == ["report.html"]


def test_least_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "a.html", "only a title").read_text(encoding="utf-8"))
    assert page.text["h1"] == ["only a title"]
    assert page.all("footer") == []


def test_a_title_that_looks_like_a_placeholder_is_only_a_title(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "a.html", "{body} {style}", [Section("{title}")]).read_text(encoding="utf-8"))
    assert page.text["h1"] == page.text["title"] == ["{body} {style}"]
    assert page.text["h2"] == ["{title}"]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 columns and a row of 1"):
        write_report(tmp_path / "a.html", "t", [Section("s", table=Table(["a", "b"], [[1]]))])
    with pytest.raises(UserError, match="cannot write"):
        write_report(tmp_path / "absent" / "a.html", "t")
    assert not list(tmp_path.glob("*.html"))
