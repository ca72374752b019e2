# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The Gaudi accelerator: its library, its logger, its bfloat16 lists.

Without a device, nothing happens.
"""

from habana.library_loader import load_habana_module

__all__ = ["load_habana_module"]
