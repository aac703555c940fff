"""Quality of the rankers: on MovieLens 100K beside LightGBM, conversions on the simulated shop, and the same outputs as
other implementations.

MovieLens 100K: time split 80/10/10, liked = 4 stars or more. Two protocols. "frozen": nothing after the training rows
is known but ids, and calibration is fitted on the validation rows once; as in published figures. "live": for each row
all that happened strictly before it is known, as for a request that carries its history, and calibration is fitted
each day on all older rows behind the training rows; networks are not trained on.

Simulated shop: P(purchase | click), learnt from clicked rows alone or from all impressions (ESMM), judged by the truth
of all impressions; once with what a shop sees, once with the intent of users and sessions besides.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from aitems_engine.evaluation.binary import auc, bootstrap_grouped_auc, log_loss
from aitems_engine.evaluation.metrics import expected_calibration_error
from aitems_engine.ranking import Examples, FieldSpec
from aitems_engine.ranking.calibration import sigmoid
from aitems_engine.simulator import simulate_shop
from aitems_engine.simulator.users import simulate_log
from aitems_engine.simulator.world import World
from aitems_engine.training.ranker_calibration import fit_calibration
from aitems_engine.training.rankers import RankerShape, RankingNetwork, make_ranker
from aitems_engine.training.ranking import RankerSettings, RankerTraining, predict_logits, train_ranker

DATA = Path(os.environ.get("AITEMS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SEEDS = range(5)
METHODS = ("platt", "isotonic")
FOLDS = 5
pytestmark = pytest.mark.timeout(2 * 3600)

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Ratings:
    """Rows in the order of time; `train` and `validation` are their numbers of rows."""

    user: Ints
    item: Ints
    stars: Floats
    time: Ints
    train: int
    validation: int

    @property
    def liked(self) -> Floats:
        return (self.stars >= 4).astype(np.float64)

    @property
    def parts(self) -> tuple[slice, slice, slice]:
        end = self.train + self.validation
        return slice(0, self.train), slice(self.train, end), slice(end, len(self.user))


def read_ratings() -> Ratings:
    path = DATA / "ml100k" / "ratings.csv"
    if not path.exists():
        pytest.skip(f"no {path}; set AITEMS_DATA")
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    table = table[np.argsort(table[:, 3], kind="stable")]
    n = len(table)
    ids = table[:, [0, 1, 3]].astype(np.int64)
    return Ratings(ids[:, 0], ids[:, 1], table[:, 2], ids[:, 2], int(0.8 * n), int(0.9 * n) - int(0.8 * n))


def known_rows(ratings: Ratings, *, live: bool) -> Ints:
    """Return how many of the first rows are known at each row.

    Live: all that are strictly older. Frozen: the training rows; for those themselves the tenths before their own, so
    that training sees as many unknown users and as old statistics as the test does.
    """
    n = len(ratings.user)
    if live:
        return np.searchsorted(ratings.time, ratings.time)
    return np.minimum(np.arange(n) // (n // 10) * (n // 10), ratings.train)


def before(key: Ints, values: Floats, known: Ints) -> tuple[Floats, Ints]:
    """Return sum and number of the values of the same key among the rows that are known at each row."""
    n = len(key)
    order = np.argsort(key, kind="stable")
    place, sums = key[order] * (n + 1) + order, np.r_[0, np.cumsum(values[order])]
    begin, end = np.searchsorted(place, key * (n + 1)), np.searchsorted(place, key * (n + 1) + known)
    return sums[end] - sums[begin], end - begin


def neighbours(ratings: Ratings, surprise: Floats, known: Ints) -> Floats:
    """Return how much a user liked, so far, what is like the item: sum of similarity times surprise.

    Similarities come from the training rows; for those themselves from the rows of other users.
    """
    users, items = int(ratings.user.max()) + 1, int(ratings.item.max()) + 1
    learnt = np.arange(len(ratings.user)) < ratings.train
    fold = np.random.default_rng(0).integers(0, FOLDS, users)[ratings.user]

    def similarity(rows: np.ndarray) -> Floats:
        given, had = np.zeros((users, items), np.float32), np.zeros((users, items), np.float32)
        given[ratings.user[rows], ratings.item[rows]] = ratings.stars[rows]
        had[ratings.user[rows], ratings.item[rows]] = 1
        given -= given.sum(1, keepdims=True) / np.maximum(had.sum(1, keepdims=True), 1) * had
        given = (given - given.sum(0) / np.maximum(had.sum(0), 1)) * had
        common, squares = had.T @ had, (given**2).T @ had
        found = given.T @ given / (np.sqrt(squares * squares.T) + 1e-9) * common / (common + 20)
        np.fill_diagonal(found, 0)
        return found

    parts = [(learnt & (fold == f), similarity(learnt & (fold != f))) for f in range(FOLDS)]
    parts.append((~learnt, similarity(learnt)))
    out = np.zeros((len(ratings.user), 2))
    for rows, similar in parts:
        for user in np.unique(ratings.user[rows]):
            own = np.flatnonzero(ratings.user == user)
            asked = own[rows[own]]
            past = own < known[asked, None]
            mean = (past @ surprise[own]) / (past.sum(1) + 5)
            weight = similar[ratings.item[asked, None], ratings.item[own]] * past
            out[asked, 0] = (weight * (surprise[own] - mean[:, None])).sum(1)
            out[asked, 1] = out[asked, 0] / (np.abs(weight).sum(1) + 1)
    return out


def newest(ratings: Ratings, surprise: Floats, known: Ints, length: int = 5) -> Floats:
    """Return the mean surprise of the user's newest known ratings and log seconds since the last."""
    out = np.zeros((len(ratings.user), 2))
    for user in np.unique(ratings.user):
        own = np.flatnonzero(ratings.user == user)
        for row, end in zip(own, np.searchsorted(own, known[own]), strict=True):
            past = own[max(0, end - length) : end]
            if len(past):
                gap = np.log1p(ratings.time[row] - ratings.time[past[-1]])
                out[row] = surprise[past].sum() / (len(past) + 2), gap
    return out


