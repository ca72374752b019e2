# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Downloads data sets and Google's checkpoints by name.

  python -m demo.download --list
  python -m demo.download MRPC SQuAD-v1.1 uncased_L-12_H-768_A-12
  python -m demo.download GLUE --output_dir=/data/glue

Each name becomes a folder in --output_dir as the scripts expect it: a
--data_dir of run_classifier.py, SQuAD's JSON files, or bert_config.json,
vocab.txt and bert_model.ckpt. A download that was interrupted goes on where it
stopped. A folder appears when it is complete.
"""

import argparse
import collections
import contextlib
import difflib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import stat
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

import tqdm

# No TensorFlow here: it would take seconds to say that all is there already.

_MODELS = "https://storage.googleapis.com/bert_models/"
_GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
_XNLI = "https://dl.fbaipublicfiles.com/XNLI/"
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"

_CHECKPOINT_FILES = (
    "bert_config.json", "vocab.txt", "bert_model.ckpt.index",
    "bert_model.ckpt.data-00000-of-00001")
_TASK_FILES = ("train.tsv", "dev.tsv", "test.tsv")

_MARKER = ".download.json"  # In each folder: where it is from, its files.
_CHECKSUMS = "checksums.json"  # In --output_dir: address -> SHA-256.

_BLOCK = 1 << 16  # Bytes.
_LOG_SECONDS = 10  # Between two lines of progress, where there is no bar.
_BACK_OFF_SECONDS = 1.0  # Before the first retry; doubled for each one after.
_LONGEST_WAIT = 60.0  # Seconds.
_SLOWEST = 100  # Bytes a second, over --timeout seconds.
_ELSEWHERE = "--mirror names another place to take it from."
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

# The published archives unpack to at most a tenth of this.
_LARGEST_RATIO = 100
_SMALL = 1 << 20  # Bytes that may always come out.
_MOST_MEMBERS = 10000
_LONGEST_NAME = 255  # Characters of a member's name, with its folders.
# What macOS, Windows and this tool put into folders.
_LITTER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Icon\r$|Thumbs\.db$|"
                     + re.escape(_MARKER) + "$)")
_ODD_NAME = re.compile(r"[\x00-\x1f\x7f\\:]|^/|(^|/)\.{0,2}(/|$)")
# Errors that are the disk's, and not the fault of what was downloaded.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM,
                errno.EROFS, errno.EIO)


class Item(collections.namedtuple("Item", ["name", "sources", "files"])):
  """Something that can be downloaded.

  Attributes:
    name: string, also of the folder.
    sources: tuple of addresses (string). Archives are unpacked, other files
      taken as they are.
    files: tuple of names, what the folder has to hold in the end.
  """


def _checkpoint(release, model, name=None):
  return Item(name or model, (f"{_MODELS}{release}/{model}.zip",),
              _CHECKPOINT_FILES)


def _task(name, archive, files=_TASK_FILES):
  return Item(name, (f"{_GLUE}{archive}",), files)


MRPC = Item("MRPC", (f"{_SENTEVAL}msr_paraphrase_train.txt",
                     f"{_SENTEVAL}msr_paraphrase_test.txt",
                     f"{_GLUE}mrpc_dev_ids.tsv"), _TASK_FILES)
GLUE = (
    _task("CoLA", "CoLA.zip"),
    _task("SST-2", "SST-2.zip"),
    MRPC,
    _task("STS-B", "STS-B.zip"),
    _task("QQP", "QQP-clean.zip"),
    _task("MNLI", "MNLI.zip", (
        "train.tsv", "dev_matched.tsv", "dev_mismatched.tsv",
        "test_matched.tsv", "test_mismatched.tsv")),
    _task("QNLI", "QNLIv2.zip"),
    _task("RTE", "RTE.zip"),
    _task("WNLI", "WNLI.zip"),
    _task("diagnostic", "AX.tsv", ("diagnostic.tsv",)),
)
XNLI = Item("XNLI", (f"{_XNLI}XNLI-1.0.zip", f"{_XNLI}XNLI-MT-1.0.zip"),
            ("xnli.dev.tsv", "multinli/multinli.train.zh.tsv"))
SQUAD = tuple(
    Item(f"SQuAD-v{version}",
         tuple(f"{_SQUAD}{name}" for name in names), names)
    for version, names in (
        ("1.1", ("train-v1.1.json", "dev-v1.1.json")),
        ("2.0", ("train-v2.0.json", "dev-v2.0.json"))))

# The small models came with a second one of the size of BERT-Base, which only
# its release tells from the first.
_AGAIN = "uncased_L-12_H-768_A-12"
CHECKPOINTS = (
    _checkpoint("2018_10_18", "uncased_L-12_H-768_A-12"),
    _checkpoint("2018_10_18", "uncased_L-24_H-1024_A-16"),
    _checkpoint("2018_10_18", "cased_L-12_H-768_A-12"),
    _checkpoint("2018_10_18", "cased_L-24_H-1024_A-16"),
    _checkpoint("2019_05_30", "wwm_uncased_L-24_H-1024_A-16"),
    _checkpoint("2019_05_30", "wwm_cased_L-24_H-1024_A-16"),
    _checkpoint("2018_11_23", "multi_cased_L-12_H-768_A-12"),
    _checkpoint("2018_11_03", "multilingual_L-12_H-768_A-12"),
    _checkpoint("2018_11_03", "chinese_L-12_H-768_A-12"),
) + tuple(
    _checkpoint("2020_02_20", model,
                f"2020_02_20/{model}" if model == _AGAIN else model)
    for model in (f"uncased_L-{layers}_H-{width}_A-{width // 64}"
                  for layers in (2, 4, 6, 8, 10, 12)
                  for width in (128, 256, 512, 768)))

ITEMS = GLUE + (XNLI,) + SQUAD + CHECKPOINTS
_FURTHER_NAMES = {
    "GLUE": GLUE, "SQuAD": SQUAD, "AX": GLUE[-1:],
    "SQuAD-1.1": SQUAD[:1], "SQuAD-2.0": SQUAD[1:]}


class _TransientError(Exception):
  """What may go away by itself; `wait` is what the server asks for, or None."""

  def __init__(self, message, wait=None):
    super().__init__(message)
    self.wait = wait


def say(message):
  """Prints a line of the tool's own; servers may put more into a message."""
  line = re.sub(r"\s*[\x00-\x1f\x7f-\x9f]+\s*", " ", str(message)).strip()
  print(f"download: {line}", file=sys.stderr, flush=True)


