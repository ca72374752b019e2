"""demo.launch on two servers: two network namespaces of this machine, each
with a host name and an sshd of its own, with or without a shared disk."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from tests import conftest

PORT = 2222
NAMES = ("bert-a", "bert-b")
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
NEEDED = ("mpirun", "ip", "unshare", "ssh", "ssh-keygen", "mount")

pytestmark = pytest.mark.slow


def sh(command, **kwargs):
  return subprocess.run(command, shell=True, check=True, text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                        **kwargs).stdout


class Servers(object):
  """Two namespaces that see each other as 10.88.0.1 and 10.88.0.2."""

  def __init__(self, folder):
    self.folder = folder
    self.addresses = ("10.88.0.1", "10.88.0.2")
    self._processes = []

  def start(self):
    """Makes them; raises CalledProcessError where that isn't permitted."""
    folder = self.folder
    for name in NAMES:
      sh(f"ip netns add {name}")
    sh(f"ip link add veth-a netns {NAMES[0]} type veth "
       f"peer name veth-b netns {NAMES[1]}")
    for name, link, address in zip(NAMES, ("veth-a", "veth-b"), self.addresses):
      sh(f"ip -n {name} addr add {address}/24 dev {link}")
      sh(f"ip -n {name} link set {link} up && ip -n {name} link set lo up")
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {folder}/host_key")
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {folder}/key")
    shutil.copy(folder / "key.pub", folder / "authorized")
    os.makedirs("/run/sshd", exist_ok=True)
    (folder / "sshd_config").write_text(
        f"Port {PORT}\nHostKey {folder}/host_key\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized\nPermitRootLogin yes\n"
        f"UsePAM no\nPidFile none\nAcceptEnv *\n")

  def sshd(self, server, own_disk):
    """Starts sshd on the second server.

    Args:
      server: int.
      own_disk: string or None, a folder that is another one on this server.
    """
    inside = f"hostname {NAMES[server]}; "
    if own_disk:
      inside += f"mount -t tmpfs tmpfs {shlex.quote(own_disk)}; "
    inside += f"exec {SSHD} -D -e -f {self.folder}/sshd_config"
    self._processes.append(subprocess.Popen(
        ["ip", "netns", "exec", NAMES[server], "unshare", "--uts", "--mount",
         "sh", "-c", inside],
        stdout=subprocess.DEVNULL,
        stderr=open(self.folder / "sshd.log", "w", encoding="utf-8")))
    for _ in range(50):
      time.sleep(0.1)
      if "listening" in (self.folder / "sshd.log").read_text():
        return
    raise AssertionError((self.folder / "sshd.log").read_text())

  def run(self, server, command, timeout=300):
    """Runs a command on a server; returns its CompletedProcess."""
    return subprocess.run(
        ["ip", "netns", "exec", NAMES[server], "unshare", "--uts", "sh", "-c",
         f"hostname {NAMES[server]}; exec {shlex.join(command)}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=conftest.PROJECT, timeout=timeout, check=False,
        env={**os.environ, "PYTHONPATH": str(conftest.PROJECT)})

  def end(self):
    for process in self._processes:
      process.terminate()
      process.wait()
    for name in NAMES:
      subprocess.run(["ip", "netns", "del", name], check=False,
                     stderr=subprocess.DEVNULL)


@pytest.fixture
def servers(tmp_path):
  missing = [name for name in NEEDED if shutil.which(name) is None]
  if missing or not os.path.exists(SSHD):
    pytest.skip(f"no {', '.join(missing) or 'sshd'}")
  made = Servers(tmp_path)
  try:
    try:
      made.start()
    except subprocess.CalledProcessError as error:
      pytest.skip(f"no right to make namespaces: {error.output.strip()}")
    yield made
  finally:
    made.end()


class TwoServersTest:

  @pytest.mark.parametrize("disk", ["shared", "own"])
  def test_classifier_trains(
      self, disk, servers, tiny_model, sst2_dir, tmp_path):
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    servers.sshd(1, str(output_dir) if disk == "own" else None)
    run = servers.run(0, [
        sys.executable, "-m", "demo.launch", "-np", "3", "-H",
        f"{servers.addresses[0]}:2,{servers.addresses[1]}:1",
        "--interface", "10.88.0.0/24", "--ssh_port", str(PORT),
        f"--ssh_args=-i {tmp_path}/key -o StrictHostKeyChecking=no "
        f"-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        # Both servers have the same cores.
        "--bind", "none",
        f"--log_dir={tmp_path}/logs", "-x", "PYTHONPATH", "--",
        "run_classifier.py", "--task_name=sst2", "--do_train", "--do_eval",
        f"--data_dir={sst2_dir}", f"--output_dir={output_dir}", "--cpu_only",
        "--train_batch_size=8", "--learning_rate=1e-3", "--random_seed=1",
        "--num_train_epochs=3", "--detailed_results", "--distributed_predict",
        *tiny_model.flags()])
    assert run.returncode == 0, run.stdout
    assert "Horovod runs 3 rank(s), 2 on this server" in run.stdout
    metrics = json.loads((output_dir / "eval_metrics.json").read_text())
    assert metrics["global_step"] == 32  # 256 * 3 / 8 / 3
    assert metrics["sets"]["dev"]["examples"] == 50
    rows = {path.name: sum(1 for _ in tf.data.TFRecordDataset(str(path)))
            for path in pathlib.Path(output_dir).glob("train.tf_record_?")}
    expected = {"train.tf_record_0": 86, "train.tf_record_1": 85,
                "train.tf_record_2": 85}
    if disk == "own":
      del expected["train.tf_record_2"]  # It lies on the other server.
    assert rows == expected
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert "rank_0.log" in logs
