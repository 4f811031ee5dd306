"""zopde: neural correctors for PDE solvers that cannot be differentiated.

What a first day needs is imported from here; the rest lies in rooms, `zopde.zo`, `zopde.interface`
and so on. `__init__.pyi` lists both. Each is loaded when it is first used, so that the command line
starts quickly.
"""

from importlib.metadata import version
from typing import Any

import lazy_loader

from zopde.errors import check_system

__version__ = version("zopde")

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever a room holds
    if name in __all__:
        check_system()
    return _load(name)
