// Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
// The page of demo.bert_server: classifies texts, answers questions on a
// passage. What models and users say is only ever set as text, never as HTML.
'use strict';

const $ = id => document.getElementById(id);

// What GLUE's digits stand for, and a text or pair to begin with.
const TASKS = {
  cola: {
    labels: {0: 'not acceptable', 1: 'acceptable'},
    texts: ['The book that she lent me was hard to put down.'],
  },
  sst2: {
    labels: {0: 'negative', 1: 'positive'},
    texts: ['A slow start, but the last half hour is worth every minute.'],
  },
  mrpc: {
    labels: {0: 'not a paraphrase', 1: 'a paraphrase'},
    texts: ['The company said on Monday that it would hire 200 engineers.',
            'On Monday the firm announced plans to take on 200 engineers.'],
  },
  qqp: {
    labels: {0: 'different questions', 1: 'the same question'},
    texts: ['How do I learn to swim as an adult?',
            'What is the best way for grown-ups to learn swimming?'],
  },
  stsb: {
    texts: ['A man is playing a guitar on the street.',
            'Someone plays music outdoors.'],
  },
  qnli: {
    texts: ['When was the bridge opened?',
            'The bridge was opened to traffic in the spring of 1932.'],
  },
  wnli: {
    labels: {0: 'does not follow', 1: 'follows'},
    texts: ['The trophy did not fit into the box because it was too large.',
            'The trophy was too large.'],
  },
};
const INFERENCE = [
  'The museum is open every day except Monday.',
  'The museum is closed on Mondays.'];
for (const task of ['mnli', 'rte', 'ax', 'xnli']) {
  TASKS[task] = {texts: INFERENCE};
}
const ANY_TEXTS = [
  'The film was great, and the food afterwards was even better.', ''];
const PASSAGE =
  'The lighthouse on the northern cape was built in 1874 by Clara Winther, ' +
  'after three ships had been lost on the rocks within a single winter. Its ' +
  'lamp stands 41 metres above the sea and can be seen from a distance of 18 ' +
  'nautical miles. Until 1962 it burned oil, and a keeper climbed the 187 ' +
  'steps twice every night; since then it has been electric, and nobody ' +
  'lives there any more.';
const QUESTION = 'Who built the lighthouse?';

const MOST_BARS = 12;

let models = [];
let running = null;  // AbortController of the request that is under way.

// ------------------------------------------------------------- requests ---

class ServerError extends Error {}

async function fetchJson(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ServerError('The server does not answer. Is it still running?');
  }
  let body = null;
  try {
    body = await reply.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  if (reply.ok && body !== null) return body;
  throw new ServerError(inWords(reply.status, body && body.error));
}

function inWords(status, message) {
  const known = {
    404: 'The server does not have this model any more.',
    413: 'That is too much text for the server.',
    429: 'The server has more requests waiting than it takes. ' +
         'Try again in a moment.',
    503: 'The server is stopping, or not ready yet.',
    504: 'The server did not get to it in time. Try again.',
  }[status];
  const said = message ? String(message) : `status ${status}`;
  return known ? `${known} (${said})` : `The server says: ${said}`;
}

function request(model, instance) {
  const body = JSON.stringify({
    signature_name: isSquad(model) ? 'serve_questions' : 'serve_texts',
    instances: [instance],
  });
  // Of whatever version: a newer one may have come since the page was loaded.
  const path = `/v1/models/${encodeURIComponent(model.name)}:predict`;
  return {path, body};
}

function curlCommand({path, body}) {
  const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
  return `curl ${quoted(location.origin + path)} \\\n  -d ${quoted(body)}`;
}

// ---------------------------------------------------------------- model ---

const info = model => model.info || {};
const isSquad = model => info(model).kind === 'squad';
const chosen = () => models[$('model').value];

function isUsable(model) {
  return !model.state || model.state === 'AVAILABLE';
}

function title(model) {
  return model.name +
    (isUsable(model) ? '' : ` (${String(model.state).toLowerCase()})`);
}