def find_items(names):
  """The items of names in any spelling.

  Args:
    names: list of string, of `ITEMS` or "GLUE", "SQuAD".

  Returns:
    List of Item.

  Raises:
    ValueError: a name is unknown.
  """
  def key(name):
    return re.sub("[-_]", "", name.lower())

  known = {key(name): items for name, items in _FURTHER_NAMES.items()}
  known.update({key(item.name): (item,) for item in ITEMS})
  found = []
  for name in names:
    if key(name) not in known:
      near = [known[x][0].name
              for x in difflib.get_close_matches(key(name), known, n=1)]
      raise ValueError(f"{name} is unknown; "
                       + "".join(f"did you mean {x}? " for x in near)
                       + "--list shows all names.")
    found += known[key(name)]
  return list(dict.fromkeys(found))


def get(item, options):
  """Brings an item into its folder, unless it is there.

  Args:
    item: Item.
    options: argparse.Namespace of `parse_arguments`.

  Returns:
    string, the folder.

  Raises:
    ValueError, OSError: it can't be had, with a way out.
  """
  folder = os.path.join(options.output_dir, *item.name.split("/"))
  with _locked(options):
    if os.path.lexists(folder):
      _check_folder(folder, options.check)
      say(f"{item.name} is complete in {folder}: nothing to do.")
      return folder
    recorded = _read_json(os.path.join(options.output_dir, _CHECKSUMS))
    paths, checksums = {}, {}
    for url in item.sources:
      paths[url] = os.path.join(
          options.cache_dir,
          urllib.parse.urlsplit(url).path.strip("/").replace("/", "_"))
      if not os.path.exists(paths[url]):
        fetch(_address(url, options.mirror), paths[url], options)
      checksums[url] = _checked_sha256(url, paths[url], recorded, options)
    temporary = os.path.join(options.output_dir, ".unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # Of a killed run.
    try:
      content = os.path.join(temporary, "content")
      os.makedirs(content)
      _fill(item, paths, content)
      _write_json(os.path.join(content, _MARKER), {
          "sources": checksums,
          "files": {name: [os.path.getsize(path), sha256(path)]
                    for name, path in sorted(_files_in(content))}})
      # Before the folder is there: from now on these contents count.
      _write_json(os.path.join(options.output_dir, _CHECKSUMS),
                  {**recorded, **checksums})
      os.makedirs(os.path.dirname(folder), exist_ok=True)
      os.rename(content, folder)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
    if not options.keeps_cache:
      for path in paths.values():
        os.remove(path)
  say(f"{item.name} is complete in {folder}.")
  return folder


@contextlib.contextmanager
def _locked(options):
  """Keeps other calls of this tool away from its folders, which are made."""
  for flag in ("output_dir", "cache_dir"):
    folder = getattr(options, flag)
    try:
      os.makedirs(folder, exist_ok=True)
    except OSError as error:
      raise ValueError(f"--{flag}={folder} can't be made ({error.strerror}): "
                       f"give another folder.") from error
  folders = {os.path.realpath(options.output_dir),
             os.path.realpath(options.cache_dir)}
  with contextlib.ExitStack() as stack:
    for folder in sorted(folders):
      lock = stack.enter_context(
          open(os.path.join(folder, ".lock"), "w", encoding="ascii"))
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        say(f"waiting for another call that works in {folder}.")
        fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _address(url, mirror):
  """Where an address is on a mirror: the same path under another base."""
  if not mirror:
    return url
  return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


def _check_folder(folder, reads_all):
  """Refuses a folder that is there and not as this tool left it."""
  marker = os.path.join(folder, _MARKER)
  if not os.path.exists(marker):
    raise ValueError(
        f"{folder} is there, but this tool did not make it (no {_MARKER}): "
        f"move it away, or give another --output_dir.")
  for name, (size, checksum) in _read_json(marker).get("files", {}).items():
    path = os.path.join(folder, name)
    if not os.path.exists(path):
      fault = "is missing"
    elif os.path.getsize(path) != size:
      fault = f"has {os.path.getsize(path)} bytes, not {size} as it came"
    elif reads_all and sha256(path) != checksum:
      fault = "is not as it came (another SHA-256)"
    else:
      continue
    raise ValueError(f"{path} {fault}. Remove {folder}; the same command "
                     f"brings it again.")


def fetch(url, path, options):
  """Downloads a file, from where an earlier call stopped.

  Args:
    url: string, http, https or file.
    path: string; it appears when it is complete. Until then `<path>.part`
      holds what has come.
    options: argparse.Namespace with `timeout` and `retries`.

  Raises:
    ValueError: it can't be had.
  """
  part = f"{path}.part"
  failures, most = 0, 0
  while True:
    try:
      _receive(url, part, options.timeout)
      break
    except _TransientError as error:
      size = os.path.getsize(part) if os.path.exists(part) else 0
      if size >= most + _BLOCK:  # It gets on, if slowly.
        failures, most = 0, size
      failures += 1
      if failures > options.retries:
        raise ValueError(
            f"{url}: {error}, tried {failures} time(s). The same command goes "
            f"on from what has come ({_amount(size)}); --mirror names another "
            f"place, https_proxy in the environment a proxy.") from error
      wait = min(error.wait or _BACK_OFF_SECONDS * 2 ** (failures - 1),
                 _LONGEST_WAIT)
      say(f"{url}: {error}; again in {wait:g} s.")
      time.sleep(wait)
  os.replace(part, path)
  os.remove(f"{part}.json")


def _receive(url, part, timeout):
  """Asks once for what of an address is not in the file `part` yet."""
  request = urllib.request.Request(url, headers={
      "User-Agent": "bert-download", "Accept-Encoding": "identity"})
  try:
    state = _read_json(f"{part}.json")
  except ValueError:
    state = {}
  start = os.path.getsize(part) if os.path.exists(part) else 0
  if state.get("url") != url or not re.fullmatch(
      "[ -~]+", str(state.get("validator") or "")):
    start = 0  # It might be another file by now.
  if start and start == state.get("total"):
    return  # All that was missing is its name.
  if start:
    request.add_header("Range", f"bytes={start}-")
    request.add_header("If-Range", str(state["validator"]))
  with _open(request, part, timeout) as response:
    encoding = response.headers.get("Content-Encoding") or "identity"
    if encoding.lower() != "identity":
      raise ValueError(f"{url}: the server sends it as {encoding}, which was "
                       f"not asked for. {_ELSEWHERE}")
    total = response.headers.get("Content-Length")
    if total is not None and not re.fullmatch("[0-9]{1,18}", total):
      raise _TransientError(f"Content-Length {total!r} is no number of bytes")
    total = None if total is None else int(total)
    if getattr(response, "status", None) == 206:
      found = re.fullmatch(rf"bytes {start}-[0-9]+/([0-9]{{1,18}})",
                           response.headers.get("Content-Range", ""))
      if not start or not found:
        _remove(part)
        raise _TransientError("the server sent another part than was asked for")
      total = int(found[1])
    else:  # The whole, whatever was asked for.
      start = 0
      etag = response.headers.get("ETag", "")
      _write_json(f"{part}.json", {
          "url": url, "total": total,
          "validator": (etag if etag.startswith('"') else
                        response.headers.get("Last-Modified"))})
    _check_space(part, (total or 0) - start, url)
    with open(part, "r+b" if start else "wb") as writer:
      writer.seek(start)
      writer.truncate()
      size = start
      for block in _blocks(response, url, start, total, timeout):
        writer.write(block)
        writer.flush()  # Should the process be killed.
        size += len(block)
  if total is not None and size != total:
    raise _TransientError(f"the connection ended after {size} of {total} bytes")
  if total is None and url.endswith((".tsv", ".txt")) and (
      not _ends_a_line(part)):
    raise _TransientError(
        f"the connection ended within a line after {size} bytes, and the "
        f"server does not say how many there are")


def _open(request, part, timeout):
  """urlopen, with its errors sorted into passing and lasting ones."""
  url = request.full_url
  try:
    return urllib.request.urlopen(request, timeout=timeout)
  except urllib.error.HTTPError as error:
    error.close()
    status = f"{error.code} {error.reason}"
    if error.code == 416:  # There is no such part: the file has changed.
      _remove(part)
      raise _TransientError(status) from error
    if error.code in _TRANSIENT:
      wait = error.headers.get("Retry-After", "")
      raise _TransientError(
          status, float(wait) if wait.isdecimal() else None) from error
    raise ValueError(f"{url}: {status}. {_ELSEWHERE}") from error
  except (OSError, ValueError, http.client.HTTPException) as error:
    reason = (error.reason if isinstance(error, urllib.error.URLError)
              else error)
    if isinstance(reason, (ssl.SSLCertVerificationError, ValueError,
                           http.client.InvalidURL)) or url.startswith("file:"):
      raise ValueError(f"{url}: {reason}. {_ELSEWHERE}") from error
    if isinstance(reason, http.client.HTTPException):
      reason = repr(reason)
    raise _TransientError(f"no answer ({reason})") from error


def _remove(path):
  """Removes a file if it is there."""
  with contextlib.suppress(FileNotFoundError):
    os.remove(path)


def _ends_a_line(path):
  with open(path, "rb") as reader:
    reader.seek(max(0, os.path.getsize(path) - 1))
    return reader.read() == b"\n"


def _blocks(response, url, start, total, timeout):
  """The blocks of an answer, with a bar or lines of progress."""
  name = url.rsplit("/", 1)[-1]
  with tqdm.tqdm(total=total, initial=start, desc=name, unit="B",
                 unit_scale=True, disable=None, leave=False,
                 dynamic_ncols=True) as bar:
    size, last = start, time.monotonic()
    size_then, then = size, last
    while True:
      try:
        block = response.read1(_BLOCK)  # What is there; does not wait for more.
      except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"the connection broke ({error!r})") from error
      if not block:
        return
      yield block
      size += len(block)
      bar.update(len(block))
      if bar.disable and time.monotonic() - last >= _LOG_SECONDS:
        last = time.monotonic()
        say(f"{name}: {_amount(size)}"
            + (f" of {_amount(total)}" if total else ""))
      now = time.monotonic()
      if now - then >= timeout:
        if size - size_then < _SLOWEST * timeout:
          raise _TransientError(f"only {size - size_then} bytes came in "
                                f"{now - then:.0f} s")
        size_then, then = size, now


