"""Tests of demo/page/: what a browser shows is what the models answer."""

import json
import shlex
import shutil
import urllib.request

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import ui

from demo import predictor
from tests import served_models

CHROMIUM, DRIVER = "chromium", "chromedriver"
MOST_CHARACTERS = 2000
# Each emoji is two units of JavaScript's strings, one character of Python's.
EMOJI = "\U0001f600\U0001f3f4\U0001f600 "
MARKUP = ("the film <img src=x onerror=document.title='broken'> was good "
          "<b>great</b> &amp; </mark><script>document.title='broken'</script>")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not (shutil.which(CHROMIUM) and shutil.which(DRIVER)),
    reason="no chromium and chromedriver: bash tests/setup_browser.sh")]

SQUAD = dict(max_seq_length=32, max_query_length=8, n_best_size=5,
             version_2_with_negative=False)


@pytest.fixture(scope="module")
def exports(tiny_model, tmp_path_factory):
  """name -> folder of exports."""
  folder = tmp_path_factory.mktemp("page_exports")
  return {
      "texts": served_models.export(
          tiny_model, "classification", folder / "texts"),
      "numbers": served_models.export(
          tiny_model, "regression", folder / "numbers"),
      "squad": served_models.export(
          tiny_model, "squad", folder / "squad", **SQUAD),
      # No answer is always ahead of this threshold.
      "unsure": served_models.export(
          tiny_model, "squad", folder / "unsure",
          **{**SQUAD, "version_2_with_negative": True},
          null_score_diff_threshold=-1e9)}


@pytest.fixture(scope="module")
def server(exports):
  with served_models.Server(
      exports, f"--max_text_characters={MOST_CHARACTERS}") as found:
    yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  """Headless Chromium, which asks nobody but the server."""
  options = webdriver.ChromeOptions()
  options.binary_location = shutil.which(CHROMIUM)
  for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic",
               "no-first-run", "disable-background-networking",
               "disable-component-update", "disable-sync",
               "window-size=1000,900",
               f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
    options.add_argument(f"--{flag}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  driver = webdriver.Chrome(
      options=options,
      service=webdriver.ChromeService(shutil.which(DRIVER)))
  yield driver
  driver.quit()


class Page(object):
  """The page in a browser."""

  def __init__(self, browser, server, model):
    """Opens it with a model chosen."""
    self.browser = browser
    browser.get("about:blank")
    browser.get(f"http://127.0.0.1:{server.rest_port}/#{model}")
    self.until(lambda: self.find("form").is_displayed())

  def until(self, condition):
    """Waits for a condition."""
    return ui.WebDriverWait(self.browser, 20, 0.05).until(
        lambda driver: condition())

  def find(self, name):
    """An element by its id."""
    return self.browser.find_element(By.ID, name)

  def text(self, name):
    """What an element shows (string)."""
    return self.find(name).get_property("textContent")

  def fill(self, **values):
    """Sets fields; keys can't type emoji, so the values are set."""
    for name, value in values.items():
      self.browser.execute_script(
          "arguments[0].value = arguments[1]", self.find(name), value)

  def send(self):
    """Asks, and waits for an answer or an error."""
    # The time of the earlier answer would be taken for this one's.
    self.browser.execute_script(
        "document.getElementById('time').textContent = ''")
    self.find("send").click()
    self.wait_for_answer()

  def wait_for_answer(self):
    self.until(lambda: self.text("time") or self.find("error").is_displayed())

  def bars(self, name):
    """[(name, percentage)] of a list."""
    return [
        tuple(row.find_element(By.CLASS_NAME, part).get_property("textContent")
              for part in ("name", "number"))
        for row in self.find(name).find_elements(By.CLASS_NAME, "bar")]

  def marked(self):
    """(text before, marked text, text after) of the passage."""
    return tuple(self.browser.execute_script("""
        const passage = document.getElementById('passage');
        const mark = passage.querySelector('mark');
        if (!mark) return [passage.textContent, '', ''];
        const around = (node, side) => node[side] ? node[side].textContent : '';
        return [around(mark, 'previousSibling'), mark.textContent,
                around(mark, 'nextSibling')];"""))


def percent(probability):
  return f"{100 * probability:.1f} %"


def spans(entry, context):
  """(text before, answer, text after) of an answer of the predictor."""
  start, end = entry["start"], entry["end"]
  return context[:start], context[start:end], context[end:]


