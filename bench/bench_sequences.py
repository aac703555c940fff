"""Quality of the sequence models on Beauty, and what their encoder costs when serving.

Leave-one-out, every item ranked, the history left out. Two rules: strict, where the validation item is never trained
on but belongs to the history that is asked about; and refit, where the strict run chooses the number of epochs and the
network is then trained anew on everything but the test item. `AITEMS_SEEDS=1` measures one seed instead of three;
`AITEMS_STATE` names a folder for checkpoints, so that a stopped run goes on. `AITEMS_SEARCH=1` searches the settings
with Optuna on the validation items alone and writes its trials there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aitems_engine.evaluation.ranking import RankingScores, bootstrap_mean, evaluate_ranking
from aitems_engine.events import HistorySplit, Interactions, leave_one_out, read_interactions
from aitems_engine.retrieval import Sasrec
from aitems_engine.training.retrieval import fit_ease

torch = pytest.importorskip("torch")

from aitems_engine.training.sasrec import SasrecSettings, export, fit_sasrec  # noqa: E402
from aitems_engine.training.sequences import Fitted, best_epoch  # noqa: E402
from aitems_engine.training.transformer import Stream, Transformer  # noqa: E402

DATA = Path(os.environ.get("AITEMS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
STATE = os.environ.get("AITEMS_STATE")
SEEDS = int(os.environ.get("AITEMS_SEEDS", "3"))
pytestmark = pytest.mark.timeout(8 * 3600)

K = 10
MEASURES = (f"ndcg@{K}", f"recall@{K}")
# users whose validation items choose the epoch; those of all others are not trained on either
ASKED = 2000
SASREC = SasrecSettings(bfloat16=True, threads=1, device="cpu")


def beauty() -> tuple[Interactions, HistorySplit, Interactions]:
    """Return everything, its split, and all but the test items."""
    path = DATA / "beauty" / "sequences.txt"
    if not path.exists():
        pytest.skip(f"no {path}; set AITEMS_DATA")
    everything = read_interactions(path)
    from_end = everything.splits[1:][everything.users()] - np.arange(len(everything.items))
    return everything, leave_one_out(everything), everything.where(from_end > 1)


def to_stop_by(split: HistorySplit) -> tuple[Interactions, Interactions]:
    asked = np.sort(np.random.default_rng(0).choice(len(split.train), ASKED, replace=False))
    return split.train.take(asked), split.validation.take(asked)


def state(name: str) -> Path | None:
    return Path(STATE) / name if STATE else None


def strict_run(split: HistorySplit, seed: int) -> Fitted[Sasrec]:
    return fit_sasrec(
        split.train, replace(SASREC, seed=seed), validation=to_stop_by(split), checkpoint=state(f"strict-{seed}")
    )


def refit_run(split: HistorySplit, known: Interactions, seed: int) -> Fitted[Sasrec]:
    best = best_epoch(strict_run(split, seed).history)
    chosen = replace(SASREC, seed=seed, validation=0)
    return fit_sasrec(known, chosen, stop_after=best, checkpoint=state(f"refit-{seed}"))


def row(name: str, runs: list[RankingScores], notes: str) -> str:
    """Return the line of a model: means over seeds, their interval over users, the lowest and highest seed."""
    cells = []
    for measure in MEASURES:
        means = [scores.means()[measure] for scores in runs]
        _, low, high = bootstrap_mean(np.mean([scores.by_user[measure] for scores in runs], 0))
        seeds = f" ({min(means):.4f} to {max(means):.4f})" if len(means) > 1 else ""
        cells.append(f"{np.mean(means):.4f} [{low:.4f}, {high:.4f}]{seeds}")
    coverage = np.mean([scores.of_lists[f"coverage@{K}"] for scores in runs])
    return f"| {name} | {' | '.join(cells)} | {coverage:.3f} | {notes} |"


@pytest.mark.parametrize("rule", ["strict", "refit"])
def test_beauty(rule: str, publish: Callable[[str, str], None]) -> None:
    everything, split, known = beauty()
    runs: list[RankingScores] = []
    epochs, seconds = [], []
    for seed in range(SEEDS):
        found = strict_run(split, seed) if rule == "strict" else refit_run(split, known, seed)
        runs.append(evaluate_ranking(found.retriever, known, split.test, (K,)))
        epochs.append(str(best_epoch(found.history)))
        seconds.append(sum(record.seconds for record in found.history))
        print(rule, seed, found.history[-1], runs[-1].means(), flush=True)
    lines = [row("SASRec", runs, f"epochs {', '.join(epochs)}; {np.mean(seconds):.0f} s")]
    differences = []
    ease = fit_ease(split.train if rule == "strict" else known, l2=40)
    for name, decay in (("EASE", 1.0), ("EASE, recent items weigh more", 0.9)):
        scores = evaluate_ranking(replace(ease, decay=decay), known, split.test, (K,))
        lines.append(row(name, [scores], f"l2 40, decay {decay:g}"))
        for measure in MEASURES:
            own = np.mean([run.by_user[measure] for run in runs], 0)
            mean, low, high = bootstrap_mean(own - scores.by_user[measure])
            differences.append(f"{measure} against {name} {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    rules = {
        "strict": "the one before validates: it is not trained on, but belongs to the history",
        "refit": "trained on everything else, for as many epochs as the strict run chose",
    }
    publish(
        f"sequences_beauty_{rule}",
        f"Beauty, {rule}: {len(everything)} users, {everything.num_items} items; the last item of each user tests, "
        f"{rules[rule]}. Every item ranked, history left out. Seeds: {SEEDS}; 95 % bootstrap intervals over users, "
        f"lowest and highest seed; wall seconds of one thread on a machine shared with others; torch "
        f"{torch.__version__}. {settings_text(SASREC)}\n\n"
        f"| model | NDCG@{K} | recall@{K} | coverage@{K} | training |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n\nUser by user: "
        + "; ".join(differences)
        + ".",
    )
    assert np.mean([run.means()[f"ndcg@{K}"] for run in runs]) > 0.04


def settings_text(chosen: SasrecSettings) -> str:
    return (
        f"dim {chosen.dim}, {chosen.blocks} blocks, {chosen.heads} heads, the newest {chosen.longest} items, dropout "
        f"{chosen.dropout}, of the history {chosen.history_dropout}, loss {chosen.loss}"
        f"{' in bfloat16' if chosen.bfloat16 else ''}, {chosen.tokens} items a step, rate "
        f"{chosen.learning_rate}, at most {chosen.epochs} epochs, patience {chosen.patience}."
    )


SPACE: dict[str, Callable[[Any], Any]] = {
    "temperature": lambda trial: trial.suggest_categorical("temperature", [0.0, 0.05, 0.07, 0.1]),
    "dim": lambda trial: trial.suggest_categorical("dim", [64, 128]),
    "dropout": lambda trial: trial.suggest_float("dropout", 0.3, 0.6, step=0.1),
    "history_dropout": lambda trial: trial.suggest_float("history_dropout", 0.0, 0.2, step=0.1),
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 1e-3, 4e-3, log=True),
    "weight_decay": lambda trial: trial.suggest_categorical("weight_decay", [0.0, 0.01, 0.1]),
}


@pytest.mark.skipif(not os.environ.get("AITEMS_SEARCH"), reason="AITEMS_SEARCH=1 searches; hours of one core")
def test_search() -> None:
    optuna = pytest.importorskip("optuna")
    assert STATE, "AITEMS_STATE must name a folder for the trials"
    _, split, _ = beauty()
    pair = to_stop_by(split)

    def objective(trial: Any) -> float:
        chosen = replace(SASREC, **{name: suggest(trial) for name, suggest in SPACE.items()})
        found = fit_sasrec(split.train, chosen, validation=pair)
        return float(found.history[best_epoch(found.history) - 1].ndcg or 0)

    study = optuna.create_study(
        storage=f"sqlite:///{STATE}/search.db",
        study_name="sasrec_beauty",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
    )
    study.optimize(objective, n_trials=int(os.environ.get("AITEMS_TRIALS", "20")))
    print(study.trials_dataframe(), study.best_params)


def percentiles(call: Callable[[], Any], count: int) -> tuple[float, float]:
    taken = []
    for _ in range(count):
        began = time.process_time_ns()
        call()
        taken.append((time.process_time_ns() - began) / 1e3)
    return float(np.percentile(taken, 50)), float(np.percentile(taken, 99))


def test_serving(publish: Callable[[str, str], None]) -> None:
    torch.set_num_threads(1)
    num_items, chosen = 12_101, SasrecSettings(dim=64, longest=50)
    model = Transformer(num_items, chosen, causal=True).eval()
    ids = [str(i) for i in range(num_items)]
    retriever = export(model, ids)
    rng = np.random.default_rng(0)
    lines = []
    for batch, length in ((1, 50), (1, 9), (64, 50)):
        packed = rng.integers(0, num_items, batch * length).astype(np.int32)
        splits = np.arange(batch + 1) * length
        asked = Interactions([str(i) for i in range(batch)], ids, splits, packed, np.full(len(packed), -1))
        place = np.tile(np.arange(length), batch)
        stream = Stream(packed.astype(np.int64), packed.astype(np.int64), asked.users().astype(np.int64), place)

        def in_torch(stream: Stream = stream, splits: Any = splits) -> Any:
            with torch.inference_mode():
                return model(stream)[torch.from_numpy(splits[1:] - 1)].numpy()

        def in_onnx(asked: Interactions = asked) -> Any:
            return retriever.queries(asked)

        assert np.abs(in_torch() - in_onnx()).max() <= 1e-4
        calls = {"ONNX Runtime": in_onnx, "torch": in_torch}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(5):  # interleaved
            for name, call in calls.items():
                found[name].append(percentiles(call, 200 if batch == 1 else 20))
        for name, times in found.items():
            p50, p99 = (float(np.median(values)) for values in zip(*times, strict=True))
            lines.append(f"| {batch} | {length} | {name} | {p50:.0f} | {p99:.0f} | {batch / p50 * 1e6:.0f} |")
    publish(
        "sequences_serving",
        "SASRec's encoder, dim 64, 2 blocks, 2 heads, one thread; CPU time of a call, histories in, vectors out; both "
        "interleaved, median of 5 rounds.\n\n| histories | items each | by | p50, us | p99, us | histories/s |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(lines),
    )
