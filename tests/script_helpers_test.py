"""Tests of demo/script_helpers.py."""

import json
import os

import pytest
import tensorflow as tf

from demo import script_helpers


class FinishedFileTest:

  def test_file_appears_when_all_went_well(self, tmp_path):
    path = tmp_path / "x.txt"
    script_helpers.write_text(str(path), "\u00fcber\n")
    assert path.read_text(encoding="utf-8") == "\u00fcber\n"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]

  def test_error_half_way_leaves_the_earlier_file(self, tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
      with script_helpers.finished_file(str(path)) as temporary:
        with open(temporary, "w", encoding="utf-8") as writer:
          writer.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


  def test_links_are_followed_and_devices_left_alone(self, tmp_path):
    (tmp_path / "x.txt").write_text("earlier")
    (tmp_path / "link").symlink_to(tmp_path / "x.txt")
    script_helpers.write_text(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe can't be written"):
      script_helpers.write_text(str(tmp_path / "pipe"), "new")
    assert (tmp_path / "pipe").is_fifo()


class UserMessageTest:

  def raised(self, error):
    try:
      raise error
    except Exception as caught:  # pylint: disable=broad-except
      return script_helpers._user_message(caught)

  def test_own_value_error_is_one_line(self):
    assert self.raised(ValueError("a\nb")) == "a b"

  def test_bugs_keep_their_traceback(self):
    assert self.raised(KeyError("x")) is None
    try:
      json.loads("{")
    except ValueError as error:  # Raised by a library, not by this project.
      assert script_helpers._user_message(error) is None

  def test_damaged_record_is_named_and_not_where_it_was_noticed(self):
    message = self.raised(tf.errors.DataLossError(
        None, None, "Graph execution error:\n\nDetected at node 'x' defined at "
        "(most recent call last):\nNode: 'IteratorGetNext'\ncorrupted record "
        "at 160\n\t [[{{node IteratorGetNext}}]]"))
    assert message.startswith("corrupted record at 160 (a damaged file; if it")

  def test_full_disk_is_the_users(self):
    assert "No space" in self.raised(OSError(28, "No space left on device"))


class CheckOutputDirTest:

  def test_makes_the_folder_and_leaves_nothing(self, tmp_path):
    script_helpers.check_output_dir(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []

  def test_file_in_the_way_is_refused(self, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output_dir=.*can't be written"):
      script_helpers.check_output_dir(str(tmp_path / "file" / "out"))


class ProgressTest:

  def test_lines_where_there_is_no_terminal(self, caplog):
    with caplog.at_level("INFO", "absl"):
      with script_helpers.Progress(25, "Doing", "things", 10) as progress:
        for _ in range(4):
          progress.update(7)
    assert [record.getMessage() for record in caplog.records] == [
        "Doing: 14 of 25 things", "Doing: 21 of 25 things"]
