"""Tests of demo/layer_helpers.py."""

import types

import pytest

from demo import layer_helpers

NAMES = ["bert/embeddings/word_embeddings", "bert/embeddings/LayerNorm/beta",
         "bert/encoder/layer_0/output/dense/bias",
         "bert/encoder/layer_11/attention/self/key/bias",
         "bert/pooler/dense/kernel", "output_weights",
         "cls/predictions/transform/LayerNorm/beta"]


class LayerOfTest:

  @pytest.mark.parametrize("prefix", ["", "module/", "transformer/"])
  def test_place_in_names_of_checkpoints_and_modules(self, prefix):
    assert [layer_helpers.layer_of(prefix + name) for name in NAMES] == [
        0, 0, 1, 12, None, None, None]

  @pytest.mark.parametrize("name", [
      "word_embeddings/embeddings", "position_embedding/embeddings",
      "embeddings/layer_norm/gamma", "type_embeddings/embeddings"])
  def test_embeddings_of_googles_modules(self, name):
    assert layer_helpers.layer_of(name) == 0


class RateFactorsTest:

  def test_exponents(self):
    found = layer_helpers.rate_factors(NAMES, 0.5)
    assert list(found.values()) == [
        0.5 ** 14, 0.5 ** 14, 0.5 ** 13, 0.5 ** 2, 1.0, 1.0, 1.0]

  def test_1_is_1_everywhere(self):
    assert set(layer_helpers.rate_factors(NAMES, 1.0).values()) == {1.0}


class IsFrozenTest:

  @pytest.mark.parametrize("layers, count", [(0, 0), (1, 3), (11, 3), (12, 4)])
  def test_embeddings_and_layers_below(self, layers, count):
    frozen = [layer_helpers.is_frozen(name, layers) for name in NAMES]
    assert frozen == [True] * count + [False] * (len(NAMES) - count)


class CheckLayersTest:

  def check(self, names, **values):
    layer_helpers.check_layers(types.SimpleNamespace(
        **{**dict(freeze_layers=0, layerwise_lr_decay=1.0), **values}), names)

  def test_what_fits_passes(self):
    self.check(NAMES, freeze_layers=12, layerwise_lr_decay=0.8)
    self.check(["dense"])

  @pytest.mark.parametrize("names, values, message", [
      (NAMES, dict(freeze_layers=13),
       "--freeze_layers=13: the model has 12 layers"),
      (["a/dense"], dict(freeze_layers=1), r"--freeze_layers=1: .*\(a/dense\)"),
      (["a/dense"], dict(layerwise_lr_decay=0.9), "--layerwise_lr_decay=0.9")])
  def test_what_does_not_fit_is_refused(self, names, values, message):
    with pytest.raises(ValueError, match=message):
      self.check(names, **values)
