"""Off-policy estimates against a bandit whose truth is known, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aitems_engine.cli import main
from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.evaluation.off_policy import estimate_policy, read_policy_log, support_problem
from aitems_engine.rerank import Chain, RuleContext, Slate
from aitems_engine.simulator import simulate_shop
from aitems_engine.simulator.closed_loop import ClosedLoop
from aitems_engine.simulator.world import World

ARMS = 6


def bandit(seed: int, rows: int = 4000, model_error: float = 0.1) -> tuple[dict[str, np.ndarray], float]:
    """Return a log of a softmax policy, judged for one that prefers other arms, and the judged policy's true value."""
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(rows, ARMS))
    truth = 1 / (1 + np.exp(-(context - 1)))

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    logging, target = softmax(-0.5 * context), softmax(1.5 * context)
    arm = (rng.random(rows)[:, None] > np.cumsum(logging, 1)[:, :-1]).sum(1)
    at = np.arange(rows), arm
    model = truth + model_error
    log = {
        "reward": (rng.random(rows) < truth[at]).astype(float),
        "propensity": logging[at],
        "target_propensity": target[at],
        "predicted": model[at],
        "predicted_target": (target * model).sum(1),
    }
    return log, float((target * truth).sum(1).mean())


def test_intervals_hold_the_truth_and_the_logged_mean_does_not() -> None:
    held = dict.fromkeys(("logged", "ips", "snips", "dr"), 0)
    error = dict.fromkeys(held, 0.0)
    width = dict.fromkeys(held, 0.0)
    runs = 60
    for seed in range(runs):
        log, truth = bandit(seed)
        for name, e in estimate_policy(**log).items():
            held[name] += e.low <= truth <= e.high
            error[name] += (e.value - truth) / runs
            width[name] += (e.high - e.low) / runs
    assert held["logged"] == 0
    for name in ("ips", "snips", "dr"):
        assert held[name] >= 50
        assert abs(error[name]) < 0.01
    assert width["dr"] < width["snips"] < width["ips"]


def test_one_by_hand() -> None:
    found = estimate_policy(
        [1, 0, 1], [0.5, 0.5, 0.25], [0.25, 1, 0.5], predicted=[0.5] * 3, predicted_target=[0.6] * 3
    )
    assert found["logged"].value == pytest.approx(2 / 3)
    assert found["ips"].value == pytest.approx((0.5 + 0 + 2) / 3)
    assert found["snips"].value == pytest.approx(2.5 / 4.5)
    assert found["dr"].value == pytest.approx(0.6 + (0.5 * 0.5 - 2 * 0.5 + 2 * 0.5) / 3)
    assert found["ips"].effective_rows == pytest.approx(4.5**2 / (0.25 + 4 + 4))


def test_the_same_policy_earns_what_was_logged() -> None:
    log, _ = bandit(0)
    found = estimate_policy(log["reward"], log["propensity"], log["propensity"])
    for name in ("ips", "snips"):
        assert found[name].value == pytest.approx(found["logged"].value)
        assert found[name].high == pytest.approx(found["logged"].high)


def test_clipping_is_told() -> None:
    log, _ = bandit(1)
    whole, cut = estimate_policy(**log)["ips"], estimate_policy(**log, max_weight=2)["ips"]
    assert whole.clipped == 0
    assert 0 < cut.clipped < 1
    assert cut.effective_rows > whole.effective_rows
    assert cut.value < whole.value