def features(ratings: Ratings, *, live: bool, least: int = 3) -> tuple[Examples, FieldSpec]:
    """Return all rows as examples: ids with at least `least` known rows, and what is known of item and user."""
    known = known_rows(ratings, live=live)
    train = slice(0, ratings.train)
    liked, stars = ratings.liked, ratings.stars
    columns, codes, sizes = [], [], []
    for values in (liked, stars):
        total, count = before(ratings.item, values, known)
        columns.append((total + 10 * values[train].mean()) / (count + 10))
    surprise = stars - columns[-1]
    for values in (liked - liked[train].mean(), stars - stars[train].mean(), surprise):
        columns.append(before(ratings.user, values, known)[0] / (before(ratings.user, values, known)[1] + 5))
    for ids in (ratings.user, ratings.item):
        count = before(ids, liked, known)[1]
        columns.append(np.log1p(count))
        vocabulary = np.unique(ids[train][count[train] >= least])
        code = np.searchsorted(vocabulary, ids).clip(max=len(vocabulary) - 1)
        codes.append(np.where((vocabulary[code] == ids) & (count >= least), code + 1, 0))
        sizes.append(len(vocabulary) + 1)
    columns += [*neighbours(ratings, surprise, known).T, *newest(ratings, surprise, known).T]
    dense = np.stack(columns, 1)
    dense = ((dense - dense[train].mean(0)) / dense[train].std(0)).clip(-5, 5).astype(np.float32)
    examples = Examples(
        np.stack(codes, 1).astype(np.int32),
        dense,
        liked.astype(np.float32),
        np.zeros(len(liked), np.float32),
        ratings.user,
        ratings.time * 1000,
        np.ones(len(liked), bool),
    )
    return examples, FieldSpec(tuple(sizes), dense.shape[1])


