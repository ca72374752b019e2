# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The Gaudi accelerator: loading its library. Without one, nothing happens."""

from habana.library_loader import load_habana_module

__all__ = ["load_habana_module"]
