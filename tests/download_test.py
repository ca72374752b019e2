"""Tests of demo/download.py against a server on this machine."""

import errno
import http.server
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import types
import zipfile

import pytest

from demo import download
from tests import conftest

COLA_PATH = "/glue/data/CoLA.zip"
TASK = {name: f"{name} of the task\n".encode() * 4000
        for name in ("train.tsv", "dev.tsv", "test.tsv")}


def zipped(members, top="CoLA/"):
  """A zip file (bytes), uncompressed; members: name or ZipInfo -> bytes."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in members.items():
      if isinstance(name, str):
        name = zipfile.ZipInfo(top + name)
      archive.writestr(name, content)
  return buffer.getvalue()


COLA = zipped(TASK)


class Handler(http.server.BaseHTTPRequestHandler):
  """Gives files, and the faults that a test asked for."""

  protocol_version = "HTTP/1.1"

  def do_GET(self):
    server = self.server
    server.asked.append((self.path, self.headers["Range"]))
    content = server.files.get(self.path)
    fault, value = (server.faults.pop(0) if server.faults
                    else server.lasting_fault)
    if fault == "raw":
      self.wfile.write(value)
      self.close_connection = True
      return
    if content is None or fault == "status":
      self.send_error(404 if content is None else value)
      return
    etag = '"%d"' % (hash(content) % 10**9)
    start = 0
    if (server.knows_ranges and self.headers["Range"] and
        self.headers["If-Range"] == etag):
      start = int(self.headers["Range"][len("bytes="):-1])
    if start >= len(content):
      self.send_error(416)
      return
    self.send_response(206 if start else 200)
    if start:
      self.send_header("Content-Range",
                       f"bytes {start}-{len(content) - 1}/{len(content)}")
    self.send_header("ETag", etag)
    self.send_header("Content-Length", str(len(content) - start))
    self.end_headers()
    if fault == "drip":
      for i in range(start, len(content)):
        self.wfile.write(content[i:i + 1])
        if server.released.wait(0.02):
          break
    else:
      self.wfile.write(content[start:value if fault else None])
    if fault == "stall":
      self.wfile.flush()
      server.released.wait(20)
    self.close_connection = fault is not None

  def log_message(self, *arguments):
    pass


class Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request, client_address):
    """Clients that hang up are nothing to report."""


@pytest.fixture
def server(monkeypatch):
  """A server with CoLA; `faults` are those of the next answers in turn."""
  monkeypatch.setattr(download, "_BACK_OFF_SECONDS", 0.01)
  for name in ("http_proxy", "HTTP_PROXY"):
    monkeypatch.delenv(name, raising=False)
  server = Server(("127.0.0.1", 0), Handler)
  server.files, server.asked, server.faults = {COLA_PATH: COLA}, [], []
  server.lasting_fault, server.knows_ranges = (None, None), True
  server.released = threading.Event()
  server.address = f"http://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.released.set()
  server.shutdown()
  server.server_close()
  thread.join()


@pytest.fixture
def call(server, tmp_path, capsys):
  """Runs the tool: (exit status, what it said)."""
  def run(*arguments, output_dir=tmp_path / "out"):
    status = download.main([*arguments, f"--mirror={server.address}",
                            f"--output_dir={output_dir}"])
    return status, capsys.readouterr().err
  return run


def assert_refused(result, *words):
  """Status 1, and a last line with these words."""
  status, output = result
  assert status == 1, output
  last = output.splitlines()[-1]
  assert last.startswith("download: error: "), output
  for word in words:
    assert word in last, output


def content_of(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()
          if path.name != ".download.json"}


class ItemsTest:

  def test_all_checkpoints_of_google(self):
    assert len(download.CHECKPOINTS) == 33
    sources = [source for item in download.CHECKPOINTS
               for source in item.sources]
    assert len(set(sources)) == 33
    small = [x for x in sources if "/2020_02_20/" in x]
    assert len(small) == 24
    assert small[0] == ("https://storage.googleapis.com/bert_models/2020_02_20/"
                        "uncased_L-2_H-128_A-2.zip")
    assert small[-1].endswith("/uncased_L-12_H-768_A-12.zip")
    (base,) = download.find_items(["uncased_L-12_H-768_A-12"])
    assert "/2018_10_18/" in base.sources[0]

  def test_names_in_any_spelling(self):
    for name, expected in (("sst2", "SST-2"), ("sts_b", "STS-B"),
                           ("ax", "diagnostic"), ("squad-2.0", "SQuAD-v2.0")):
      assert [x.name for x in download.find_items([name])] == [expected]
    assert len(download.find_items(["glue", "SQuAD", "CoLA"])) == 12
    assert len({item.name for item in download.ITEMS}) == len(download.ITEMS)

  def test_list_shows_names_and_addresses(self, capsys):
    assert download.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(download.ITEMS)
    assert lines[0] == "CoLA https://dl.fbaipublicfiles.com/glue/data/CoLA.zip"

  @pytest.mark.parametrize("arguments, word", [
      (["CoLAA"], "did you mean CoLA?"), ([], "--list"),
      (["CoLA", "--mirror=ftp://x"], "--mirror=ftp://x"),
      (["CoLA", "--mirror=http://[x"], "--mirror=http://[x"),
      (["CoLA", "--mirror=http://x:y"], "--mirror=http://x:y"),
      (["CoLA", "--mirror=https://"], "--mirror=https://"),
      (["CoLA", "--timeout=0"], "--timeout=0.0 has to be"),
      (["CoLA", "--timeout=nan"], "--timeout=nan has to be"),
      (["CoLA", "--timeout=inf"], "--timeout=inf has to be"),
      (["CoLA", "--timeout=soon"], "argument --timeout"),
      (["CoLA", "--none"], "unrecognized arguments: --none. --help"),
      (["CoLA", f"--output_dir={__file__}"], f"--output_dir={__file__} can't")])
  def test_wrong_arguments(self, arguments, word, capsys):
    result = download.main(arguments), capsys.readouterr().err
    assert_refused(result, word)
    assert len(result[1].splitlines()) == 1

  def test_a_list_that_nobody_reads_to_its_end(self):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
      result = subprocess.run(
          [sys.executable, "-m", "demo.download", "--list"],
          cwd=conftest.PROJECT, stdout=closed, stderr=subprocess.PIPE,
          check=False)
    assert (result.returncode, result.stderr) == (0, b"")


class GetTest:

  def test_a_task_becomes_its_folder_and_is_not_asked_for_again(
      self, call, server, tmp_path):
    assert call("CoLA")[0] == 0
    out = tmp_path / "out"
    assert content_of(out / "CoLA") == TASK
    (checksum,) = json.loads((out / "checksums.json").read_text()).values()
    assert len(checksum) == 64
    assert not [x for x in os.listdir(out / ".downloads") if x != ".lock"]
    asked = len(server.asked)
    status, output = call("CoLA", "--check")
    assert status == 0 and "nothing to do" in output
    assert len(server.asked) == asked == 1

  def test_folders_and_litter_of_archives(self, call, server, tmp_path):
    server.files[COLA_PATH] = zipped(
        {**TASK, "original/a.tsv": b"a", "Icon\r": b"", ".DS_Store": b"x",
         zipfile.ZipInfo("__MACOSX/CoLA/._dev.tsv"): b"x",
         ".download.json": b"{}"})
    assert call("CoLA")[0] == 0
    assert call("CoLA", "--check")[0] == 0
    folder = tmp_path / "out" / "CoLA"
    assert sorted(x.name for x in folder.iterdir()) == [
        ".download.json", "dev.tsv", "original", "test.tsv", "train.tsv"]
    assert (folder / "original" / "a.tsv").read_bytes() == b"a"

  def test_checkpoints_with_and_without_a_folder_around(
      self, call, server, tmp_path):
    files = {name: name.encode() for name in download._CHECKPOINT_FILES}
    for name, top in (("2018_10_18/cased_L-12_H-768_A-12", "any/"),
                      ("2020_02_20/uncased_L-2_H-128_A-2", ""),
                      ("2020_02_20/uncased_L-12_H-768_A-12", "")):
      server.files[f"/bert_models/{name}.zip"] = zipped(files, top)
    assert call("cased_L-12_H-768_A-12", "uncased_L-2_H-128_A-2",
                "2020_02_20/uncased_L-12_H-768_A-12")[0] == 0
    for name in ("cased_L-12_H-768_A-12", "uncased_L-2_H-128_A-2",
                 "2020_02_20/uncased_L-12_H-768_A-12"):
      assert content_of(tmp_path / "out" / name) == files

  def test_plain_files(self, call, server, tmp_path):
    server.files["/glue/data/AX.tsv"] = b"index\tsentence1\tsentence2\n"
    for name in ("train", "dev"):
      server.files[f"/SQuAD-explorer/dataset/{name}-v1.1.json"] = b'{"data":[]}'
    assert call("AX", "SQuAD-v1.1")[0] == 0
    out = tmp_path / "out"
    assert (out / "diagnostic" / "diagnostic.tsv").exists()
    assert json.loads((out / "SQuAD-v1.1" / "dev-v1.1.json").read_text()) == {
        "data": []}
    for name in ("train", "dev"):
      server.files[f"/SQuAD-explorer/dataset/{name}-v2.0.json"] = (
          b"<!DOCTYPE html><p>Log in to the network")
    assert_refused(call("SQuAD-v2.0"), "web page", "--mirror")

  @pytest.mark.parametrize("name, path, content, word", [
      ("AX", "/glue/data/AX.tsv", b"index\tna\xefve\n", "utf-8"),
      ("AX", "/glue/data/AX.tsv", b"index\0\n", "no text"),
      ("AX", "/glue/data/AX.tsv", b" \n", "empty"),
      ("SQuAD-v1.1", None, b'{"data": [', "Expecting value"),
      ("SQuAD-v1.1", None, b'{"error": 5}', '"data"'),
      ("SQuAD-v1.1", None, b"[" * 100000, "removed")])
  def test_plain_files_that_are_something_else(
      self, name, path, content, word, call, server, tmp_path):
    for source in [path] if path else [
        f"/SQuAD-explorer/dataset/{part}-v1.1.json" for part in ("train", "dev")
    ]:
      server.files[source] = content
    assert_refused(call(name), word, name, "--mirror")
    assert {x.name for x in tmp_path.rglob("*") if not x.is_dir()} == {".lock"}

  def test_the_first_of_two_archives_counts(self, call, server, tmp_path):
    for archive, files in (
        ("XNLI-1.0", {"xnli.dev.tsv": b"dev", "README": b"first"}),
        ("XNLI-MT-1.0", {"multinli/multinli.train.zh.tsv": b"train",
                         "README": b"second"})):
      server.files[f"/XNLI/{archive}.zip"] = zipped(files, f"{archive}/")
    status, output = call("XNLI")
    assert status == 0 and "README is in two archives" in output
    folder = tmp_path / "out" / "XNLI"
    assert (folder / "README").read_bytes() == b"first"
    assert (folder / "multinli" / "multinli.train.zh.tsv").exists()

  def test_a_mirror_of_files(self, tmp_path, capsys):
    (tmp_path / "glue" / "data").mkdir(parents=True)
    (tmp_path / COLA_PATH[1:]).write_bytes(COLA)
    arguments = ["CoLA", f"--mirror=file://{tmp_path}",
                 f"--output_dir={tmp_path}/out"]
    assert download.main(arguments) == 0
    assert content_of(tmp_path / "out" / "CoLA") == TASK
    capsys.readouterr()
    assert_refused((download.main(["RTE", *arguments[1:]]),
                    capsys.readouterr().err), "RTE.zip", "--mirror")

  def test_the_cache_is_kept_and_used(self, call, server, tmp_path):
    cache = f"--cache_dir={tmp_path}/cache"
    assert call("CoLA", cache)[0] == 0
    assert call("CoLA", cache, output_dir=tmp_path / "other")[0] == 0
    assert len(server.asked) == 1
    assert content_of(tmp_path / "other" / "CoLA") == TASK

  def test_files_that_changed_are_told(self, call, tmp_path):
    assert call("CoLA")[0] == 0
    path = tmp_path / "out" / "CoLA" / "dev.tsv"
    path.write_bytes(path.read_bytes().replace(b"task", b"TASK"))
    assert call("CoLA")[0] == 0  # A look at the size only.
    assert_refused(call("CoLA", "--check"), str(path), "another SHA-256")
    path.write_bytes(b"")
    assert_refused(call("CoLA"), str(path), "has 0 bytes")
    path.unlink()
    assert_refused(call("CoLA"), str(path), "is missing", "Remove ")

  def test_a_folder_of_the_user_is_left_alone(self, call, server, tmp_path):
    folder = tmp_path / "out" / "CoLA"
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    assert_refused(call("CoLA"), "did not make it", "another --output_dir")
    assert not server.asked and (folder / "mine").exists()


class FetchTest:

  def test_goes_on_after_a_cut(self, call, server, tmp_path):
    server.faults = [("cut", 1000), ("cut", 70000)]
    status, output = call("CoLA")
    assert status == 0
    assert [x for _, x in server.asked] == [None, "bytes=1000-", "bytes=70000-"]
    assert f"ended after 1000 of {len(COLA)} bytes" in output
    assert content_of(tmp_path / "out" / "CoLA") == TASK

  def test_a_server_without_ranges_gives_the_whole_again(
      self, call, server, tmp_path):
    server.knows_ranges = False
    server.faults = [("cut", 1000), ("cut", 500)]
    assert call("CoLA")[0] == 0
    assert len(server.asked) == 3
    assert content_of(tmp_path / "out" / "CoLA") == TASK

  def test_a_file_that_changed_meanwhile_is_taken_anew(
      self, call, server, tmp_path):
    server.faults = [("cut", 1000), ("status", 403)]
    assert_refused(call("CoLA"), "403")
    changed = {**TASK, "dev.tsv": b"new\n" * 30000}
    server.files[COLA_PATH] = zipped(changed)
    assert call("CoLA")[0] == 0
    assert server.asked[-1][1] == "bytes=1000-"
    assert content_of(tmp_path / "out" / "CoLA") == changed

  def test_a_part_longer_than_the_file(self, call, server, tmp_path):
    server.faults = [("cut", 1000), ("status", 403)]
    assert_refused(call("CoLA"), "403")
    part = next((tmp_path / "out" / ".downloads").glob("*.part"))
    part.write_bytes(bytes(len(COLA) + 5))
    status, output = call("CoLA")
    assert status == 0 and "416" in output
    assert content_of(tmp_path / "out" / "CoLA") == TASK

  @pytest.mark.parametrize("state", [
      b"", b"[1]", b"{}", b'{"validator": "x"}',
      b'{"url": "%s", "validator": {"x": "\\n"}, "total": "many"}'])
  def test_a_damaged_note_on_a_part_is_not_used(
      self, state, call, server, tmp_path):
    server.faults = [("cut", 1000), ("status", 403)]
    assert_refused(call("CoLA"), "403")
    note = next((tmp_path / "out" / ".downloads").glob("*.part.json"))
    note.write_bytes(state.replace(
        b"%s", (server.address + COLA_PATH).encode()))
    assert call("CoLA")[0] == 0
    assert content_of(tmp_path / "out" / "CoLA") == TASK

  @pytest.mark.parametrize("answer, tries, word", [
      (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n"
       b"Content-Range: bytes 0-4/5\r\n\r\nabcde", 2, "another part"),
      (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n", 2, "'abc'"),
      (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", 2, "'-5'"),
      (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx", 1, "gzip"),
      (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /glue/data/"
       b"CoLA.zip\r\n\r\n", 5, "302"),
      (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://[x\r\n"
       b"\r\n", 1, "Invalid"),
      (b"\x1b[1mgarbage\r\n\r\n", 2, "garbage")])
  def test_odd_answers_are_told_in_one_line(
      self, answer, tries, word, call, server):
    server.lasting_fault = ("raw", answer)
    status, output = call("CoLA", "--retries=1")
    assert_refused((status, output), server.address + COLA_PATH, word,
                   "--mirror")
    assert all(x.startswith("download: ") for x in output.splitlines())
    assert "\x1b" not in output
    assert len(server.asked) == tries

  def test_text_of_unknown_length_ends_with_a_line(self, call, server):
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    server.files["/glue/data/AX.tsv"] = b""
    server.lasting_fault = ("raw", head + b"index\tsentence1\tsente")
    assert_refused(call("AX", "--retries=1"), "within a line")
    server.lasting_fault = ("raw", head + b"index\tsentence1\tsentence2\n")
    assert call("AX")[0] == 0

  def test_a_server_that_drips_counts_as_broken(
      self, call, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_SLOWEST", 1000)
    server.lasting_fault = ("drip", None)
    assert_refused(call("CoLA", "--timeout=0.2", "--retries=1"),
                   "bytes came in", "tried 2 time(s)")
    part = next((tmp_path / "out" / ".downloads").glob("*.part"))
    assert 0 < part.stat().st_size < 100  # What came is there.

  def test_a_complete_part_lacks_only_its_name(self, call, server, tmp_path):
    server.faults = [("cut", 1000), ("status", 403)]
    assert_refused(call("CoLA"), "403")
    part = next((tmp_path / "out" / ".downloads").glob("*.part"))
    part.write_bytes(COLA)
    assert call("CoLA")[0] == 0 and len(server.asked) == 2

  def test_gives_up_where_every_answer_is_cut(self, call, server, tmp_path):
    server.knows_ranges = False
    server.lasting_fault = ("cut", 1000)
    assert_refused(call("CoLA", "--retries=2"), server.address + COLA_PATH,
                   f"after 1000 of {len(COLA)} bytes", "tried 3 time(s)")
    assert len(server.asked) == 3
    assert not (tmp_path / "out" / "CoLA").exists()

  def test_a_missing_file_is_not_asked_for_twice(self, call, server):
    assert_refused(call("RTE"), f"{server.address}/glue/data/RTE.zip: 404",
                   "--mirror")
    assert len(server.asked) == 1

  def test_errors_of_the_server_may_pass(self, call, server):
    server.faults = [("status", 500), ("status", 503)]
    status, output = call("CoLA")
    assert status == 0 and "503 Service Unavailable; again in 0.02 s" in output

  def test_a_silent_server_and_none_at_all(self, call, server):
    server.lasting_fault = ("stall", 0)
    assert_refused(call("CoLA", "--timeout=0.1", "--retries=0"),
                   "the connection broke")
    server.shutdown()
    server.server_close()
    assert_refused(call("CoLA", "--retries=1"), "no answer", "https_proxy")

  def test_goes_on_after_a_kill(self, call, server, tmp_path):
    server.faults = [("stall", 65536)]
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.download", "CoLA",
         f"--mirror={server.address}", f"--output_dir={tmp_path}/out"],
        cwd=conftest.PROJECT, stderr=subprocess.DEVNULL)
    part = tmp_path / "out" / ".downloads" / "glue_data_CoLA.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size):
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "CoLA").exists()
    assert call("CoLA")[0] == 0
    assert server.asked[-1][1] == f"bytes={65536}-"
    assert content_of(tmp_path / "out" / "CoLA") == TASK

  def test_other_content_than_before_is_refused(self, call, server, tmp_path):
    assert call("CoLA")[0] == 0
    (tmp_path / "out" / "CoLA").rename(tmp_path / "earlier")
    server.files[COLA_PATH] = zipped({**TASK, "dev.tsv": b"other"})
    assert_refused(call("CoLA"), "CoLA.zip", "SHA-256", "checksums.json")
    assert not (tmp_path / "out" / "CoLA").exists()
    server.files[COLA_PATH] = COLA
    assert call("CoLA")[0] == 0

  def test_a_full_disk_is_told_before(self, call, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage",
                        lambda path: types.SimpleNamespace(free=1000))
    assert_refused(call("CoLA"), "needs 0.3 MB", "1000 bytes are free")


def link(name, target_kind=stat.S_IFLNK):
  """A ZipInfo of a link or a device."""
  info = zipfile.ZipInfo(name)
  info.create_system = 3
  info.external_attr = (target_kind | 0o777) << 16
  return info


def compressed(name):
  info = zipfile.ZipInfo(name)
  info.compress_type = zipfile.ZIP_DEFLATED
  return info


def lying(size):
  """An archive whose directory promises another size than its data have."""
  archive = bytearray(zipped(TASK))
  place = archive.rindex(b"PK\x01\x02") + 24
  archive[place:place + 4] = size.to_bytes(4, "little")
  return bytes(archive)


def damaged(compression):
  """An archive with other bytes in the middle of its first member."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", compression) as archive:
    for name, content in TASK.items():
      archive.writestr(name, content)
  archive = bytearray(buffer.getvalue())
  archive[100:110] = b"\xff" * 10
  return bytes(archive)


