"""Tests of demo/int8_search.py; trials are scored by formulas."""

import json
import os
import tempfile

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from demo import config_helpers
from demo import int8_config
from demo import int8_search

SETTINGS = ["rough", "fine"]
LAYERS = ["a", "b", "c", "d"]
# What a layer in float32 adds to the score. Alone all but "b" do good; with "c"
# and "d" in float32, "a" does not.
EFFECTS = {"a": 0.01, "b": -0.02, "c": 0.04, "d": 0.03}
ABOUT = {"model": "c0ffee", "goal": 0.8, "sizes": (100, 500)}


class Killed(BaseException):
  """The end of a process, which no code catches."""


class Bench(object):
  """Makes up the results of trials, and notes which were asked for.

  Attributes:
    measured: list of (number, setting, fallbacks).
    now: float, seconds of the clock.
  """

  def __init__(self, effects=None, seconds=0.0, dies_at=None):
    """Takes the effects of layers, the time of a trial, and the last one."""
    self._effects = EFFECTS if effects is None else effects
    self._seconds, self._dies_at = seconds, dies_at
    self.measured, self.now = [], 1000.0

  def score(self, setting, fallbacks):
    """A score by a formula."""
    score = {"rough": 0.70, "fine": 0.75}[setting] + sum(
        self._effects[layer] for layer in fallbacks)
    return score - 0.05 * ({"a", "c", "d"} <= set(fallbacks))

  def measure(self, number, setting, fallbacks):
    """See int8_search.Search."""
    if number == self._dies_at:
      raise Killed
    self.measured.append((number, setting, fallbacks))
    self.now += self._seconds
    return {
        "score": self.score(setting, fallbacks), "difference": 0.1,
        # The settings are worse, the faster and smaller they are.
        "latency_ratio": {"rough": 0.4, "fine": 0.5}[setting] + 0.01 * len(
            fallbacks),
        "latency_ms": 3.0, "fp32_latency_ms": 6.0,
        "bytes": {"rough": 60, "fine": 50}[setting] + len(fallbacks)}

  def clock(self):
    """Seconds."""
    return self.now


def config(**changes):
  """A Config with other values."""
  return int8_config.parse(config_helpers.parse_config(
      "model: {name: a, framework: tensorflow}", ""), "")._replace(**changes)


def search(path, bench, goal, layers=None, names=None, seen=None, **changes):
  """Runs a search; returns it and its winner."""
  found = int8_search.Search(
      config(**changes), goal, SETTINGS if names is None else names,
      LAYERS if layers is None else layers, bench.measure,
      int8_search.History(str(path), ABOUT),
      (lambda *args: None) if seen is None else
      (lambda *args: seen.append(args)), bench.clock)
  return found, found.run()


def tried(found):
  """The (setting, layers as one word) of the trials of a Search."""
  return [(trial.setting, "".join(trial.fallbacks)) for trial in found.trials]


@pytest.fixture
def path(tmp_path):
  return tmp_path / "history.jsonl"


