"""The trained ranker in serving: a `FeatureBatch` in, probabilities out, by ONNX Runtime in one thread.

Features and network belong together: `ranker.json` holds the digests of both, and a mixture is refused by name.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle
from aitems_engine.catalog.items import ItemTable
from aitems_engine.errors import BundleError, DataError, InvalidInputError, ModelMismatchError
from aitems_engine.ranking.batches import FeatureBatch, FieldSpec, FloatMatrix, Predictions
from aitems_engine.ranking.calibration import RankerCalibration
from aitems_engine.ranking.features import FeatureSet
from aitems_engine.runtime.onnx_session import open_session
from aitems_engine.runtime.safetensors import read_safetensors, safetensors_bytes

HEAD, FEATURES, MODEL, COUNTED, COUNTS = (
    "ranker.json",
    "features.json",
    "ranker.onnx",
    "counted_items.json",
    "item_counts.safetensors",
)

# optional input: how many rows have the codes of their request read, 1 = the first one for all
REQUEST_ROWS = "request_rows"
_ONE = np.array([1])
ROWS = 1024


class Ranker:
    """A network that is asked for probabilities. Immutable; safe for calls from many threads.

    Parameters
    ----------
    model : path or bytes
        ONNX: `codes` int32 (n, F), `dense` float32 (n, D) -> `logits` float32 (n, T); T = 1 (click) or 2 (click, and
        purchase given a click). Where it has the optional input `request_rows`, the candidates of a request share its
        part of the network.
    fields : FieldSpec
        Of the features it was trained on.
    calibration : RankerCalibration, optional
        Without it logits are taken at their word.

    Raises
    ------
    InvalidInputError
        Another graph, or one of other widths, or a calibration by a column that is not there.
    """

    def __init__(
        self, model: str | os.PathLike[str] | bytes, fields: FieldSpec, calibration: RankerCalibration | None = None
    ) -> None:
        self.fields = fields
        self.calibration = calibration or RankerCalibration()
        segment = self.calibration.segment
        if segment and segment not in fields.code_names:
            raise InvalidInputError(
                f"the calibration is by '{segment}', which is none of the features: {', '.join(fields.code_names)}"
            )
        self._segment = fields.code_names.index(segment) if segment else None
        self._session = open_session(model if isinstance(model, bytes) else os.fspath(model), threads=1)
        inputs = {i.name: i.shape[-1] for i in self._session.get_inputs()}
        outputs = {o.name: o.shape[-1] for o in self._session.get_outputs()}
        wanted = {"codes": len(fields.cardinalities), "dense": fields.dense}
        # a network without use for an input does not have it
        if not inputs.items() <= wanted.items() or outputs.get("logits") not in (1, 2):
            raise InvalidInputError(
                f"not a ranker for these features: its inputs are {inputs} and outputs {outputs}, "
                f"the features have {wanted} columns, logits must have 1 or 2"
            )
        self.inputs, self.outputs = list(inputs), int(outputs["logits"])
        self._shares = REQUEST_ROWS in (i.name for i in self._session.get_overridable_initializers())

    def logits(self, batch: FeatureBatch) -> FloatMatrix:
        """Return the logits, float32 array of shape (n, T).

        Notes
        -----
        The network sees one request at a time, so that its logits do not depend on the others of the batch, or where
        the batch knows no requests, parts whose layers stay in the processor's cache.
        """
        if batch.codes.shape[1] != len(self.fields.cardinalities) or batch.dense.shape[1] != self.fields.dense:
            raise InvalidInputError(
                f"the ranker reads {len(self.fields.cardinalities)} codes and {self.fields.dense} dense columns, "
                f"got {batch.codes.shape} and {batch.dense.shape}"
            )
        shared = {REQUEST_ROWS: _ONE} if self._shares and batch.splits is not None else {}
        bounds = [0, len(batch)] if batch.splits is None else batch.splits.tolist()
        parts = [
            (begin, min(begin + ROWS, last))
            for first, last in itertools.pairwise(bounds)
            for begin in range(first, last, ROWS)
        ]
        logits = np.empty((len(batch), self.outputs), np.float32)
        columns = {"codes": batch.codes, "dense": batch.dense}
        for begin, end in parts:
            feeds = {name: columns[name][begin:end] for name in self.inputs}
            logits[begin:end] = self._session.run(["logits"], feeds | shared)[0]
        return logits

    def predict(self, batch: FeatureBatch) -> Predictions:
        """Return the probabilities of each row.

        Notes
        -----
        A logit that is no number becomes 0 probability. `pctcvr` is never above `pctr`.
        """
        logits = self.logits(batch)
        segments = None if self._segment is None else batch.codes[:, self._segment]
        outputs = (self.calibration.click, self.calibration.purchase)[: logits.shape[1]]
        found = [c.probabilities(logits[:, i], segments) for i, c in enumerate(outputs)]
        for probabilities in found:
            probabilities[np.isnan(probabilities)] = 0
        return Predictions(found[0], found[1] if len(found) == 2 else np.ones(len(logits), np.float32))


def ranker_parts(
    features: FeatureSet,
    model: bytes,
    *,
    calibration: RankerCalibration | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, bytes | str | Path]:
    """Return the parts of a bundle that hold features and network, for `write_bundle`.

    Parameters
    ----------
    features : FeatureSet
        Those the network was trained on; its counts may be newer.
    model : bytes
        ONNX.
    calibration : RankerCalibration, optional
        Of its logits.
    facts : mapping, optional
        What is worth knowing about the training, as JSON values.
    """
    ranker = Ranker(model, features.spec, calibration)
    counted = np.flatnonzero(features.counts.any(axis=1))
    head = {
        "features": features.digest,
        "model": hashlib.sha256(model).hexdigest(),
        "calibration": ranker.calibration.to_json(),
        "facts": dict(facts or {}),
    }
    return {
        HEAD: json.dumps(head, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        FEATURES: json.dumps(features.to_json(), ensure_ascii=False, allow_nan=False) + "\n",
        MODEL: model,
        COUNTED: json.dumps([features.items.item_ids[i] for i in counted.tolist()], ensure_ascii=False),
        COUNTS: safetensors_bytes({"counts": features.counts[counted]}),
    }


def open_ranker(bundle: Bundle, items: ItemTable) -> tuple[FeatureSet, Ranker]:
    """Return features and network of a bundle, over a catalogue that may be newer than they are.

    Raises
    ------
    ModelMismatchError
        Features or network are not those that `ranker.json` names.
    BundleError
        A part is missing or damaged; names it.
    """
    head = bundle.read_json(HEAD)
    try:
        ids = json.loads(bundle.read(COUNTED).decode())
        counts = _aligned(ids, read_safetensors(bundle.file(COUNTS))["counts"], items)
        features = FeatureSet.from_json(bundle.read_json(FEATURES), items, counts)
        found = {FEATURES: features.digest, MODEL: bundle.parts[MODEL].sha256}
        for part, key in ((FEATURES, "features"), (MODEL, "model")):
            if head[key] != found[part]:
                raise ModelMismatchError(
                    f"bundle '{bundle.path}': '{part}' is {found[part][:12]}..., but '{HEAD}' belongs to "
                    f"{str(head[key])[:12]}...: features and network of one training must be used together"
                )
        return features, Ranker(bundle.file(MODEL), features.spec, RankerCalibration.from_json(head["calibration"]))
    except (DataError, InvalidInputError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"bundle '{bundle.path}': the parts of the ranker do not fit together: {error}") from error


def _aligned(ids: list[str], counts: npt.NDArray[np.int64], items: ItemTable) -> npt.NDArray[np.int64]:
    if counts.shape != (len(ids), 3):
        raise DataError(f"'{COUNTS}' must have 3 counts for each of {len(ids)} items, got {counts.shape}")
    rows = items.positions(ids)
    aligned = np.zeros((len(items), 3), np.int64)
    aligned[rows[rows >= 0]] = counts[rows >= 0]
    return aligned
