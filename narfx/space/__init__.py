"""Sites, slots, the search space and what is asked of it; no torch."""

from narfx.space.records import AnySite, Cost, DeclaredSite, Site, Skip, Skipped, Slot, Vector
from narfx.space.scores import ScoreTable
from narfx.space.solver import best_vectors, feasible_vector
from narfx.space.space import SearchSpace

__all__ = [
    "AnySite",
    "Cost",
    "DeclaredSite",
    "ScoreTable",
    "SearchSpace",
    "Site",
    "Skip",
    "Skipped",
    "Slot",
    "Vector",
    "best_vectors",
    "feasible_vector",
]
