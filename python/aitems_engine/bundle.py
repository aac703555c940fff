"""The bundle: a directory that holds one trained engine, and a manifest that proves it is whole.

`manifest.json` lists every part with its size and SHA-256; `digest` names the contents, so two bundles with one
digest answer alike. Writing goes to a directory beside the target that is swapped in when it is complete: a crash
leaves the old bundle as it was. Opening checks every byte; what is damaged, missing, foreign or newer is named. It
does not know what the parts mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from aitems_engine import __version__
from aitems_engine.errors import BundleError

FORMAT = "aitems-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_PARTS = 64
MAX_PART_BYTES = 64 << 30
# parts that are read into memory as a whole (JSON, CSV); weights are memory-mapped
MAX_READ_BYTES = 256 << 20

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """One file of a bundle, as the manifest describes it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose parts were all checked.

    Attributes
    ----------
    path : Path
    digest : str
        SHA-256 over the parts and the settings: the identity of what the bundle answers.
    engine_version, created_at, config_digest : str
        `created_at` is ISO 8601 in UTC.
    parts : mapping of name to Part
    """

    path: Path
    digest: str
    engine_version: str
    created_at: str
    config_digest: str
    parts: Mapping[str, Part]
    _directory: Path = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True, directory: Path | None = None) -> Bundle:
        """Check a bundle and return it.

        Parameters
        ----------
        path : path
            Directory of the bundle.
        verify : bool
            False skips the SHA-256 of the parts (sizes and names are still checked), for a bundle just verified
            elsewhere.
        directory : path, optional
            Where the parts are read, if not at `path`: the same directory by a name that a swap does not change.

        Raises
        ------
        BundleError
            Not a bundle, damaged, truncated, with a missing, extra or foreign part, or of a newer format; names the
            part.
        """
        path = Path(path)
        directory = directory or path
        manifest = _read_manifest(path, directory)
        try:
            bundle = cls(path=path, **_checked_manifest(manifest), _directory=directory)
        except BundleError as error:
            raise BundleError(f"bundle '{path}': {error}") from None
        present = {entry.name for entry in os.scandir(directory)} - {MANIFEST}
        for name in bundle.parts:
            if name not in present:
                raise BundleError(f"bundle '{path}': part '{name}' is missing")
        extra = sorted(present - set(bundle.parts))
        if extra:
            raise BundleError(f"bundle '{path}': '{extra[0]}' is not listed in the manifest; remove it or build again")
        for part in bundle.parts.values():
            bundle._check(part, verify)
        return bundle

    @classmethod
    def open_as(cls, path: str | Path, make: Callable[[Bundle], T], *, verify: bool = True) -> T:
        """Open a bundle and return what `make` makes of it, from one directory even where it is swapped meanwhile.

        All parts come from the directory that was there at the start; when it is removed before they are read, reading
        starts again with the new one.

        Raises
        ------
        BundleError
            As `open`, and what `make` raises.
        """
        path = Path(path)
        for _ in range(5):
            with _pinned(path) as directory:
                try:
                    return make(cls.open(path, verify=verify, directory=directory))
                except BundleError:
                    if not _replaced(path, directory):
                        raise
        raise BundleError(f"bundle '{path}' keeps changing while it is opened")

    def file(self, name: str) -> Path:
        """Return the path of a part.

        Raises
        ------
        BundleError
            The bundle has no such part.
        """
        return self._directory / self._part(name).name

    def read(self, name: str) -> bytes:
        """Return the bytes of a small part, checked against the manifest while they are read."""
        part = self._part(name)
        if part.bytes > MAX_READ_BYTES:
            raise BundleError(
                f"bundle '{self.path}': part '{name}' has {part.bytes} bytes, the limit is {MAX_READ_BYTES}"
            )
        with self._opened(part) as descriptor:
            data = b"".join(_chunks(descriptor))
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise self._foreign(part, hashlib.sha256(data).hexdigest())
        return data

    def _part(self, name: str) -> Part:
        if name not in self.parts:
            raise BundleError(f"bundle '{self.path}': no part '{name}'; it has {', '.join(sorted(self.parts))}")
        return self.parts[name]

    def inside(self, prefix: str) -> Bundle:
        """Return the bundle that was put into this one with `prefix` before the names of its parts."""
        own = {name.removeprefix(prefix): part for name, part in self.parts.items() if name.startswith(prefix)}
        return replace(self, parts=MappingProxyType(own))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a part that holds one JSON object."""
        return _json_object(self.read(name), f"bundle '{self.path}': part '{name}'")

    def _check(self, part: Part, verify: bool) -> None:
        with self._opened(part) as descriptor:
            if not verify:
                return
            digest = hashlib.sha256()
            for chunk in _chunks(descriptor):
                digest.update(chunk)
        if digest.hexdigest() != part.sha256:
            raise self._foreign(part, digest.hexdigest())

    def _foreign(self, part: Part, found: str) -> BundleError:
        return BundleError(
            f"bundle '{self.path}': part '{part.name}' is damaged or comes from another bundle: "
            f"SHA-256 is {found[:12]}..., the manifest says {part.sha256[:12]}..."
        )

    @contextlib.contextmanager
    def _opened(self, part: Part) -> Iterator[int]:
        try:
            # a pipe would block here for ever without O_NONBLOCK
            descriptor = os.open(self._directory / part.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise BundleError(f"bundle '{self.path}': part '{part.name}' cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"bundle '{self.path}': part '{part.name}' is not a regular file")
            if status.st_size != part.bytes:
                kind = "truncated" if status.st_size < part.bytes else "longer than it should be"
                raise BundleError(
                    f"bundle '{self.path}': part '{part.name}' is {kind}: {status.st_size} bytes, "
                    f"the manifest says {part.bytes}"
                )
            yield descriptor
        except OSError as error:
            raise BundleError(f"bundle '{self.path}': part '{part.name}' cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _pinned(path: Path) -> Iterator[Path]:
    """Hold the directory that is at `path` now, so that its parts are read from no other one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield path  # `Bundle.open` says what is wrong
        return
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _replaced(path: Path, directory: Path) -> bool:
    if directory == path:
        return False
    try:
        return not os.path.samefile(path, directory)
    except OSError:
        return True


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        yield chunk


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{what} must hold a JSON object, got {type(value).__name__}")
    return value


def _read_manifest(path: Path, directory: Path) -> dict[str, Any]:
    try:
        with (directory / MANIFEST).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        if not path.exists():
            raise BundleError(f"bundle '{path}' does not exist") from None
        raise BundleError(f"'{path}' is not a bundle: {MANIFEST} cannot be read ({error.strerror})") from None
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle '{path}': {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return _json_object(data, f"bundle '{path}': {MANIFEST}")


def _checked_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `Bundle` from a manifest, or raise with what is wrong."""
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{MANIFEST}: format must be '{FORMAT}', got {str(manifest.get('format'))[:40]!r}")
    version = manifest.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError(f"{MANIFEST}: format_version must be a whole number, got {str(version)[:40]!r}")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST}: bundle format {version} is newer than this engine ({__version__}) reads, "
            f"which is {FORMAT_VERSION}; upgrade aitems-engine "
            f"(the bundle was written by {str(manifest.get('engine_version'))[:40]})"
        )
    for key in ("engine_version", "created_at", "config_digest", "digest", "manifest_sha256"):
        if not isinstance(manifest.get(key), str):
            raise BundleError(f"{MANIFEST}: '{key}' must be text, got {type(manifest.get(key)).__name__}")
    entries = manifest.get("parts")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_PARTS:
        raise BundleError(f"{MANIFEST}: 'parts' must be a list of 1 to {MAX_PARTS} parts")
    parts: dict[str, Part] = {}
    for entry in entries:
        part = _checked_part(entry)
        if part.name in parts:
            raise BundleError(f"{MANIFEST}: part '{part.name}' is listed twice")
        parts[part.name] = part
    if manifest["digest"] != _contents_digest(manifest["config_digest"], parts):
        raise BundleError(
            f"{MANIFEST}: the digest does not fit the parts listed: the manifest was changed or is a mixture"
        )
    if manifest["manifest_sha256"] != _manifest_digest(manifest):
        raise BundleError(f"{MANIFEST}: its own SHA-256 does not fit: the manifest was changed or is damaged")
    return {
        "digest": manifest["digest"],
        "engine_version": manifest["engine_version"],
        "created_at": manifest["created_at"],
        "config_digest": manifest["config_digest"],
        "parts": MappingProxyType(parts),
    }


def _checked_part(entry: object) -> Part:
    if not isinstance(entry, dict) or set(entry) != {"name", "bytes", "sha256"}:
        raise BundleError(f"{MANIFEST}: a part must have name, bytes and sha256, got {str(entry)[:80]}")
    name, size, sha256 = entry["name"], entry["bytes"], entry["sha256"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(
            f"{MANIFEST}: '{str(name)[:80]}' is not a name for a part: letters, digits, '.', '_', '-' only"
        )
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_PART_BYTES:
        raise BundleError(
            f"{MANIFEST}: part '{name}': bytes must be between 0 and {MAX_PART_BYTES}, got {str(size)[:40]}"
        )
    if not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
        raise BundleError(f"{MANIFEST}: part '{name}': sha256 must be 64 hexadecimal digits")
    return Part(name, size, sha256)


def canonical_json(value: object) -> bytes:
    """Return JSON with sorted keys and no spaces: equal values have equal bytes, so it can be digested."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _contents_digest(config_digest: str, parts: Mapping[str, Part]) -> str:
    listed = [[p.name, p.bytes, p.sha256] for p in sorted(parts.values(), key=lambda p: p.name)]
    return hashlib.sha256(canonical_json([FORMAT, FORMAT_VERSION, config_digest, listed])).hexdigest()


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({k: v for k, v in manifest.items() if k != "manifest_sha256"})).hexdigest()


def write_bundle(
    path: str | Path, parts: Mapping[str, bytes | str | Path], *, config: Mapping[str, Any] | None = None
) -> str:
    """Write a bundle and return its digest; an existing bundle at `path` is replaced as one step.

    Parameters
    ----------
    path : path
        A directory that does not exist yet, is empty, or is a bundle.
    parts : mapping of name to bytes, text or Path
        Text is written as UTF-8; a Path is a file to copy.
    config : mapping, optional
        The settings that made it; only their digest is kept.

    Raises
    ------
    BundleError
        A name that is not allowed, or `path` holds something that is not a bundle.

    Notes
    -----
    Parts are flushed to disk before the swap. Where the file system cannot exchange two directories, the old one is
    moved aside first: a crash in between leaves it under `.NAME.old-*`, complete.
    """
    target = Path(path).absolute()
    if target.exists() and not (target.is_dir() and ((target / MANIFEST).exists() or not any(target.iterdir()))):
        raise BundleError(f"'{path}' exists and is not a bundle: choose another path or remove it")
    if not 1 <= len(parts) <= MAX_PARTS:
        raise BundleError(f"a bundle has 1 to {MAX_PARTS} parts, got {len(parts)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    try:
        building.chmod(0o755)
        listed = {name: _write_part(building, name, content) for name, content in parts.items()}
        config_digest = hashlib.sha256(canonical_json(config or {})).hexdigest()
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "engine_version": __version__,
            "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "config_digest": config_digest,
            "digest": _contents_digest(config_digest, listed),
            "parts": [{"name": p.name, "bytes": p.bytes, "sha256": p.sha256} for p in listed.values()],
        }
        manifest["manifest_sha256"] = _manifest_digest(manifest)
        _write_file(building / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
        _sync_directory(building)
        _swap_in(building, target)
        _sync_directory(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return str(manifest["digest"])


def _write_part(directory: Path, name: str, content: bytes | str | Path) -> Part:
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(f"'{name}' is not a name for a part: letters, digits, '.', '_', '-' only")
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        if isinstance(content, Path):
            source = stack.enter_context(content.open("rb"))
            chunks = iter(lambda: source.read(_CHUNK_BYTES), b"")
        else:
            chunks = iter([content.encode() if isinstance(content, str) else bytes(content)])
        out = stack.enter_context((directory / name).open("xb"))
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return Part(name, size, digest.hexdigest())


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap_in(building: Path, target: Path) -> None:
    """Put `building` at `target`; what was there is afterwards at `building`."""
    if not target.exists():
        os.rename(building, target)
        return
    if _exchange(building, target):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    os.rename(target, aside)
    os.rename(building, target)
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two directories atomically (Linux renameat2); False where that is not possible."""
    at_current_directory, exchange_flag = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    result = renameat2(
        at_current_directory, os.fsencode(first), at_current_directory, os.fsencode(second), exchange_flag
    )
    return bool(result == 0)