def _checked_sha256(url, path, recorded, options):
  """SHA-256 of what an address gave, if that is what it gave before."""
  checksum = sha256(path)
  if recorded.get(url, checksum) != checksum:
    os.remove(path)
    raise ValueError(
        f"{url}: what came has SHA-256 {checksum[:12]}..., an earlier download "
        f"had {recorded[url][:12]}... It was removed. Try again; if the file "
        f"is meant to have changed, remove its line from "
        f"{os.path.join(options.output_dir, _CHECKSUMS)}.")
  return checksum


def _fill(item, paths, folder):
  """Puts an item's files into an empty folder, from its sources.

  Args:
    item: Item.
    paths: dict address -> file that was downloaded.
    folder: string.

  Raises:
    ValueError: a source is not what it should be; all sources are removed.
  """
  try:
    if item is MRPC:
      _assemble_mrpc(*paths.values(), folder)
    else:
      for url, path in paths.items():
        if url.endswith(".zip"):
          unpack(path, folder)
        else:
          name = os.path.basename(url)
          _take_file(path, os.path.join(
              folder, "diagnostic.tsv" if name == "AX.tsv" else name))
    missing = [name for name in item.files
               if not os.path.isfile(os.path.join(folder, name))]
    if missing:
      raise ValueError(f"there is no {', '.join(missing)} in it")
  except (ValueError, RecursionError) as error:  # The latter: JSON.
    for path in paths.values():
      os.remove(path)
    raise ValueError(
        f"{item.name} from {' '.join(paths)}: {error}. What came was removed: "
        f"try again, or take it from another place with --mirror.") from error