BASE = RankerSettings(
    RankerShape(dim=8, hidden=(32,), bottom=(16,), dropout=0.1),
    epochs=8,
    patience=3,
    table_l2=0.3,
    unknown_share=0.2,
    threads=1,
    device="cpu",
)
# tried on the validation rows: rates of the dense weights and of the table, hidden layers
NETWORKS = [
    replace(BASE, learning_rate=rate, table_learning_rate=table, shape=replace(BASE.shape, hidden=hidden))
    for rate in (2e-3, 5e-3)
    for table in (0.02, 0.1)
    for hidden in ((32,), (64, 32))
]
TREES = [{"num_leaves": leaves, "min_child_samples": least} for leaves in (7, 15, 31) for least in (50, 200)]
Fit = Callable[[int], tuple[Floats, Floats]]


def network(name: str, parts: list[Examples], fields: FieldSpec) -> tuple[str, Fit]:
    """Return the settings with the lowest validation loss, and a fit by seed: logits of validation and test rows."""

    def train(settings: RankerSettings, seed: int) -> tuple[float, Floats, Floats]:
        settings = replace(settings, seed=seed, shape=replace(settings.shape, name=name))
        found = train_ranker(parts[0], parts[1], fields, settings)
        loss = log_loss(parts[1].click, sigmoid(found.validation_logits[:, 0]))
        return loss, found.validation_logits[:, 0], predict_logits(found.model, parts[2].batch)[:, 0]

    best = min(NETWORKS, key=lambda settings: train(settings, 0)[0])
    chosen = f"hidden {best.shape.hidden}, rates {best.learning_rate:g} and {best.table_learning_rate:g}"
    return chosen, lambda seed: train(best, seed)[1:]


def trees(parts: list[Examples]) -> tuple[str, Fit]:
    """Return the same for LightGBM over target encodings: the dense columns, which hold smoothed rates of both ids."""
    lightgbm = pytest.importorskip("lightgbm")

    def train(settings: dict[str, int], seed: int) -> tuple[float, Floats, Floats]:
        model = lightgbm.train(
            {
                "objective": "binary",
                "learning_rate": 0.03,
                "bagging_fraction": 0.7,
                "bagging_freq": 1,
                "feature_fraction": 0.7,
                "lambda_l2": 10,
                "num_threads": 1,
                "verbosity": -1,
                "seed": seed,
                **settings,
            },
            lightgbm.Dataset(parts[0].dense, parts[0].click),
            2000,
            [lightgbm.Dataset(parts[1].dense, parts[1].click)],
            callbacks=[lightgbm.early_stopping(50, verbose=False)],
        )
        logits = [model.predict(part.dense, raw_score=True) for part in parts[1:]]
        return log_loss(parts[1].click, sigmoid(logits[0])), logits[0], logits[1]

    best = min(TREES, key=lambda settings: train(settings, 0)[0])
    return ", ".join(f"{k} {v}" for k, v in best.items()), lambda seed: train(best, seed)[1:]


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values):.4f}"


