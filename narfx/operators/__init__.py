"""The operators that can replace a site's convolution: built-in ones and the user's.

Index 0 of every list is ``base``, the site's own unchanged convolution.
"""

from narfx.operators.at_site import build_operator, operator_cost, refusal, start_operator, started_operator
from narfx.operators.files import choose_operators, load_operators
from narfx.operators.record import Operator
from narfx.operators.registry import get_operator, operator_names, register_operator, unregister_operator

__all__ = [
    "Operator",
    "build_operator",
    "choose_operators",
    "get_operator",
    "load_operators",
    "operator_cost",
    "operator_names",
    "refusal",
    "register_operator",
    "start_operator",
    "started_operator",
    "unregister_operator",
]
