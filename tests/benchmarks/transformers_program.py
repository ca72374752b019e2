"""Runs a model of `to_hf` in transformers: started by transformers_outputs.

  python transformers_program.py FOLDER INPUTS.npz OUTPUTS.npz

works in an environment that has torch and transformers and needs neither
TensorFlow nor this project.
"""

import json
import os
import sys

import numpy as np
import torch
import transformers


def main(folder, inputs_file, outputs_file):
  """Loads the class that config.json names, and writes all that it gives."""
  with open(os.path.join(folder, "config.json"), encoding="utf-8") as reader:
    architecture = json.load(reader)["architectures"][0]
  with np.load(inputs_file) as inputs:
    text = str(inputs["text"])
    tensors = {name: torch.tensor(inputs[name].astype(np.int64))
               for name in ("input_ids", "attention_mask", "token_type_ids")}
  model, loading = getattr(transformers, architecture).from_pretrained(
      folder, output_loading_info=True)
  model.eval()
  with torch.no_grad():
    found = model(**tensors, output_hidden_states=True)
  outputs = {name: value.numpy() for name, value in found.items()
             if torch.is_tensor(value)}
  outputs["hidden_states"] = np.stack(
      [state.numpy() for state in found.hidden_states])
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  np.savez(outputs_file, **outputs, text_ids=tokenizer(text)["input_ids"],
           missing_keys=np.array(loading["missing_keys"], str),
           unexpected_keys=np.array(loading["unexpected_keys"], str),
           versions=[f"transformers {transformers.__version__}",
                     f"torch {torch.__version__}"],
           labels=[model.config.id2label[i]
                   for i in range(model.config.num_labels)])


if __name__ == "__main__":
  main(*sys.argv[1:])
