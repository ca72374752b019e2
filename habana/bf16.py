# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Which operations a Gaudi device computes in bfloat16.

The device library reads a JSON file of lists of TensorFlow operations, whose
path stands in the environment variable TF_BF16_CONVERSION. Two are here, in
`habana/bf16_lists/`: `basic.json` converts matrix products only, `full.json`
also what lies between them; softmax, layer norm's statistics, the loss and the
optimizer stay in float32 in both.
"""

import json
import os

ENVIRONMENT_VARIABLE = "TF_BF16_CONVERSION"
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bf16_lists")
KEYS = ("allowlist", "conditional_list", "strict_conditional_list",
        "non_convertible_exceptions", "convertible_exceptions")


def set_config(path):
  """Names the lists to the device library; call it before that is loaded.

  Args:
    path: string, a JSON file.

  Raises:
    ValueError: it is missing, no JSON, or holds something else than lists.
  """
  try:
    with open(path, encoding="utf-8") as reader:
      lists = json.load(reader)
  except (OSError, ValueError) as error:
    raise ValueError(
        f"--bf16_config_path={path} can't be read ({error}). Lists for BERT "
        f"are in {FOLDER}.") from error
  if not isinstance(lists, dict) or not lists.get("allowlist"):
    raise ValueError(
        f"--bf16_config_path={path} has no allowlist. Lists for BERT are in "
        f"{FOLDER}.")
  for key, value in lists.items():
    if key not in KEYS or not isinstance(value, list):
      raise ValueError(
          f"--bf16_config_path={path}: {key} has to be a list, and one of "
          f"{', '.join(KEYS)}.")
  os.environ[ENVIRONMENT_VARIABLE] = os.path.abspath(path)
