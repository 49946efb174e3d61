"""Graph passes, one per file.

An analysis is a function: a GraphModule in, records out. A rewrite is a :class:`~narfx.passes.base.Pass`: it takes its
records and options in the constructor; its call takes a GraphModule and returns torch's own ``PassResult``, so it runs
in ``torch.fx.passes.infra.pass_manager.PassManager``. A pass does not depend on a search.
"""

if __name__ != "narfx.passes":  # found by the path of a checkout: each class would exist twice
    raise ImportError(f"import narfx.passes, not {__name__}: the folder passes/ is the package narfx.passes")

from narfx.passes.base import Pass
from narfx.passes.blocks import find_blocks
from narfx.passes.declared import find_declared
from narfx.passes.insert_dispatch import InsertDispatch
from narfx.passes.insert_skips import InsertSkips
from narfx.passes.lift_dropout import LiftDropout, RestoreDropout
from narfx.passes.lift_functional import LiftFunctional, RestoreFunctional
from narfx.passes.lower import Lower
from narfx.passes.main_path import find_main_path
from narfx.passes.sites import find_sites
from narfx.passes.skips import find_skips
from narfx.passes.verify import verify_lowered

__all__ = [
    "InsertDispatch",
    "InsertSkips",
    "LiftDropout",
    "LiftFunctional",
    "Lower",
    "Pass",
    "RestoreDropout",
    "RestoreFunctional",
    "find_blocks",
    "find_declared",
    "find_main_path",
    "find_sites",
    "find_skips",
    "verify_lowered",
]