def with_interval(values: Floats, form: str = ".4f") -> str:
    """Return the mean with half of its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{form}} ± {half:{form}}"


def calibrated(method: str, runs: tuple[Floats, Floats], clicks: Floats, days: Ints | None) -> Floats:
    """Return probabilities of the test rows; `clicks` and `days` are those of validation and test rows together.

    Without days calibration is fitted on the validation rows; with days for each day on all rows of the days before.
    """
    logits, first = np.concatenate(runs), len(runs[0])
    if days is None:
        return fit_calibration(runs[0], clicks[:first], method=method).probabilities(runs[1])
    p = np.empty(len(logits), np.float32)
    for day in np.unique(days[first:]):
        rows, older = np.flatnonzero(days == day), days < day
        p[rows] = fit_calibration(logits[older], clicks[older], method=method).probabilities(logits[rows])
    return p[first:]


def judged(
    name: str, chosen: str, runs: list[tuple[Floats, Floats]], parts: list[Examples], live: bool
) -> tuple[str, dict[str, float]]:
    """Return a line of the table and the means of its figures; `runs` are logits of validation and test rows."""
    found: dict[str, list[float]] = {key: [] for key in ("auc", "loss", "raw", *METHODS)}
    by_user = []
    clicks = np.concatenate([part.click for part in parts[1:]])
    days = np.concatenate([part.time for part in parts[1:]]) // 86_400_000 if live else None
    truth = parts[2].click
    for run in runs:
        found["auc"].append(auc(truth, run[1]))
        found["raw"].append(expected_calibration_error(sigmoid(run[1]), truth))
        for method in METHODS:
            p = calibrated(method, run, clicks, days)
            # tables of different days may order rows of different days anew, but hardly
            assert abs(auc(truth, p) - found["auc"][-1]) < (0.003 if live else 1e-5)
            found[method].append(expected_calibration_error(p, truth))
        found["loss"].append(log_loss(truth, p))
        by_user.append(bootstrap_grouped_auc(truth, run[1], parts[2].group))
    group = "{:.4f} [{:.4f}, {:.4f}]".format(*np.mean(by_user, 0))
    cells = [name, *(spread(values) for values in found.values()), group, chosen]
    return f"| {' | '.join(cells)} |", {key: float(np.mean(values)) for key, values in found.items()}


def noise(p: Floats, draws: int = 200) -> float:
    """Return the mean ECE of perfectly calibrated probabilities over as many rows: what chance alone gives."""
    rng = np.random.default_rng(0)
    return float(np.mean([expected_calibration_error(p, rng.random(len(p)) < p) for _ in range(draws)]))


@pytest.mark.parametrize("protocol", ["frozen", "live"])
def test_movielens(protocol: str, publish: Callable[[str, str], None]) -> None:
    ratings = read_ratings()
    live = protocol == "live"
    examples, fields = features(ratings, live=live)
    parts = [examples.take(rows) for rows in ratings.parts]
    lines, found, networks = [], {}, []
    for name in ("LightGBM, target encoding", "deepfm", "dlrm", "dcn-v2"):
        chosen, fit = trees(parts) if name.startswith("LightGBM") else network(name, parts, fields)
        runs = [fit(seed) for seed in SEEDS]
        if not name.startswith("LightGBM"):
            networks.append(runs)
        line, found[name] = judged(name, chosen, runs, parts, live)
        lines.append(line)
    together = [tuple(np.mean([runs[seed][side] for runs in networks], 0) for side in (0, 1)) for seed in SEEDS]
    line, found["all"] = judged("mean logit of the three networks", "-", together, parts, live)
    lines.append(line)
    new = 1 - np.isin(parts[2].group, parts[0].group).mean()
    known = {
        "frozen": "nothing after the training rows is known; calibration is fitted on the validation rows",
        "live": "for each row all that happened strictly before it is known, models are not trained on; calibration is "
        "fitted each day on all older rows behind the training rows",
    }
    publish(
        f"ranking_movielens_{protocol}",
        f"ML-100K, {len(ratings.user)} rows by time, 80/10/10, liked = 4 stars or more; {known[protocol]}. "
        f"{new:.0%} of the test rows are of users without training rows. Settings by validation loss with seed 0, "
        "then 5 seeds: mean ± standard deviation. Log loss: isotonic. gAUC: weighted by rows, 95 % bootstrap interval "
        "over users. ECE: 15 bins of equal mass; probabilities that are perfectly calibrated have "
        f"{noise(sigmoid(together[0][1])):.4f} on so many rows by chance.\n\n"
        "| ranker | AUC | log loss | ECE raw | ECE Platt | ECE isotonic | gAUC | chosen on validation |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(lines),
    )
    assert max(values["auc"] for values in found.values()) >= 0.709
    if live:
        assert min(values["isotonic"] for values in found.values()) <= 0.015


def in_deepctr(name: str, model: RankingNetwork, fields: FieldSpec) -> Any:
    """Return deepctr-torch's network of that name with the weights of ours."""
    pytest.importorskip("deepctr_torch")
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DCN, ESMM, DeepFM

    dim, hidden = model.shape.dim, model.shape.hidden
    sparse = [SparseFeat(f"f{i}", size, dim) for i, size in enumerate(fields.cardinalities)]
    columns = [*sparse, DenseFeat("dense", fields.dense)]
    options = {"dnn_hidden_units": hidden, "device": "cpu"}
    weights = model.state_dict()
    rows = weights["features.table.weight"].split(list(fields.cardinalities))
    copies: list[tuple[Any, Any]] = []

    def deep(theirs: Any, ours: str) -> None:
        for layer, number in zip(theirs.linears, range(0, 3 * len(hidden), 3), strict=True):
            copies.extend(
                [(layer.weight, weights[f"{ours}.{number}.weight"]), (layer.bias, weights[f"{ours}.{number}.bias"])]
            )

    last = 3 * len(hidden)
    if name == "deepfm":
        peer = DeepFM(columns, columns, **options)
        deep(peer.dnn, "deep")
        copies += [
            (peer.dnn_linear.weight, weights[f"deep.{last}.weight"]),
            (peer.out.bias, weights[f"deep.{last}.bias"]),
        ]
        copies += [(peer.linear_model.weight, weights["first_order.weight"].T)]
        copies += [(peer.linear_model.embedding_dict[f"f{i}"].weight, row[:, dim:]) for i, row in enumerate(rows)]
    elif name == "dcn-v2":
        peer = DCN([], columns, cross_num=model.shape.cross_layers, cross_parameterization="matrix", **options)
        deep(peer.dnn, "deep")
        for number in range(model.shape.cross_layers):
            copies.append((peer.crossnet.kernels[number], weights[f"cross.{number}.expand.weight"]))
            copies.append((peer.crossnet.bias[number], weights[f"cross.{number}.expand.bias"][:, None]))
        copies += [(peer.dnn_linear.weight, weights["output.weight"]), (peer.out.bias, weights["output.bias"])]
    else:
        peer = ESMM(columns, tower_dnn_hidden_units=hidden, device="cpu")
        for tower in ("ctr", "cvr"):
            deep(getattr(peer, f"{tower}_dnn"), tower)
            copies.append((getattr(peer, f"{tower}_dnn_final_layer").weight, weights[f"{tower}.{last}.weight"]))
        # theirs shares one bias, so ours has one value in both towers here
        copies.append((peer.out.bias, weights[f"ctr.{last}.bias"]))
    copies += [(peer.embedding_dict[f"f{i}"].weight, row[:, :dim]) for i, row in enumerate(rows)]
    with torch.no_grad():
        for theirs, ours in copies:
            theirs.copy_(ours)
    return peer.eval()


