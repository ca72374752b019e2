"""transformers on PyTorch: its side of the measurements; see turns.py."""

import sys

import numpy as np
import torch
import transformers

import turns

_VERSIONS = {"torch": torch.__version__,
             "transformers": transformers.__version__}


def _autocast(spec):
  """The context that spec["precision"], fp32 or bf16, is computed in."""
  return torch.autocast("cpu", torch.bfloat16,
                        enabled=spec["precision"] == "bf16")


def _model(spec):
  """A classifier of spec["layers"], spec["width"] and spec["heads"]."""
  return transformers.BertForSequenceClassification(transformers.BertConfig(
      vocab_size=spec["vocab_size"], hidden_size=spec["width"],
      num_hidden_layers=spec["layers"], num_attention_heads=spec["heads"],
      intermediate_size=4 * spec["width"], num_labels=2))


def _batches(spec, is_trimmed):
  """Batches (list of dict name -> tensor) of spec["rows_file"].

  Args:
    spec: dict.
    is_trimmed: bool: a batch is as long as its longest row, as
      DataCollatorWithPadding has it.
  """
  with np.load(spec["rows_file"]) as reader:
    rows = {name: torch.tensor(reader[name].astype(np.int64))
            for name in reader}
  names = {"input_ids": "input_ids", "input_mask": "attention_mask",
           "segment_ids": "token_type_ids", "label_ids": "labels"}
  found = []
  for start in range(0, len(rows["label_ids"]), spec["batch"]):
    batch = {new: rows[old][start:start + spec["batch"]]
             for old, new in names.items()}
    if is_trimmed:
      longest = int(batch["attention_mask"].sum(1).max())
      batch = {name: value[:, :longest] if value.dim() == 2 else value
               for name, value in batch.items()}
    found.append(batch)
  return found


def _done(batches, spec, passes):
  """What a pass over all batches does; see turns.Case."""
  lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches])
  width = spec["width"]
  layer = 24 * width * width * lengths + 4 * width * lengths ** 2
  return {"rows": len(lengths), "tokens": int(lengths.sum()),
          "flops": passes * spec["layers"] * int(layer.sum())}


def train(spec):
  """Fine-tuning: AdamW, clipping to norm 1, dropout 0.1, linear schedule."""
  torch.set_num_threads(spec["threads"])
  model = _model(spec)
  model.train()
  decayed = [p for p in model.parameters() if p.dim() > 1]
  others = [p for p in model.parameters() if p.dim() <= 1]
  optimizer = torch.optim.AdamW(
      [{"params": decayed, "weight_decay": 0.01},
       {"params": others, "weight_decay": 0.0}], lr=1e-5, eps=1e-6)
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, 100, 1000)
  batches = _batches(spec, is_trimmed=True)
  done = _done(batches, spec, 3)

  def run():
    for batch in batches:
      with _autocast(spec):
        loss = model(**batch).loss
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
      schedule.step()
      optimizer.zero_grad()
    return done
  return turns.Case(run, {"versions": _VERSIONS})


def infer(spec):
  """Logits of batches."""
  torch.set_num_threads(spec["threads"])
  model = _model(spec)
  model.eval()
  batches = _batches(spec, is_trimmed=True)
  done = _done(batches, spec, 1)

  def run():
    with torch.inference_mode(), _autocast(spec):
      for batch in batches:
        model(**{name: value for name, value in batch.items()
                 if name != "labels"})
    return done
  return turns.Case(run, {"versions": _VERSIONS})


def product(spec):
  """A matrix product of spec["shape"] in spec["dtype"]."""
  torch.set_num_threads(spec["threads"])
  rows, inner, columns = spec["shape"]
  dtype = getattr(torch, spec["dtype"])
  left = torch.randn(rows, inner).to(dtype)
  right = torch.randn(inner, columns).to(dtype)

  def run():
    torch.matmul(left, right)
    return {"rows": rows, "flops": 2 * rows * inner * columns}
  return turns.Case(run, {"versions": _VERSIONS})


if __name__ == "__main__":
  sys.exit(turns.serve({"train": train, "infer": infer, "product": product}))
