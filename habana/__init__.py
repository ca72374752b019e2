# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The Gaudi accelerator: its library, its logger, its bfloat16 lists.

Without a device, nothing happens.
"""

from habana.library_loader import has_library
from habana.library_loader import load_habana_module

__all__ = ["has_library", "load_habana_module"]
