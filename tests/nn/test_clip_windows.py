"""Windows and tokens of clips see their own frames and nothing else, and lie where the clock says."""

import pytest
import torch

from mmssl.errors import UserError
from mmssl.nn import MelConfig
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.clip_tokens import ClipTokens
from mmssl.nn.clip_windows import AudioWindows, VisualWindows, WindowsConfig
from mmssl.nn.mel import MelFrontEnd

pytest.importorskip("torchaudio")

SMALL = WindowsConfig(dim=12, visual_widths=(4, 8), audio_widths=(4, 8))


@pytest.mark.parametrize(
    ("fps", "rate", "hop", "window"),
    [
        (25.0, 16_000, 0.01, 0.025),
        (25.0, 16_000, 0.02, 0.04),
        (30.0, 24_000, 1 / 120, 0.02),
        (50.0, 8_000, 0.005, 0.03),
    ],
)
@pytest.mark.parametrize("frames", [2, 5, 9])
def test_mel_frames_of_a_window_fill_its_video_frames_and_lie_in_their_middle(fps, rate, hop, window, frames):
    clip = ClipConfig((16, 16), fps=fps, sample_rate=rate, mel=MelConfig(mels=8, stack=1, window=window, hop=hop))
    lead, count = clip.mel_in(frames)
    end = lead + (count - 1) * clip.hop + round(window * rate)
    behind = frames * clip.samples_per_frame - end
    assert lead >= 0
    assert behind - lead in (0, 1)
    assert lead + behind < clip.hop  # one more would not fit


@pytest.mark.parametrize(
    ("fps", "rate", "hop", "words"),
    [
        (25, 16_000, 0.0125, "does not divide"),  # 3.2 mel frames a picture, as in Wav2Lip
        (30, 16_000, 0.01, "does not divide"),
        (24, 16_000, 0.01, "does not divide"),
        (0, 16_000, 0.01, "must be positive"),
    ],
)
def test_a_hop_that_does_not_divide_a_video_frame_is_refused(fps, rate, hop, words):
    with pytest.raises(UserError, match=words):
        ClipConfig((16, 16), fps=fps, sample_rate=rate, mel=MelConfig(stack=1, hop=hop))


def test_a_window_is_computed_from_its_own_frames_alone():
    """One frame of either sense changed: exactly the five windows with that frame change."""
    torch.manual_seed(0)
    clip = ClipConfig((16, 16), mel=MelConfig(mels=16, stack=1))
    visual, audio = VisualWindows(SMALL, 5, (16, 16), 1).eval(), AudioWindows(SMALL, 5, clip).eval()
    front_end, (lead, _) = MelFrontEnd(clip.mel, clip.sample_rate), clip.mel_in(5)
    video, sound = torch.rand(1, 14, 1, 16, 16), 0.1 * torch.randn(1, 14 * 640)

    def embed(video, sound):
        with torch.no_grad():
            return visual(video), audio(front_end.log_mel(sound[:, lead:]))

    before = embed(video, sound)
    assert before[0].shape == before[1].shape == (1, 10, 12)
    changed_video, changed_sound = video.clone(), sound.clone()
    changed_video[:, 7] = 0
    changed_sound[:, 7 * 640 : 8 * 640] = 0
    after = embed(changed_video, changed_sound)
    for old, new in zip(before, after, strict=True):
        assert ((old != new).any(-1)[0].nonzero()[:, 0]).tolist() == [3, 4, 5, 6, 7]


def test_windows_without_gradients_in_parts_are_the_same(monkeypatch):
    torch.manual_seed(0)
    visual = VisualWindows(SMALL, 3, (16, 12), 3).eval()
    video = torch.rand(2, 9, 3, 16, 12)
    whole = visual(video).detach()
    monkeypatch.setattr("mmssl.nn.clip_windows.AT_ONCE", 4)
    with torch.no_grad():
        torch.testing.assert_close(visual(video), whole)


def test_windows_too_short_for_the_layers_are_refused():
    with pytest.raises(UserError, match="too few for 4 layers"):
        AudioWindows(WindowsConfig(), 2, ClipConfig((16, 16)))


def test_tokens_are_cut_and_joined_without_loss():
    tokens = ClipTokens(ClipConfig((16, 24), channels=3), 8, (2, 8, 12))
    video = torch.randint(0, 255, (2, 8, 3, 16, 24), dtype=torch.uint8)
    cut = tokens.cut_pictures(video)
    assert cut.shape == (2, 4 * 2 * 2, 2 * 8 * 12 * 3)
    assert torch.equal(tokens.join_pictures(cut), video)
    # token 6 = third pair of frames, second row, first column
    expected = video[:, 4:6, :, 8:16, 0:12].permute(0, 1, 3, 4, 2).flatten(1)
    assert torch.equal(cut[:, 10], expected)
    mel = torch.rand(2, tokens.audio * 4, 80)
    assert torch.equal(tokens.join_sounds(tokens.cut_sounds(mel)), mel)


def test_audio_tokens_lie_in_the_middle_of_their_video_frames():
    clip = ClipConfig((16, 16))
    tokens = ClipTokens(clip, 8, (2, 8, 8))
    span = 400 + 3 * 160
    for number in range(tokens.audio):
        begin = tokens.lead + number * 640
        frame = tokens.first + number
        assert 0 <= begin <= 8 * 640 - span
        assert begin + span / 2 == 640 * frame + 320
    assert tokens.audio == 6


def test_the_two_senses_share_the_time_and_sounds_have_no_place():
    tokens = ClipTokens(ClipConfig((16, 16)), 8, (1, 8, 8))
    position = tokens.positions(32)
    assert position.shape == (tokens.total, 32)
    heard = position[tokens.visual :]
    for number in range(tokens.audio):
        seen = position[4 * (tokens.first + number)]
        assert torch.equal(seen[:16], heard[number, :16])
    assert not heard[:, 16:].any()
    assert len(torch.unique(position, dim=0)) == tokens.total