class ClassifierTest:

  def test_label_and_probabilities_are_the_models(
      self, browser, server, exports):
    page = Page(browser, server, "texts")
    assert page.find("text_a").get_property("value")  # One click shows it.
    for texts in (("a good film",), ("a good film", "the staff was awful")):
      page.fill(text_a=texts[0], text_b=texts[1] if len(texts) > 1 else "")
      page.send()
      answer = predictor.load(exports["texts"])(texts)
      assert page.text("label") == answer["label"]
      assert page.bars("bars") == sorted(
          ((label, percent(probability))
           for label, probability in answer["probabilities"].items()),
          key=lambda row: -answer["probabilities"][row[0]])
      best = page.find("bars").find_elements(By.CLASS_NAME, "best")
      assert [bar.text.split("\n")[0] for bar in best] == [answer["label"]]
      assert page.text("time").endswith(" ms")
      assert answer["label"] in page.text("said")

  def test_number_is_the_models(self, browser, server, exports):
    page = Page(browser, server, "numbers")
    page.fill(text_a="a good film", text_b="")
    page.send()
    value = predictor.load(exports["numbers"])("a good film")["value"]
    assert page.text("label") == f"{value:.3f}" and not page.bars("bars")

  def test_markup_stays_text(self, browser, server, exports):
    page = Page(browser, server, "texts")
    page.fill(text_a=MARKUP)
    page.send()
    assert MARKUP.replace("'", "'\\''") in page.text("command")
    assert browser.title == "Try the model"
    assert not browser.find_elements(By.TAG_NAME, "img")

  def test_curl_command_asks_the_same(self, browser, server):
    page = Page(browser, server, "texts")
    page.send()
    page.fill(text_a="it's \"so\" $HOME", text_b="")
    page.send()
    curl, address, flag, body = shlex.split(
        page.text("command").replace("\\\n", " "))
    assert (curl, flag) == ("curl", "-d")
    with urllib.request.urlopen(address, body.encode(), timeout=10) as reply:
      (found,) = json.load(reply)["predictions"]
    assert found["label"] == page.text("label")


class QuestionTest:

  def test_answer_after_an_emoji_is_marked_rightly(
      self, browser, server, exports):
    ask = predictor.load(exports["squad"])
    page = Page(browser, server, "squad")
    for number in range(3):
      context = EMOJI * number + "the film was great, but the food awful"
      answer = ask(("was it good?", context))
      page.fill(question="was it good?", context=context)
      page.send()
      assert page.text("answer") == answer["answer"] != ""
      assert page.text("probability") == (
          f"probability {percent(answer['probability'])}")
      assert page.marked() == spans(answer, context)
      assert page.bars("nbest") == [
          (entry["text"], percent(entry["probability"]))
          for entry in answer["nbest"]]

  def test_others_of_the_best_answers_are_shown_and_kept(
      self, browser, server, exports):
    context = EMOJI + "the film was great, but the food awful"
    answer = predictor.load(exports["squad"])(("was it good?", context))
    page = Page(browser, server, "squad")
    page.fill(question="was it good?", context=context)
    page.send()
    rows = page.find("nbest").find_elements(By.TAG_NAME, "button")
    expected = [spans(entry, context) for entry in answer["nbest"]]
    assert len(rows) > 2 and len(set(expected)) == len(rows)
    hover = webdriver.ActionChains(browser)
    hover.move_to_element(rows[1]).perform()
    assert page.marked() == expected[1]
    hover.move_to_element(page.find("answer")).perform()
    assert page.marked() == expected[0]
    rows[2].click()
    hover.move_to_element(page.find("answer")).perform()
    assert page.marked() == expected[2]
    assert [row.get_attribute("aria-pressed") for row in rows] == [
        str(row is rows[2]).lower() for row in rows]

  def test_no_answer_is_said(self, browser, server, exports):
    page = Page(browser, server, "unsure")
    page.fill(question="was it good?", context="the film was great")
    page.send()
    answer = predictor.load(exports["unsure"])(
        ("was it good?", "the film was great"))
    assert answer["answer"] == ""
    assert page.text("answer") == "No answer in this passage"
    assert page.marked() == ("the film was great", "", "")
    assert ("no answer", percent(answer["probability"])) in page.bars("nbest")
    assert f"{abs(answer['null_odds']):.2f} logits" in page.text("odds")

  def test_markup_in_a_passage_stays_text(self, browser, server, exports):
    page = Page(browser, server, "squad")
    page.fill(question="<i>was it?</i>", context=MARKUP)
    page.send()
    answer = predictor.load(exports["squad"])(("<i>was it?</i>", MARKUP))
    assert page.marked() == spans(answer, MARKUP)
    assert browser.title == "Try the model"
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert not page.find("passage").find_elements(By.TAG_NAME, "b")


