"""The page of `mmssl compare`: every number is recomputed from the files that it names, and nothing is loaded."""

import html
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from made_up import Page, write_probe, write_run, write_sounds, write_sweep
from PIL import Image

from mmssl import __version__, cli
from mmssl.errors import UserError
from mmssl.report import page as report_page
from mmssl.report import write_report
from mmssl.report.media import texts_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs, of which one is half done, one failed and of another version; two sweeps."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "images", val_reference_interpolation=1.5)
    write_probe(root / "images" / "probe" / "shape")
    write_probe(root / "images" / "probe" / "colour", "colour", 0.45)
    write_run(root / "speech", "best_rq", scale=0.2, done=20, val_reference_repeat=1.9)
    write_sounds(root / "speech" / "reveal")
    senses = {
        "val_skill_sound_from_sight": 0.15,
        "val_skill_sound_from_both": 0.25,
        "val_skill_sight_from_sound": -0.01,
    }
    write_run(root / "senses", "audio_visual_masked", **senses)
    write_run(root / "text", "masked_language_model", version="0.0.9", pictures=False)
    with (root / "text" / "journal.jsonl").open("a") as journal:
        journal.write('{"step": 45, "loss": null}\n')
    write_sweep(root / "fractions", "image_mae", "masked_autoencoder", {"0.5": [0.4, 0.5], "0.75": [0.3, 0.36]})
    write_sweep(root / "words", "text_bert", "masked_language_model", {"0.15": [0.2, 0.3], "0.5": [0.25, 0.33]})
    return root


@pytest.fixture(scope="module")
def page(runs):
    names = ("images", "speech", "senses", "text", "gone")
    file = write_report(
        [runs / name for name in names], runs / "report.html", sweeps=[runs / "fractions", runs / "words"]
    )
    return Page(file)


def recompute(runs, source: str) -> float:
    """The number that a source names, read again from its file, by none of the report's code."""
    file, key = re.split(r", (?=step )|: |, (?=0\.)", source, maxsplit=1)
    if file.endswith("journal.jsonl"):
        step, key = re.fullmatch(r"step (\d+): (.*)", key).groups()
        lines = [json.loads(line) for line in (runs / file).read_text().splitlines()]
        entry = next(line for line in lines if line["step"] == int(step))
        if found := re.fullmatch(r"1 - (\w+) / (\w+)", key):
            return 1 - entry[found[1]] / entry[found[2]]
        return entry[key]
    data = json.loads((runs / file).read_text())
    if file.endswith("sweep.json"):
        value, key = key.split(": ")
        entries = data["results"][value]
        skills = [entry["val_skill"] for entry in entries]
        guesses = [1 - entry["val_reference_interpolation"] / entry["val_reference"] for entry in entries]
        return {"mean of val_skill": statistics.fmean(skills), "lowest val_skill": min(skills),
                "highest val_skill": max(skills), "number of seeds": len(skills),
                "mean of 1 - val_reference_interpolation / val_reference": statistics.fmean(guesses)}[key]  # fmt: skip
    if key == "chance":
        return 1 / len(data["names"])
    kind, feature, method, labels = re.fullmatch(r"(.*), (.*), (.*), (\d+) labels", key).groups()
    wanted = (kind, feature, method, int(labels))
    keys = ("representation", "feature", "method", "labels")
    (row,) = [row for row in data["results"] if tuple(row[key] for key in keys) == wanted]
    return statistics.fmean(row["accuracies"])


def test_every_number_is_that_of_its_file(page, runs):
    assert len(page.numbers) >= 50
    for value, _, source in page.numbers:
        assert value == pytest.approx(recompute(runs, source), abs=1e-12), source


def test_every_number_is_written_as_it_is(page):
    """What is read rounds what is meant, in the unit that stands behind it."""
    for value, text, source in page.numbers:
        number, *_ = re.split(r" |±", text.replace("\N{MINUS SIGN}", "-").replace(",", ""))
        unit = text.split(" ")[-1]
        factor = {"%": 100, "min": 1 / 60, "h": 1 / 3600}.get(unit, 1)
        digits = len(number.partition(".")[2])
        assert float(number) == pytest.approx(factor * value, abs=0.5001 * 10**-digits), (text, source)


def test_the_numbers_that_matter_are_there(page):
    """The last validation of each run, both baselines, the other sense, the sweeps and both probes."""
    sources = {source for _, _, source in page.numbers}
    assert {
        "images/journal.jsonl, step 40: val_skill",
        "speech/journal.jsonl, step 20: val_skill",
        "text/journal.jsonl, step 40: val_skill",
        "images/journal.jsonl, step 40: 1 - val_reference_interpolation / val_reference",
        "speech/journal.jsonl, step 20: 1 - val_reference_repeat / val_reference",
        "senses/journal.jsonl, step 40: val_skill_sound_from_sight",
        "fractions/sweep.json, 0.75: mean of val_skill",
        "words/sweep.json, 0.15: highest val_skill",
        "images/probe/shape/probe-shape.json: pretrained, mean, linear, 400 labels",
        "images/probe/colour/probe-colour.json: raw input, flat, linear, 100 labels",
    } <= sources
    assert "Highest: images (fractions) at 50 %; text (words) at 50 %." in page.text