def test_same_outputs(publish: Callable[[str, str], None]) -> None:
    pytest.importorskip("deepctr_torch")
    fields = FieldSpec((40, 7, 300), 5)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 2000) for size in fields.cardinalities], 1)
    dense = rng.normal(size=(2000, fields.dense)).astype(np.float32)
    lines = []
    for name in ("deepfm", "dcn-v2", "esmm"):
        torch.manual_seed(0)
        model = make_ranker(fields, RankerShape(name, dim=8, hidden=(32, 16), cross_layers=3)).eval()
        with torch.no_grad():
            for value in [*model.parameters(), model.features.table.weight]:
                value.normal_(0, 0.2)
            if name == "esmm":
                model.cvr[-1].bias.copy_(model.ctr[-1].bias)
            ours = model(torch.from_numpy(codes), torch.from_numpy(dense)).sigmoid()
            theirs = in_deepctr(name, model, fields)(torch.from_numpy(np.concatenate([codes, dense], 1)).float())
        if name == "esmm":
            ours[:, 1] *= ours[:, 0]
        difference = float((ours - theirs).abs().max())
        assert difference <= 1e-5
        lines.append(f"| {name} | {difference:.1e} | {float(ours.min()):.3f} to {float(ours.max()):.3f} |")
    publish(
        "ranking_same_outputs",
        "2,000 random rows, 3 fields and 5 dense columns, weights copied into deepctr-torch's networks. It has no "
        "DLRM; all four equal independent NumPy twins within 1e-5 (`pytest tests/unit/test_rankers.py`).\n\n"
        "| network | largest difference of a probability | probabilities |\n|---|---|---|\n" + "\n".join(lines),
    )