class SearchTest:

  def test_settings_then_layers_alone_then_more_and_more(self, path):
    bench = Bench()
    found, winner = search(path, bench, 0.9)
    assert winner is None and found.winner() is None
    assert tried(found) == [
        ("rough", ""), ("fine", ""),
        # With the more accurate setting, the last layer first.
        ("fine", "d"), ("fine", "c"), ("fine", "b"), ("fine", "a"),
        # The best first: "c" alone was tried; "a" and "b" bring nothing when
        # "c" and "d" are there. The rest would be "cda", which was tried.
        ("fine", "cd"), ("fine", "cda"), ("fine", "cdb")]
    assert found.stopped_by == "all trials were made"
    assert [trial.number for trial in found.trials] == list(range(1, 10))
    assert bench.measured == [
        (trial.number, trial.setting, trial.fallbacks)
        for trial in found.trials]

  def test_the_rest_adds_up_though_it_does_no_good_but_never_all(self, path):
    effects = {"a": -0.01, "b": -0.02, "c": 0.04, "d": -0.03}
    found, _ = search(path, Bench(effects), 0.9)
    assert tried(found)[2:] == [
        ("fine", name) for name in
        ("d", "c", "b", "a", "ca", "cb", "cd", "cab")]

  def test_equal_layers_come_last_first(self, path):
    found, _ = search(path, Bench(dict.fromkeys("abcd", 0.0)), 0.9)
    assert tried(found)[2:] == [
        ("fine", name) for name in ("d", "c", "b", "a", "dc", "dcb")]

  def test_less_difference_decides_between_equal_scores(self, path):
    bench = Bench()
    plain = bench.measure
    def measure(number, setting, fallbacks):
      result = plain(number, setting, fallbacks)
      return {**result, "score": 0.5, "difference": {
          "rough": 0.1, "fine": 0.2}[setting] - 0.01 * ("b" in fallbacks)}
    bench.measure = measure
    found, _ = search(path, bench, 0.9)
    assert tried(found)[2:] == [
        ("rough", name) for name in
        ("d", "c", "b", "a", "bd", "bc", "ba", "bdc")]

  @pytest.mark.parametrize("goal, expected", [
      (0.65, ("rough", "")), (0.75, ("fine", "")), (0.77, ("fine", "d")),
      (0.79, ("fine", "c")), (0.82, ("fine", "cd"))])
  def test_the_first_that_holds_the_goal_ends_it(self, path, goal, expected):
    # "fine" with "c" is 0.79 and with "cd" 0.82, but for rounding.
    found, winner = search(path, Bench(), goal - 1e-9)
    assert (winner.setting, "".join(winner.fallbacks)) == expected
    assert winner is found.trials[-1]
    assert [trial.meets_goal for trial in found.trials] == (
        [False] * (len(found.trials) - 1) + [True])
    assert found.stopped_by == "the goal holds, and timeout is 0"

  def test_a_score_that_is_the_goal_holds_it(self, path):
    _, winner = search(path, Bench(), 0.70)
    assert winner.number == 1

  @pytest.mark.parametrize("objective, expected", [
      ("performance", "rough"), ("modelsize", "fine")])
  def test_with_time_all_settings_are_tried_and_the_best_is_taken(
      self, path, objective, expected):
    for names in (SETTINGS, SETTINGS[::-1]):
      found, winner = search(
          path.with_name(names[0]), Bench(), 0.65, names=names, timeout=100.0,
          objective=objective)
      assert tried(found) == [(name, "") for name in names]
      assert winner.setting == expected
      assert found.stopped_by == "all trials were made"

  def test_what_is_below_the_goal_is_not_taken_however_fast(self, path):
    found, winner = search(path, Bench(), 0.72, timeout=100.0)
    assert winner.setting == "fine"
    assert found.trials[0].result["latency_ratio"] < winner.result[
        "latency_ratio"]
    assert not found.trials[0].meets_goal

  def test_of_equals_the_first_is_taken(self, path):
    bench = Bench()
    plain = bench.measure
    bench.measure = lambda *args: {**plain(*args), "latency_ratio": 0.5}
    assert search(path, bench, 0.1, timeout=100.0)[1].number == 1

  def test_with_time_fallbacks_are_all_tried(self, path):
    found, winner = search(path, Bench(), 0.785, timeout=100.0)
    assert len(found.trials) == 9
    assert "".join(winner.fallbacks) == "c"  # "cd" holds it, but is slower.

  def test_the_time_ends_it_after_the_trial_that_runs(self, path):
    found, _ = search(path, Bench(seconds=10.0), 0.9, timeout=25.0)
    assert len(found.trials) == 3
    assert found.stopped_by == "timeout: 25 s"

  def test_one_trial_is_made_however_short_the_time(self, path):
    bench = Bench()
    late = int8_search.Search(
        config(timeout=0.5), 0.9, SETTINGS, LAYERS, bench.measure,
        int8_search.History(str(path), ABOUT), clock=bench.clock)
    bench.now += 1.0
    assert late.run() is None
    assert tried(late) == [("rough", "")]
    assert late.stopped_by == "timeout: 0.5 s"

  @pytest.mark.parametrize("most", [1, 2, 5, 8])
  def test_max_trials_ends_it(self, path, most):
    bench = Bench()
    found, winner = search(path, bench, 0.9, max_trials=most)
    assert winner is None
    assert len(found.trials) == len(bench.measured) == most
    assert found.stopped_by == f"max_trials: {most}"

  def test_max_trials_that_suffice_end_nothing(self, path):
    found, _ = search(path, Bench(), 0.9, max_trials=9)
    assert found.stopped_by == "all trials were made"

  def test_performance_only_takes_one_trial_whatever_its_score(self, path):
    for timeout in (0.0, 100.0):
      found, winner = search(path, Bench(), 0.9, performance_only=True,
                             timeout=timeout)
      assert tried(found) == [("rough", "")]
      assert winner is found.trials[0] and winner.meets_goal
      assert found.stopped_by == "performance_only: one trial"

  @pytest.mark.parametrize("layers, expected", [
      ([], []), (["a"], []), (["a", "b"], ["b", "a"])])
  def test_few_layers_are_never_all_in_float32(self, path, layers, expected):
    found, winner = search(path, Bench(), 0.9, layers)
    assert winner is None
    assert tried(found) == [("rough", ""), ("fine", ""), *(
        ("fine", name) for name in expected)]

  def test_each_trial_is_told_with_the_best_so_far(self, path):
    seen = []
    found, _ = search(path, Bench(), 0.65, timeout=100.0, seen=seen)
    first, second = found.trials
    assert seen == [(first, first, False), (second, first, False)]
    seen = []
    search(path, Bench(), 0.65, timeout=100.0, seen=seen)
    assert [is_old for _, _, is_old in seen] == [True, True]

  @pytest.mark.parametrize("error", [
      ValueError("no such layer"), RuntimeError("x"), KeyError("score"),
      KeyboardInterrupt()])
  def test_an_error_of_a_trial_is_not_swallowed(self, path, error):
    bench = Bench()
    def measure(number, setting, fallbacks):
      if number == 3:
        raise error
      return Bench.measure(bench, number, setting, fallbacks)
    bench.measure = measure
    with pytest.raises(type(error)) as raised:
      search(path, bench, 0.9)
    assert raised.value is error
    assert len(path.read_text().splitlines()) == 3  # The head, two trials.


