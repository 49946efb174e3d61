"""From what a user names (a model reference, an ``arch.json``, a file of weights) to networks ready to work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, fx

from narfx.architecture import DEFAULT_OPERATORS, Architecture
from narfx.compiler import Traced, lower, trace
from narfx.errors import UsageError
from narfx.model_ref import ModelRef, default_input, load_model
from narfx.supernet import Supernet
from narfx.weights import load_state, read_weights

__all__ = ["Lowered", "NetworkOptions", "beside", "open_architecture", "open_base"]

_DEFAULT_INPUT = (3, 224, 224)


class NetworkOptions(BaseModel):
    """Which model, and what of it may be refined; the fields are those of an ``arch.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    weights: str | None = None
    input: tuple[int, int, int] | None = None
    granularity: str = "conv"
    operators: tuple[str, ...] = DEFAULT_OPERATORS
    max_candidate_params: float = Field(default=1.0, gt=0)
    include_first: bool = False


@dataclass(frozen=True)
class Lowered:
    """The network of an architecture, where its weights come from in words, and the trace of its base.

    ``inherited`` is true where every operator has weights that were read from a file.
    """

    network: fx.GraphModule
    traced: Traced
    weights: str
    inherited: bool


def open_base(options: NetworkOptions, *, relative_to: Path | None = None, seed: int = 0) -> Traced:
    """Build the model that the options name, load its weights where they name any, and trace it.

    Raises:
        UsageError: The model, its weights or an option is wrong.
        NothingToRefineError: No site of the model has a choice.
    """
    model = load_model(options.model, relative_to=relative_to, seed=seed)
    if options.weights is not None:
        state, _ = read_weights(find(options.weights, relative_to))
        load_state(model, state, source=options.weights)
    return trace(
        model,
        input=options.input or default_input(options.model, relative_to=relative_to) or _DEFAULT_INPUT,
        granularity=options.granularity,
        operators=options.operators,
        max_candidate_params=options.max_candidate_params,
        include_first=options.include_first,
        reference=options.model,
    )


def open_architecture(
    architecture: Architecture, *, relative_to: Path | None = None, weights: str | None = None, seed: int = 0
) -> Lowered:
    """The lowered network of an architecture.

    ``weights`` (else those that the architecture names) may have the keys of the base, from which the other operators
    are then started, or the keys of the lowered network.

    Raises:
        UsageError: The architecture does not fit the model, or the weights fit neither network.
    """
    options = NetworkOptions(
        model=architecture.model,
        input=architecture.input,
        granularity=architecture.granularity,
        operators=architecture.operators,
        max_candidate_params=architecture.max_candidate_params,
        include_first=architecture.include_first,
    )
    traced = open_base(options, relative_to=relative_to, seed=seed)
    vector = architecture.check(traced.space)
    started = sum(1 for entry in vector if entry)
    candidates = f"; operators at {started} slots warm-started, not trained" if started else ""
    if weights is None and architecture.weights is None:
        network = lower(Supernet(traced), vector)
        return Lowered(network, traced, f"none given: the base as {architecture.model} builds it{candidates}", False)
    path = Path(weights) if weights is not None else find(str(architecture.weights), relative_to)
    state, _ = read_weights(path)
    network = lower(Supernet(traced), vector)
    if _fits(network, state):
        load_state(network, state, source=str(path))
        return Lowered(network, traced, f"{path.name}: the lowered network's", True)
    base = traced.graph_module
    if not _fits(base, state):
        # The base as its author wrote it may have keys that the trace does not use.
        model = load_model(architecture.model, relative_to=relative_to, seed=seed)
        _check_either(model.state_dict(), network.state_dict(), state, path)
        load_state(model, state, source=str(path))
        used = model.state_dict()
        state = {key: used[key] for key in base.state_dict()}
    load_state(base, state, source=str(path))
    return Lowered(lower(Supernet(traced), vector), traced, f"{path.name}: the base's{candidates}", not started)


def beside(reference: str, folder: Path, *, relative_to: Path | None = None) -> str:
    """A model reference as a file in ``folder`` names it: a path is given from there, so no absolute one is stored."""
    return str(ModelRef.parse(reference).beside(folder, relative_to=relative_to))


def find(path: str, relative_to: Path | None) -> Path:
    """A path that a file names: taken from that file's folder where it exists there, else from the working folder."""
    there = (relative_to or Path()) / path
    return there if there.exists() else Path(path)


def _fits(network: fx.GraphModule, state: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    return set(own) - counters <= set(state) <= set(own) and all(own[k].shape == state[k].shape for k in state)


def _check_either(base: dict[str, Tensor], lowered: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    def faults(own: dict[str, Tensor]) -> list[str]:
        missing = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
        extra = [f"{key} is unknown" for key in state if key not in own]
        shapes = [f"{key} has another shape" for key in state if key in own and own[key].shape != state[key].shape]
        return missing + extra + shapes

    of_base, of_lowered = faults(base), faults(lowered)
    if of_base and of_lowered:
        raise UsageError(
            f"the weights in {path} fit neither the base ({len(of_base)} keys differ: {of_base[0]}) nor the lowered "
            f"network ({len(of_lowered)} keys differ: {of_lowered[0]})",
            where=str(path),
            kind="weights_mismatch",
        )