def _take_file(path, target):
  """Copies a text file, unless it is something else."""
  text = _read_text(path)
  if target.endswith(".json"):
    content = json.loads(text)
    if not isinstance(content, dict) or "data" not in content:
      raise ValueError('what came has no "data" as SQuAD has it')
  _check_space(target, os.path.getsize(path), "it")
  shutil.copyfile(path, target)


def _read_text(path):
  """A file's text; refuses what is none, and web pages."""
  with open(path, encoding="utf-8", newline="") as reader:
    text = reader.read()
  if not text.strip() or text.lstrip("\ufeff \t\r\n").startswith("<"):
    raise ValueError("what came is empty or a web page")
  if "\0" in text:
    raise ValueError("what came is no text")
  return text


def unpack(path, folder):
  """Unpacks a zip archive; a single folder around all of it is left out.

  A file that is there already, of another archive, stays as it is.

  Args:
    path: string, the archive.
    folder: string, where its files go.

  Raises:
    ValueError: it is damaged, or has members that no data set needs: links,
      devices, names that lead elsewhere, much more than its size promises.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = _safe_members(archive, os.path.getsize(path))
      _check_space(folder, sum(m.file_size for m in members.values()), "it")
      taken = {name for name, _ in _files_in(folder)}
      for name, member in members.items():
        if name in taken:
          say(f"{name} is in two archives: the one of the first is taken.")
          continue
        target = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with archive.open(member) as reader, open(target, "wb") as writer:
          shutil.copyfileobj(reader, writer, _BLOCK)
          size = writer.tell()
        if size != member.file_size:
          raise ValueError(f"{name} has {size} bytes where the archive "
                           f"promises {member.file_size}")
  except Exception as error:  # Damage has as many forms as zipfile decoders.
    if isinstance(error, ValueError) or (
        getattr(error, "errno", None) in _DISK_ERRORS):
      raise
    # An OSError's text has a long path; some others have none.
    text = getattr(error, "strerror", None) or str(error)
    raise ValueError(
        f"no sound zip archive ({text or type(error).__name__})") from error


def _safe_members(archive, archive_size):
  """name -> ZipInfo of an archive's files, if all of them can be trusted."""
  members, seen = {}, set()
  for member in archive.infolist():
    name = member.orig_filename
    kind = stat.S_IFMT(member.external_attr >> 16)
    if _LITTER.search(name):
      continue
    if len(name) > _LONGEST_NAME:
      raise ValueError(f"the archive has a member {name[:40]!r}... of "
                       f"{len(name)} characters")
    if _ODD_NAME.search(name.rstrip("/") if name.strip("/") else name):
      raise ValueError(f"the archive has a member {name!r}, which leads "
                       f"elsewhere")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
      raise ValueError(f"the archive's member {name!r} is a link or device")
    if member.is_dir():
      continue
    if name.casefold() in seen:  # Many disks do not tell a from A.
      raise ValueError(f"the archive has {name!r} twice")
    seen.add(name.casefold())
    members[name] = member
  total = sum(member.file_size for member in members.values())
  if len(members) > _MOST_MEMBERS or (
      total > _LARGEST_RATIO * archive_size + _SMALL):
    raise ValueError(f"the archive of {_amount(archive_size)} would unpack to "
                     f"{len(members)} files of {_amount(total)}")
  tops = {name.partition("/")[0] for name in members}
  if len(tops) == 1 and all("/" in name for name in members):
    return {name.partition("/")[2]: member for name, member in members.items()}
  return members


