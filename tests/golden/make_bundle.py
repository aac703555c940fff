"""Makes the golden bundle of the current format, once per format version: python tests/golden/make_bundle.py

It is committed and never made again: later versions must read it and answer the same (test_golden_bundle.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.tiny_bundle import write_tiny_bundle

from aitems_engine import Engine
from aitems_engine.bundle import FORMAT_VERSION

TITLES = ["나이키 에어맥스 270", "Apple iPhone 15 case", "", "usb-c 고속 충전 케이블", "쿠키 과자 100g", "x"]
MALLS = ["food > fruit", None, None, "Digital", "식품 > 과자", None]

if __name__ == "__main__":
    target = Path(__file__).resolve().parent / f"bundle-{FORMAT_VERSION}"
    if target.exists():
        sys.exit(f"{target} is there already; it must never change")
    write_tiny_bundle(target)
    result = Engine.open(target, mode="exact").classify(TITLES, MALLS, top_k=6)
    answers = {
        "titles": TITLES,
        "mall_categories": MALLS,
        "leaf_ids": result.leaf_ids.tolist(),
        "probabilities": result.probabilities.astype(float).tolist(),
        "abstained": result.abstained.tolist(),
        "causes": result.causes,
        "parent_ids": result.parent_ids,
        "digest": result.bundle_digest,
    }
    target.with_suffix(".json").write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
