"""Whether all ranks of a run train the same thing on the same images."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from pydantic import BaseModel

from narfx._version import __version__
from narfx.errors import UsageError
from narfx.support.collectives import differing
from narfx.support.path_fields import path_fields
from narfx.support.ranks import Ranks

__all__ = ["check_same_inputs"]


def check_same_inputs(ranks: Ranks, config: BaseModel, reads: Mapping[str, str]) -> None:
    """Compare options, versions and the digests of all that is read between the ranks, which call this at once.

    Paths may differ, because machines may have the same files in other folders: what they hold is in ``reads``.

    Raises:
        UsageError: A rank differs from rank 0; each rank raises it.
    """
    values = config.model_dump(mode="json", exclude=set(path_fields(type(config))))
    options = {f"the option {name}": json.dumps(value) for name, value in values.items()}
    versions = {"the version of narfx": __version__, "the version of torch": torch.__version__}
    found = differing(ranks, {**versions, **options, **reads})
    if found is not None:
        rank, names = found
        raise UsageError(
            f"rank {rank} of {ranks.size} has other inputs than rank 0 ({', '.join(names[:5])}): give all ranks the "
            "same files and the same command",
            where=names[0],
            kind="ranks_differ",
        )
