"""The model collections that a reference can name: torchvision, timm and narfx.

A collection is a function from a model's name to a :class:`ZooModel`. torchvision and timm are imported only when a
reference names them. Models are always built without weights, so nothing is ever downloaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from narfx.errors import UsageError
from narfx.inputs.user_code import close_names, pair_error
from narfx.models import MODELS

__all__ = ["ZOOS", "ZooModel", "find_model", "suggestions", "without_weights"]

# Each of these would download weights, or read a checkpoint that narfx has not checked.
_WEIGHT_ARGUMENTS = frozenset(
    {
        "checkpoint_path",
        "pretrained",
        "pretrained_backbone",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "weights",
        "weights_backbone",
    }
)


@dataclass(frozen=True)
class ZooModel:
    """A model of a collection.

    Attributes:
        factory: Builds the model.
        fixed: Arguments that the user cannot choose.
        input_shape: (channels, height, width) of one sample, if known.
    """

    factory: Callable[..., Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, int, int] | None = None


def _asks_for_weights(argument: str, value: object) -> bool:
    """Whether an argument of a factory asks for weights; ``weights=None`` does not."""
    return argument in _WEIGHT_ARGUMENTS and bool(value)


def without_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those about weights: a collection is always called without them."""
    return {argument: value for argument, value in arguments.items() if argument not in _WEIGHT_ARGUMENTS}


def find_model(zoo: str, name: str, arguments: Mapping[str, Any] | None = None) -> ZooModel:
    """The model ``name`` of the collection ``zoo``, to be called with these arguments.

    Raises:
        UsageError: The collection is not installed or has no such model, or an argument asks for weights.
    """
    named = sorted(argument for argument, value in (arguments or {}).items() if _asks_for_weights(argument, value))
    if named:
        raise UsageError(
            f"{zoo}:{name} asks for {', '.join(named)}, but narfx downloads nothing: save the weights to a file and "
            "pass it with --weights",
            where=f"{zoo}:{name}",
            kind="model_arguments",
        )
    return ZOOS[zoo](name)


def suggestions(name: str) -> list[str]:
    """References to models of torchvision and narfx that have this name, or else similar ones; at most three."""
    try:
        from torchvision import models

        builders = models.list_models()
    except Exception:  # without torchvision, or with one of another torch, the suggestions are narfx's own
        builders = []
    zoos = {"torchvision": builders, "narfx": MODELS}
    alike = dict.fromkeys([name.lower(), *close_names(name, {each for names in zoos.values() for each in names})])
    return [f"{zoo}:{each}" for each in alike for zoo, names in zoos.items() if each in names][:3]


def _narfx(name: str) -> ZooModel:
    _check_name("narfx", name, MODELS)
    return ZooModel(MODELS[name].factory, {}, MODELS[name].input_shape)


def _torchvision(name: str) -> ZooModel:
    try:
        import torchvision
    except Exception as error:
        raise _unusable("torchvision", "install torch and torchvision in one command", error) from error
    models = torchvision.models
    _check_name("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    fixed = {"weights", "weights_backbone"} & set(inspect.signature(builder).parameters)
    classifiers = {*models.list_models(module=models), *models.list_models(module=models.quantization)}
    side = 299 if name.endswith("inception_v3") else 224
    return ZooModel(builder, dict.fromkeys(fixed), (3, side, side) if name in classifiers else None)


def _timm(name: str) -> ZooModel:
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
    except Exception as error:
        raise _unusable("timm", "run pip install timm", error) from error
    # is_model accepts names with a tag after a dot, and refuses names that would be downloaded from a hub.
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    config = timm.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    shape = (int(channels), int(height), int(width))
    return ZooModel(timm.create_model, {"model_name": name, "pretrained": False}, shape)


def _unusable(package: str, cure: str, error: Exception) -> UsageError:
    """The error for a package that is not installed, or that was built for another torch."""
    if not isinstance(error, ModuleNotFoundError):
        return pair_error(error)
    return UsageError(
        f"{package} cannot be imported ({error}): {cure}",
        where=package,
        kind="missing_package",
    )


def _check_name(zoo: str, name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name in names:
        return
    close = [*(ref for ref in suggestions(name) if ref.endswith(f":{name}")), *close_names(name, names)]
    some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {some}"
    raise UsageError(f"{zoo} has no model {name!r}: {hint}", where=f"{zoo}:{name}", kind="unknown_model")


ZOOS: dict[str, Callable[[str], ZooModel]] = {"torchvision": _torchvision, "timm": _timm, "narfx": _narfx}
