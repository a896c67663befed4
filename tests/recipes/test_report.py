"""`bioaudio report`: one page that fetches nothing, escapes everything, and takes runs with parts missing."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bioaudio_recipes.cli import run
from bioaudio_recipes.report.axis import Axis, bases_label, decades, log_span, span, tick_labels
from bioaudio_recipes.report.line_chart import LineChart, Series
from bioaudio_recipes.report.markup import Markup, element
from bioaudio_recipes.report.perplexity_figures import best_known_bins
from bioaudio_recipes.report.standalone import standalone_svg
from bioaudio_recipes.run_folder import RunFolder
from fake_run import APES, write_fake_run
from hypothesis import example, given
from hypothesis import strategies as st

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Parses a page strictly: every element is closed in order, every id is unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        ids = self.values("id")
        assert len(ids) == len(set(ids)), "an id appears twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def written_report(*roots: Path) -> str:
    run("report", [str(root) for root in roots])
    return RunFolder(roots[0]).report.read_text(encoding="utf-8")


def test_page_is_well_formed_and_fetches_nothing(tmp_path: Path) -> None:
    text = written_report(write_fake_run(tmp_path / "apes"))
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert not {"src", "href", "srcset", "action", "style"} & {name for name, _ in page.attributes}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search(r"@import|url\(|https?:", style[1])
    assert "default-src 'none'" in "".join(page.values("content"))


def test_page_says_what_was_run_and_found(tmp_path: Path) -> None:
    text = " ".join(Page(written_report(write_fake_run(tmp_path / "apes"))).text)
    for expected in (
        "bioaudio pretrain --config pretrain/great_apes_chr22",
        "NVIDIA H100",
        "torch 2.11.0",
        "2026-11-22T17:04:11Z",
        "split: fraction",
        "order-16 interpolated",
        "chance 25%",
        "1.4 M",
        *APES,
    ):
        assert expected in text, expected


def test_the_context_study_reaches_whole_contigs(tmp_path: Path) -> None:
    root = write_fake_run(tmp_path / "apes")
    path = root / "evaluation" / "perplexity.json"
    results = json.loads(path.read_text())
    whole = results["lengths"][-1] | {"length": 20_094_753, "whole": "contig", "perplexity": 3.345}
    far = {"first": 2**24, "last": 20_094_752, "bits_per_base": 1.742, "bases": 1_048_576}
    path.write_text(json.dumps(results | {"lengths": [*results["lengths"], whole | {"by_position": [far]}]}))
    text = " ".join(Page(written_report(root)).text)
    for expected in (
        "test perplexity at 19.16M bases",
        "apes, whole contigs, up to 20,094,753",
        "The last point reads whole contigs in one go",
        "outside the frame: order-8 3.664",
        "16,777,216 to 20,094,752",
    ):
        assert expected in text, expected


def test_each_distance_is_of_the_windows_with_most_bases() -> None:
    near, far = {"first": 1, "last": 1, "bases": 9, "bits_per_base": 1.9}, {"first": 2, "last": 3, "bases": 2}
    rare = {"first": 1, "last": 1, "bases": 3, "bits_per_base": 1.2}
    assert best_known_bins([{"by_position": [near]}, {}, {"by_position": [rare, far]}]) == [near, far]


def test_every_figure_is_named_for_those_who_do_not_see_it(tmp_path: Path) -> None:
    page = Page(written_report(write_fake_run(tmp_path / "apes")))
    ids = set(page.values("id"))
    labels = page.values("aria-labelledby")
    assert (
        len(labels) == page.tags.count("svg") == page.tags.count("figure") == page.tags.count("details") - 1
    )
    assert all(name in ids for label in labels for name in label.split())


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "</title></svg>"]
    root = write_fake_run(
        tmp_path / "<b>run<", classes=hostile, genome="</style><script>", config="a: </pre><script src=//x>\n"
    )
    page = Page(written_report(root))
    assert not {"script", "img", "b"} & set(page.tags)
    text = "".join(page.text)
    assert all(name in text for name in (*hostile, "</style><script>", "</pre><script src=//x>", "<b>run<"))


@pytest.mark.parametrize(
    "missing",
    [
        ["metrics.csv"],
        ["config.yaml"],
        ["evaluation"],
        ["evaluation/perplexity.json"],
        ["evaluation/classification.json", "finetune"],
        ["metrics.csv", "config.yaml", "evaluation", "finetune"],
    ],
    ids=" ".join,
)
def test_parts_may_be_missing(tmp_path: Path, missing: list[str]) -> None:
    root = write_fake_run(tmp_path / "apes")
    for name in missing:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = "".join(Page(written_report(root)).text)
    assert "What was run" in text
    assert ("Classification" in text) == (root / "evaluation" / "classification.json").exists()
    assert ("Training" in text) == (root / "metrics.csv").exists()


def test_several_runs_share_one_page(tmp_path: Path) -> None:
    first, second = write_fake_run(tmp_path / "small"), write_fake_run(tmp_path / "large")
    page = Page(written_report(first, second))
    assert "small, large" in page.text
    assert not RunFolder(second).report.exists()


def test_a_run_of_one_logged_step_is_drawn(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "short").create()
    folder.metrics.write_text("step,train/loss,train/length,val/perplexity@64\n1,1.4,64,nan\n")
    assert "loss (nats)" in "".join(Page(written_report(folder.root)).text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", "step,train/loss\n1,low\n", "line 2"),
        ("evaluation/perplexity.json", "{", "not JSON"),
        ("evaluation/perplexity.json", "{}", "bioaudio evaluate"),
        ("evaluation/classification.json", '{"classes": ["a"], "chance": "<b>", "lengths": []}', "chance"),
        ("environment.json", "[]", "no JSON object"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    root = write_fake_run(tmp_path / "apes")
    (root / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run("report", [str(root)])
    assert Path(name).name in str(error.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        run("report", [str(tmp_path)])


def test_recall_is_that_of_the_matrix(tmp_path: Path) -> None:
    root = write_fake_run(tmp_path / "apes", classes=["x", "y"])
    path = root / "evaluation" / "classification.json"
    content = json.loads(path.read_text())
    content["lengths"] = content["lengths"][:1]
    content["lengths"][0]["confusion"] = [[3, 1], [0, 0]]
    path.write_text(json.dumps(content))
    text = Page(written_report(root)).text
    assert "75.0%" in text
    assert "none tested" in text


@given(st.text())
def test_element_round_trips_any_text(text: str) -> None:
    page = Page(element("p", text, title=text))
    assert "".join(page.text) == text
    assert page.values("title") == [text]
    assert element("p", Markup("<i></i>")) == "<p><i></i></p>"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.booleans())
@example([5e-324], True)
@example([0.0, 1e-320], False)
def test_linear_axes_hold_their_values_and_ticks(values: list[float], from_zero: bool) -> None:
    low, high = span(values, from_zero)
    axis = Axis(low, high, 0, 100)
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in values)
    ticks = axis.ticks(5)
    assert 1 <= len(ticks) <= 7
    assert len(set(tick_labels(ticks))) == len(ticks)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_logarithmic_axes_hold_their_values_and_at_least_a_tick(values: list[float]) -> None:
    low, high = log_span(values)
    axis = Axis(low, high, 0, 100, is_log=True)
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in values)
    ticks = decades(low, high)
    assert all(low <= tick <= high for tick in ticks)
    assert ticks or high / low < 2.5


def test_decades_are_filled_where_they_are_few() -> None:
    assert decades(0.5, 2000) == [1, 10, 100, 1000]
    assert decades(0.9, 30) == [1, 2, 5, 10, 20]


def test_a_chart_of_its_own_is_whole() -> None:
    hostile = "<b>&"
    series = [Series(name=name, x=[1, 2], y=[3, 400]) for name in ("ours", hostile)]
    chart = LineChart(
        title=hostile, description="d", x_label="x", y_label="y", series=series, x_log=True, y_log=True
    )
    svg = ElementTree.fromstring(standalone_svg(chart))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [part.text for part in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"ours", hostile, "10", "100"} <= set(texts)
    assert "var(" not in standalone_svg(chart)


def test_lengths_are_written_in_binary_thousands() -> None:
    assert [bases_label(n) for n in (64, 1024, 1536, 65536, 2**20)] == ["64", "1k", "1.5k", "64k", "1M"]


def test_long_curves_are_thinned() -> None:
    steps = list(range(100_000))
    series = Series(name="s", x=steps, y=[float(step) for step in steps])
    chart = LineChart(title="t", description="d", x_label="x", y_label="y", series=[series])
    assert len(chart.draw("c")) < 20_000
