"""Keys, and the file by which a run is found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from workbench.launcher.stream import Keys, read_live, write_live


def test_keys_come_back_from_text_and_clients_lack_the_secret() -> None:
    keys = Keys.new()
    assert Keys.from_text(keys.to_text()) == keys
    clients = keys.for_clients()
    assert Keys.from_text(clients.to_text() + "\n") == clients
    assert keys.server_secret not in clients.to_text()
    assert len({*keys}) == 4
    assert Keys.new() != keys


def test_keys_are_not_shown() -> None:
    keys = Keys.new()
    for shown in (repr(keys), str(keys), f"{keys}"):
        assert keys.server_secret not in shown
        assert keys.client_secret not in shown


@pytest.mark.parametrize("damage", ["", "a:b:c:d", "cut", "long", "upper"])
def test_a_text_that_is_no_keys_is_refused_and_not_shown(damage: str) -> None:
    text = Keys.new().to_text()
    wrong = {"cut": text[:-1], "long": text + ":0", "upper": text.upper()}.get(
        damage, damage
    )
    with pytest.raises(ValueError, match="not a run's keys") as caught:
        Keys.from_text(wrong)
    assert text[70:134] not in str(caught.value)


def test_a_live_file_is_the_owners_alone(tmp_path: Path) -> None:
    keys = Keys.new()
    old = os.umask(0)
    try:
        path = write_live(tmp_path, "a:1:2", keys, pid=3, host="h")
        path = write_live(tmp_path, "a:1:2", keys, pid=4, host="h", more="x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["live.json"]
    found = read_live(tmp_path)
    assert found["keys"] == keys.for_clients()
    assert (found["address"], found["pid"], found["more"]) == ("a:1:2", 4, "x")
    with pytest.raises(ValueError, match="pid"):
        write_live(tmp_path, "a:1:2", keys, host="h")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_live_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_live(tmp_path, "a:1:2", Keys.new(), pid=3, host="h")
    path.chmod(mode)
    with pytest.raises(PermissionError, match="chmod 600"):
        read_live(tmp_path)


def test_no_live_file_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_live(tmp_path)
    path = write_live(tmp_path, "a:1:2", Keys.new(), pid=3, host="h")
    good = json.loads(path.read_text())
    for text in ("", "[]", "{}", "3", json.dumps({**good, "keys": "x"})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"no live\.json"):
            read_live(tmp_path)