def clicks_before(key: Ints, session: Ints, clicked: np.ndarray) -> Floats:
    """Return how many clicks of the same key earlier sessions had; rows and the numbers of sessions go up with time."""
    order = np.argsort(key, kind="stable")
    of, when, sums = key[order], session[order], np.r_[0, np.cumsum(clicked[order])]
    starts = np.r_[True, (of[1:] != of[:-1]) | (when[1:] != when[:-1])]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(of)), 0))
    found = np.empty(len(of))
    found[order] = sums[first] - sums[np.searchsorted(of, of)]
    return found


INTENT = 4


def shop_log(folder: Path, seed: int) -> tuple[list[Examples], FieldSpec, Floats]:
    """Return impressions by time (80/10/10) and the true P(purchase | click) of the last ones.

    Codes: user, item, leaf, product type, mall, placement, query, position. Dense: price, also within its product
    type; whether the query names the leaf or the type; ad or not; the user's clicks on the type so far; and last the
    INTENT, which no shop sees: taste for the type, price by the user's sensitivity, goal, whether it is what is wanted.
    """
    simulate_shop(folder, products=500, leaves=20, users=3000, seed=seed, progress=False)
    world = World.open(folder)
    sessions, shown = simulate_log(world, np.random.default_rng(seed))
    by_time = np.argsort(sessions.start, kind="stable")
    rank = np.empty(len(by_time), np.int64)
    rank[by_time] = np.arange(len(by_time))
    order = np.argsort(rank[shown.session], kind="stable")
    session, item = shown.session[order], shown.item[order]
    user, query, clicked = sessions.user[session].astype(np.int64), sessions.query[session], shown.clicked[order]
    kind, leaf = world.items.product_type[item], world.items.leaf[item]
    leaves, types = len(world.categories.leaf_names), len(world.categories.type_names)
    columns = [
        world.dear[item],
        np.log1p(np.nan_to_num(world.items.price[item])),
        query == leaf,
        query == leaves + kind,
    ]
    columns += [shown.ad[order] >= 0, np.log1p(clicks_before(user * types + kind, rank[session], clicked))]
    liked = (world.tastes.weights[user] * (world.tastes.types[user] == kind[:, None])).sum(1)
    columns += [np.sqrt(liked), world.tastes.price_sensitivity[user] * world.dear[item], sessions.goal[session]]
    columns += [sessions.wanted_leaf[session] == leaf]
    dense = np.stack(columns, 1).astype(np.float64)
    dense = ((dense - dense.mean(0)) / dense.std(0)).astype(np.float32)
    codes = [user, item, leaf, kind, world.items.mall[item], sessions.placement[session], query + 1]
    codes = np.stack([*(code + 1 for code in codes), shown.position[order]], 1).astype(np.int32)
    examples = Examples(
        codes,
        dense,
        clicked.astype(np.float32),
        shown.purchased[order].astype(np.float32),
        user,
        sessions.start[session],
        np.ones(len(order), bool),
    )
    cuts = [0, int(0.8 * len(order)), int(0.9 * len(order)), len(order)]
    parts = [examples.take(slice(a, b)) for a, b in itertools.pairwise(cuts)]
    fields = FieldSpec(tuple(int(size) + 1 for size in codes.max(0)), dense.shape[1])
    return parts, fields, shown.purchase_probability[order][cuts[2] :]


def clicked_rows(part: Examples) -> Examples:
    """Return the clicked rows, with the purchase as what is to be predicted."""
    clicked = part.take(part.click > 0)
    return replace(clicked, click=clicked.purchase)