class ResumeTest:

  @pytest.mark.parametrize("dies_at", range(1, 10))
  def test_a_killed_search_goes_on_and_measures_nothing_again(
      self, path, dies_at):
    whole, _ = search(path.with_name("whole"), Bench(seconds=2.0), 0.9)
    with pytest.raises(Killed):
      search(path, Bench(seconds=2.0, dies_at=dies_at), 0.9)
    assert len(path.read_text().splitlines()) == dies_at
    bench, seen = Bench(seconds=2.0), []
    found, winner = search(path, bench, 0.9, seen=seen)
    assert winner is None
    assert found.trials == whole.trials
    assert found.stopped_by == whole.stopped_by
    assert [number for number, _, _ in bench.measured] == list(
        range(dies_at, 10))
    assert [is_old for _, _, is_old in seen] == (
        [True] * (dies_at - 1) + [False] * (10 - dies_at))
    assert path.read_text() == path.with_name("whole").read_text()

  @pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
  def test_it_finds_the_same_winner(self, path, dies_at):
    _, expected = search(path.with_name("whole"), Bench(), 0.785)
    with pytest.raises(Killed):
      search(path, Bench(dies_at=dies_at), 0.785)
    assert search(path, Bench(), 0.785)[1] == expected
    assert search(path, Bench(dies_at=1), 0.785)[1] == expected

  def test_the_time_of_earlier_runs_counts(self, path):
    with pytest.raises(Killed):
      search(path, Bench(seconds=10.0, dies_at=3), 0.9, timeout=35.0)
    bench = Bench(seconds=10.0)
    found, _ = search(path, bench, 0.9, timeout=35.0)
    assert len(found.trials) == 4 and len(bench.measured) == 2

  def test_more_trials_than_before_go_on_from_the_last(self, path):
    search(path, Bench(), 0.9, max_trials=4)
    bench = Bench()
    found, _ = search(path, bench, 0.9, max_trials=6)
    assert len(found.trials) == 6
    assert [number for number, _, _ in bench.measured] == [5, 6]

  @pytest.mark.parametrize("lost", [1, 10, 50])
  def test_a_line_that_was_cut_off_is_measured_again(self, path, lost):
    whole, _ = search(path, Bench(), 0.9)
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    bench = Bench()
    found, _ = search(path, bench, 0.9)
    assert found.trials == whole.trials
    assert [number for number, _, _ in bench.measured] == [9]
    assert path.read_bytes() == content

  def test_an_empty_history_is_begun_again(self, path):
    search(path, Bench(), 0.9, max_trials=1)
    content = path.read_bytes()
    path.write_bytes(b"")
    search(path, Bench(), 0.9, max_trials=1)
    assert path.read_bytes() == content

  def test_a_line_of_something_else_is_left_as_it_is(self, path):
    # A head of ours is never cut off: it is written under another name first.
    path.write_bytes(b"no newline")
    with pytest.raises(ValueError, match="line 1: this is no history"):
      search(path, Bench(), 0.9, max_trials=1)
    assert path.read_bytes() == b"no newline"

  @settings(max_examples=60, deadline=None, derandomize=True)
  @given(effects=st.fixed_dictionaries({
      layer: st.sampled_from([-0.03, -0.01, 0.0, 0.01, 0.02])
      for layer in LAYERS}), goal=st.floats(0.6, 0.9),
         most=st.integers(1, 20), timeout=st.sampled_from([0.0, 1e6]),
         dies_at=st.integers(1, 12))
  def test_same_inputs_make_the_same_trials(
      self, effects, goal, most, timeout, dies_at):
    with tempfile.TemporaryDirectory() as folder:
      changes = dict(max_trials=most, timeout=timeout)
      paths = [os.path.join(folder, name) for name in "xyz"]
      one, winner = search(paths[0], Bench(effects), goal, **changes)
      # How long trials take changes nothing.
      two, _ = search(paths[1], Bench(effects, seconds=7.0), goal, **changes)
      assert tried(one) == tried(two)
      try:
        search(paths[2], Bench(effects, dies_at=dies_at), goal, **changes)
      except Killed:
        pass
      three, other = search(paths[2], Bench(effects), goal, **changes)
      assert three.trials == one.trials and other == winner
    keys = [(trial.setting, frozenset(trial.fallbacks)) for trial in one.trials]
    assert len(set(keys)) == len(keys) <= most
    assert all(len(fallbacks) < len(LAYERS) for _, fallbacks in keys)
    assert len(keys) <= len(SETTINGS) + 3 * len(LAYERS)
    best = max(trial.result["score"] for trial in one.trials)
    assert (winner is None) == (best < goal)


