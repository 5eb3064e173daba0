"""A folder or a file has one writer at a time, and files are written completely or not at all."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from metaembed_lite.locking import lock, write_whole

TAKE_AND_WAIT = """
import sys
from metaembed_lite.locking import lock
with lock(sys.argv[1], "a long training"):
    print("taken", flush=True)
    sys.stdin.read()
"""
COUNT = """
import sys
from pathlib import Path
from metaembed_lite.locking import lock
number = Path(sys.argv[1])
for _ in range(100):
    with lock(number, "counting", wait=60):
        number.write_text(str(int(number.read_text()) + 1))
"""


def start(script, path):
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def locked(tmp_path):
    """A folder, and another process that has the lock on it."""
    other = start(TAKE_AND_WAIT, tmp_path / "model")
    assert other.stdout.readline() == "taken\n"
    yield tmp_path / "model", other
    other.kill()
    other.communicate()


def test_a_second_process_gets_an_error_that_names_the_first(locked):
    folder, other = locked
    with pytest.raises(BlockingIOError) as error, lock(folder, "mine"):
        pass
    for part in (str(folder), str(other.pid), "a long training", "wait until it ends"):
        assert part in str(error.value)


def test_two_names_of_one_folder_have_the_same_lock(locked, monkeypatch):
    folder, _ = locked
    folder.mkdir()
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    for name in ("model", "model/", "../" + folder.parent.name + "/model", "link"):
        with pytest.raises(BlockingIOError), lock(name, "mine"):
            pass


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_a_killed_process_leaves_no_lock(locked):
    folder, other = locked
    other.send_signal(signal.SIGKILL)
    other.wait()
    with lock(folder, "mine"):
        pass


def test_no_lock_file_stays_after_success_or_error(tmp_path):
    with lock(tmp_path / "model", "mine"):
        pass
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "model", "mine"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_the_same_thread_may_lock_again_and_another_thread_is_refused(tmp_path):
    refused = []

    def take():
        try:
            with lock(tmp_path / "model", "second"):
                pass
        except BlockingIOError as error:
            refused.append(str(error))

    with lock(tmp_path / "model", "first"):
        with lock(tmp_path / "model", "inner"):
            pass
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "first" in refused[0]
    take()
    assert len(refused) == 1, "released only by the outermost"


def test_two_folders_have_separate_locks(locked):
    folder, _ = locked
    with lock(folder.with_name("other"), "mine"):
        pass


def test_four_processes_that_count_in_one_file_lose_no_count(tmp_path):
    number = tmp_path / "number"
    number.write_text("0")
    counting = [start(COUNT, number) for _ in range(4)]
    assert [process.wait(60) for process in counting] == [0] * 4
    for process in counting:
        process.communicate()
    assert number.read_text() == "400"
    assert list(tmp_path.iterdir()) == [number]


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    write_whole(file, "old")
    mode = file.stat().st_mode
    write_whole(file, "new")
    assert (file.read_text(), file.stat().st_mode) == ("new", mode)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "newer")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]
