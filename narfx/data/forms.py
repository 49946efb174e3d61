"""The forms of narfx's own data sources, as messages and help texts write them; nothing heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["all_forms", "own_forms"]


def own_forms() -> list[str]:
    """The forms that ``sources.py`` registers, in its order; read there because an import takes seconds."""
    text = Path(__file__).with_name("sources.py").read_text(encoding="utf-8")
    return re.findall(r'^register_source\(.*?\bform="([^"]+)"', text, re.MULTILINE | re.DOTALL)


def all_forms(registered: Iterable[str] | None = None) -> str:
    """All forms in words: a folder of images, those registered (by default narfx's own), and the user's own code."""
    forms = own_forms() if registered is None else registered
    return f"a folder of images, {', '.join(forms)}, or your own package.module:factory or file.py:factory"