class HistoryTest:

  def test_is_a_line_for_the_head_and_for_each_trial(self, path):
    search(path, Bench(seconds=3.0), 0.9, max_trials=3)
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert head == {"about": {**ABOUT, "sizes": [100, 500]}}
    assert [line["trial"] for line in lines] == [1, 2, 3]
    assert lines[2] == {
        "trial": 3, "setting": "fine", "fallbacks": ["d"], "result": {
            "score": pytest.approx(0.78), "difference": 0.1, "bytes": 51,
            "latency_ms": 3.0, "fp32_latency_ms": 6.0,
            "latency_ratio": 0.51, "seconds": 3.0}}

  def test_finds_layers_in_any_order(self, path):
    history = int8_search.History(str(path), ABOUT)
    result = {"score": 1, "difference": 0, "latency_ratio": 1, "bytes": 1,
              "latency_ms": 1, "fp32_latency_ms": 1, "seconds": 1}
    history.add(1, "fine", ("b", "a"), result)
    for again in (history, int8_search.History(str(path), ABOUT)):
      assert len(again) == 1
      assert again.find("fine", ("a", "b")) == result
      assert again.find("fine", ("a",)) is None
      assert again.find("rough", ("a", "b")) is None

  @pytest.mark.parametrize("change, message", [
      ({"goal": 0.7}, "another goal (0.8, not 0.7)"),
      ({"model": "decaf"}, 'another model ("c0ffee", not "decaf")'),
      ({"sizes": [100]}, "another sizes ([100, 500], not [100])"),
      ({"seed": 3}, "another seed (null, not 3)"),
      ({"model": "long" * 99}, 'not "longlong')])
  def test_of_another_search_is_refused_and_kept(self, path, change, message):
    search(path, Bench(), 0.9)
    content = path.read_bytes()
    with pytest.raises(ValueError) as error:
      int8_search.History(str(path), {**ABOUT, **change})
    text = str(error.value)
    assert text.startswith(f"{path} is the history of a search with another ")
    assert message in text and len(text) < len(str(path)) + 250
    assert text.endswith(
        "Remove it, or name another tuning.workspace.path.")
    assert path.read_bytes() == content

  def test_of_a_search_about_more_is_refused(self, path):
    int8_search.History(str(path), {**ABOUT, "seed": 3})
    with pytest.raises(ValueError, match=r"another seed \(3, not null\)"):
      int8_search.History(str(path), ABOUT)

  @pytest.mark.parametrize("line, message", [
      ("{", "this is no JSON object."), ("", "this is no JSON object."),
      ("[1]", "this is no JSON object."), ("7", "this is no JSON object."),
      ("\udcff{}", "this is no JSON object."),
      ("{}", "this is no trial. Remove the line."),
      ('{"setting": "a", "fallbacks": []}', "this is no trial."),
      ('{"setting": "a", "fallbacks": 3, "result": {}}', "this is no trial."),
      ('{"setting": [], "fallbacks": [], "result": {}}', "this is no trial."),
      ('{"setting": "a", "fallbacks": [], "result": 3}', "this is no trial."),
      ('{"setting": "a", "fallbacks": [], "result": {"score": 1}}',
       "this is no trial."),
      ('{"setting": "a", "fallbacks": [], "result": {"score": "1", '
       '"difference": 0, "latency_ratio": 1, "bytes": 1, "seconds": 1}}',
       "this is no trial.")])
  def test_a_damaged_line_is_refused_by_its_number(self, path, line, message):
    search(path, Bench(), 0.9, max_trials=3)
    lines = path.read_text().splitlines()
    content = "".join(f"{text}\n" for text in [*lines[:2], line, *lines[2:]])
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as error:
      int8_search.History(str(path), ABOUT)
    assert str(error.value).startswith(f"{path}, line 3: {message}")
    assert "Remove" in str(error.value)

  @pytest.mark.parametrize("text", ["{}\n", '{"about": 3}\n', '{"a": 1}\n'])
  def test_a_file_of_something_else_is_refused(self, path, text):
    path.write_text(text)
    with pytest.raises(ValueError) as error:
      int8_search.History(str(path), ABOUT)
    assert str(error.value) == (
        f"{path}, line 1: this is no history of demo.tune_int8. Remove it or "
        f"name another workspace.")
    assert path.read_text() == text
