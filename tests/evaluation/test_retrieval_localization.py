"""Retrieval with ties counted fairly, and maps that follow the sound or don't, on clips with exact truth."""

import json
import shlex
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from moving_square import PER_FRAME, RATE, SQUARE, BrightnessMeter, envelope, pictures, sound, square_clip, square_video
from PIL import Image

from mmssl import cli
from mmssl.errors import UserError
from mmssl.evaluation.localization import PANELS, centre_prior, correlation, locate_clip, write_overlay, write_picture
from mmssl.evaluation.retrieval import recall_of, retrieve


def test_recall_counts_ties_as_chance():
    constant = recall_of(torch.ones(40, 40))
    assert constant.recall == pytest.approx(constant.chance)
    assert constant.recall[10] == pytest.approx(0.25)
    assert constant.median_rank == 20.5
    assert recall_of(torch.eye(40)).recall == {1: 1.0, 5: 1.0, 10: 1.0}


def test_recall_against_brute_force():
    draw = torch.Generator().manual_seed(0)
    similarity = torch.randint(0, 4, (30, 30), generator=draw).float()
    found = recall_of(similarity).recall
    hits = {1: 0.0, 5: 0.0, 10: 0.0}
    for _ in range(400):  # ties broken at random
        noisy = similarity + 0.5 * torch.rand(30, 30, generator=draw)
        rank = (noisy > noisy.diagonal()[:, None]).sum(1)
        for first in hits:
            hits[first] += float((rank < first).float().mean()) / 400
    assert found == pytest.approx(hits, abs=0.02)


def test_the_right_sound_is_found_and_strangers_are_not():
    clips = [square_clip(2 + 0.2 * seed, seed) for seed in range(12)]
    found = retrieve(BrightnessMeter(), clips, "squares")
    assert (found.clips, found.frames, found.left_out) == (12, 50, 0)
    assert found.to_sound.recall[1] == found.to_video.recall[1] == 1.0
    assert found.to_sound.chance[5] == pytest.approx(5 / 12)
    mixed = [SimpleNamespace(video=a.video[:50], audio=b.audio[: 50 * PER_FRAME])
             for a, b in zip(clips, clips[1:] + clips[:1], strict=True)]  # fmt: skip
    assert retrieve(BrightnessMeter(), mixed, "mixed").to_sound.recall[1] < 0.5
    with pytest.raises(UserError, match="two or more"):
        retrieve(BrightnessMeter(), clips[:1], "one")


@pytest.fixture(scope="module")
def located():
    return locate_clip(BrightnessMeter(), square_clip(2, 1), square_clip(2, 2), 25.0)


def test_the_map_is_where_the_square_is(located):
    mean = located.maps[PANELS[0]].mean(0)
    rows, columns = (slice(each.start // 8, each.stop // 8) for each in SQUARE)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[rows, columns] = True
    assert mean[inside].min() > 0.9
    assert mean[~inside].max() < 0.7
    silent = located.maps["silence"]
    assert not silent.any()


def test_the_sentence_says_whether_the_sound_mattered(located):
    assert located.verdict.startswith("the map changes with the sound")

    class Deaf(BrightnessMeter):
        def locate(self, batch):
            return super().locate({**batch, "audio": torch.from_numpy(sound(envelope(2, 1), seed=1))[None]})

    deaf = locate_clip(Deaf(), square_clip(2, 1), square_clip(2, 2), 25.0)
    assert deaf.agreement("another clip's sound") == pytest.approx(1)
    assert deaf.verdict.startswith("the map hardly changes with the sound")


def test_correlation_and_centre_prior():
    prior = centre_prior(3, 6, 10)
    assert prior.shape == (3, 6, 10)
    torch.testing.assert_close(prior, prior.flip(1).flip(2))
    assert prior[0].argmax() in (24, 25, 34, 35)
    assert correlation(prior, -prior) == pytest.approx(-1, abs=1e-5)
    assert correlation(prior, torch.ones_like(prior)) == 0


def test_overlays_show_all_panels_with_the_sound(located, tmp_path):
    picture = Image.open(write_picture(located, "a caption", tmp_path / "a.png"))
    assert picture.width == 4 * 192
    film = write_overlay(located, RATE, tmp_path / "a.mp4")
    with av.open(str(film)) as container:
        shown = len(list(container.decode(video=0)))
    with av.open(str(film)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert shown == len(located.maps[PANELS[0]]) == 46
    assert abs(len(heard) / RATE - shown / 25) < 0.1
    warm = np.asarray(picture)[22 : 22 + 192, :192].astype(int)
    inside = warm[130:160, 30:66].mean((0, 1))
    assert inside[0] > inside[2] + 40  # red over blue where the square is


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmssl.evaluation.sync_runs.load_predictor", lambda _: BrightnessMeter().eval())
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))
    files = [square_video(tmp_path / "data" / "val" / f"{number}.mp4", 2.0, seed=number) for number in range(4)]
    run = tmp_path / "run"
    run.mkdir()
    cli.main(["retrieve", str(run), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "found")])
    assert "100.0" in capsys.readouterr().out
    found = (tmp_path / "found" / "retrieval.json").read_text()
    again = shlex.split(json.loads(found)["command"])
    cli.main([*again[1:], "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "retrieval.json").read_text() == found
    capsys.readouterr()
    cli.main(["localize", str(run), str(files[0]), "--out", str(tmp_path / "maps"), "--other", str(files[1])])
    assert "the map changes with the sound" in capsys.readouterr().out
    assert {path.suffix for path in (tmp_path / "maps").iterdir()} == {".png", ".mp4"}
    with pytest.raises(SystemExit) as stop:
        cli.main(["localize", str(run), str(files[0]), "--out", str(tmp_path / "maps")])
    assert stop.value.code == 2
    assert "--other" in capsys.readouterr().err


def test_pictures_are_as_bright_as_the_sound_is_loud():
    """The truth that all of these rest on."""
    loudness = envelope(3, 5)
    seen = pictures(loudness)[:, *SQUARE].mean((1, 2))
    heard = sound(loudness).reshape(-1, PER_FRAME).std(1)
    assert np.corrcoef(seen, heard)[0, 1] > 0.98
