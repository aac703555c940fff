"""Where Triton's server is on this machine, and the environment in which it and its Python processes run.

The server comes from the wheel `nvidia-pytriton` (extra `triton`; its own Python API is not used) or is the
`tritonserver` on the PATH, as in NVIDIA's containers.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from aitems_engine.errors import MissingExtraError, ServingError


@dataclass(frozen=True)
class Installation:
    """A server that can be started.

    Attributes
    ----------
    binary : Path
    wheel : Path, optional
        Root of the wheel's server; None where the server on the PATH brings its own backends.
    """

    binary: Path
    wheel: Path | None

    @classmethod
    def find(cls) -> Installation:
        """Return the server on the PATH, or else that of the wheel.

        Raises
        ------
        MissingExtraError
            There is none.
        """
        on_path = shutil.which("tritonserver")
        if on_path:
            return cls(Path(on_path), None)
        package = find_spec("pytriton")
        if package is None or package.origin is None:
            raise MissingExtraError(
                "there is no tritonserver on the PATH; run: pip install 'aitems-engine[triton]', or use a container of "
                "NVIDIA's Triton with aitems-engine installed in it"
            )
        wheel = Path(package.origin).parent / "tritonserver"
        return cls(wheel / "bin" / "tritonserver", wheel)

    @contextmanager
    def prepared(self) -> Iterator[tuple[list[str], dict[str, str]]]:
        """Yield the command, without its options, and the environment that runs it."""
        environment = dict(os.environ)
        # the server's Python processes ignore PYTHONPATH; they take the packages of the first `python3` on the PATH
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
        if self.wheel is None:
            yield [str(self.binary)], environment
            return
        _refuse_numpy_2()
        libraries = [self.wheel.parents[1] / "nvidia_pytriton.libs", _folder_of_libpython()]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            [*map(str, libraries), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
        )
        with TemporaryDirectory(prefix="aitems-triton-") as folder:
            backend = Path(folder) / "python"
            backend.mkdir()
            for file in (self.wheel / "backends" / "python").iterdir():
                (backend / file.name).symlink_to(file)
            (backend / "triton_python_backend_stub").symlink_to(self._stub())
            yield [str(self.binary), f"--backend-directory={folder}"], environment

    def _stub(self) -> Path:
        assert self.wheel is not None
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stubs = self.wheel / "python_backend_stubs"
        stub = stubs / version / "triton_python_backend_stub"
        if not stub.exists():
            there = ", ".join(sorted(p.name for p in stubs.iterdir()))
            raise ServingError(f"nvidia-pytriton has no Python backend for Python {version}; it has {there}")
        return stub


def _folder_of_libpython() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = str(sysconfig.get_config_var("LIBDIR"))
    if not Path(folder, f"libpython{version}.so.1.0").exists() and not find_library(f"python{version}"):
        raise ServingError(
            f"the server's Python processes need libpython{version}.so.1.0, which is neither in {folder} nor among the "
            f"system's libraries; install it (Debian: apt install libpython{version}) or take a Python from uv"
        )
    return folder


def _refuse_numpy_2() -> None:
    from numpy import __version__ as version

    if int(version.partition(".")[0]) >= 2:
        raise ServingError(
            f"the Python backend of nvidia-pytriton gives empty outputs with NumPy 2, and NumPy is {version} here; "
            "serve from an environment of its own: pip install 'aitems-engine[triton]' there takes a NumPy that works"
        )
