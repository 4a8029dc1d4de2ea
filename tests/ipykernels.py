"""The versions of ipykernel that matter, each a kernel whose notebook loads the extension.

The extension is loaded as a user's own configuration does it, before the kernel reads anything: a
kernel of 7.0 to 7.3 without it may stop reading at any of its first cells (`shell_replies`).
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from tests.plain_kernel import PlainKernel

INSTALLED = importlib.metadata.version("ipykernel")
VERSIONS = sorted({"7.0.1", "7.2.0", "7.4.0", INSTALLED})
_KERNELS = Path(sys.prefix) / "kernels"
_CONFIGURATION = 'get_config().InteractiveShellApp.extensions = ["notebook_ext"]\n'


def start(version: str, directory: Path) -> PlainKernel:
    """Start a kernel of that version in an empty directory; its caller closes it."""
    assert version == INSTALLED or (_KERNELS / version).is_dir(), "run `make setup`"
    profile = directory / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text(_CONFIGURATION)
    kernel = PlainKernel(
        directory,
        {
            "IPYTHONDIR": str(directory / "ipython"),
            "PYTHONPATH": "" if version == INSTALLED else str(_KERNELS / version),
        },
    )
    asked = kernel.run("import ipykernel; print(ipykernel.__version__)")
    assert asked.stdout.strip() == version
    return kernel
