"""Tests of demo/launch.py: commands, and real mpirun on small programs."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from demo import launch
from tests import conftest

@pytest.fixture(autouse=True)
def no_rank(monkeypatch):
  for name in (*launch._RANK_VARIABLES, "OMP_NUM_THREADS",
               "TF_NUM_INTRAOP_THREADS"):
    monkeypatch.delenv(name, raising=False)


def command(*arguments, environment=None):
  options = launch.parse_arguments([*arguments, "--", "run_squad.py"])
  return launch.make_command(options, {} if environment is None
                             else environment)


class ArgumentsTest:

  def test_hosts(self):
    assert launch.parse_hosts("a:4,b") == [("a", 4), ("b", 1)]
    for text in ("a:0", ":2", "a:x", "a,,b"):
      with pytest.raises(ValueError, match="-H "):
        launch.parse_hosts(text)

  def test_hostfile(self, tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode1 slots=4\nnode2:2  # small\n\nnode3\n")
    assert launch.read_hostfile(path) == [
        ("node1", 4), ("node2", 2), ("node3", 1)]
    path.write_text("node1 slots=4\nnode2 slots=many\n")
    with pytest.raises(ValueError, match="line 2: 'node2 slots=many'"):
      launch.read_hostfile(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="names no server"):
      launch.read_hostfile(path)
    with pytest.raises(ValueError, match="can't be read"):
      launch.read_hostfile(tmp_path / "none")

  @pytest.mark.parametrize("arguments, message", [
      (["-np", "0", "--", "run_squad.py"], "-np 0 has to be 1"),
      (["-np", "2", "--restarts", "-1", "--", "run_squad.py"], "--restarts"),
      (["-np", "2"], "Name a script"),
      (["-np", "2", "--", "run_none.py"], "run_none.py is neither here nor"),
      (["-np", "2", "--gloo", "--mpi_args=-x", "--", "run_squad.py"],
       "are for mpirun")])
  def test_refused(self, arguments, message):
    with pytest.raises(ValueError, match=message):
      launch.parse_arguments(arguments)

  def test_refused_within_a_rank(self, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(ValueError, match="a rank of mpirun"):
      launch.parse_arguments(["-np", "2", "--", "run_squad.py"])

  @pytest.mark.parametrize("words, expected", [
      (["--output_dir=/a b"], "/a b"), (["--output_dir", "/c"], "/c"),
      (["-output_dir=/d"], "/d"), (["--other"], None)])
  def test_output_dir_of_the_script(self, words, expected):
    assert launch._output_dir(["run_squad.py", *words]) == expected


@conftest.needs_mpirun
class CommandTest:

  def test_binds_and_counts_threads(self, monkeypatch):
    monkeypatch.setattr(launch, "num_cores", lambda: 16)
    environment = {}
    words = command("-np", "4", environment=environment)
    assert words[:3] == [shutil.which("mpirun"), "-np", "4"]
    assert " ".join(words).count("--map-by slot:PE=4 --bind-to core") == 1
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["TF_NUM_INTRAOP_THREADS"] == "4"
    assert words[-2:] == [sys.executable, str(conftest.PROJECT / "run_squad.py")
                          if not os.path.exists("run_squad.py")
                          else "run_squad.py"]

  def test_more_ranks_than_cores_share_them(self, monkeypatch):
    monkeypatch.setattr(launch, "num_cores", lambda: 2)
    text = " ".join(command("-np", "5"))
    assert "--oversubscribe --bind-to none" in text and "PE=" not in text

  def test_servers(self, monkeypatch):
    monkeypatch.setattr(launch, "num_cores", lambda: 8)
    environment = {"NCCL_DEBUG": "INFO", "SECRET": "x", "TF_X": "1",
                   "OMPI_X": "1"}
    text = " ".join(command(
        "-np", "6", "-H", "a:4,b:2", "--interface", "eth0", "--ssh_port", "33",
        "--ssh_args=-i key", "-x", "MINE", "--mpi_args=--mca a b",
        environment=environment))
    assert "OMPI_X" not in text
    for part in ("-H a:4,b:2", "--map-by slot:PE=2", "-x NCCL_DEBUG",
                 "--mca btl_tcp_if_include eth0", "-x TF_X", "-x MINE",
                 "--mca oob_tcp_if_include eth0", "-x NCCL_SOCKET_IFNAME",
                 "--mca plm_rsh_args -p 33 -i key", "--mca a b"):
      assert part in text
    assert "SECRET" not in text
    with pytest.raises(ValueError, match="take 6 rank.*a:4, b:2"):
      command("-np", "7", "-H", "a:4,b:2")

  def test_threads_given_by_the_user_stay(self, monkeypatch):
    monkeypatch.setattr(launch, "num_cores", lambda: 8)
    environment = {"OMP_NUM_THREADS": "3"}
    command("-np", "2", environment=environment)
    assert environment["OMP_NUM_THREADS"] == "3"
    command("-np", "2", "--threads", "1", environment=environment)
    assert environment["OMP_NUM_THREADS"] == "1"

  @pytest.mark.skipif(not os.path.exists(os.path.join(
      os.path.dirname(sys.executable), "horovodrun")), reason="no horovodrun")
  def test_gloo(self):
    words = command("-np", "2", "--gloo", "-H", "a:1,b:1", "--ssh_port", "33")
    assert os.path.basename(words[0]) == "horovodrun"
    assert words[1:-2] == ["--gloo", "-np", "2", "-H", "a:1,b:1", "-p", "33"]


def start(tmp_path, program, *arguments):
  """Starts demo.launch on a program of this text, on two ranks."""
  (tmp_path / "program.py").write_text(
      "import os, signal, sys, time\n"
      "rank = int(os.environ['OMPI_COMM_WORLD_RANK'])\n" + program)
  return subprocess.Popen(
      [sys.executable, "-m", "demo.launch", "-np", "2", *arguments, "--",
       str(tmp_path / "program.py"), f"--output_dir={tmp_path}"],
      cwd=conftest.PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True)


def wait_for_pids(process, folder):
  """The ranks' pids, which the program writes beside itself."""
  pids = []
  while len(pids) < 2:
    assert process.poll() is None
    files = [folder / f"program.py{rank}" for rank in (0, 1)]
    pids = [int(f.read_text()) for f in files if f.exists() and f.read_text()]
  return pids


