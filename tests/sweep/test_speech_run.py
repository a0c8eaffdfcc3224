"""A sweep over a speech model: its plan, records, tables and reports, resuming, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import call
from speech_models import make_checkpoint, make_recordings

from converters.errors import InputError
from speech.recording import RATE
from sweep.commands import run as command
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.speech import SpeechJob
from sweep.planning.request import Request


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("speech") / "whisper-tiny")


@pytest.fixture
def request_(model: Path, tmp_path: Path) -> Request:
    audio = make_recordings(tmp_path / "audio", 20)
    return Request(str(model), preset="whisper-int8", audio=audio, workspace=tmp_path / "w")


def test_the_first_recordings_calibrate_and_the_others_are_measured(request_: Request) -> None:
    said: list[str] = []
    sweep = command.prepare(replace(request_, limit=5), said.append)
    jobs = [cell.job for cell in sweep.plan.cells]
    measured = [job.speech for job in jobs if isinstance(job, SpeechJob)]
    calibrated = [job.speech for job in jobs if isinstance(job, Int8CheckpointJob) and job.recipe.needs_text]
    assert {(one.first, one.count) for one in measured} == {(2, 5)}
    assert {(one.first, one.count) for one in calibrated if one} == {(0, 2)}
    assert any("the first 2 recordings of audio are for calibration" in line for line in said)
    assert any("its transcripts have 15 words" in line for line in said)
    assert sweep.plan.reference == "torch:F32"
    assert len(sweep.variants) == 8
    (reference, *others) = [job for job in jobs if isinstance(job, SpeechJob)]
    assert reference.reference is None
    assert reference.distributions is not None
    assert {job.reference for job in others} == {reference.distributions}


def test_keys_depend_on_what_is_said_and_heard(request_: Request) -> None:
    def keys(request: Request) -> list[str]:
        return [cell.key for cell in command.prepare(request, lambda _: None).plan.cells if cell.name == "speech"]

    audio = request_.audio
    assert audio is not None
    before = keys(request_)
    assert keys(request_) == before
    assert not set(keys(replace(request_, language="de"))) & set(before)
    soundfile.write(audio / "7.flac", np.zeros(RATE), RATE)
    changed = keys(request_)
    assert not set(changed) & set(before)
    (audio / "transcripts.csv").write_text((audio / "transcripts.csv").read_text().replace("words 9", "words nine"))
    assert not set(keys(request_)) & {*changed, *before}


def test_other_recordings_can_calibrate(request_: Request, tmp_path: Path) -> None:
    other = make_recordings(tmp_path / "other", 3, seed=1)
    sweep = command.prepare(replace(request_, calibration=other), lambda _: None)
    (speech,) = {cell.job.speech for cell in sweep.plan.cells if isinstance(cell.job, SpeechJob)}
    assert (speech.first, speech.count) == (0, 20)
    assert sweep.plan.about["speech"]["calibration"] == "other"
    with pytest.raises(InputError, match="is the directory of --audio"):
        command.prepare(replace(request_, calibration=request_.audio), lambda _: None)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": "micro"}, "micro: is no speech model, so --audio is not for it"),
        ({"variants": "=Q4_K_M"}, "Q4_K_M: llama.cpp does not run speech models"),
        ({"variants": "=int8:sq-ph+vision"}, "no vision tower"),
        ({"reference": "BF16"}, "compared with torch:F32"),
        ({"language": "xx"}, "knows no language 'xx'"),
        ({"gpu": ("24GiB",)}, "--gpu: not for speech models"),
        ({"perplexity": (Path("a.txt"),)}, "--perplexity: not for speech models"),
        ({"audio": Path("nowhere")}, "is no directory"),
    ],
)
def test_what_does_not_fit_speech_is_rejected_in_one_line(request_: Request, changed: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as error:
        command.prepare(replace(request_, **changed), lambda _: None)
    assert "\n" not in str(error.value)


def test_a_speech_model_without_recordings_says_what_to_give(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"speech model.*--audio"):
        command.prepare(Request(str(model), workspace=tmp_path), lambda _: None)
    done = call("run", model, "--audio", tmp_path, "--workspace", tmp_path / "w", "--preset", "whisper-int8")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no transcripts; add a table such as transcripts.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_recording_is_not_enough_to_calibrate_and_measure(model: Path, tmp_path: Path) -> None:
    audio = make_recordings(tmp_path / "audio", 1)
    request = Request(str(model), preset="whisper-int8", audio=audio, workspace=tmp_path / "w")
    with pytest.raises(InputError, match="has one recording"):
        command.prepare(request, lambda _: None)
    assert len(command.prepare(replace(request, variants="=int8:w8a16"), lambda _: None).variants) == 2


@pytest.mark.slow
def test_a_sweep_with_bad_recordings_measures_the_others(model: Path, tmp_path: Path) -> None:
    """8 kHz, 8 bits, silence, an empty transcript, a truncated file, a text file, 65 s; and it is resumed from keys."""
    audio = make_recordings(tmp_path / "audio", 4)
    rng = np.random.default_rng(3)
    soundfile.write(audio / "slow.wav", rng.normal(0, 0.1, 8_000), 8_000, subtype="PCM_U8")
    soundfile.write(audio / "silence.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(audio / "long.flac", rng.normal(0, 0.1, 65 * RATE), RATE)
    content = (audio / "long.flac").read_bytes()
    (audio / "cut.flac").write_bytes(content[: len(content) // 3])
    (audio / "text.wav").write_text("no audio")
    with open(audio / "transcripts.csv", "a", encoding="utf-8") as file:
        file.write("slow.wav,at eight kilohertz\nsilence.wav,\nlong.flac,words that nobody has said here\n")
        file.write("cut.flac,some\ntext.wav,none\n")
    arguments = ["run", model, "--preset", "whisper-int8", "--audio", audio, "--workspace", tmp_path / "w"]
    arguments += ["--variants", "=int8:sq-ph-fc2,int8:w8a16@encoder"]
    done = call(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    finished = json.loads(done.stdout.splitlines()[-1])
    records = {record["variant"]: record for record in finished["records"]}
    assert list(records) == ["torch:F32", "int8:sq-ph-fc2", "int8:w8a16@encoder"]
    for name, record in records.items():
        speech = record["speech"]
        assert record["status"] == "ok"
        assert (speech["recordings"], speech["words"]) == (6, 18), name
        assert speech["wer"] == pytest.approx(
            (speech["substitutions"] + speech["deletions"] + speech["insertions"]) / 18
        )
        assert speech["real_time_factor"] > 0
        assert record["memory"]["predicted_bytes"] > 0
        if name != "torch:F32":
            assert 0 <= speech["kld_low"] <= speech["kld_mean"] <= speech["kld_high"] < 0.1
            assert speech["wer_delta_low"] <= speech["wer_delta"] <= speech["wer_delta_high"]
    assert records["torch:F32"]["speech"]["kld_mean"] is None
    assert records["int8:w8a16@encoder"]["bits_per_weight"] > records["int8:sq-ph-fc2"]["bits_per_weight"]
    (report,) = tmp_path.glob("w/runs/*/report.html")
    page = report.read_text()
    assert "WER %" in page
    assert "left out: cut.flac: " in page
    assert "left out: text.wav: is no audio" in page
    assert "unlike what the float model hears" in page
    again = call(*arguments, "--format", "json")
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert not [event for event in events if event["event"] == "cell_started"]
    assert events[-1]["records"] == finished["records"]
    shown = call("report", "--workspace", tmp_path / "w")
    assert "WER %" in shown.stdout
    assert "left out: cut.flac" in shown.stdout + shown.stderr
    for form in ("--csv", "--html"):
        out = tmp_path / f"out.{form[2:]}"
        assert call("report", "--workspace", tmp_path / "w", form, out).returncode == 0
        assert "sq-ph-fc2" in out.read_text()


def test_sweep_int8_writes_a_checkpoint_that_opens_as_speech(model: Path, tmp_path: Path) -> None:
    from sweep.backends.speech import open_speech

    audio = make_recordings(tmp_path / "audio", 3)
    arguments = ["int8", model, "--recipe", "sq-ph-fc2", "--workspace", tmp_path / "w", "--out", tmp_path / "out"]
    refused = call(*arguments)
    assert refused.returncode == 2
    assert "is calibrated with speech; give --calibration DIR" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = call(*arguments, "--calibration", audio, "--samples", 2, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["calibration"]["samples"] == 2
    backend = open_speech(tmp_path / "out")
    assert backend.decoding("en").prompt
    session = backend.listen(backend.features(np.zeros(RATE, np.float32)))
    assert np.isfinite(session.read(backend.decoding("en").prompt)).all()
    assert call(*arguments[:2], "--recipe", "w8a16", "--out", tmp_path / "other").returncode == 0
