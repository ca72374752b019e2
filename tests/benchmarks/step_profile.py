"""Where the time of a training step goes, by kind of operation.

  python -m tests.benchmarks.step_profile SPEC

prints a JSON line: "ms" of all operations of a step, and "kinds", a list of
[kind, number, milliseconds], the longest first; medians of some steps. SPEC is
that of own_program.train; `make bench SECTIONS=profile` runs it.
"""

import collections
import json
import statistics
import sys

import tensorflow as tf

from tests.benchmarks import own_program

_WARM_UP, _STEPS = 2, 5
# Kinds that a table has; the rest is summed up.
_MOST = 24


def by_kind(step_stats, kinds):
  """What a traced step's operations took.

  Args:
    step_stats: StepStats.
    kinds: dict name of an operation -> kind.

  Returns:
    Dict kind -> (number, milliseconds).
  """
  found = collections.defaultdict(lambda: (0, 0.0))
  for device in step_stats.dev_stats:
    for node in device.node_stats:
      name = node.node_name.split(":")[0]
      kind = kinds.get(name) or _kind_in_label(node.timeline_label) or name
      count, spent = found[kind]
      found[kind] = (count + 1, spent + node.op_end_rel_micros / 1e3 -
                     node.op_start_rel_micros / 1e3)
  return dict(found)


def _kind_in_label(label):
  """"x/y = MatMul(a, b)" -> "MatMul"; None of another label."""
  _, equals, rest = label.partition(" = ")
  return rest.split("(")[0] if equals else None


def main(text):
  """Traces some steps."""
  spec = json.loads(text)
  tf.compat.v1.disable_eager_execution()
  session, train_op = own_program.training(spec)[:2]
  options = tf.compat.v1.RunOptions(
      trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
  kinds = {op.name: op.type
           for op in tf.compat.v1.get_default_graph().get_operations()}
  steps = []
  for _ in range(_WARM_UP + _STEPS):
    metadata = tf.compat.v1.RunMetadata()
    session.run(train_op, options=options, run_metadata=metadata)
    steps.append(by_kind(metadata.step_stats, kinds))
  steps = steps[_WARM_UP:]
  medians = [
      [kind, steps[0].get(kind, (0,))[0],
       statistics.median(step.get(kind, (0, 0.0))[1] for step in steps)]
      for kind in {kind for step in steps for kind in step}]
  medians.sort(key=lambda row: -row[2])
  rest = medians[_MOST:]
  print(json.dumps({
      "ms": sum(row[2] for row in medians),
      "kinds": medians[:_MOST] + [
          ["others", sum(row[1] for row in rest),
           sum(row[2] for row in rest)]]}))


if __name__ == "__main__":
  main(sys.argv[1])
