"""The strategies by name, and their options as their constructors document them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from narfx.errors import UsageError
from narfx.search.measuring import MeasuringStrategy
from narfx.search.strategy import Strategy
from narfx.search.supernet_strategy import AnyStrategy, SupernetStrategy
from narfx.space.space import SearchSpace

__all__ = [
    "StrategyOption",
    "build_strategy",
    "build_with",
    "make_strategy",
    "needs_epochs",
    "register_strategy",
    "stage_maker",
    "strategy_names",
    "strategy_options",
]

Factory = Callable[..., AnyStrategy]

StageMaker = Callable[[Any, int, dict[str, Any]], Iterable[Any]]
"""From a preparation, the epochs that follow it and the strategy's options to stages (``narfx.search.Stage``)."""

_REGISTRY: dict[str, Factory] = {}
_STAGES: dict[str, StageMaker] = {}


@dataclass(frozen=True)
class StrategyOption:
    """One option of a strategy: its name, its default, and the sentence that its docstring has under ``Args``."""

    name: str
    default: Any
    help: str


def register_strategy(name: str, factory: Factory, *, stages: StageMaker | None = None) -> None:
    """Make ``factory(space, seed=..., **options)`` known under ``name``.

    This is all that a strategy needs. A module in ``narfx/search/strategies`` that calls it is found by itself; one of
    a user's calls it before the search starts. With ``stages`` a search by this name has those that it makes.
    """
    _REGISTRY[name] = factory
    _STAGES.pop(name, None)
    if stages is not None:
        _STAGES[name] = stages


def stage_maker(name: str) -> StageMaker | None:
    """What makes the stages of a search by this strategy, where it was registered with that.

    Raises:
        UsageError: The name is unknown.
    """
    _find(name)
    return _STAGES.get(name)


def needs_epochs(name: str) -> bool:
    """Whether what the strategy does depends on the number of epochs, so that its searches cannot be extended.

    Raises:
        UsageError: The name is unknown.
    """
    return bool(getattr(_find(name), "needs_epochs", False))


def strategy_names() -> tuple[str, ...]:
    """The names that ``make_strategy`` knows."""
    return tuple(sorted(_REGISTRY))


def strategy_options(name: str) -> tuple[StrategyOption, ...]:
    """The options of a strategy, from its constructor's arguments and docstring.

    Raises:
        UsageError: The name is unknown.
    """
    factory = _find(name)
    found: dict[str, StrategyOption] = {}
    for function, text in _constructors(factory):
        sentences = _arguments(text)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "seed":
                option = StrategyOption(parameter.name, parameter.default, sentences.get(parameter.name, ""))
                found.setdefault(parameter.name, option)
    return tuple(found.values())


def build_strategy(name: str, space: SearchSpace, *, seed: int = 0, **options: Any) -> AnyStrategy:
    """Build a strategy of either interface by name.

    Raises:
        UsageError: The name is unknown, or an option is unknown to the strategy or has a value it refuses.
    """
    return build_with(name, space, seed, options)


def build_with(name: str, space: SearchSpace, seed: int, options: Mapping[str, Any]) -> AnyStrategy:
    """As ``build_strategy``, whatever the options are called; errors as there."""
    factory = _find(name)
    taken = next((key for key in ("space", "seed") if key in options), None)
    try:
        if taken is not None:
            raise ValueError(f"there is no {taken!r}")
        return factory(space, seed=seed, **options)
    except (TypeError, ValueError) as error:
        known = ", ".join(f"{option.name}={option.default}" for option in strategy_options(name))
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        said = str(error) if unknown is None else f"there is no {unknown[1]!r}"
        raise UsageError(
            f"strategy {name!r} refuses its options: {said}; it has {known or 'no options'}",
            where="--strategy",
            kind="strategy_option",
        ) from error


def make_strategy(name: str, space: SearchSpace, *, seed: int = 0, **options: Any) -> Strategy:
    """Build a strategy that learns from rewards, to ask it and tell it results by hand.

    Raises:
        UsageError: The name is unknown, an option is unknown to the strategy or has a value it refuses, or the
            strategy trains with a supernet.
    """
    made = build_strategy(name, space, seed=seed, **options)
    if isinstance(made, (SupernetStrategy, MeasuringStrategy)):
        raise UsageError(
            f"strategy {name!r} works with a supernet and takes no rewards: run it with narfx.search.run",
            where="--strategy",
            kind="supernet_strategy",
        )
    return made


def _find(name: str) -> Factory:
    if name not in _REGISTRY:
        raise UsageError(
            f"unknown strategy {name!r}: there are {', '.join(strategy_names())}",
            where="--strategy",
            kind="unknown_strategy",
        )
    return _REGISTRY[name]


def _constructors(factory: Factory) -> Iterator[tuple[Callable[..., Any], str]]:
    """The functions that take the options, each with its docstring; ``**options`` go on to the class's base."""
    if not isinstance(factory, type):
        yield factory, inspect.getdoc(factory) or ""
        return
    for owner in factory.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is None or owner is object:
            continue
        yield constructor, inspect.cleandoc(owner.__doc__ or "")
        kinds = {parameter.kind for parameter in inspect.signature(constructor).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return


def _arguments(docstring: str) -> dict[str, str]:
    """The sentences under ``Args:`` of a Google docstring, by argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\*{0,2}\w+): (.*?)(?=^    \S|\Z)", section[1], re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