class UnpackTest:

  @pytest.mark.parametrize("archive, word", [
      (lambda: zipped({zipfile.ZipInfo("../evil"): b"x"}), "'../evil'"),
      (lambda: zipped({zipfile.ZipInfo("CoLA/a/../../evil"): b"x"}),
       "leads elsewhere"),
      (lambda: zipped({zipfile.ZipInfo("/evil"): b"x"}), "'/evil'"),
      (lambda: zipped({zipfile.ZipInfo("..\\evil"): b"x"}), "leads elsewhere"),
      (lambda: zipped({zipfile.ZipInfo("C:/evil"): b"x"}), "'C:/evil'"),
      (lambda: zipped({zipfile.ZipInfo("../"): b""}), "'../'"),
      (lambda: zipped({link("CoLA/train.tsv"): b"/etc/passwd"}),
       "link or device"),
      (lambda: zipped({link("CoLA/null", stat.S_IFCHR): b""}),
       "link or device"),
      (lambda: zipped({compressed("CoLA/bomb"): bytes(8 << 20)}),
       "would unpack to"),
      (lambda: lying(10), "sound zip"),
      (lambda: lying(100000), "bytes where the archive promises 100000"),
      (lambda: zipped({**TASK, zipfile.ZipInfo("CoLA/dev.tsv"): b"x"}),
       "twice"),
      (lambda: zipped({**TASK, zipfile.ZipInfo("CoLA/DEV.tsv"): b"x"}),
       "twice"),
      (lambda: zipped({**TASK, "dev.tsv/a": b"x"}), "sound zip"),
      (lambda: zipped({"dev.tsv/a": b"x", **TASK}), "sound zip"),
      (lambda: zipped({**TASK, "n" * 300: b"x"}), "of 305 characters"),
      (lambda: zipped({**TASK, "\u00fc" * 200: b"x"}), "name too long"),
      (lambda: zipped({**TASK, "d/" * 3000 + "x": b"x"}), "characters"),
      (lambda: damaged(zipfile.ZIP_LZMA), "sound zip"),
      (lambda: damaged(zipfile.ZIP_BZIP2), "sound zip"),
      (lambda: damaged(zipfile.ZIP_DEFLATED), "sound zip"),
      (lambda: COLA[:-30], "not a zip file"),
      (lambda: COLA.replace(b"dev.tsv of", b"DEV.tsv of", 1), "Bad CRC"),
      (lambda: zipped({"train.tsv": b"x"}), "no dev.tsv, test.tsv")])
  @pytest.mark.filterwarnings("ignore:Duplicate name")
  def test_hostile_and_broken_archives_are_refused(
      self, archive, word, call, server, tmp_path):
    server.files[COLA_PATH] = archive()
    assert_refused(call("CoLA"), "CoLA.zip", word, "removed")
    assert {x.name for x in tmp_path.rglob("*") if not x.is_dir()} == {".lock"}
    assert not (tmp_path / "out" / ".unpacking").exists()
    server.files[COLA_PATH] = COLA  # Nothing of it counts.
    assert call("CoLA")[0] == 0

  def test_an_archive_outlives_trouble_of_the_disk(
      self, call, server, monkeypatch):
    def fail(*arguments):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk")
    with monkeypatch.context() as patch:
      patch.setattr(download.shutil, "copyfileobj", fail)
      assert_refused(call("CoLA"), "/disk: No space left on device")
    assert call("CoLA")[0] == 0 and len(server.asked) == 1

  def test_what_a_killed_run_left_is_not_taken_over(self, call, tmp_path):
    left = tmp_path / "out" / ".unpacking" / "content"
    left.mkdir(parents=True)
    (left / "old.tsv").write_text("half")
    assert call("CoLA")[0] == 0
    assert content_of(tmp_path / "out" / "CoLA") == TASK

  def test_an_interrupted_run_leaves_nothing_half(
      self, call, tmp_path, monkeypatch):
    def interrupt(*arguments):
      raise KeyboardInterrupt
    with monkeypatch.context() as patch:
      patch.setattr(download.shutil, "copyfileobj", interrupt)
      status, output = call("CoLA")
    assert status == 130 and "interrupted" in output
    assert sorted(os.listdir(tmp_path / "out")) == [".downloads", ".lock"]
    assert call("CoLA")[0] == 0


