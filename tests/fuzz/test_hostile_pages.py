"""HTML pages made of strangers' names, texts and numbers: seen by a parser, everything of theirs is text."""

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))
from made_up import Page, write_probe, write_run, write_sweep

from mmssl.report import write_report

EVIL = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
    "</title><svg onload=a()>",
    "{{ 7*7 }}", "javascript:alert(1)", "--><!--", "&lt;b&gt;", "</style><script>a()</script>",
    "\u2028</script>\x00\x1b[2J",
)  # fmt: skip
ALL = " ".join(EVIL)
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3", "h4", "em", "ul", "ol",
    "li", "div", "b", "i", "span", "nav", "main", "section", "code", "figure", "figcaption", "table", "thead", "tbody",
    "tr", "th", "td", "pre", "details", "summary", "svg", "g", "path", "use", "defs", "text", "rect", "clippath",
    "tspan", "dl", "dt", "dd", "small", "article", "footer", "data", "script", "br", "input", "label", "fieldset",
    "legend", "img", "audio", "video", "mark", "sup", "strong", "circle", "line", "polygon", "polyline",
}  # fmt: skip


def looked_over(page: Page, scripts: int) -> Page:
    """No element, attribute or address that data could have brought."""
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert len(page.all("script")) == scripts
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("href", "src", "xlink:href"):
            address = attributes.get(name, "").strip().lower()
            assert not address.startswith(("javascript:", "vbscript:", "data:text")), (tag, attributes)
            assert not address.startswith("x"), (tag, attributes)
    return page


def test_the_page_of_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / ALL.replace("/", "|").replace("\0", "")[:200]
    run = write_run(folder, **{"val_skill_" + ALL: 0.3, "val_reference_" + ALL: 2.0})
    saved = json.loads((run / "config.json").read_text())
    saved["config"] |= {ALL: ALL, "data": ALL, "preset": EVIL}
    saved["command"] = ALL
    saved["versions"] = {"mmssl": ALL}
    (run / "config.json").write_text(json.dumps(saved))
    probe = write_probe(run / "probe")
    report = json.loads(probe.read_text())
    report |= {"label": ALL, "names": list(EVIL[:4]), "notes": [ALL], "raw": ALL}
    report["results"][0]["feature"] = report["results"][1]["feature"] = ALL
    probe.write_text(json.dumps(report))
    other = write_run(tmp_path / "other", "wav2vec2")
    saved = json.loads((other / "config.json").read_text())
    saved["predictor"]["predictor"] = ALL
    (other / "config.json").write_text(json.dumps(saved))
    sweep = write_sweep(tmp_path / "sweep", "image_mae", "masked_autoencoder", {"0.5": [0.4], "0.75": [0.3]})
    table = json.loads((sweep / "sweep.json").read_text())
    table |= {"recipe": ALL, "flags": [ALL], "flag": "mask-fraction"}
    (sweep / "sweep.json").write_text(json.dumps(table))
    page = write_report([run, other, tmp_path / "gone" / "<img src=x>"], tmp_path / "page.html", sweeps=[sweep])
    seen = looked_over(Page(page), scripts=1)
    for text in EVIL[:7]:
        assert text.replace("/", "|") in seen.text or text in seen.text, text
    assert "7*7" in seen.text


def test_the_page_of_texts(tmp_path: Path) -> None:
    from mmssl.evaluation.reveal_text import Token, write_texts

    tokens = [Token(text, True, ((text, 0.5), (other, 0.2))) for text, other in itertools.pairwise(EVIL)]
    tokens += [Token(text, True) for text in EVIL]
    seen = looked_over(Page(write_texts([tokens], ALL, tmp_path / "texts.txt")), scripts=0)
    for text in EVIL[:7]:
        assert text in seen.text
    assert "\x1b" not in (tmp_path / "texts.txt").read_text()


def test_the_page_of_recordings(tmp_path: Path) -> None:
    pytest.importorskip("torchaudio")
    import numpy as np

    from mmssl.evaluation.reveal_audio import write_page
    from mmssl.evaluation.revealed_audio import Clip, Ranks, RevealedClip

    shown = [
        RevealedClip(
            Clip(text, torch.zeros(1600)), 16_000, np.zeros((10, 8), np.float32), np.zeros(5, bool), 0.0, 0.02,
            Ranks(np.zeros(5, np.float32), np.full(5, -1), 10),
        )
        for text in (ALL, EVIL[1])
    ]  # fmt: skip
    seen = looked_over(Page(write_page(shown, ALL, tmp_path / "sounds.html")), scripts=0)
    for text in EVIL[:7]:
        assert text in seen.text


def test_a_page_of_a_stranger_shown_within_ours(tmp_path: Path) -> None:
    """`mmssl compare` shows articles of RUN/reveal/step-*.html, whoever wrote them."""
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run", "masked_language_model", pictures=False)
    (run / "reveal").mkdir()
    inside = "".join(f"<mark class='hit' {text}>{text}</mark>" for text in EVIL)
    (run / "reveal" / "step-00000040.html").write_text(
        f"<article><p>{inside}<iframe src=//x.org></iframe><style>*{{}}</style><svg onload=a()></svg></p></article>"
    )
    looked_over(Page(write_report([run], tmp_path / "page.html")), scripts=1)
