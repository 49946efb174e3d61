"""Search: strategies, stages, and the loop that trains shared weights and a strategy."""

from narfx.search.api import estimate_search, resume, run
from narfx.search.config import SearchConfig
from narfx.search.preparation import NO_PREPARATION, Preparation, WarmUp
from narfx.search.registry import (
    StrategyOption,
    make_strategy,
    register_strategy,
    strategy_names,
    strategy_options,
)
from narfx.search.stages import Found, Stage, keep_finalists, whole_space
from narfx.search.strategies.alternating import Alternating
from narfx.search.strategies.ddas import Ddas
from narfx.search.strategies.enas import Enas
from narfx.search.strategies.evolution import Evolution
from narfx.search.strategies.nar import Nar
from narfx.search.strategies.nsga2 import Nsga2
from narfx.search.strategies.random_search import RandomSearch
from narfx.search.strategy import Evaluated, Proposal, Result, RewardSteps, Strategy, WeightSteps
from narfx.search.supernet_strategy import Minibatch, SupernetStrategy

__all__ = [
    "NO_PREPARATION",
    "Alternating",
    "Ddas",
    "Enas",
    "Evaluated",
    "Evolution",
    "Found",
    "Minibatch",
    "Nar",
    "Nsga2",
    "Preparation",
    "Proposal",
    "RandomSearch",
    "Result",
    "RewardSteps",
    "SearchConfig",
    "Stage",
    "Strategy",
    "StrategyOption",
    "SupernetStrategy",
    "WarmUp",
    "WeightSteps",
    "estimate_search",
    "keep_finalists",
    "make_strategy",
    "register_strategy",
    "resume",
    "run",
    "strategy_names",
    "strategy_options",
    "whole_space",
]
