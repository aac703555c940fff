"""Products with categories -> a bundle that classifies: the whole path of `aitems train category`.

split -> tokeniser -> skip-gram -> fit with early stopping -> prior strength, temperature and thresholds on the
validation rows -> fit again on all rows -> bundle -> reopened and compared with torch. It does not know files of
products or plots.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.products import Products
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation import metrics
from aitems_engine.evaluation.predictions import CategoryPredictions
from aitems_engine.text import Tokenizer
from aitems_engine.training.calibration import (
    MAX_CELLS,
    Thresholds,
    choose_thresholds,
    softmax,
)
from aitems_engine.training.category_bundle import json_ready, verify_bundle, write_classifier
from aitems_engine.training.checkpoint import EpochRecord
from aitems_engine.training.combination import Combination, combine, plain_combination
from aitems_engine.training.encode import TextLimits, encode_products
from aitems_engine.training.fit import FitSettings, best_epoch, fit, log_prior, predict_logits, schedule_epochs
from aitems_engine.training.progress import bar
from aitems_engine.training.textcnn import TextCNN, TextCNNShape, export_tensors
from aitems_engine.training.title_batches import EncodedTitles

DAY_MS = 86_400_000
VERIFIED_ROWS = 256
MAX_VALIDATION_ROWS = 10_000


@dataclass(frozen=True)
class CategorySettings:
    """What can be chosen about a training; the defaults suit 10^4 to 10^6 products.

    Attributes
    ----------
    vocab_size : int
        Of the tokeniser trained here; unused where one is given.
    limits : TextLimits
        Cut lengths and character n-grams.
    dim, title_widths, title_filters, gram_dim, gram_groups, mall_widths, mall_filters
        See `TextCNNShape`.
    skipgram : bool
        Start the token embedding from skip-gram vectors of titles and mall paths.
    validation_share : float
        Share of the rows for early stopping and calibration: the newest where all rows have `registered_at`, otherwise
        random within each leaf. Leaves with fewer than five rows only train.
    refit : bool
        Train once more on all rows for as many epochs as were best.
    target_accuracy : float
        Accuracy of the answered rows that the abstention thresholds aim at.
    half_life_days : float
        Rows older than the newest by this count half; 0 = all count alike.
    """

    vocab_size: int = 20_000
    limits: TextLimits = field(default_factory=TextLimits)
    dim: int = 64
    title_widths: tuple[int, ...] = (1, 2, 3)
    title_filters: int = 64
    gram_dim: int = 256
    gram_groups: int = 4
    mall_widths: tuple[int, ...] = (1, 2, 3)
    mall_filters: int = 64
    skipgram: bool = True
    validation_share: float = 0.1
    refit: bool = True
    target_accuracy: float = 0.95
    half_life_days: float = 0.0
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class Validation:
    """What was measured on the validation rows with the network of the first fit.

    Attributes
    ----------
    rows : int64 array
        Positions in the given products.
    predictions : CategoryPredictions
        For `evaluation.report.write_category_report`.
    scores : dict
        accuracy, macro_f1, ece, nll, coverage (at the thresholds), accuracy_answered, and, where there are mall
        categories, accuracy_title of the title alone and accuracy_mall of the mall head on rows that have one.
    """

    rows: npt.NDArray[np.int64]
    predictions: CategoryPredictions
    scores: dict[str, float]


@dataclass(frozen=True)
class CategoryTraining:
    """Result of `train_category`."""

    bundle: Path
    digest: str
    labels: tuple[str, ...]
    history: tuple[EpochRecord, ...]
    validation: Validation | None
    combination: Combination
    thresholds: Thresholds
    skipped_unlabelled: int
    execution_difference: float


def train_category(
    products: Products,
    taxonomy: Taxonomy | None = None,
    *,
    out: str | Path,
    settings: CategorySettings | None = None,
    tokenizer: Tokenizer | None = None,
    validation_rows: npt.NDArray[np.int64] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> CategoryTraining:
    """Train the category classifier and write its bundle.

    Parameters
    ----------
    products : Products
        `category` holds leaf ids; rows without one are left out (their titles still train the tokeniser).
    taxonomy : Taxonomy, optional
        Default: flat, every category a top category.
    out : path
        Directory of the bundle.
    settings : CategorySettings, optional
        Default: `CategorySettings()`.
    tokenizer : Tokenizer, optional
        Default: WordPiece, trained on the titles and mall categories.
    validation_rows : int64 array, optional
        Positions in `products` to validate on, instead of `settings.validation_share`.
    checkpoint : path, optional
        Directory for training states; a training that was stopped goes on from there. Removed when all is done.
    progress : bool
        Progress bars on stderr.

    Returns
    -------
    CategoryTraining

    Raises
    ------
    InvalidInputError
        No labelled row, one leaf only, a category that is no leaf of the taxonomy; names the product.
    TrainingError
        The loss is no number any more.
    ModelMismatchError
        The written bundle does not answer like the trained network.

    Notes
    -----
    Equal input, tokeniser, settings, seed and threads give equal weights on one machine (CPU); the `tokenizers` package
    does not train the same vocabulary twice, so pass a tokeniser to repeat a training exactly. Memory: about 1 kB a
    title beside the network and its optimiser state.
    """
    settings = settings or CategorySettings()
    check_settings(settings)
    labelled, labels, label_ids, tree = collect_labels(products, taxonomy)
    training, validation = split_rows(products, labelled, labels, settings, validation_rows)
    if tokenizer is None:
        tokenizer = train_own_tokenizer(products, settings.vocab_size)
    encoded = encode_products(
        [products.title[i] for i in labelled.tolist()],
        [products.mall_category[i] for i in labelled.tolist()],
        tokenizer,
        settings.limits,
        threads=max(1, settings.fit.threads),
    )
    shape = choose_shape(settings, tokenizer, encoded, len(label_ids))
    vectors = word_vectors(encoded, shape, settings) if settings.skipgram else None
    weights = recency_weights(products.registered_at[labelled], settings.half_life_days)
    states = Path(checkpoint) if checkpoint is not None else None
    if states is not None:
        states.mkdir(parents=True, exist_ok=True)

    schedule = replace(settings.fit, epochs=settings.fit.epochs or schedule_epochs(len(training)))
    tops = [tree.top(label) for label in label_ids]
    held_out = encoded.take(validation)
    prior = log_prior(labels[training], len(label_ids))

    def validate(model: TextCNN) -> tuple[float, float]:
        parts = predict_logits(model, held_out)
        combination = combine(parts, labels[validation], prior, shape.parts, settings.fit.seed)
        predicted = combination.logits(parts, prior).argmax(1)
        return (
            metrics.accuracy(labels[validation], predicted),
            metrics.macro_f1(labels[validation], predicted, len(label_ids)),
        )

    with bar(progress, "train") as on_step:
        model, history = fit(
            encoded.take(training),
            labels[training],
            shape,
            schedule,
            vectors=vectors,
            pad_id=tokenizer.pad_id,
            weights=None if weights is None else weights[training],
            validate=validate if len(validation) else None,
            checkpoint=states and states / "first.safetensors",
            on_step=on_step,
        )
    combination, thresholds, measured = (
        plain_combination(shape.parts, settings.fit.logit_adjustment),
        Thresholds(0.0, {}),
        None,
    )
    if len(validation):
        parts = predict_logits(model, held_out)
        combination = combine(parts, labels[validation], prior, shape.parts, settings.fit.seed)
        probabilities = softmax(combination.logits(parts, prior))
        thresholds = choose_thresholds(probabilities, labels[validation], tops, settings.target_accuracy)
        lowest = np.array([thresholds.by_top.get(top, thresholds.default) for top in tops])
        predictions = CategoryPredictions.from_probabilities(
            labels[validation],
            probabilities,
            label_nodes=tree.positions(label_ids),
            abstained=probabilities.max(1) < lowest[probabilities.argmax(1)],
        )
        scores = score_validation(parts, held_out, labels[validation], predictions, combination, prior)
        measured = Validation(labelled[validation], predictions, scores)
        del parts, probabilities
    if settings.refit and len(validation):
        prior = log_prior(labels, len(label_ids))
        with bar(progress, "refit on all rows") as on_step:
            model, _ = fit(
                encoded,
                labels,
                shape,
                replace(schedule, epochs=best_epoch(history)),
                vectors=vectors,
                pad_id=tokenizer.pad_id,
                weights=weights,
                checkpoint=states and states / "refit.safetensors",
                on_step=on_step,
            )
    tensors = export_tensors(model, combination.weights, log_prior=combination.prior * prior)
    record = json_ready(asdict(settings))
    # where it ran does not change what was learnt
    for name in ("threads", "device"):
        record["fit"].pop(name)
    facts = {
        "settings": record,
        "epochs": best_epoch(history),
        "validation": None if measured is None else {"rows": len(measured.rows), **measured.scores},
    }
    digest = write_classifier(out, tensors, tokenizer, tree, label_ids, settings.limits, thresholds, combination, facts)
    sample = np.arange(min(VERIFIED_ROWS, len(labelled)))
    expected = softmax(combination.logits(predict_logits(model, encoded.take(sample)), prior))
    difference = verify_bundle(Path(out), products.take(labelled[sample]), expected)
    if states is not None:
        for name in ("first.safetensors", "refit.safetensors"):
            (states / name).unlink(missing_ok=True)
    return CategoryTraining(
        bundle=Path(out),
        digest=digest,
        labels=tuple(label_ids),
        history=tuple(history),
        validation=measured,
        combination=combination,
        thresholds=thresholds,
        skipped_unlabelled=len(products) - len(labelled),
        execution_difference=difference,
    )


def check_settings(settings: CategorySettings) -> None:
    """Raise InvalidInputError for a setting out of its range."""
    positive = {
        "vocab_size": settings.vocab_size,
        "dim": settings.dim,
        "title_filters": settings.title_filters,
        "fit.batch_size": settings.fit.batch_size,
        "fit.patience": settings.fit.patience,
        "fit.learning_rate": settings.fit.learning_rate,
        "fit.table_learning_rate": settings.fit.table_learning_rate,
    }
    for name, value in positive.items():
        if not value > 0:
            raise InvalidInputError(f"{name} must be positive, got {value}")
    if settings.fit.epochs < 0:
        raise InvalidInputError(
            f"fit.epochs must be 0 (chosen by the number of rows) or more, got {settings.fit.epochs}"
        )
    if settings.limits.gram_buckets and settings.gram_dim % max(1, settings.gram_groups):
        raise InvalidInputError(
            f"gram_dim must be a multiple of gram_groups, got {settings.gram_dim} and {settings.gram_groups}"
        )
    if not 0 <= settings.validation_share < 1:
        raise InvalidInputError(f"validation_share must be at least 0 and below 1, got {settings.validation_share}")
    if not 0 < settings.target_accuracy <= 1:
        raise InvalidInputError(f"target_accuracy must be above 0 and at most 1, got {settings.target_accuracy}")
    if not settings.half_life_days >= 0:
        raise InvalidInputError(f"half_life_days must be 0 or more, got {settings.half_life_days}")


def collect_labels(
    products: Products, taxonomy: Taxonomy | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[str], Taxonomy]:
    """Return the rows with a category, their head columns, the leaf id of each column, and the tree.

    Columns are the leaves that occur, in the order of the taxonomy (flat: sorted).
    """
    rows = np.array([i for i, category in enumerate(products.category) if category], dtype=np.int64)
    if len(rows) == 0:
        raise InvalidInputError(
            f"none of the {len(products)} products has a category; "
            "name the column of leaf ids 'category' or map it with --columns category=NAME"
        )
    names = [str(products.category[i]) for i in rows.tolist()]
    occurring = set(names)
    tree = Taxonomy.flat(sorted(occurring)) if taxonomy is None else taxonomy
    label_ids = [leaf for leaf in tree.leaf_ids if leaf in occurring]
    column = {leaf: i for i, leaf in enumerate(label_ids)}
    for row, name in zip(rows.tolist(), names, strict=True):
        if name not in column:
            what = "an inner node" if name in tree else "not a node"
            raise InvalidInputError(
                f"product '{products.product_id[row]}' (row {row + 1}) has the category '{name}', "
                f"which is {what} of the taxonomy; labels must be leaves"
            )
    if len(label_ids) == 1:
        raise InvalidInputError(f"all products have the category '{label_ids[0]}'; a classifier needs at least two")
    return rows, np.array([column[name] for name in names], dtype=np.int64), label_ids, tree


def split_rows(
    products: Products,
    labelled: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    settings: CategorySettings,
    validation_rows: npt.NDArray[np.int64] | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return training and validation positions in `labelled`; see `CategorySettings.validation_share`."""
    n = len(labelled)
    held_out = np.zeros(n, dtype=bool)
    if validation_rows is not None:
        wanted = np.asarray(validation_rows, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(products)):
            raise InvalidInputError(f"validation_rows must be between 0 and {len(products) - 1}")
        held_out = np.isin(labelled, wanted)
    else:
        most = min(MAX_VALIDATION_ROWS, MAX_CELLS // (int(labels.max()) + 1))
        count = min(round(n * settings.validation_share), most)
        times = products.registered_at[labelled]
        order = np.random.default_rng(settings.fit.seed).permutation(n)
        if n and times.min() >= 0 and times.max() > times.min():
            # the newest; ties at random
            held_out[order[np.argsort(times[order], kind="stable")][n - count :]] = True
        else:
            # every k-th row of each leaf, so that shares are kept
            ranked = order[np.argsort(labels[order], kind="stable")]
            first = np.searchsorted(labels[ranked], labels[ranked])
            within = np.arange(n) - first
            step = max(2, round(1 / settings.validation_share)) if settings.validation_share else n + 1
            chosen = ranked[(within % step == step - 1)]
            held_out[chosen[np.random.default_rng(settings.fit.seed).permutation(len(chosen))][:count]] = True
    # a leaf that would lose all its training rows keeps them
    remaining = np.bincount(labels[~held_out], minlength=int(labels.max()) + 1)
    held_out &= remaining[labels] > 0
    if held_out.all():
        raise InvalidInputError("no row is left to train on; lower validation_share")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def train_own_tokenizer(products: Products, vocab_size: int) -> Tokenizer:
    """Return a WordPiece tokeniser of all titles and the distinct mall categories."""
    from aitems_engine.training.tokenizer import train_tokenizer

    texts = [*products.title, *sorted({path for path in products.mall_category if path})]
    return train_tokenizer(texts, model="wordpiece", vocab_size=vocab_size)


def choose_shape(
    settings: CategorySettings, tokenizer: Tokenizer, encoded: EncodedTitles, num_leaves: int
) -> TextCNNShape:
    """Return the sizes of the network; the mall branch only where some row has a mall category."""
    return TextCNNShape(
        vocab_size=tokenizer.vocab_size,
        num_leaves=num_leaves,
        dim=settings.dim,
        title_widths=settings.title_widths,
        title_filters=settings.title_filters,
        gram_buckets=settings.limits.gram_buckets,
        gram_dim=settings.gram_dim,
        gram_groups=settings.gram_groups,
        mall_widths=settings.mall_widths if len(encoded.mall_ids) else (),
        mall_filters=settings.mall_filters,
    )


def word_vectors(encoded: EncodedTitles, shape: TextCNNShape, settings: CategorySettings) -> npt.NDArray[np.float32]:
    """Return skip-gram vectors of the title tokens, scaled to a mean row norm of one."""
    from aitems_engine.embedding import train_skipgram

    vectors = train_skipgram(
        encoded.title_ids,
        encoded.title_splits,
        shape.vocab_size,
        dim=shape.dim,
        threads=max(1, settings.fit.threads),
        seed=settings.fit.seed,
    )
    norms = np.linalg.norm(vectors, axis=1)
    return np.ascontiguousarray(vectors / max(1e-9, float(norms[norms > 0].mean())), dtype=np.float32)


def recency_weights(registered_at: npt.NDArray[np.int64], half_life_days: float) -> npt.NDArray[np.float32] | None:
    """Return 0.5 ** (age / half-life), mean 1; unknown times count as the oldest known; None where all count alike."""
    known = registered_at >= 0
    if not half_life_days or not known.any():
        return None
    times = np.where(known, registered_at, registered_at[known].min())
    age_days = (times.max() - times) / DAY_MS
    weights = 0.5 ** (age_days / half_life_days)
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def score_validation(
    parts: npt.NDArray[np.float32],
    encoded: EncodedTitles,
    labels: npt.NDArray[np.int64],
    predictions: CategoryPredictions,
    combination: Combination,
    prior: npt.NDArray[np.float64],
) -> dict[str, float]:
    """Return the measures listed in `Validation.scores`."""
    best, answered = predictions.ranked[:, 0], ~predictions.abstained
    correct = best == labels
    scores = {
        "accuracy": float(correct.mean()),
        "macro_f1": metrics.macro_f1(labels, best, parts.shape[2]),
        "ece": metrics.expected_calibration_error(predictions.confidence, correct),
        "nll": float(np.mean(-np.log(np.maximum(predictions.truth_probability.astype(np.float64), 1e-12)))),
        "coverage": float(answered.mean()),
        "accuracy_answered": float(correct[answered].mean()) if answered.any() else 0.0,
    }
    has_mall = np.diff(encoded.mall_splits) > 0
    if "mall" in combination.parts and has_mall.any():
        alone = combination.weights * (np.array(combination.parts) != "mall")
        title = replace(combination, weights=alone).logits(parts, prior).argmax(1)
        mall = replace(combination, weights=combination.weights - alone).logits(parts, prior).argmax(1)
        scores["accuracy_title"] = metrics.accuracy(labels, title)
        scores["accuracy_mall"] = metrics.accuracy(labels[has_mall], mall[has_mall])
    return scores
