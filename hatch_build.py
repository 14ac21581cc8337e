"""Builds the CPU kernel into the package when the package is built, where a C++ compiler is there.

Without one, or where it fails, Bimo writes with torch: slower, and the same text up to rounding.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "src/bimo/libbimo.so"


class KernelHook(BuildHookInterface):
    """What hatchling calls before it packs a wheel, an editable one too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        command = [sys.executable, str(root / "native" / "build.py"), str(root / LIBRARY)]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            self.app.display_warning(f"Bimo is built without its kernel:\n{built.stderr}")
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
