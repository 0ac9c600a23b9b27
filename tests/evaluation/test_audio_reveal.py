"""Pictures and pages of recordings: where hidden spans are, what is heard of the rest, and that names stay text."""

import base64
import io
import re
import wave

import numpy as np
import pytest
import torch

from mmssl.evaluation.reveal_audio import wav_bytes, write_page, write_picture
from mmssl.evaluation.revealed_audio import Clip, Codes, Ranks, reveal_clips, summary
from mmssl.nn import AudioEncoderConfig, MelConfig, QuantizerConfig, TransformerConfig
from mmssl.predictors.best_rq import BestRQ, BestRQConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2, Wav2Vec2Config


def predictor(kind: str):
    torch.manual_seed(0)
    trunk = TransformerConfig(dim=16, depth=1, heads=2, mlp_dim=32, norm="pre")
    encoder = AudioEncoderConfig(trunk, MelConfig(stack=2), position_kernel=4, position_groups=2)
    if kind == "best_rq":
        return BestRQ(BestRQConfig(encoder, codebooks=2, codebook_size=8)).eval()
    return Wav2Vec2(Wav2Vec2Config(encoder, QuantizerConfig(entries=8, dim=8), projection_dim=8, negatives=10)).eval()


def clips() -> list[Clip]:
    torch.manual_seed(1)
    return [Clip("short", torch.randn(8_000) * 0.1), Clip('<b>"long"&', torch.randn(24_000) * 0.1)]


@pytest.mark.parametrize("kind", ["best_rq", "wav2vec2"])
def test_hidden_spans_are_where_the_sound_is_silent(kind):
    shown = reveal_clips(predictor(kind), clips())
    assert [clip.clip.name for clip in shown] == ["short", '<b>"long"&']
    for clip in shown:
        assert clip.hidden.mean() == pytest.approx(0.49, abs=0.03)
        assert sum(stop - start for start, stop in clip.spans()) == pytest.approx(clip.hidden.sum() * 0.02)
        silent = (clip.heard() == 0).float().mean()
        assert float(silent) == pytest.approx(clip.hidden.sum() * 320 / len(clip.clip.audio), abs=0.01)
        assert clip.mel.shape == ((len(clip.clip.audio) - 400) // 160 + 1, 80)
        if isinstance(clip.found, Codes):
            assert ((clip.found.target[:, 0] >= 0) == clip.hidden).all()
            assert (clip.found.probability[clip.hidden] > 0).all()
        else:
            assert isinstance(clip.found, Ranks)
            assert ((clip.found.rank >= 0) == clip.hidden).all()
            assert clip.found.rank.max() <= 10
    assert "of 98 steps hidden" in summary(shown)


@pytest.mark.parametrize("kind", ["best_rq", "wav2vec2"])
def test_pages_show_strangers_names_as_text_and_hold_the_sound(kind, tmp_path):
    shown = reveal_clips(predictor(kind), clips())
    assert write_picture(shown, "Step 3", tmp_path / "a" / "picture.png").is_file()
    page = write_page(shown, "<i>caption</i>", tmp_path / "page.html").read_text(encoding="utf-8")
    body = page.split("</style>")[1]
    assert "<b>" not in body
    assert "<i>" not in body
    assert "&lt;b&gt;&quot;long&quot;&amp;" in body
    sounds = re.findall(r'src="data:audio/wav;base64,([^"]+)"', body)
    assert len(sounds) == 4
    with wave.open(io.BytesIO(base64.b64decode(sounds[0]))) as file:
        assert (file.getframerate(), file.getnframes()) == (16_000, 8_000)
    assert body.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', body)


def test_sound_is_written_as_it_is():
    audio = torch.tensor([0.0, 0.5, -1.0, 1.0, 2.0])
    with wave.open(io.BytesIO(wav_bytes(audio, 8_000))) as file:
        samples = np.frombuffer(file.readframes(5), "<i2")
    np.testing.assert_allclose(samples / 32767, [0, 0.5, -1, 1, 1], atol=1e-4)


def test_recordings_too_short_to_hide_anything_are_said():
    # one frame of window and one of step: a single step of the encoder
    shown = reveal_clips(predictor("best_rq"), [Clip("blip", torch.randn(600))])
    assert summary(shown) == "nothing was hidden: these recordings are too short"
