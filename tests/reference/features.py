"""The slow, obvious twin of `FeatureSet.gather`: one candidate and one feature after another, from the declaration."""

from __future__ import annotations

import math
import zlib
from datetime import datetime, timedelta, timezone

import numpy as np

from aitems_engine.ranking import FeatureBatch, FeatureQuery, FeatureSet
from aitems_engine.ranking import declaration as d

NAN = float("nan")


def gather(features: FeatureSet, query: FeatureQuery) -> FeatureBatch:
    codes, dense = [], []
    for r in range(len(query.now)):
        history = list(zip(query.events, query.event_times, strict=True))[query.begins[r] : query.ends[r]]
        context = {name: values[r] for name, values in query.context.items()}
        for i in range(query.splits[r], query.splits[r + 1]):
            position = None if query.positions is None else int(query.positions[i])
            counts = None if query.counts is None else query.counts[i].tolist()
            one = _Row(features, int(query.candidates[i]), history, int(query.now[r]), context, position, counts)
            codes.append(one.codes())
            dense.append(one.dense())
    spec = features.spec
    raw = np.array(dense, np.float32).reshape(len(dense), spec.dense)
    if len(features.center):
        raw = (raw - features.center) * features.scale
        raw = np.where(np.isnan(raw), np.float32(0), np.clip(raw, np.float32(-10), np.float32(10)))
    return FeatureBatch(np.array(codes, np.int32).reshape(len(codes), len(spec.cardinalities)), raw)


class _Row:
    def __init__(self, features, item, history, now, context, position, counts):
        self.features, self.item, self.now, self.context = features, item, now, context
        self.config, self.items = features.config, features.items
        self.length, self.history = len(history), history[-features.config.history_max :]
        self.position = position
        self.counts = counts or (features.counts[item].tolist() if item >= 0 else [0, 0, 0])

    def text(self, item, attribute):
        if item < 0:
            return None
        if attribute == "item_id":
            return self.items.item_ids[item]
        code = self.items.codes[attribute][item]
        return None if code < 0 else self.items.names[attribute][code]

    def coded(self, feature, value):
        if value is None:
            return 0
        vocabulary = self.features.vocabularies[d.name_of(feature)]
        if value in vocabulary:
            return vocabulary.index(value) + 1
        return 1 + len(vocabulary) + zlib.crc32(value.encode()) % feature.buckets if feature.buckets else 0

    def number(self, item, column, log=True):
        value = float(self.items.numbers[column][item]) if item >= 0 else NAN
        if not math.isfinite(value) or (log and value < 0):
            return NAN
        return float(np.float32(math.log1p(value) if log else value))

    def codes(self):
        config, local = self.config, None
        if self.now >= 0:
            zone = timezone(timedelta(hours=config.utc_offset_hours))
            local = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=self.now)
            local = local.astimezone(zone)
        known = [item for item, _ in self.history if item >= 0]
        newest = known[-1] if known else -1
        row = [self.coded(f, self.text(self.item, f.attribute)) for f in config.of(d.ItemCode)]
        for last in config.of(d.HistoryLast):
            f = next(f for f in config.of(d.ItemCode) if f.attribute == last.attribute)
            row.append(self.coded(f, self.text(newest, f.attribute)))
        row += [self.coded(f, self.context.get(f.name)) for f in config.of(d.Context)]
        row += [local.hour + 1 if local else 0 for _ in config.of(d.Hour)]
        row += [local.isoweekday() if local else 0 for _ in config.of(d.Weekday)]
        for f in config.of(d.Position):
            row.append(f.serving if self.position is None else min(max(self.position, 0), f.max))
        return row

    def dense(self):
        config, row = self.config, []
        for f in config.of(d.ItemNumber):
            value = self.number(self.item, f.column, f.log)
            row += [value, float(math.isnan(value))]
        count = dict(zip(d.EVENTS, self.counts, strict=True))
        total = dict(zip(d.EVENTS, self.features.totals, strict=True))
        for f in config.of(d.ItemRate):
            common = (total[f.of] + 1) / (total[f.per] + 1)
            row.append(math.log((count[f.of] + f.strength * common) / (count[f.per] + f.strength) / common))
        row += [math.log1p(count[f.of]) for f in config.of(d.ItemCount)]
        for _ in config.of(d.ItemAge):
            registered = int(self.items.registered_at[self.item]) if self.item >= 0 else -1
            known = registered >= 0 and self.now >= 0
            row += [math.log1p(max(self.now - registered, 0) / 86_400_000) if known else NAN, float(not known)]
        for f in config.of(d.HistoryMatch):
            wanted, total, shared = self.text(self.item, f.attribute), 0.0, 0.0
            for item, time in self.history:
                value = self.text(item, f.attribute)
                if value is None:
                    continue
                age = 0 if time < 0 or self.now < 0 else max(self.now - int(time), 0)
                weight = 2.0 ** -(age / (f.half_life_days * 86_400_000))
                total += weight
                shared += weight * (value == wanted)
            row += [math.log1p(shared), shared / total if total > 0 else 0.0]
        for f in config.of(d.HistoryNumber):
            known = [v for v in (self.number(item, f.column) for item, _ in self.history) if not math.isnan(v)]
            row.append(self.number(self.item, f.column) - sum(known) / len(known) if known else NAN)
        for _ in config.of(d.HistoryRecency):
            last = int(self.history[-1][1]) if self.history else -1
            row.append(math.log1p(max(self.now - last, 0) / 1000) if last >= 0 and self.now >= 0 else NAN)
        row += [math.log1p(self.length) for _ in config.of(d.HistoryLength)]
        return row