function about(model) {
  const known = info(model);
  const parts = [];
  if (models.length === 1) parts.push(title(model));
  if (known.kind === 'squad') parts.push('answers questions on a passage');
  if (known.kind === 'regression') parts.push('gives a number');
  if (known.kind === 'classification') {
    parts.push(`${known.labels.length} labels`);
  }
  if (known.max_seq_length) {
    parts.push(`${known.kind === 'squad' ? 'windows of' : 'up to'} ` +
               `${known.max_seq_length} tokens`);
  }
  if (known.precision) parts.push(known.precision);
  return parts.join(' · ');
}

// Fills the form for the chosen model.
function choose() {
  const model = chosen();
  const task = TASKS[info(model).task] || {};
  const texts = task.texts || ANY_TEXTS;
  $('about').textContent = about(model);
  $('texts').hidden = isSquad(model);
  $('questions').hidden = !isSquad(model);
  $('second').hidden = texts.length < 2;
  $('optional').hidden = Boolean(task.texts);
  $('text_a_label').textContent = texts.length < 2 ? 'Text' : 'First text';
  $('text_a').value = texts[0];
  $('text_b').value = texts[1] || '';
  $('context').value = PASSAGE;
  $('question').value = QUESTION;
  $('send').textContent =
    {squad: 'Ask', regression: 'Compute'}[info(model).kind] || 'Classify';
  for (const id of ['classes', 'answers', 'error', 'curl']) $(id).hidden = true;
  $('time').textContent = '';
  $('form').hidden = !isUsable(model);
  if (!isUsable(model)) {
    showError(`This model is ${String(model.state).toLowerCase()}.`);
  }
}

async function start() {
  try {
    models = (await fetchJson('/v1/models')).models;
  } catch (error) {
    showError(error.message);
    return;
  }
  if (!models.length) {
    showError('The server has no model yet. Load this page again later.');
    return;
  }
  models.forEach((model, number) => {
    $('model').append(new Option(title(model), number));
  });
  $('choice').hidden = models.length < 2;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = models.findIndex(
    model => isUsable(model) && (!wanted || model.name === wanted));
  $('model').value = first < 0 ? 0 : first;
  choose();
}

// --------------------------------------------------------------- answer ---

async function send() {
  const model = chosen();
  const instance = {};
  if (isSquad(model)) {
    instance.question = $('question').value;
    instance.context = $('context').value;
  } else {
    instance.text_a = $('text_a').value;
    if (!$('second').hidden && $('text_b').value) {
      instance.text_b = $('text_b').value;
    }
  }
  if (running) running.abort();
  const own = running = new AbortController();
  busy(true);
  const sent = request(model, instance);
  const begun = performance.now();
  try {
    const reply = await fetchJson(sent.path, {
      method: 'POST', body: sent.body, signal: own.signal,
      headers: {'Content-Type': 'application/json'},
    });
    const time = performance.now() - begun;
    $('error').hidden = true;
    const found = reply.predictions[0];
    if (isSquad(model)) {
      showAnswer(instance.context, found);
    } else {
      showClasses(model, found);
    }
    $('time').textContent = `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
  } catch (error) {
    if (own !== running) return;  // Another request took its place.
    for (const id of ['classes', 'answers']) $(id).hidden = true;
    $('time').textContent = '';
    showError(error instanceof ServerError ? error.message :
              `The reply can't be read (${error.message}).`);
  } finally {
    if (own === running) {
      running = null;
      busy(false);
      $('command').textContent = curlCommand(sent);
      $('curl').hidden = false;
    }
  }
}

function busy(is) {
  $('send').setAttribute('aria-disabled', is);
  for (const id of ['classes', 'answers']) $(id).classList.toggle('old', is);
  if (is) $('said').textContent = '';
}

function showError(message) {
  $('error').textContent = message;
  $('error').hidden = false;
}

const percent = probability => `${(100 * probability).toFixed(1)} %`;

// A row of a list: text, bar and number. `tag` is the element that it is of.
function bar(tag, text, probability, isBest) {
  const row = document.createElement(tag);
  row.className = isBest ? 'bar best' : 'bar';
  const fill = document.createElement('i');
  fill.style.width = percent(probability).replace(' ', '');
  const name = document.createElement('span');
  name.className = text ? 'name' : 'name none';
  name.textContent = text || 'no answer';
  name.dir = 'auto';
  const number = document.createElement('span');
  number.className = 'number';
  number.textContent = percent(probability);
  const track = document.createElement('span');
  track.className = 'track';
  track.append(fill, name);
  row.append(track, number);
  return row;
}

