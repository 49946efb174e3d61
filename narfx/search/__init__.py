"""Search: the strategies, and the loop that trains shared weights and a strategy in turn."""

from narfx.search.alternating import Alternating
from narfx.search.api import resume, run
from narfx.search.config import SearchConfig
from narfx.search.enas import Enas
from narfx.search.evolution import Evolution
from narfx.search.nar import Nar
from narfx.search.random_search import RandomSearch
from narfx.search.strategy import Proposal, Result, Strategy, make_strategy, register_strategy, strategies

__all__ = [
    "Alternating",
    "Enas",
    "Evolution",
    "Nar",
    "Proposal",
    "RandomSearch",
    "Result",
    "SearchConfig",
    "Strategy",
    "make_strategy",
    "register_strategy",
    "resume",
    "run",
    "strategies",
]
