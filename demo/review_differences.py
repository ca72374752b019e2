# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What differs between a definition of upstream and ours.

Definitions are those of `review_interface`. Each function returns a dict from
the name of an argument, attribute, method or the like to what is the matter
with it; it is empty where both are equal.
"""


def out_of_order(wanted, order):
  """The names of `order` that don't follow each other as in `wanted`."""
  places = [wanted.index(name) for name in order]
  best = []  # The longest rising sequences that end at each place.
  for index, place in enumerate(places):
    before = [chain for chain in best if chain[-1] < place]
    best.append(max(before, key=len, default=[]) + [place])
  kept = {wanted[place] for place in max(best, key=len, default=[])}
  return set(order) - kept


def _arguments(definition):
  """[{"name"[, "default"]}], the fields of a namedtuple too."""
  return definition.get("args") or [
      {"name": name} for name in definition.get("fields", [])]


def _argument_differences(upstream, own):
  """name -> what differs, of two lists of arguments."""
  theirs = {x["name"]: x.get("default") for x in upstream}
  ours = {x["name"]: x.get("default") for x in own}
  found = {name: "missing here" for name in theirs if name not in ours}
  for name, default in ours.items():
    if name not in theirs:
      found[name] = ("added" if default is None else f"added, {default}")
    elif default != theirs[name]:
      found[name] = f"default {theirs[name]} upstream, {default} here"
  both = [name for name in theirs if name in ours]
  for name in out_of_order(both, [name for name in ours if name in theirs]):
    found[name] = "in another place"
  # An argument before one of upstream's would change what callers mean.
  last = max([list(ours).index(name) for name in both], default=-1)
  for name in list(ours)[:last]:
    if name not in theirs:
      found[name] += ", before one of upstream's"
  return found


def _decorator_differences(upstream, own):
  return {decorator: "decorator of one side only"
          for decorator in set(upstream.get("decorators", [])) ^ set(
              own.get("decorators", []))}


def function_differences(upstream, own):
  """name -> what differs, of functions, methods and namedtuples."""
  found = _argument_differences(_arguments(upstream), _arguments(own))
  found.update(_decorator_differences(upstream, own))
  closure, ours = (x.get("returns_function") for x in (upstream, own))
  if closure and (ours is None or closure["name"] != ours["name"]):
    found[closure["name"]] = "not returned here"
  elif closure:
    found.update(_argument_differences(closure["args"], ours["args"]))
  elif ours:
    found[ours["name"]] = "returned here only"
  return found


def _ancestors(own_by_name, name):
  """Names of the classes that a class comes from, itself first."""
  found = [name.replace("tf.compat.v1.", "tf.")]
  for base in own_by_name.get(name, {}).get("bases", []):
    found += _ancestors(own_by_name, base)
  return found


def find_method(own_by_name, owner, name):
  """(class, method) where a class has a method from, None without."""
  for ancestor in _ancestors(own_by_name, owner):
    for method in own_by_name.get(ancestor, {}).get("methods", []):
      if method["name"] == name:
        return ancestor, method
  return None


def class_differences(upstream, own, own_by_name):
  """name -> what differs between two classes, besides in their methods."""
  name = upstream["name"]
  ancestors = _ancestors(own_by_name, name)
  found = {base: "no base class here" for base in upstream["bases"]
           if base != "object" and base not in ancestors}
  found.update(_decorator_differences(upstream, own))
  # An own class between ours and upstream's base adds no base.
  wanted = {base for base in upstream["bases"] if base != "object"}
  for base in own["bases"]:
    if base != "object" and not wanted & set(_ancestors(own_by_name, base)):
      found[base] = "base class added"
  inherited = [attribute for ancestor in ancestors[1:] for attribute in
               own_by_name.get(ancestor, {}).get("class_attributes", [])]
  for attribute in own.get("class_attributes", []):
    if not (attribute.startswith("_") or attribute in inherited or
            attribute in upstream.get("class_attributes", [])):
      found[attribute] = "class attribute added"
  attributes = [attribute for ancestor in ancestors for attribute in
                own_by_name.get(ancestor, {}).get("instance_attributes", [])]
  for attribute in upstream["instance_attributes"]:
    if attribute not in attributes:
      found[attribute] = "attribute missing"
  for attribute in own["instance_attributes"]:
    if (attribute not in upstream["instance_attributes"] and
        not attribute.startswith("_")):
      found[attribute] = "attribute added"
  theirs = [method["name"] for method in upstream["methods"]]
  for method in theirs:
    if find_method(own_by_name, name, method) is None:
      found[method] = "method missing"
  for method in own["methods"]:
    if method["name"] not in theirs and not method["name"].startswith("_"):
      found[method["name"]] = "method added"
  return found


def signature(definition):
  """A definition as a reader sees it: `f(a, b=1)`, `class A(B): x, y`."""
  if definition.get("kind") == "class":
    bases = ", ".join(definition["bases"])
    attributes = ", ".join(definition["instance_attributes"])
    return f"class {definition['name']}({bases})" + (
        f": {attributes}" if attributes else "")
  if definition.get("kind") == "constant":
    return definition["name"]
  arguments = ", ".join(
      x["name"] + (f"={x['default']}" if "default" in x else "")
      for x in _arguments(definition))
  text = f"{definition['name']}({arguments})"
  closure = definition.get("returns_function")
  if closure:
    inner = ", ".join(x["name"] for x in closure["args"])
    text += f" -> {closure['name']}({inner})"
  return text
