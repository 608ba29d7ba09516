"""Python imports this first in every process whose path holds this folder.

vLLM's second model runner is written in Triton, which has no CPU back end here; Triton's interpreter runs it all the
same, slowly. vLLM must only be told that there is one.
"""

import os
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

from triton.backends import backends

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))
