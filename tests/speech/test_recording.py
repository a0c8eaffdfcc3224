"""Reading recordings: formats, rates, channels and bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speech.recording import RATE, WINDOW, RecordingError, read_info, read_windows

SECONDS = 2.0


def tone(rate: int, seconds: float = SECONDS, hertz: float = 440.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def whole(path: Path) -> NDArray[np.float32]:
    return np.concatenate(list(read_windows(path)))


@pytest.mark.parametrize(
    ("name", "rate", "subtype"),
    [
        ("a.wav", 16_000, "PCM_16"),
        ("a.wav", 16_000, "PCM_U8"),
        ("a.wav", 44_100, "FLOAT"),
        ("a.wav", 8_000, "ULAW"),
        ("a.flac", 48_000, "PCM_24"),
        ("a.mp3", 44_100, "MPEG_LAYER_III"),
        ("a.ogg", 48_000, "OPUS"),
        ("a.ogg", 22_050, "VORBIS"),
    ],
)
def test_every_format_gives_the_same_tone_at_16_khz(tmp_path: Path, name: str, rate: int, subtype: str) -> None:
    soundfile.write(tmp_path / name, tone(rate), rate, subtype=subtype)
    found = whole(tmp_path / name)
    assert found.dtype == np.float32
    assert abs(len(found) - SECONDS * RATE) < 0.05 * RATE  # MP3 pads its frames
    middle = found[RATE // 2 : RATE // 2 + RATE]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440
    assert 0.4 < np.abs(middle).max() < 0.6
    assert read_info(tmp_path / name).rate == rate


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(RATE), np.zeros(2 * RATE)], 1), RATE, subtype="FLOAT")
    assert np.allclose(whole(tmp_path / "a.wav"), tone(RATE) / 2, atol=1e-6)
    assert read_info(tmp_path / "a.wav").channels == 2


def test_long_recordings_come_in_windows_of_30_s(tmp_path: Path) -> None:
    samples = tone(8_000, 70.0)
    soundfile.write(tmp_path / "a.flac", samples, 8_000)
    windows = list(read_windows(tmp_path / "a.flac"))
    assert [len(one) for one in windows] == [WINDOW, WINDOW, 10 * RATE]
    assert read_info(tmp_path / "a.flac").windows == 3
    joined = np.concatenate(windows)  # no seam: the error is that of 16 bits and of the filter
    assert np.abs(joined[RATE:-RATE] - tone(RATE, 70.0)[RATE:-RATE]).max() < 2e-3


def test_recordings_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "empty.flac").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).normal(0, 0.1, 5 * RATE), RATE)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "truncated.flac").write_bytes(content[: len(content) // 2])
    soundfile.write(tmp_path / "whole.wav", tone(RATE), RATE)
    (tmp_path / "truncated.mp3").write_bytes(content[1000:2000])
    for name, reason in (
        ("text.wav", "is no audio"),
        ("empty.flac", "is no audio"),
        ("missing.flac", "no such file"),
        ("none.wav", "has no samples"),
        ("nan.wav", "NaN or infinite"),
        ("truncated.flac", "truncated|cannot be decoded after"),
        ("truncated.mp3", "is no audio"),
    ):
        with pytest.raises(RecordingError, match=reason) as error:
            whole(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)
