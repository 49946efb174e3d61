"""Search: the strategies, and the loop that trains shared weights and a strategy in turn."""

from narfx.search.api import resume, run
from narfx.search.config import SearchConfig
from narfx.search.strategies.alternating import Alternating
from narfx.search.strategies.enas import Enas
from narfx.search.strategies.evolution import Evolution
from narfx.search.strategies.nar import Nar
from narfx.search.strategies.random_search import RandomSearch
from narfx.search.strategy import Proposal, Result, Strategy, make_strategy, register_strategy, strategy_names

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
    "strategy_names",
]