def _assemble_mrpc(train_path, test_path, dev_ids_path, folder):
  """Makes GLUE's three files of MRPC from Microsoft's two.

  GLUE's dev set are the training rows whose ids stand in a file of its own.
  Test rows have their number in place of the label. Quotes and the byte order
  mark of the header stay as they are.

  Args:
    train_path: string, msr_paraphrase_train.txt.
    test_path: string, msr_paraphrase_test.txt.
    dev_ids_path: string, mrpc_dev_ids.tsv, lines of two ids.
    folder: string.

  Raises:
    ValueError: a file is of another form, or a row of the dev set is missing.
  """
  dev_ids = {tuple(row) for row in _tsv_rows(dev_ids_path, 2)}
  header, *rows = _tsv_rows(train_path, 5)
  dev = [row for row in rows if (row[1], row[2]) in dev_ids]
  if not dev_ids or len(dev) != len(dev_ids):
    raise ValueError(
        f"{os.path.basename(train_path)} has {len(dev)} of the "
        f"{len(dev_ids)} rows of GLUE's dev set")
  train = [row for row in rows if (row[1], row[2]) not in dev_ids]
  test_header, *test = _tsv_rows(test_path, 5)
  numbered = [[str(i), *row[1:]] for i, row in enumerate(test)]
  for name, lines in (("train", [header, *train]), ("dev", [header, *dev]),
                      ("test", [["index", *test_header[1:]], *numbered])):
    with open(os.path.join(folder, f"{name}.tsv"), "w", encoding="utf-8",
              newline="") as writer:
      writer.writelines("\t".join(row) + "\n" for row in lines)