def test_missing_support_is_seen() -> None:
    log, _ = bandit(2)
    assert support_problem(log["propensity"], log["target_propensity"]) == ""
    seen = log["propensity"] > 0.1
    assert "mean weight" in support_problem(log["propensity"][seen], log["target_propensity"][seen])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 1], [0.5, 0.0], [1, 1]), "propensity must be above 0.*row 1"),
        (([1, 1], [0.5, np.nan], [1, 1]), "propensity must be a finite number"),
        (([1, 1], [0.5, 1.5], [1, 1]), "propensity must be above 0"),
        (([1, 1], [0.5, 0.5], [1, -1]), "target_propensity must be from 0 to 1"),
        (([np.inf, 1], [0.5, 0.5], [1, 1]), "reward must be a finite number"),
        (([1, 1], [0.5], [1, 1]), "of one length"),
        (([], [], []), "of one length above 0"),
        (([1, 1], [0.5, 0.5], [0, 0]), "would show nothing"),
    ],
)
def test_logs_that_are_refused(columns: tuple[list[float], ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        estimate_policy(*columns)


def test_predictions_come_in_pairs() -> None:
    with pytest.raises(InvalidInputError, match="needs both"):
        estimate_policy([1], [1], [1], predicted=[1])
    with pytest.raises(InvalidInputError, match="max_weight"):
        estimate_policy([1], [1], [1], max_weight=0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, truth = bandit(3)
    path = tmp_path / "log.csv"
    names = {"reward": "bought", "propensity": "propensity", "target_propensity": "target_propensity"}
    rows = zip(*(log[name].tolist() for name in names), strict=True)
    path.write_text("\n".join([",".join(names.values()), *(",".join(map(repr, row)) for row in rows)]) + "\n")
    assert (
        main(["evaluate", "policy", "--log", str(path), "--column", "reward=bought", "--out", str(tmp_path / "r")]) == 0
    )
    shown = capsys.readouterr().out
    assert "snips" in shown
    assert "dr " not in shown
    assert abs(float(shown.split("snips")[1].split()[0]) - truth) < 0.05
    assert (tmp_path / "r" / "report.html").exists()
    assert main(["evaluate", "policy", "--log", str(path)]) == 1
    assert "reward" in capsys.readouterr().err
    path.write_text("reward,propensity,target_propensity\n1,often,1\n")
    with pytest.raises(DataError, match="line 2, column 'propensity'"):
        read_policy_log(path)


@pytest.mark.slow
@pytest.mark.native
def test_estimates_from_explored_pages_agree_with_the_simulated_shop(tmp_path: Path) -> None:
    """Pages of the chain, propensities of the chain, clicks of the closed loop, whose truth is known."""
    pytest.importorskip("pyarrow")
    simulate_shop(tmp_path / "shop", products=400, leaves=20, users=400, seed=4, progress=False)
    world = World.open(tmp_path / "shop")
    rule = {"rule": "exploration", "slots": [1], "pool": 20, "floor": 0.01}
    chain = Chain.from_config({"rules": [rule]})
    errors: dict[str, list[float]] = {name: [] for name in ("logged", "ips", "snips", "dr")}
    held = dict.fromkeys(errors, 0)
    runs = 20
    for seed in range(runs):
        loop = ClosedLoop(world, seed, pool=20)
        log, truth = [], []
        for batch in range(6):
            visits = loop.visits(200)
            # of a ranker that is often wrong; the log prefers its worst, the judged policy shows its best
            scores = np.nan_to_num(loop.appeal(visits)) * np.random.default_rng(seed).lognormal(
                0, 0.5, visits.pool.shape
            )
            items = np.full((len(visits), 1), -1, np.int32)
            propensity, place = np.ones(len(visits)), np.zeros(len(visits), np.int64)
            for row, there in enumerate(visits.pool >= 0):
                preferred = 0.05 / (1 + np.argsort(np.argsort(scores[row, there])))
                slate = Slate(visits.pool[row, there], preferred, pctr=preferred.astype(np.float32))
                page = chain.run(slate, RuleContext(1, seed=10_000 * seed + 200 * batch + row))
                items[row, 0], place[row] = slate.items[page.order[0]], page.order[0]
                propensity[row] = page.propensities[0]
            best = np.argsort(-np.where(visits.pool >= 0, scores, -1.0), 1)[:, :1]
            judged = np.take_along_axis(visits.pool, best, 1)
            truth.append(loop.expected(visits, judged).clicks[:, 0])
            reward = loop.show(visits, items).clicked[:, 0]
            own, of_judged = scores[np.arange(len(visits)), place], np.take_along_axis(scores, best, 1)[:, 0]
            log.append(np.stack([reward, propensity, items[:, 0] == judged[:, 0], own, of_judged]))
        rows, value = np.concatenate(log, 1), float(np.concatenate(truth).mean())
        for name, e in estimate_policy(*rows[:3], predicted=rows[3], predicted_target=rows[4]).items():
            errors[name].append(e.value - value)
            held[name] += e.low <= value <= e.high
    for name in ("ips", "snips", "dr"):
        assert abs(np.mean(errors[name])) < 4 * np.std(errors[name]) / np.sqrt(runs)
        assert held[name] >= 0.75 * runs
        assert abs(np.mean(errors["logged"])) > 2 * abs(np.mean(errors[name]))
