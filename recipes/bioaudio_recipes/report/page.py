"""The whole page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from bioaudio_recipes.report.classification_figures import classification_figures
from bioaudio_recipes.report.markup import Markup, element
from bioaudio_recipes.report.overview import headline, title_of, what_was_run
from bioaudio_recipes.report.perplexity_figures import perplexity_figures
from bioaudio_recipes.report.run_results import RunResults
from bioaudio_recipes.report.sound_sections import sound_sections
from bioaudio_recipes.report.training_figures import classifier_training, training_figures

NOTHING_FETCHED = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's own rule to the browser: fetch nothing, run nothing."""
SOUND_INSIDE = "; img-src data:; media-src data:"
"""With clips: pictures and sounds that are written in the page itself."""


def report_page(runs: Sequence[RunResults], date: str) -> str:
    """HTML of the report on one run or several.

    Args:
        runs: what their folders hold.
        date: when the page is written.
    """
    several = len(runs) > 1
    main = [
        element("p", "bioaudio report", class_="kicker"),
        element("h1", title_of(runs)),
        element("p", f"Written {date}", class_="muted"),
    ]
    if several:
        main.append(_section("Held-out perplexity", perplexity_figures(runs)))
    for number, run in enumerate(runs):
        main += [element("h2", run.name, class_="run"), headline(run)] if several else [headline(run)]
        main += [element("section", element("h2", "What was run"), what_was_run(run))]
        main += [] if several else [_section("Held-out perplexity", perplexity_figures(runs))]
        sections = sound_sections(run.sound, f"run{number}")
        main += [element("section", element("h2", title), content) for title, content in sections]
        main.append(_section("Training", training_figures(run.metrics, f"run{number}")))
        if run.classification is not None:
            figures = classification_figures(run.classification, f"run{number}")
            main.append(_section("Classification", figures))
        main.append(_section("Fine-tuning", classifier_training(run.finetuning, run.units, f"run{number}")))
    has_sound = any(run.sound for run in runs)
    style = "".join(_read(name) for name in ("style.css", *(("sound.css",) if has_sound else ())))
    rule = NOTHING_FETCHED + (SOUND_INSIDE if has_sound else "")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=rule),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title_of(runs)} - bioaudio report"),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *main))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _read(name: str) -> str:
    return files("bioaudio_recipes.report").joinpath(name).read_text(encoding="utf-8")


def _section(title: str, figures: Iterable[Markup]) -> Markup:
    """A heading with its figures; nothing where there is none."""
    found = list(figures)
    if not found:
        return Markup("")
    return element("section", element("h2", title), element("div", *found, class_="figures"))