def _tsv_rows(path, num_columns):
  """Rows (lists of string) of a file of tab-separated values."""
  rows = []
  for number, line in enumerate(_read_text(path).rstrip().split("\n"), 1):
    row = line.strip().split("\t")
    if len(row) != num_columns:
      raise ValueError(f"{os.path.basename(path)}:{number}: {len(row)} "
                       f"column(s) instead of {num_columns}")
    rows.append(row)
  return rows


def _files_in(folder):
  """(name relative to the folder, path) of all files."""
  for parent, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      yield os.path.relpath(path, folder), path


def sha256(path):
  """SHA-256 of a file's content, in hexadecimal digits."""
  digest = hashlib.sha256()
  with open(path, "rb") as reader:
    while block := reader.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def _check_space(path, size, what):
  """Refuses what the disk has no room for."""
  free = shutil.disk_usage(os.path.dirname(path) or ".").free
  if size > free:
    raise OSError(
        errno.ENOSPC, f"{what} needs {_amount(size)} beside {path}, where "
        f"{_amount(free)} are free. Give another --output_dir or --cache_dir.")


def _amount(size):
  """Bytes in words: 1234567 -> "1.2 MB"."""
  return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"


def _read_json(path):
  """A JSON object of the tool's own; {} where there is none."""
  try:
    with open(path, encoding="utf-8") as reader:
      return dict(json.load(reader))
  except FileNotFoundError:
    return {}
  except (ValueError, TypeError) as error:
    raise ValueError(f"{path} is damaged ({error}): remove it.") from error


