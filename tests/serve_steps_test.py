"""Tests of demo/serve_steps.py, with small programs in place of the tools."""

import pathlib
import signal
import threading

import pytest

from demo import serve_steps


@pytest.fixture
def steps(tmp_path):
  return serve_steps.Steps(str(tmp_path / "logs"))


def program(folder, text):
  """A Python file, as `run` takes scripts."""
  path = folder / "program.py"
  path.write_text(text)
  return str(path)


class ShownTest:

  def test_shell_reads_it(self):
    assert serve_steps.shown("a.py", ["--x=1 2"], {"Y": "3"}) == (
        "Y=3 python a.py '--x=1 2'")

  def test_long_commands_go_over_lines(self):
    lines = serve_steps.shown("demo.x", ["--" + 30 * "x"] * 5).splitlines()
    assert len(lines) == 3 and all(len(line) <= 80 for line in lines)
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert lines[0].startswith("python -m demo.x --")


class RunTest:

  def test_output_is_in_the_log(self, steps, tmp_path, capsys):
    assert steps.run("hello", program(
        tmp_path, "import os, sys\nprint(os.environ['A'], sys.argv[1])"), "b",
                     environment={"A": "a"})
    (step,) = steps.done
    assert pathlib.Path(step["log"]).read_text() == "a b\n"
    assert step["name"] == "hello" and step["seconds"] > 0
    assert f"$ {step['command']}" in capsys.readouterr().out

  def test_failure_names_step_status_last_line_and_log(self, steps, tmp_path):
    with pytest.raises(ValueError, match=(
        r"The step fails ended with status 3: why \(log: .*/fails\.log\)")):
      steps.run("fails", program(
          tmp_path, "print('so')\nprint('why')\nraise SystemExit(3)"))

  def test_only_a_new_result_makes_up_for_the_status(self, steps, tmp_path):
    result = tmp_path / "result"
    writes = f"open({str(result)!r}, 'w').write('x')\nraise SystemExit(1)"
    assert not steps.run("writes", program(tmp_path, writes),
                         result=str(result))
    with pytest.raises(ValueError, match="it said nothing"):
      steps.run("ends", program(tmp_path, "raise SystemExit(1)"),
                result=str(result))
    assert result.read_text() == "x"

  @pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
  def test_interrupt_ends_the_process(
      self, steps, tmp_path, handler, monkeypatch):
    monkeypatch.setattr(serve_steps, "_GRACE_SECONDS", 0.5)
    number = tmp_path / "number"
    text = (f"import os, signal, time\n"
            f"signal.signal(signal.SIGTERM, signal.{handler})\n"
            f"open({str(number)!r}, 'w').write(str(os.getpid()))\n"
            f"os.kill(os.getppid(), signal.SIGINT)\n"
            f"time.sleep(60)")
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
      with pytest.raises(KeyboardInterrupt):
        steps.run("sleeps", program(tmp_path, text))
    finally:
      signal.signal(signal.SIGINT, before)
    assert not pathlib.Path(f"/proc/{number.read_text()}").exists()


class ServerTest:

  def test_server_that_does_not_start_is_a_failed_step(self, steps, tmp_path):
    with pytest.raises(ValueError, match=r"The step server ended with status 1"
                       r": .*none.* \(log: .*/server\.log\)"):
      with steps.server("server", f"--dir={tmp_path}/none"):
        raise AssertionError("There is none.")