class MrpcTest:

  TRAIN = ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
           '1\t1\t2\tHe said " no .\tNo \u00e9 .\r\n'
           "0\t3\t4\tThree .\tFour .\r\n"
           "1\t5\t6\tFive .\tSix .\r\n")

  def assemble(self, tmp_path, dev_ids, train=TRAIN):
    paths = [tmp_path / name for name in ("tr.txt", "te.txt", "ids.tsv")]
    for path, text in zip(paths, (train, train, dev_ids)):
      path.write_bytes(text.encode("utf-8"))
    folder = tmp_path / "out"
    folder.mkdir()
    download._assemble_mrpc(*map(str, paths), str(folder))
    return {path.stem: path.read_bytes().decode("utf-8")
            for path in folder.iterdir()}

  def test_the_three_files_of_glue(self, tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    assert self.assemble(tmp_path, "3\t4\r\n") == {
        "train": header + '1\t1\t2\tHe said " no .\tNo \u00e9 .\n'
                          "1\t5\t6\tFive .\tSix .\n",
        "dev": header + "0\t3\t4\tThree .\tFour .\n",
        "test": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
                '0\t1\t2\tHe said " no .\tNo \u00e9 .\n'
                "1\t3\t4\tThree .\tFour .\n2\t5\t6\tFive .\tSix .\n"}

  @pytest.mark.parametrize("dev_ids, train, message", [
      ("3\t4\n7\t8\n", TRAIN, "has 1 of the 2 rows"),
      ("", TRAIN, "empty"),
      ("3 4\n", TRAIN, r"ids.tsv:1: 1 column\(s\) instead of 2"),
      ("3\t4\n", TRAIN + "1\t7\n", "tr.txt:5: 2 column")])
  def test_other_files_are_refused(self, dev_ids, train, message, tmp_path):
    with pytest.raises(ValueError, match=message):
      self.assemble(tmp_path, dev_ids, train)

  def test_real_files_come_out_as_glue_has_them(self, shared, tmp_path):
    folder = shared / "data" / "glue" / "MRPC"
    real = {path.stem: path.read_bytes().decode("utf-8")
            for path in folder.glob("*.tsv")}
    dev = real["dev"].split("\n")[1:]
    ids = "".join("\t".join(row.split("\t")[1:3]) + "\n" for row in dev if row)
    made = self.assemble(tmp_path, ids, real["train"] + "\n".join(dev))
    assert len(dev) == 409
    assert made["train"] == real["train"] and made["dev"] == real["dev"]

  def test_is_what_the_tool_gives(self, call, server, tmp_path):
    for name, text in (("senteval/senteval_data/msr_paraphrase_train.txt",
                        self.TRAIN),
                       ("senteval/senteval_data/msr_paraphrase_test.txt",
                        self.TRAIN),
                       ("glue/data/mrpc_dev_ids.tsv", "3\t4\n")):
      server.files[f"/{name}"] = text.encode("utf-8")
    assert call("MRPC")[0] == 0
    assert sorted(content_of(tmp_path / "out" / "MRPC")) == [
        "dev.tsv", "test.tsv", "train.tsv"]
