"""Which fields of a configuration are paths: each says so in its annotation, and nowhere else.

A path in a configuration starts at the folder of the file that holds it, so a configuration that is written into
another folder needs its paths rewritten. :mod:`narfx.inputs.paths` does that for every field marked here.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, get_args

from pydantic import BaseModel

__all__ = ["CodeReference", "DataSource", "ModelReference", "NamedPath", "PathKind", "UserPath", "path_fields"]


class PathKind(Enum):
    """What the text of a marked field is."""

    PATH = "a file or a folder"
    MODEL = "a model reference; or an arch.json, an ONNX file or a folder"
    SOURCE = "a data source"
    NAMED = "a path, or NAME=path"
    CODE = "package.module:factory or file.py:factory; or a word"


UserPath = Annotated[str, PathKind.PATH]
ModelReference = Annotated[str, PathKind.MODEL]
DataSource = Annotated[str, PathKind.SOURCE]
NamedPath = Annotated[str, PathKind.NAMED]
CodeReference = Annotated[str, PathKind.CODE]


def path_fields(schema: type[BaseModel]) -> dict[str, PathKind]:
    """The marked fields of a configuration's class; a field may hold one such text, ``None``, or a tuple of them."""
    kinds = {name: _marks(field.annotation, *field.metadata) for name, field in schema.model_fields.items()}
    return {name: found[0] for name, found in kinds.items() if found}


def _marks(annotation: Any, *metadata: Any) -> list[PathKind]:
    """The marks in an annotation, at any depth: ``Annotated`` inside a union or a tuple keeps its own."""
    own = [mark for mark in (*metadata, *getattr(annotation, "__metadata__", ())) if isinstance(mark, PathKind)]
    return own + [mark for inner in get_args(annotation) for mark in _marks(inner)]