class UseTest:

  def test_keys_send_and_models_change(self, browser, server):
    page = Page(browser, server, "texts")
    page.find("text_a").send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait_for_answer()
    assert page.find("classes").is_displayed()
    select = ui.Select(page.find("model"))
    assert [option.text for option in select.options] == [
        "texts", "numbers", "squad", "unsure"]
    select.select_by_visible_text("squad")
    assert not page.find("classes").is_displayed()
    page.find("question").send_keys(Keys.ENTER)
    page.wait_for_answer()
    assert page.find("answers").is_displayed()
    assert browser.current_url.endswith("#squad")

  def test_errors_are_shown_in_the_place_of_an_answer(self, browser, server):
    page = Page(browser, server, "squad")
    page.send()
    page.fill(context="good " * MOST_CHARACTERS)
    page.send()
    assert page.find("error").is_displayed()
    assert str(MOST_CHARACTERS) in page.text("error")
    assert not page.find("answers").is_displayed()
    page.fill(context="a good film")
    page.send()
    assert page.find("answers").is_displayed()
    assert not page.find("error").is_displayed()

  def test_server_that_is_gone_is_said(self, browser, exports):
    with served_models.Server({"texts": exports["texts"]}) as server:
      page = Page(browser, server, "")
      assert not page.find("choice").is_displayed()  # There is one model.
      assert page.text("about").startswith("texts · 3 labels")
    page.send()
    assert page.text("error") == (
        "The server does not answer. Is it still running?")

  def test_fields_have_names_and_phones_no_sideways_scrolling(
      self, browser, server):
    page = Page(browser, server, "squad")
    page.send()
    unnamed = browser.execute_script("""
        return [...document.querySelectorAll('textarea, input, select')].filter(
            field => !field.labels.length).map(field => field.id);""")
    assert unnamed == []
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=320, height=600, deviceScaleFactor=2, mobile=True))
    try:
      for model in ("squad", "texts"):
        page = Page(browser, server, model)
        page.fill(**({"context": "x" * 500} if model == "squad" else
                     {"text_a": "x" * 500}))
        page.send()
        assert browser.execute_script(
            "return document.documentElement.scrollWidth") <= 320
    finally:
      browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

  def test_colours_follow_the_system_and_can_be_read(self, browser, server):
    papers = []
    for scheme in ("light", "dark"):
      browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
          {"name": "prefers-color-scheme", "value": scheme}]})
      page = Page(browser, server, "squad")
      page.send()
      colours = {name: browser.execute_script(
          "return getComputedStyle(document.querySelector(arguments[0]))"
          "[arguments[1]]", *place) for name, place in {
              "paper": ("body", "backgroundColor"), "ink": ("body", "color"),
              "quiet": ("#time", "color"), "mark": ("mark", "backgroundColor"),
              "on mark": ("mark", "color"), "send": (
                  "#send", "backgroundColor"),
              "on send": ("#send", "color")}.items()}
      for over, under in (("ink", "paper"), ("quiet", "paper"),
                          ("on mark", "mark"), ("on send", "send")):
        # WCAG 2.1, level AA.
        assert contrast(colours[over], colours[under]) >= 4.5, (scheme, over)
      papers.append(colours["paper"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert papers[0] != papers[1]

  def test_nothing_is_loaded_from_elsewhere_and_nothing_refused(
      self, browser, server):
    page = Page(browser, server, "squad")
    browser.get_log("browser")
    page = Page(browser, server, "squad")
    page.send()
    assert browser.get_log("browser") == []  # Such as a broken policy.
    base = f"http://127.0.0.1:{server.rest_port}/"
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(x => x.name)")
    assert loaded and all(name.startswith(base) for name in loaded)
    with urllib.request.urlopen(base, timeout=10) as reply:
      policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def contrast(one, other):
  """Contrast (WCAG 2.1) of two colours in the form "rgb(1, 2, 3)"."""
  def luminance(colour):
    parts = [int(part) / 255 for part in
             colour[colour.index("(") + 1:-1].split(",")[:3]]
    red, green, blue = (x / 12.92 if x <= 0.04045 else
                        ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

  darker, lighter = sorted((luminance(one), luminance(other)))
  return (lighter + 0.05) / (darker + 0.05)
