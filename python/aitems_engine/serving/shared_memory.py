"""`SharedTensors`: the input tensors of one inference in a region of system shared memory, for a server beside.

Written as a file, not through a mapping: where /dev/shm is full a write fails with an error, while a write into a
mapping of it ends the process (SIGBUS). `tritonclient.utils.shared_memory` maps, and finds out too late.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import ServingError

FOLDER = Path("/dev/shm")
ALIGNMENT = 64


class SharedTensors:
    """Arrays, one behind the other, in a new region; a context manager that removes its name.

    Attributes
    ----------
    name, key : str
        Of the region, as Triton calls them.
    size : int
        Bytes.
    places : list of (int, int)
        Where each array begins, and its size. Bytes.

    Raises
    ------
    ServingError
        /dev/shm has no room for them.
    """

    def __init__(self, arrays: Iterable[npt.NDArray[Any]]) -> None:
        self.name = f"aitems-tensors-{os.getpid()}-{secrets.token_hex(8)}"
        self.key, self._path = f"/{self.name}", FOLDER / self.name
        contents = [_serialised(array) for array in arrays]
        self.places: list[tuple[int, int]] = []
        self.size = 1  # a region must not be empty
        for content in contents:
            begin = -(-self.size // ALIGNMENT) * ALIGNMENT
            self.places.append((begin, content.nbytes))
            self.size = begin + content.nbytes
        # not to the last byte: the server's own processes need some, too
        if self.size > shutil.disk_usage(FOLDER).free:
            raise self._full()
        try:
            self._path.touch(0o600, exist_ok=False)
            with self._path.open("r+b") as file:
                file.truncate(self.size)
                for (begin, _), content in zip(self.places, contents, strict=True):
                    file.seek(begin)
                    file.write(np.ascontiguousarray(content).data)
        except OSError as error:
            self.unlink()
            raise (self._full() if error.errno == errno.ENOSPC else error) from None

    def _full(self) -> ServingError:
        free = shutil.disk_usage(FOLDER).free
        return ServingError(
            f"{FOLDER} has {free:,} bytes free, the tensors take {self.size:,}: make it larger (mount -o"
            f" remount,size=4G {FOLDER}; a container: --shm-size), remove what is left in it, send less at a time, or"
            " use shared_memory=False"
        )

    def unlink(self) -> None:
        """Remove the name of the region; who has opened it goes on."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> SharedTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self.unlink()


def _serialised(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array as Triton reads it: texts with their lengths before them."""
    from tritonclient.utils import serialize_byte_tensor

    if array.dtype != np.object_:
        return array
    text = serialize_byte_tensor(array)
    return np.frombuffer(text.item() if text.size else b"", np.uint8)