def _write_json(path, value):
  temporary = f"{path}.tmp"
  with open(temporary, "w", encoding="utf-8") as writer:
    json.dump(value, writer, indent=1)
    writer.write("\n")
  os.replace(temporary, path)


class _Parser(argparse.ArgumentParser):
  """Errors become the tool's own."""

  def error(self, message):
    raise ValueError(f"{message}. --help shows all options.")


def parse_arguments(arguments):
  """Parses the command line.

  Args:
    arguments: list of string, without the program's name.

  Returns:
    argparse.Namespace.

  Raises:
    ValueError: what is given can't work.
  """
  parser = _Parser(
      prog="python -m demo.download", allow_abbrev=False,
      description="Downloads data sets and Google's checkpoints.")
  parser.add_argument("names", nargs="*", metavar="NAME",
                      help="what to download: see --list; GLUE and SQuAD are "
                      "all of these")
  parser.add_argument("--list", action="store_true",
                      help="show names and addresses, and end")
  parser.add_argument("--output_dir", default="downloads", metavar="DIR",
                      help="where each name becomes a folder (default: "
                      "%(default)s)")
  parser.add_argument("--cache_dir", metavar="DIR",
                      help="keep the files as they came there, and take them "
                      "from there (default: they are removed once unpacked)")
  parser.add_argument("--mirror", metavar="URL",
                      help="take the same paths from another base address: "
                      "https://mirror/bert or file:///mnt/bert")
  parser.add_argument("--check", action="store_true",
                      help="read what is there already through, not only look "
                      "at its size")
  parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS",
                      help="silence, or next to it, after which a connection "
                      "counts as broken (default: %(default)s)")
  parser.add_argument("--retries", type=int, default=5, metavar="N",
                      help="tries after the first one that bring nothing "
                      "(default: %(default)s)")
  options = parser.parse_args(arguments)
  if not options.names and not options.list:
    raise ValueError("Name what to download; --list shows all names.")
  if options.mirror and not _is_address(options.mirror):
    raise ValueError(
        f"--mirror={options.mirror} is not an address such as "
        f"https://host/folder, http://host:8000/folder or file:///folder.")
  for name, least, most in (("timeout", 0.1, 86400), ("retries", 0, 1000)):
    if not least <= getattr(options, name) <= most:  # Nor is NaN.
      raise ValueError(f"--{name}={getattr(options, name)} has to be {least} "
                       f"to {most}.")
  options.keeps_cache = options.cache_dir is not None
  options.cache_dir = options.cache_dir or os.path.join(
      options.output_dir, ".downloads")
  return options


def _is_address(text):
  """Whether files can be asked for below an address."""
  try:
    parts = urllib.parse.urlsplit(text)
    return parts.port != 0 and bool(re.fullmatch(
        r"(https?://[^/:@\s?#][^/@\s?#]*|file://(localhost)?)(/[^\s?#]*)?",
        text))
  except ValueError:
    return False


def _print_items(mirror):
  """Prints names and addresses, for a reader that may close early (`head`)."""
  try:
    for item in ITEMS:
      print(item.name, *(_address(url, mirror) for url in item.sources))
    sys.stdout.flush()
  except BrokenPipeError:  # Python would try again to print at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments):
  """Runs the command line.

  Args:
    arguments: list of string, without the program's name.

  Returns:
    int, the exit status.
  """
  try:
    options = parse_arguments(arguments)
    if options.list:
      _print_items(options.mirror)
      return 0
    for item in find_items(options.names):
      get(item, options)
    return 0
  except (ValueError, OSError) as error:
    text = getattr(error, "strerror", None) or error
    if getattr(error, "filename", None):
      text = f"{error.filename}: {text}"
    say(f"error: {text}")
    return 1
  except KeyboardInterrupt:
    say("interrupted. The same command goes on from what has come.")
    return 130


if __name__ == "__main__":
  # So that temporary folders are removed.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main(sys.argv[1:]))