function listed(row) {
  const item = document.createElement('li');
  item.append(row);
  return item;
}

function showClasses(model, found) {
  const labels = info(model).labels || [];
  $('classes').hidden = false;
  $('answers').hidden = true;
  $('bars').replaceChildren();
  if (!labels.length) {  // A regression; a lone output has no name.
    const value = typeof found === 'number' ? found : found.value;
    $('label').textContent = value.toFixed(3);
    $('meaning').textContent = '';
    $('said').textContent = $('label').textContent;
    return;
  }
  const meanings = (TASKS[info(model).task] || {}).labels || {};
  const order = found.probabilities.map((probability, number) =>
    ({label: labels[number], probability}));
  order.sort((a, b) => b.probability - a.probability);
  $('label').textContent = found.label;
  $('meaning').textContent = meanings[found.label] || '';
  for (const {label, probability} of order.slice(0, MOST_BARS)) {
    const text = meanings[label] ? `${label} · ${meanings[label]}` : label;
    $('bars').append(
      listed(bar('div', text, probability, label === found.label)));
  }
  if (order.length > MOST_BARS) {
    const rest = document.createElement('li');
    rest.className = 'quiet';
    rest.textContent = `${order.length - MOST_BARS} more labels below these`;
    $('bars').append(rest);
  }
  $('said').textContent =
    `${found.label} ${meanings[found.label] || ''}, ` +
    `${percent(order[0].probability)}`;
}

function showAnswer(context, found) {
  const nbest = typeof found.nbest === 'string' ?
    JSON.parse(found.nbest) : found.nbest;
  // Places count characters as Python does; an emoji is one.
  const characters = Array.from(context);
  $('answers').hidden = false;
  $('classes').hidden = true;
  $('answer').textContent = found.answer || 'No answer in this passage';
  $('answer').classList.toggle('none', !found.answer);
  $('probability').textContent = `probability ${percent(found.probability)}`;
  $('odds').textContent = typeof found.null_odds !== 'number' ? '' :
    `No answer is ${Math.abs(found.null_odds).toFixed(2)} logits ` +
    `${found.null_odds > 0 ? 'ahead of' : 'behind'} the best answer.`;
  $('said').textContent =
    `${$('answer').textContent}, ${percent(found.probability)}`;

  const same = entry => entry.text === found.answer && (
    !entry.text || entry.start === found.start);
  let kept = nbest.find(same) || found;
  const mark = entry => highlight(characters, entry);
  const buttons = [];
  $('nbest').replaceChildren(...nbest.map(entry => {
    const button = bar('button', entry.text, entry.probability, same(entry));
    button.type = 'button';
    button.setAttribute('aria-pressed', entry === kept);
    button.addEventListener('mouseenter', () => mark(entry));
    button.addEventListener('mouseleave', () => mark(kept));
    button.addEventListener('focus', () => mark(entry));
    button.addEventListener('blur', () => mark(kept));
    button.addEventListener('click', () => {
      kept = entry;
      for (const other of buttons) {
        other.setAttribute('aria-pressed', other === button);
      }
      mark(kept);
    });
    buttons.push(button);
    return listed(button);
  }));
  mark(kept);
}

// Shows the passage with an answer marked; one without a place marks nothing.
function highlight(characters, {text, start, end}) {
  const part = (from, to) => characters.slice(from, to).join('');
  if (!text || start === null || start === undefined || start < 0) {
    $('passage').replaceChildren(part(0));
    return;
  }
  const marked = document.createElement('mark');
  marked.textContent = part(start, end);
  $('passage').replaceChildren(part(0, start), marked, part(end));
}

// --------------------------------------------------------------- events ---

$('model').addEventListener('change', () => {
  if (running) running.abort();
  running = null;
  busy(false);
  history.replaceState(null, '', '#' + encodeURIComponent(chosen().name));
  choose();
});
$('form').addEventListener('submit', event => {
  event.preventDefault();
  send();
});
$('form').addEventListener('keydown', event => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  }
});
start();
