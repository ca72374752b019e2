"""Tests of habana/library_loader.py with stand-ins for the vendor's library."""

import shutil
import subprocess
import sys

import pytest

from habana import library_loader
from tests import conftest


@pytest.fixture
def clean(monkeypatch, tmp_path):
  """No library to be found but in the folders that a test names."""
  for name in ("LD_LIBRARY_PATH", *library_loader.FOLDER_VARIABLES):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(library_loader, "VENDOR_FOLDER", str(tmp_path / "none"))
  return monkeypatch


def make_libraries(folder, source="int stand_in() { return 1; }"):
  """Real shared objects that do nothing."""
  folder.mkdir()
  (folder / "x.c").write_text(source)
  subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "graph_writer.so",
                  folder / "x.c"], check=True)
  shutil.copy(folder / "graph_writer.so", folder / "habana_device.so")


class LoadHabanaModuleTest:

  def test_without_a_library_nothing_happens(self, clean):
    assert library_loader.has_library() is False
    assert library_loader.load_habana_module() is False

  @pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
  def test_folder_of_the_search_path_is_loaded(self, clean, tmp_path):
    make_libraries(tmp_path / "libs")
    clean.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path / 'libs'}")
    assert library_loader.find_library_folder() == str(tmp_path / "libs")
    assert library_loader.has_library() is True
    assert library_loader.load_habana_module() is True

  def test_order_of_the_folders(self, clean):
    clean.setenv("TF_MODULES_DEBUG_BUILD", "/d")
    clean.setenv("BUILD_ROOT_LATEST", "/b")
    clean.setenv("LD_LIBRARY_PATH", "/l1:/l2")
    assert library_loader.search_folders()[:4] == ["/l1", "/l2", "/b", "/d"]

  def test_broken_library_names_file_and_way_out(self, clean, tmp_path):
    for name in library_loader.LIBRARIES:
      (tmp_path / name).write_text("not a library")
    clean.setenv("BUILD_ROOT_LATEST", str(tmp_path))
    with pytest.raises(ValueError, match="graph_writer.so.*--cpu_only"):
      library_loader.load_habana_module()

  @pytest.mark.parametrize("body, loads", [
      ("def load_habana_module(): print('stand-in loaded')", True),
      ("raise RuntimeError('driver too old')", False)])
  def test_package_comes_first(self, clean, tmp_path, body, loads):
    package = tmp_path / "habana_frameworks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tensorflow.py").write_text(body + "\n")
    clean.syspath_prepend(str(tmp_path))
    for name in list(sys.modules):
      if name.startswith("habana_frameworks"):
        clean.delitem(sys.modules, name)
    if loads:
      assert library_loader.load_habana_module() is True
    else:
      with pytest.raises(ValueError, match="driver too old.*--cpu_only"):
        library_loader.load_habana_module()
    for name in list(sys.modules):
      if name.startswith("habana_frameworks"):
        clean.delitem(sys.modules, name)


@pytest.mark.slow
class ScriptTest:

  def run(self, tiny_model, sst2_dir, folder, *flags):
    package = folder / "fake" / "habana_frameworks"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tensorflow.py").write_text(
        "def load_habana_module(): print('stand-in loaded')\n")
    return conftest.run_script(
        "run_classifier.py", "--task_name=sst2", "--do_eval",
        f"--data_dir={sst2_dir}", f"--output_dir={folder}/out",
        *tiny_model.flags(), *flags,
        env={"PYTHONPATH": f"{folder}/fake:{conftest.PROJECT}"})

  def test_script_loads_it(self, tiny_model, sst2_dir, tmp_path):
    run = self.run(tiny_model, sst2_dir, tmp_path)
    assert run.returncode == 0 and "stand-in loaded" in run.stdout, run.stdout

  def test_cpu_only_never_touches_it(self, tiny_model, sst2_dir, tmp_path):
    run = self.run(tiny_model, sst2_dir, tmp_path, "--cpu_only")
    assert run.returncode == 0, run.stdout
    assert "stand-in loaded" not in run.stdout
