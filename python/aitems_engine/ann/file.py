"""Saving and opening: what the native file does not know (names, values, string ids) is kept in its notes, as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from aitems_engine._native import ann as native
from aitems_engine.ann.attributes import Attributes
from aitems_engine.ann.ids import StringIds
from aitems_engine.errors import IndexFormatError


def save(
    core: native.Index, path: Path, strings: StringIds | None, attributes: Attributes, info: dict[str, Any]
) -> None:
    """Write beside `path`, sync, and rename: whoever opens `path` finds the old file or the new one, whole."""
    notes = {
        "attributes": dict(zip(attributes.names, attributes.values, strict=True)),
        "strings": None if strings is None else strings.strings,
        "info": info,
    }
    name = str(path.parent / f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        core.save(name, json.dumps(notes, ensure_ascii=False).encode())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open(path: Path, *, verify: bool) -> tuple[native.Index, StringIds | None, Attributes, dict[str, Any]]:
    """Return the parts of an `AnnIndex` from a file."""
    core, raw = native.Index.open(str(path), verify)
    try:
        notes = json.loads(raw)
        strings = None if notes["strings"] is None else StringIds(notes["strings"])
        attributes = Attributes(list(notes["attributes"]), list(notes["attributes"].values()))
        info = dict(notes["info"])
        _check_info(info)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexFormatError(f"{path} is not a usable index file: its notes are damaged ({error})") from error
    if strings is not None and core.stats()["items"] and int(core.live_ids().max()) >= len(strings.strings):
        raise IndexFormatError(f"{path} is not a usable index file: an item has no string id")
    return core, strings, attributes, info


def _check_info(info: dict[str, Any]) -> None:
    """Raise ValueError unless a merge can go by what the notes say; without checksums they may say anything."""
    target, asked = info["recall_target"], info.get("asked", {"kind": "auto", "lists": None})
    lists, degree, signs = asked["lists"], asked.get("degree"), asked.get("signs")
    counts = [info.get(name, 0) for name in ("planned_for", "changed_since")]
    if not (
        isinstance(target, (int, float))
        and 0 < target <= 1
        and isinstance(asked["kind"], str)
        and (lists is None or (isinstance(lists, int) and 1 <= lists <= 1 << 20))
        and (degree is None or (isinstance(degree, int) and 2 <= degree <= 256))
        and signs in (None, False, True)
        and all(isinstance(count, int) and count >= 0 for count in counts)
    ):
        raise ValueError("what was asked for makes no sense")
