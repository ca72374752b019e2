"""Tests of demo/bert_client.py, client_helpers.py and client_rows.py, against
the real server."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from demo import bert_client
from demo import client_helpers
from demo import client_rows
from demo import metrics
from demo import predictor
import run_squad
from tests import conftest
from tests import served_models

pytestmark = pytest.mark.slow
PROTOCOLS = ([], ["--rest"])
ROWS = [("the film was good", "yes"), ("awful food", "no"), ("a b c", "no"),
        ("the hotel is not bad but dull", "maybe"), ("lovely room!", "yes"),
        ("the staff", "maybe"), ("good " * 40, "yes")]
SQUAD = dict(max_seq_length=32, max_query_length=8, n_best_size=5,
             version_2_with_negative=False)


@pytest.fixture(scope="module")
def exports(tiny_model, tmp_path_factory):
  """name -> folder of exports."""
  folder = tmp_path_factory.mktemp("client_exports")
  return {
      "texts": served_models.export(
          tiny_model, "classification", folder / "texts"),
      "others": served_models.export(
          tiny_model, "classification", folder / "others", step=8),
      "numbers": served_models.export(
          tiny_model, "regression", folder / "numbers"),
      "squad": served_models.export(
          tiny_model, "squad", folder / "squad", **SQUAD),
      "squad2": served_models.export(
          tiny_model, "squad", folder / "squad2",
          **{**SQUAD, "version_2_with_negative": True},
          null_score_diff_threshold=-10.5)}


@pytest.fixture(scope="module")
def server(exports):
  with served_models.Server(exports, "--max_wait_ms=0") as found:
    yield found


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """A table of ROWS."""
  path = tmp_path_factory.mktemp("client_table") / "rows.tsv"
  path.write_text("sentence\tlabel\n" + "".join(
      f"{text}\t{label}\n" for text, label in ROWS))
  return str(path)


@pytest.fixture(scope="module")
def rows_file(table):
  """The same rows made ready, so that a client starts at once."""
  path = table + ".rows"
  assert bert_client.run(bert_client.parse_arguments(
      [f"--data_file={table}", f"--save_rows={path}"])) == 0
  return path


def start_client(server, *flags):
  """Starts the client as a user does; returns the process."""
  return subprocess.Popen(
      [sys.executable, "-m", "demo.bert_client", *server.client_flags(),
       *map(str, flags)],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      cwd=conftest.PROJECT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})


def run_client(server, *flags):
  """Runs the client to its end; returns (status, stdout, stderr)."""
  process = start_client(server, *flags)
  stdout, stderr = process.communicate(timeout=120)
  return process.returncode, stdout, stderr


def run_here(server, *flags):
  """Runs the client in this process; returns its status."""
  return bert_client.run(bert_client.parse_arguments(
      [*server.client_flags(), *map(str, flags)]))


class ClosedLoopTest:

  @pytest.mark.parametrize("protocol", PROTOCOLS, ids=["grpc", "rest"])
  @pytest.mark.parametrize("send", ["text", "ids"])
  def test_each_answer_is_the_offline_one_of_its_row(
      self, protocol, send, server, exports, table, tmp_path, capsys):
    report = tmp_path / "report.json"
    ids = [] if send == "text" else [
        "--send=ids", f"--export_dir={exports['texts']}"]
    assert run_here(
        server, "--model=texts", f"--data_file={table}", "--clients=5",
        "--cycle=6", "--batch=3", f"--check={exports['texts']}",
        f"--save_accuracy={report}", *ids, *protocol) == 0
    found = json.loads(report.read_text())
    assert (found["requests"], found["rows_answered"]) == (30, len(ROWS))
    assert found["errors"] == {} and found["check"]["answers"] == 90
    assert 0 < found["check"]["largest_difference"] < 1e-5
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert found["rows_per_second"] == pytest.approx(90 / found["seconds"])
    names = served_models.LABELS["classification"]
    expected = metrics.classification_scores(
        "custom", [names.index(label) for _, label in ROWS],
        [names.index(answer["label"]) for answer in predictor.load(
            exports["texts"])([text.strip() for text, _ in ROWS])])
    assert found["scores"] == pytest.approx(expected)
    assert found["scored_rows"] == len(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert f"accuracy              {expected['accuracy']:.4f}" in lines

  @pytest.mark.parametrize("protocol", PROTOCOLS, ids=["grpc", "rest"])
  def test_another_models_answers_are_noticed(
      self, protocol, server, exports, table):
    status, stdout, stderr = run_client(
        server, "--model=texts", f"--data_file={table}",
        f"--check={exports['others']}", *protocol)
    assert status == 1, stderr
    assert "more than --tolerance=0.001" in stdout

  def test_by_default_each_row_is_sent_once_in_all(
      self, server, table, tmp_path):
    report = tmp_path / "report.json"
    assert run_here(server, "--model=texts", f"--data_file={table}",
                    "--clients=3", f"--save_accuracy={report}") == 0
    found = json.loads(report.read_text())
    assert found["rows_answered"] == len(ROWS)
    assert found["requests"] == 9  # Clients that do the same.

  def test_numbers_are_compared_and_scored(
      self, server, exports, tmp_path):
    path, report = tmp_path / "rows.jsonl", tmp_path / "report.json"
    targets = [0.5, 4.0, 1.0]
    texts = ["good film", "awful film", "the room"]
    path.write_text("".join(
        json.dumps({"text": text, "score": target}) + "\n"
        for text, target in zip(texts, targets)))
    for protocol in PROTOCOLS:
      for ids in [], ["--send=ids", f"--export_dir={exports['numbers']}"]:
        assert run_here(
            server, "--model=numbers", f"--data_file={path}",
            f"--check={exports['numbers']}", f"--save_accuracy={report}",
            *protocol, *ids) == 0
        values = [answer["value"] for answer in
                  predictor.load(exports["numbers"])(texts)]
        assert json.loads(report.read_text())["scores"] == pytest.approx(
            metrics.regression_scores(targets, values), abs=1e-5)


class QuestionsTest:

  @pytest.mark.parametrize("name,file", [
      ("squad", "dev.json"), ("squad2", "dev2.json")])
  def test_scores_are_those_of_run_squad_on_the_same_answers(
      self, name, file, server, exports, squad_dir, tiny_model, tmp_path):
    reports = []
    for flags in (["--clients=2"], ["--rest", "--batch=4"],
                  ["--send=ids", f"--export_dir={exports[name]}"]):
      report = tmp_path / "report.json"
      check = [] if "--send=ids" in flags else [f"--check={exports[name]}"]
      assert run_here(
          server, f"--model={name}", f"--data_file={squad_dir / file}",
          f"--save_accuracy={report}", *check, *flags) == 0
      reports.append(json.loads(report.read_text()))
    rows = client_rows.read(bert_client.parse_arguments(
        ["--squad", f"--data_file={squad_dir / file}"]))[1]
    answers = predictor.load(exports[name])(
        [client_rows.item_of(row) for row in rows])
    assert any(answer["answer"] for answer in answers)
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    for file_name, key in (("predictions", "answer"), ("nbest_predictions",
                                                       "nbest")):
      (output_dir / f"{file_name}.json").write_text(json.dumps(
          {row["id"]: answer[key] for row, answer in zip(rows, answers)}))
    if name == "squad2":
      assert 0 < sum(not answer["answer"] for answer in answers) < len(rows)
      (output_dir / "null_odds.json").write_text(json.dumps(
          {row["id"]: answer["null_odds"]
           for row, answer in zip(rows, answers)}))
    run = conftest.run_script(
        "run_squad.py", "--do_eval", f"--predict_file={squad_dir / file}",
        f"--output_dir={output_dir}", *tiny_model.flags(),
        *(["--version_2_with_negative"] if name == "squad2" else []))
    assert run.returncode == 0, run.stdout
    expected = json.loads((output_dir / "eval_results.json").read_text())
    for report in reports:
      assert report["scores"] == pytest.approx(expected, abs=1e-4)

  def test_another_answer_is_a_difference(self):
    def entry(text, start, probability):
      return {"text": text, "start": start, "end": None,
              "probability": probability}
    nbest = [entry("a", 0, 0.6), entry("b", 4, 0.3), entry("", None, 0.1)]
    expected = {"answer": "a", "probability": 0.6, "nbest": nbest}
    answer = {"answer": "a", "nbest": json.dumps(nbest)}
    assert bert_client.difference(expected, answer) == 0
    assert bert_client.difference(
        expected, {**answer, "answer": "b"}) == pytest.approx(0.3)
    moved = [nbest[0], entry("b", 9, 0.3), nbest[2]]
    assert bert_client.difference(
        expected, {**answer, "nbest": moved}) == pytest.approx(0.3)
    assert bert_client.difference(expected, {"answer": "a"}) == float("inf")
    # An empty answer has no place, whatever stands there.
    nowhere = [*nbest[:2], entry("", -1, 0.1)]
    assert bert_client.difference(expected, {**answer, "nbest": nowhere}) == 0


class LoneQuestionTest:

  @pytest.mark.parametrize("protocol", PROTOCOLS, ids=["grpc", "rest"])
  def test_the_answer_is_printed(self, protocol, server, exports):
    answer = predictor.load(exports["texts"])(("a good film", "a bad one"))
    status, stdout, stderr = run_client(
        server, "--model=texts", "--pair=a good film", "--pair=a bad one",
        *protocol)
    assert status == 0, stderr
    first, second = stdout.splitlines()
    assert first.startswith(f"{answer['label']}  [probabilities ")
    assert f"{answer['probability']:.4f}" in first
    assert second.startswith("answered in ")
    context = "the film was good and the food awful"
    answer = predictor.load(exports["squad"])(("what?", context))
    status, stdout, stderr = run_client(
        server, "--model=squad", "--question=what?", f"--context={context}",
        *protocol)
    assert status == 0, stderr
    assert stdout.startswith(f"{answer['answer']}  [probability ")

  def test_neither_tensorflow_nor_numpy_is_loaded(self, server, rows_file):
    code = ("import sys; from demo import bert_client\n"
            "for more in [], ['--rest']:\n"
            "  assert not bert_client.run(bert_client.parse_arguments("
            "sys.argv[1:] + more))\n"
            "assert not {'tensorflow', 'numpy', 'absl'} & set(sys.modules)")
    for asked in ["--pair=good"], [f"--rows={rows_file}", "--no_scores"]:
      run = subprocess.run(
          [sys.executable, "-c", code, *server.client_flags(), "--model=texts",
           *asked], cwd=conftest.PROJECT, check=False, capture_output=True,
          text=True)
      assert run.returncode == 0, run.stderr


class WaitTest:

  def test_it_lasts_until_the_model_is_loaded(self, exports):
    with socket.socket() as first, socket.socket() as second:
      for taken in (first, second):
        taken.bind(("127.0.0.1", 0))
      ports = [f"--port={first.getsockname()[1]}",
               f"--rest_port={second.getsockname()[1]}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.bert_server", *ports,
         f"--dir={exports['texts']}"], cwd=conftest.PROJECT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
      run = subprocess.run(
          [sys.executable, "-m", "demo.bert_client", *ports, "--wait=100",
           "--pair=good film"], cwd=conftest.PROJECT, stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT, text=True, check=False)
      assert run.returncode == 0, run.stdout
    finally:
      process.kill()
      process.wait()


class OpenLoopTest:

  @pytest.mark.parametrize("protocol", PROTOCOLS, ids=["grpc", "rest"])
  def test_requests_come_at_the_wanted_rate(
      self, protocol, server, table, tmp_path):
    report = tmp_path / "report.json"
    counts = []
    for seed in (1, 1, 2):
      assert run_here(
          server, "--model=texts", f"--data_file={table}", "--rate=40",
          "--duration=1.5", f"--seed={seed}", f"--save_accuracy={report}",
          *protocol) == 0
      counts.append(json.loads(report.read_text())["requests"])
    assert counts[0] == counts[1]  # The times are drawn from the seed.
    assert all(30 <= count <= 90 for count in counts)

  @pytest.mark.parametrize("connections", [1, 256])
  def test_waiting_for_a_slow_server_counts(self, connections, monkeypatch):
    # With one connection it is the client in which requests wait.
    monkeypatch.setattr(client_helpers, "_MOST_CONNECTIONS", connections)
    with slow_server(0.03) as port:
      found = {}
      for rate in (None, 100.0):
        protocol = client_helpers.RestProtocol("127.0.0.1", port)
        tally = client_helpers.Tally(protocol)
        batch = client_helpers.Batch(
            [0], [1], protocol.request("m", "s", [{"text_a": "x"}]))
        assert client_helpers.run_load(
            protocol, [batch], client_helpers.Load(1, 40, None, rate, 1, 30.0),
            tally) is None
        assert tally.statuses == {client_helpers.OK: 40}
        found[rate] = tally.latencies.summary()
    # Three times as many come as it can answer: the last one waits for 40.
    assert found[None]["p99"] < 200
    assert found[100.0]["max"] > 600


class slow_server(object):  # pylint: disable=invalid-name
  """An HTTP server that answers one request after the other.

  It closes each connection without a word, as servers do with idle ones.
  """

  def __init__(self, seconds):
    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):  # pylint: disable=invalid-name
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(seconds)
        body = b'{"predictions": [{"label": "x"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, *args):
        pass

    class Server(http.server.HTTPServer):
      request_queue_size = 128

      def handle_error(self, request, client_address):
        pass  # A connection that was only tried.

    self._server = Server(("127.0.0.1", 0), Handler)

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self._server.server_address[1]

  def __exit__(self, *exception):
    self._server.shutdown()
    self._server.server_close()


class ErrorsTest:

  def test_killed_server_leaves_a_report(self, exports, rows_file, tmp_path):
    reports = [tmp_path / name for name in ("grpc.json", "rest.json")]
    with served_models.Server({"texts": exports["texts"]}) as server:
      clients = [start_client(
          server, f"--rows={rows_file}", "--clients=4", "--duration=4",
          f"--save_accuracy={report}", *protocol)
                 for report, protocol in zip(reports, PROTOCOLS)]
      time.sleep(2)
      server.process.kill()
      outputs = [client.communicate(timeout=60) for client in clients]
    for client, (stdout, stderr), report, status in zip(
        clients, outputs, reports, ("UNAVAILABLE", "no connection")):
      assert client.returncode == 1, stderr
      found = json.loads(report.read_text())
      assert list(found["errors"]) == [status]
      assert found["requests"] > found["errors"][status] > 4
      # They went on trying, but not as fast as that fails.
      assert found["errors"][status] < 200 and found["seconds"] > 3
      assert f"  {status}" in stdout and "latency, ms" in stdout

  def test_errors_are_counted_by_status(self, exports, rows_file, tmp_path):
    report = tmp_path / "report.json"
    with served_models.Server(
        {"texts": exports["texts"]}, "--max_queued_rows=1",
        "--max_request_rows=1") as server:
      for protocol, wanted in zip(PROTOCOLS, ("RESOURCE_EXHAUSTED", "429")):
        assert run_here(
            server, f"--rows={rows_file}", "--clients=32", "--cycle=10",
            f"--save_accuracy={report}", *protocol) == 1
        found = json.loads(report.read_text())
        assert found["requests"] == 320 and set(found["errors"]) == {wanted}
        assert 0 < found["errors"][wanted] < 320
        assert found["messages"][wanted]

  def test_interrupted_run_reports_what_was_done(self, server, rows_file):
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
      client = start_client(
          server, "--model=texts", f"--rows={rows_file}", "--duration=60")
      time.sleep(2)
      client.send_signal(number)
      stdout, stderr = client.communicate(timeout=30)
      assert client.returncode == status, stderr
      assert "latency, ms" in stdout and "Traceback" not in stderr

  @pytest.mark.parametrize("flags,message", [
      ([], "What is to be asked?"),
      (["--pair=a", "--rows=b"], "only one can be asked"),
      (["--pair=a", "--pair=b", "--pair=c"], "given 3 times"),
      (["--question=a"], "--question and --context"),
      (["--pair=a", "--clients=0"], "--clients=0"),
      (["--pair=a", "--rate=0"], "--rate=0"),
      (["--pair=a", "--cycles=3"], "--cycles=3"),
      (["--pair=a", "--send=ids"], "--export_dir"),
      (["--data_file=a", "--data_dir=b"], "only one can be read"),
      (["--pair=a", "--save_accuracy=/nowhere/x"], "/nowhere/x"),
      (["--pair=a", "--port=x"], "--port")])
  def test_wrong_flags_are_refused(self, flags, message):
    with pytest.raises(ValueError, match=message):
      bert_client.parse_arguments(flags)

  def test_wrong_requests_are_refused_with_a_line(
      self, server, table, tmp_path):
    (tmp_path / "rows").write_text("{}\n")
    for flags, message in (
        (["--pair=a"], "which --model? The server has texts, others"),
        (["--model=x", "--pair=a"], "--model=x: the server has"),
        (["--model=squad", "--pair=a"], "squad takes questions"),
        (["--model=texts", "--question=a", "--context=b"], "texts takes texts"),
        (["--model=texts", f"--rows={tmp_path / 'rows'}"],
         "was not written by --save_rows"),
        (["--model=texts", "--rows=/nowhere"], "/nowhere"),
        (["--model=texts", "--data_file=/nowhere.tsv"], "/nowhere.tsv"),
        (["--model=texts", "--task_name=x", "--data_dir=y"], "unknown task"),
        (["--model=texts", f"--data_file={table}", "--task_name=MRPC"],
         "is none of the files of --task_name=MRPC"),
        (["--model=texts", f"--data_file={table}", "--check=/nowhere"],
         "/nowhere has no exported model"),
        (["--pair=a", "--rest_port=1"], "nobody lists models"),
        (["--model=a", "--pair=a", "--rest_port=1", "--port=1"],
         "nobody answers on 127.0.0.1:1"),
        (["--model=a", "--pair=a", "--rest", "--rest_port=1"],
         "nobody answers on 127.0.0.1:1")):
      with pytest.raises((ValueError, OSError)) as error:
        run_here(server, *flags)
      assert message in str(error.value), flags
    status, stdout, stderr = run_client(server, "--pair=a")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("bert_client: error: which --model?")
    assert stderr.count("\n") == 1

  def test_labels_that_the_model_lacks_leave_the_rest_of_the_report(
      self, server, tmp_path, capsys):
    path = tmp_path / "rows.tsv"
    path.write_text("sentence\tlabel\na\tdunno\nb\tyes\n")
    assert run_here(server, "--model=texts", f"--data_file={path}") == 0
    out = capsys.readouterr().out
    assert "the label 'dunno' is none of the model's, no, maybe, yes" in out
    assert "latency, ms" in out


class RowsTest:

  def read(self, *flags):
    return client_rows.read(bert_client.parse_arguments(flags))

  def test_rows_of_a_task_are_its_processors(self, sst2_dir):
    by_folder = self.read("--task_name=SST-2", f"--data_dir={sst2_dir}")
    by_file = self.read(
        "--task_name=sst2", f"--data_file={sst2_dir / 'dev.tsv'}")
    expected = [{"text_a": text, "label": label}
                for text, label in conftest.sentiment_rows(50, 2)]
    assert by_folder == by_file == ("sst2", expected)
    _, rows = self.read(
        "--task_name=SST-2", f"--data_dir={sst2_dir}", "--split=test")
    assert len(rows) == 21 and "label" not in rows[0]

  def test_columns_of_a_table_can_be_named(self, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('first,second,kind\n"a, b",c,x\nd,e,y\n')
    assert self.read(f"--data_file={path}", "--text_a=first", "--text_b=second",
                     "--label=kind") == ("custom", [
                         {"text_a": "a, b", "text_b": "c", "label": "x"},
                         {"text_a": "d", "text_b": "e", "label": "y"}])

  def test_questions_keep_what_is_right(self, squad_dir):
    task, rows = self.read("--squad", f"--data_file={squad_dir / 'dev.json'}")
    assert task == "squad" and len(rows) == 80
    assert all(len(row["answers"]) == 1 for row in rows)
    task, rows = self.read("--squad", f"--data_file={squad_dir / 'dev2.json'}")
    assert task == "squad_v2"
    assert {len(row["answers"]) for row in rows} == {0, 1}
    examples = run_squad.read_squad_examples(
        str(squad_dir / "dev2.json"), False, True)
    assert [row["id"] for row in rows] == [x.qas_id for x in examples]

  def test_saved_rows_come_back(self, tmp_path):
    items = [{"text_a": "ä\u2028😀", "label": "x"}, {"text_a": ""}]
    path = str(tmp_path / "rows")
    bert_client.Rows("mrpc", items).save(path)
    found = bert_client.Rows.load(path)
    assert (found.task, found.kind, found.items) == ("mrpc", "texts", items)
    assert os.listdir(tmp_path) == ["rows"]


class TallyTest:

  def make(self, compare=None):
    return client_helpers.Tally(
        client_helpers.RestProtocol("127.0.0.1", 1), compare)

  def reply(self, *predictions):
    return client_helpers.Reply(client_helpers.OK, json.dumps(
        {"predictions": predictions}).encode())

  def test_answers_go_to_their_rows(self):
    tally = self.make()
    batch = client_helpers.Batch([4, 2], [1, 2], b"")
    tally.add(batch, self.reply(4.5, 2.0, 2.0), 0.01)
    assert tally.answers == {4: {"value": 4.5},
                             2: [{"value": 2.0}, {"value": 2.0}]}

  def test_nan_is_a_difference(self):
    tally = self.make(lambda number, answer: answer["value"])
    batch = client_helpers.Batch([0], [1], b"")
    for value in (0.25, float("nan"), 0.5):
      tally.add(batch, self.reply({"value": value}), 0.01)
    assert tally.largest_difference == float("inf") and tally.worst_row == 0

  @pytest.mark.parametrize("body", [b"", b"[]", b'{"predictions": [1]}',
                                    b'{"predictions": 3}', b'{"outputs": {}}'])
  def test_replies_that_say_something_else_are_errors(self, body):
    tally = self.make()
    tally.add(client_helpers.Batch([0, 1], [1, 1], b""),
              client_helpers.Reply(client_helpers.OK, body), 0.01)
    assert tally.statuses == {"unreadable": 1} and not tally.answers