def test_words_hold_no_numbers_of_their_own(page):
    """Prose of the parts with figures is written without numbers, so nothing can be typed in there."""
    body = page.source[page.source.index('<section id="measure">') : page.source.index('<section id="understand">')]
    for pattern in (
        r"<svg.*?</svg>",
        r"<data.*?</data>",
        r"<pre.*?</pre>",
        r"<thead>.*?</thead>",
        r"<td>[\d.]+ %</td>",
    ):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    body = body.replace("Highest: images (fractions) at 50 %; text (words) at 50 %.", "")  # values of the flag
    assert re.findall(r"\d+", html.unescape(re.sub(r"<[^>]*>", "", body))) == []


def test_what_is_missing_or_odd_is_said(page):
    assert "gone does not exist: train it, or correct its name" in page.text
    assert "It is not finished: step 20 of 40." in page.text
    assert "It failed at step 45: the loss was no longer a finite number." in page.text
    assert f"It was made by mmssl 0.0.9, this page by {__version__}." in page.text
    assert "Not probed: speech, senses, text." in page.text


def test_the_title_counts_modalities(page):
    assert "One principle, four modalities" in page.text


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "srcset", "poster", "data", "action", "background"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        href = attributes.get("href", "#")
        assert href.startswith("#") or (tag == "a" and href.startswith("https://arxiv.org/abs/")), (tag, href)
    styles = page.source.lower()
    assert "@import" not in styles
    assert not re.search(r"url\((?!#)", styles)
    assert not re.search(r"https?://(?!arxiv\.org/abs/)", styles)


def test_the_page_is_valid_and_can_be_read_without_seeing_it(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("for", "aria-labelledby"):
            assert attributes.get(name) in (None, *ids)
        target = attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in ids, target
        for target in re.findall(r"url\(#([^)]*)\)", " ".join(attributes.values())):
            assert target in ids
    assert all(len(image["alt"]) > 30 and image["width"] and image["height"] for image in page.all("img"))
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) >= 5
    assert all(svg.get("aria-hidden") or (svg["role"], svg["aria-labelledby"])[0] == "img" for svg in page.all("svg"))
    assert "images ends at 0.422" in page.text
    assert page.all("html")[0]["lang"] == "en"
    assert [tag for tag, _ in page.elements if tag == "h1"] == ["h1"]


def test_charts_have_text_and_the_colours_of_the_scheme(page):
    start = page.source.index('<svg class="chart"')
    svg = page.source[start : page.source.index("</svg>", start)]
    assert "minutes of training</text>" in svg
    assert "var(--run0)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"(fill|stroke): #[0-9a-f]{6}", svg)
    assert "@media (prefers-color-scheme: dark)" in page.source
    assert "@media print" in page.source


def test_sliders_go_through_training_and_mask_fractions(page):
    radios = page.all("input")
    assert [radio["data-label"] for radio in radios if radio["name"] == "run-0"] == [
        "step 10", "step 20", "step 30", "step 40"]  # fmt: skip
    assert [radio["data-label"] for radio in radios if radio["name"] == "sweep-fractions"] == ["50 %", "75 %"]
    assert len(page.all("audio")) == 2
    groups = {radio["name"] for radio in radios}
    assert sum("checked" in radio for radio in radios) == len(groups)


def test_the_settings_are_those_of_the_runs(page):
    assert "learning rate 0.00125 0.00125 0.00125 0.00125" in page.text
    assert "python recipes/some.py --out images" in page.text
    assert "python recipes/sweep.py image_mae" in page.text


def test_a_page_stays_below_ten_megabytes(tmp_path, monkeypatch):
    """Here with a limit that small pictures come to: sliders lose places until the page is below it."""
    assert report_page.LARGEST == 10_000_000
    run = write_run(tmp_path / "run", pictures=False)
    (run / "reveal").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    for step in range(1, 7):
        Image.fromarray(noise).save(run / "reveal" / f"step-{step:08d}.png")
    whole = write_report([run], tmp_path / "page.html").stat().st_size
    monkeypatch.setattr(report_page, "LARGEST", whole - 1)
    page = write_report([run], tmp_path / "page.html")
    assert page.stat().st_size < whole
    assert [radio["data-label"] for radio in Page(page).all("input")] == ["step 1", "step 3", "step 6"]
    assert "sliders have fewer places" in Page(page).text