def assert_gone(pids):
  """No process of these is left within ten seconds."""
  for _ in range(100):
    if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
      return
    time.sleep(0.1)
  raise AssertionError(pids)


@conftest.needs_mpirun
class LaunchTest:

  def test_dry_run_prints_the_command_only(self, tmp_path):
    process = start(tmp_path, "", "--dry_run")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "mpirun -np 2" in out and not (tmp_path / "logs").exists()

  def test_each_rank_has_its_log(self, tmp_path):
    process = start(tmp_path, "print('I am', rank, os.environ['MINE'])",
                    "-x", "MINE=x y")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "I am 0 x y" in out and "I am 1" not in out
    for rank in (0, 1):
      assert (tmp_path / f"logs/rank_{rank}.log").read_text() == (
          f"I am {rank} x y\n")

  def test_failed_rank_is_named_with_its_last_words(self, tmp_path):
    process = start(
        tmp_path, "if rank == 1:\n  print('all is lost', flush=True)\n"
        "  time.sleep(0.5)\n  os.kill(os.getpid(), 9)\ntime.sleep(60)")
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "launch: rank 1 on " in out and "signal 9 (Killed)" in out
    assert "  all is lost" in out

  def test_starts_again_after_a_failure(self, tmp_path):
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-40"\n')
    process = start(
        tmp_path, "n = open(__file__ + str(rank), 'a').write('x')\n"
        "tries = len(open(__file__ + str(rank)).read())\n"
        "sys.exit(3 if tries < 2 and rank == 1 else 0)", "--restarts", "2")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "rank 1 ended with status 3" in out
    assert "Start 2 of 3, from model.ckpt-40" in out
    assert "Start 3" not in out

  def test_a_refusal_is_not_tried_again(self, tmp_path):
    process = start(
        tmp_path, "if rank == 0:\n  print('run_squad.py: error: no such file')"
        "\n  sys.exit(1)\ntime.sleep(60)", "--restarts", "2")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Start 2" not in out
    assert "run_squad.py: error: no such file" in out

  def test_no_start_after_a_signal_in_the_pause(self, tmp_path):
    process = start(tmp_path, "sys.exit(3)", "--restarts", "2")
    lines = []
    for line in process.stdout:
      lines.append(line)
      if "Start 2" in line:
        process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert "Start 3" not in "".join(lines)

  def test_killed_launcher_leaves_no_rank(self, tmp_path):
    process = start(
        tmp_path, "open(__file__ + str(rank), 'w').write(str(os.getpid()))\n"
        "time.sleep(60)")
    pids = wait_for_pids(process, tmp_path)
    process.kill()
    process.communicate()
    assert_gone(pids)

  @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT,
                                      signal.SIGHUP])
  def test_ranks_are_asked_to_end(self, number, tmp_path):
    process = start(
        tmp_path, "def stop(*_):\n  print('saved', rank, flush=True)\n"
        "  sys.exit(143)\nsignal.signal(signal.SIGUSR1, stop)\n"
        "open(__file__ + str(rank), 'w')\ntime.sleep(60)", "--restarts", "2")
    while not all((tmp_path / f"program.py{r}").exists() for r in (0, 1)):
      time.sleep(0.05)
      assert process.poll() is None
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "asked to save" in out and "Start 2" not in out
    saved = [(tmp_path / f"logs/rank_{r}.log").exists() for r in (0, 1)]
    assert any(saved)

  def test_lines_of_ranks_that_write_at_once(self, tmp_path):
    job = launch._Launcher(str(tmp_path), False)
    job.run([sys.executable, "-c", ""], {})
    for line in ("[1,0]<stdout>:one [1,1]<stdout>:two [1,0]<stderr>:error",
                 "[1,0]<stdout>:three", "[1]<stdout>:four"):
      job._take(line)
    for log in job._logs.values():
      log.close()
    assert (tmp_path / "rank_0.log").read_text() == "error\none three\n"
    assert (tmp_path / "rank_1.log").read_text() == "two four\n"

  def test_second_signal_ends_at_once(self, tmp_path):
    process = start(
        tmp_path, "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "open(__file__ + str(rank), 'w').write(str(os.getpid()))\n"
        "time.sleep(60)")
    pids = wait_for_pids(process, tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert_gone(pids)
