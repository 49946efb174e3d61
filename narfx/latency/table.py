"""``latency.json``: measured latencies with their machine and setting, to share and reuse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from narfx.errors import UsageError
from narfx.latency.timing import CPU_PROVIDER, cpu_model
from narfx.support.files import locked, read_json
from narfx.support.onnx_session import onnxruntime_module
from narfx.support.schema import validated
from narfx.support.seals import unsealed, write_sealed

__all__ = ["LatencyFile", "LatencyTable", "Setting"]

_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class Setting(BaseModel):
    """The setting of a measurement: all that a latency depends on except the network.

    Attributes:
        threads: Threads of onnxruntime.
        batch: Samples per call.
        provider: Execution provider of onnxruntime.
        onnxruntime: Its version.
        cpu: The name of the processor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: Annotated[int, Field(ge=1, strict=True)] = 1
    batch: Annotated[int, Field(ge=1, strict=True)] = 1
    provider: str = CPU_PROVIDER
    onnxruntime: str
    cpu: str

    @classmethod
    def here(cls, threads: int, batch: int, provider: str) -> Setting:
        """The setting of a measurement on this machine."""
        onnxruntime = onnxruntime_module()

        return cls(
            threads=threads, batch=batch, provider=provider, onnxruntime=onnxruntime.__version__, cpu=cpu_model()
        )

    @property
    def machine(self) -> str:
        """The processor and the onnxruntime version, for messages."""
        return f"{self.cpu}, onnxruntime {self.onnxruntime}"

    def __str__(self) -> str:
        return f"threads {self.threads}, batch {self.batch}, {self.provider}"


class LatencyTable(BaseModel):
    """Latencies in milliseconds per call (of the whole batch), all measured with one setting.

    ``operators`` has one entry for each operator and site geometry, ``networks`` one for each whole network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: Setting
    operators: dict[str, Milliseconds] = Field(default_factory=dict)
    networks: dict[str, Milliseconds] = Field(default_factory=dict)

    def __contains__(self, key: object) -> bool:
        return key in self.operators or key in self.networks

    def with_entries(self, other: LatencyTable) -> LatencyTable:
        """The table with the entries of another table added; its own entries win."""
        return LatencyTable(
            setting=self.setting,
            operators=dict(sorted((other.operators | self.operators).items())),
            networks=dict(sorted((other.networks | self.networks).items())),
        )


class LatencyFile(BaseModel):
    """The content of a ``latency.json``: one table for each setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    tables: tuple[LatencyTable, ...] = ()

    @field_validator("tables")
    @classmethod
    def _one_table_a_setting(cls, tables: tuple[LatencyTable, ...]) -> tuple[LatencyTable, ...]:
        for index, table in enumerate(tables):
            if any(table.setting == other.setting for other in tables[:index]):
                raise ValueError(f"two tables have one setting ({table.setting}, {table.setting.machine}): keep one")
        return tables

    @classmethod
    def load(cls, path: Path | str) -> LatencyFile:
        """Read and validate a file.

        Raises:
            UsageError: The file does not exist, is not JSON, has another version, or a value that the schema refuses.
        """
        value = unsealed(read_json(Path(path)), Path(path))
        if not isinstance(value, dict):
            raise UsageError(
                f"{path} is not a latency file: it has {_KINDS.get(type(value), 'null')} instead of an object with "
                "version and tables",
                where=str(path),
                kind="malformed_latency",
            )
        version = value.get("version")
        if version is not None and (version != 1 or isinstance(version, bool)):
            raise UsageError(
                f"{path} is a latency file of version {version!r}, but this narfx reads version 1: measure into "
                "another file",
                where=str(path),
                kind="latency_version",
            )
        return validated(cls, value, str(path), kind="malformed_latency")

    def save(self, path: Path | str) -> None:
        """Write the file atomically."""
        write_sealed(Path(path), self.model_dump(mode="json"))

    @classmethod
    def add(cls, path: Path | str, table: LatencyTable) -> LatencyTable:
        """Add a table to a file; other processes may add to the same file at the same time.

        Returns:
            The table of this setting as it is in the file now; entries that another process wrote earlier win.

        Raises:
            UsageError: The file is malformed or cannot be written.
        """
        path = Path(path)
        with locked(path):
            file = cls.load(path) if path.exists() else cls()
            known = [other for other in file.tables if other.setting == table.setting]
            merged = known[0].with_entries(table) if known else table
            file.with_table(merged).save(path)
        return merged

    def table(self, here: Setting, where: str) -> LatencyTable:
        """The table for this setting: of this machine, or else the only one from another machine.

        An empty file gives an empty table for this machine.

        Args:
            here: The setting.
            where: The path of the file, for messages.

        Raises:
            UsageError: All tables are from other machines, and none or several of them have these threads, batch and
                provider.
        """
        for table in self.tables:
            if table.setting == here:
                return table
        if not self.tables or any(table.setting.machine == here.machine for table in self.tables):
            return LatencyTable(setting=here)
        alike = [table for table in self.tables if str(table.setting) == str(here)]
        if len(alike) == 1:
            return alike[0]
        held = "; ".join(f"{table.setting} ({table.setting.machine})" for table in self.tables)
        raise UsageError(
            f"{where} was measured on other machines, and {'several of its tables are' if alike else 'no table is'} "
            f"for {here}; it has {held}: use one of these settings, or measure into another file",
            where=where,
            kind="latency_setting",
        )

    def with_table(self, table: LatencyTable) -> LatencyFile:
        """The file with this table instead of the one with the same setting."""
        others = tuple(other for other in self.tables if other.setting != table.setting)
        return LatencyFile(tables=(*others, table))