def test_names_and_texts_of_strangers_do_nothing(tmp_path):
    run = write_run(tmp_path / "<img src=x onerror=alert(1)>", pictures=False)
    (run / "reveal").mkdir()
    (run / "reveal" / "step-00000040.html").write_text(
        "<p>head</p><article><p>a <mark class=hit onclick=evil()>b<sup>1</sup></mark> &lt;script&gt;</p>"
        "<script>evil()</script><table><tr><td class=n>1</td></tr></table><a href=https://x.org>c</a></article>"
    )
    page = Page(write_report([run], tmp_path / "page.html"))
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert not any("onclick" in attributes for _, attributes in page.elements)
    assert len(page.all("script")) == 1
    assert [mark["class"] for mark in page.all("mark")] == ["hit"]
    assert "x.org" not in page.source


def test_texts_that_were_cut_are_closed():
    cut = texts_of("<article><p>some <mark class=hit>word")
    assert cut == '<article><p>some <mark class="hit">word</mark></p></article>'


def test_refusals(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="is a folder: name the page"):
        write_report([run], tmp_path)
    with pytest.raises(UserError, match=r"nothing to show: .*gone does not exist"):
        write_report([tmp_path / "gone"], tmp_path / "page.html")


def test_damaged_runs_probes_and_sweeps_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    write_run(tmp_path / "empty", done=0, pictures=False)
    damaged = write_run(tmp_path / "damaged")
    (damaged / "journal.jsonl").write_text('{"step": 5\n{"step": 10}\n')
    (run / "probe").mkdir()
    (run / "probe" / "probe.json").write_text('{"results": 3}')
    (run / "reveal" / "step-00000050.png").write_text("no picture")
    (tmp_path / "sweep").mkdir()
    names = [tmp_path / name for name in ("run", "empty", "damaged")]
    text = Page(write_report(names, tmp_path / "page.html", sweeps=[tmp_path / "sweep"])).text
    assert "empty/journal.jsonl has no complete line" in text.replace(str(tmp_path) + "/", "")
    assert "line 1 is damaged" in text
    assert "run/probe/probe.json is not what this version of mmssl probe writes" in text
    assert "recipes/sweep.py writes it when all of its runs are done" in text


def test_a_run_before_its_first_validation(tmp_path):
    run = write_run(tmp_path / "run", "of_the_future", done=5, pictures=False)
    text = Page(write_report([run], tmp_path / "page.html")).text
    assert "It has not been validated yet." in text
    assert "a predictor that this version does not know" in text
    assert "No run has been validated yet" in text


def test_sweeps_whose_runs_were_probed(tmp_path):
    folder = write_sweep(tmp_path / "images", "image_mae", "masked_autoencoder", {"0.5": [0.4], "0.75": [0.3]})
    write_probe(folder / "mask-fraction-0.5-seed-0" / "probe", pretrained=0.6)
    write_probe(folder / "mask-fraction-0.75-seed-0" / "probe", pretrained=0.7)
    page = Page(write_report([], tmp_path / "page.html", sweeps=[folder]))
    assert "Telling shape apart, against mask fraction" in page.text
    assert {"61.0 %", "71.0 %"} <= {text for _, text, _ in page.numbers}


def test_a_sweep_of_two_flags_is_a_line_a_value_of_the_other(tmp_path):
    for sampler, skill in (("random", 0.4), ("block", 0.25)):
        folder = tmp_path / "images" / f"sampler-{sampler}"
        write_sweep(folder, "image_mae", "masked_autoencoder", {"0.5": [skill], "0.75": [skill / 2]})
    described = {"recipe": "image_mae", "flag": "mask-fraction", "flags": [], "by": "sampler", "lines": {}}
    described["lines"] = {"random": {}, "block": {}}
    (tmp_path / "images" / "sweep.json").write_text(json.dumps(described))
    page = Page(write_report([], tmp_path / "page.html", sweeps=[tmp_path / "images"]))
    assert "Highest: images (sampler-random) at 50 %; images (sampler-block) at 50 %." in page.text
    assert {"0.400", "0.250"} <= {text for _, text, _ in page.numbers}


def test_the_command_writes_beside_the_first_run(tmp_path, capsys):
    one, two = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")
    cli.main(["compare", str(one), str(two)])
    file = tmp_path / "a" / "report.html"
    assert capsys.readouterr().out.strip() == str(file)
    page = Page(file)
    assert {"a/run", "b/run"} <= set(page.words)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["compare"])
    assert "give at least one run folder" in capsys.readouterr().err


def test_a_real_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "training"))
    from tiny import train

    train(tmp_path / "run", steps=4, validate_every=2)
    page = Page(write_report([tmp_path / "run"], tmp_path / "page.html"))
    assert len(page.numbers) > 5
    for value, _, source in page.numbers:
        assert value == pytest.approx(recompute(tmp_path, source), abs=1e-12)