# the same layers everywhere: DCN-v2 without cross layers is one tower of ESMM, and a linear part beside it
TOWER = RankerSettings(RankerShape("esmm", hidden=(64, 32), cross_layers=0), patience=3, threads=1, device="cpu")
TOGETHER = [
    replace(
        TOWER,
        epochs=8,
        table_learning_rate=rate,
        unknown_share=0.1,
        shape=replace(TOWER.shape, dim=8, dropout=0.2),
    )
    for rate in (0.03, 0.1)
]
ALONE = [
    replace(
        TOGETHER[0],
        epochs=epochs,
        batch_size=512,
        learning_rate=3e-3,
        table_learning_rate=of_table,
        table_l2=l2,
        shape=replace(TOGETHER[0].shape, name="dcn-v2"),
    )
    for epochs in (4, 12)
    for of_table in (0.01, 0.03)
    for l2 in (0.0, 1.0)
]
WAYS = {"clicked rows alone": ALONE, "all impressions: ESMM": TOGETHER}
KNOWN = {"what a shop sees": INTENT, "and the intent": 0}


def without(part: Examples, columns: int) -> Examples:
    """Return the examples without the last dense columns."""
    return replace(part, dense=np.ascontiguousarray(part.dense[:, : part.dense.shape[1] - columns]))


def test_conversions(tmp_path: Path, publish: Callable[[str, str], None]) -> None:
    chosen: dict[str, RankerSettings] = {}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {(known, way): [] for known in KNOWN for way in WAYS}
    facts = []
    for seed in SEEDS:
        parts, fields, truth = shop_log(tmp_path / str(seed), seed)
        counts = [len(parts[0]), parts[0].click.sum(), parts[0].purchase.sum(), len(truth)]
        facts.append([*counts, truth.mean(), truth[parts[2].click > 0].mean(), auc(truth, truth)])
        for known, way in found:
            seen = [without(part, KNOWN[known]) for part in parts]
            spec = FieldSpec(fields.cardinalities, seen[0].dense.shape[1])
            train, validation = (clicked_rows(part) if WAYS[way] is ALONE else part for part in seen[:2])

            def fit(settings: RankerSettings) -> RankerTraining:
                return train_ranker(train, validation, spec, replace(settings, seed=seed))  # noqa: B023

            def loss(settings: RankerSettings) -> float:
                return min(record.validation_loss or np.inf for record in fit(settings).history)

            if way not in chosen:
                chosen[way] = min(WAYS[way], key=loss)
            logits = predict_logits(fit(chosen[way]).model, seen[2].batch)[:, -1].astype(np.float64)
            found[known, way].append((auc(truth, logits), float(sigmoid(logits).sum() / truth.sum())))
            print(seed, known, way, found[known, way][-1], flush=True)
    results = {key: np.array(values).T for key, values in found.items()}
    gains = {key: aucs - results[key[0], "clicked rows alone"][0] for key, (aucs, _) in results.items()}
    lines = [
        f"| {known} | {way} | {with_interval(aucs)} | {with_interval(100 * gains[known, way], '.2f')} | "
        f"{with_interval(ratios, '.3f')} |"
        for (known, way), (aucs, ratios) in results.items()
    ]
    rows, clicks, purchases, judged_on, of_shown, of_clicked, ceiling = np.mean(facts, 0)
    publish(
        "ranking_conversions",
        f"Simulated shop, 500 products, 20 leaves, 3,000 users; {len(SEEDS)} shops of different seeds, which also seed "
        f"the training. On average {rows:,.0f} impressions with {clicks:,.0f} clicks and {purchases:,.0f} purchases to "
        "learn from, the next tenth to stop and to choose settings (in the first shop, by what a shop sees), the "
        f"newest {judged_on:,.0f} to test, judged by the true P(purchase given a click) of every impression: "
        f"{of_shown:.4f} on average, {of_clicked:.4f} of the clicked ones; the truth has an AUC of {ceiling:.4f}. "
        "Mean ± half of the 95 % interval (t) over shops.\n\n"
        "| features | learnt from | AUC over all impressions | points above clicked rows alone | predicted / true sum |"
        "\n|---|---|---|---|---|\n" + "\n".join(lines),
    )
    for known in KNOWN:
        alone, esmm = (results[known, way][1].mean() for way in WAYS)
        assert gains[known, "all impressions: ESMM"].mean() > 0
        assert abs(esmm - 1) < abs(alone - 1)
