"""The event log can be read while it is written."""

from pathlib import Path

from sweep.events import Event, EventLogReader, EventLogWriter


def test_a_reader_returns_only_complete_lines_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventLogReader(path)
    assert reader.read() == []
    log = EventLogWriter(path)
    first = Event("cell_started", "Q4_K_M/text")
    second = Event("cell_done", "Q4_K_M/text", {"seconds": 1.5})
    log.write(first)
    assert reader.read() == [first]
    line = second.to_json().encode() + b"\n"
    with open(path, "ab") as file:
        file.write(line[:20])
    assert reader.read() == []
    with open(path, "ab") as file:
        file.write(line[20:])
    assert reader.read() == [second]
    log.close()
