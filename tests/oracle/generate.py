"""Golden vectors for src/core/judge/compare: the same definitions, written once more in exact arithmetic, slowly. See README.md."""

import json
import pathlib
import random
from fractions import Fraction
from math import comb

from mpmath import mp, mpf
from scipy.stats import nchypergeom_fisher

mp.dps = 60
STAKES = [5, 10, 20, 40, 80, 160]
EXCESSES = [Fraction(5, 4), Fraction(3, 2), Fraction(2), Fraction(3), Fraction(5), Fraction(10)]
RESERVE, RELEASE = Fraction(3, 10), Fraction(3, 100)
MOST_SPLITS = 1000


def bets_on_share(one, other, ratio):
    """Factors in the form of a bet: a part c of the wealth is put on the share being above the fair one."""
    fair = ratio * one[0] / (ratio * one[0] + other[0])
    share = Fraction(one[1], one[1] + other[1])
    parts = [stake * fair / (1 + stake * fair) for stake in STAKES]
    return [1 + part * (share / fair - 1) for part in parts]


def split_probabilities(canary, stable, odds):
    """Fisher's noncentral hypergeometric distribution: how the failures of an interval may be split, given their number."""
    failures = canary[1] + stable[1]
    splits = range(max(0, failures - stable[0]), min(failures, canary[0]) + 1)
    weights = {x: comb(canary[0], x) * comb(stable[0], failures - x) * odds**x for x in splits}
    total = sum(weights.values())
    return {x: weight / total for x, weight in weights.items()}


def likelihood_ratios(canary, stable, ratio):
    tolerated = split_probabilities(canary, stable, ratio)[canary[1]]
    return [split_probabilities(canary, stable, excess * ratio)[canary[1]] / tolerated for excess in EXCESSES]


def factors(claim, canary, stable):
    kind, ratio = claim
    if canary[0] == 0 or stable[0] == 0 or canary[1] + stable[1] == 0:
        return None
    if kind == "NotWorse":
        return bets_on_share(stable, canary, 1 / ratio)
    if kind == "IndependentFailures" and canary[1] + stable[1] <= MOST_SPLITS:
        return likelihood_ratios(canary, stable, ratio)
    return bets_on_share(canary, stable, ratio)


def evidence(claim, intervals):
    """Wealth as money: nothing is a logarithm, nothing is rounded."""
    bets, reserve = [1 - RESERVE] * len(STAKES), RESERVE
    for canary, stable in intervals:
        found = factors(claim, canary, stable)
        if found is None:
            continue
        released = reserve * RELEASE
        reserve -= released
        bets = [(bet + released) * factor for bet, factor in zip(bets, found)]
    return sum(bets) / len(bets) + reserve


def log(value):
    return float(mp.log(mpf(value.numerator) / mpf(value.denominator)))


def check_definitions():
    """No bet gains on average at the boundary: exactly, as fractions."""
    for n, m, failures, ratio in [(3, 7, 4, Fraction(5, 4)), (10, 5, 6, Fraction(1)), (6, 6, 12, Fraction(3, 2)), (1, 40, 2, Fraction(2))]:
        fair = ratio * n / (ratio * n + m)
        poisson = {x: comb(failures, x) * fair**x * (1 - fair) ** (failures - x) for x in range(failures + 1)}
        for bet in range(len(STAKES)):
            mean = sum(p * bets_on_share((n, x), (m, failures - x), ratio)[bet] for x, p in poisson.items())
            assert mean == 1, mean
            swapped = sum(p * bets_on_share((m, failures - x), (n, x), 1 / ratio)[bet] for x, p in poisson.items())
            assert swapped == 1, swapped
            fisher = split_probabilities((n, 0), (m, failures), ratio)
            mean = sum(p * likelihood_ratios((n, x), (m, failures - x), ratio)[bet] for x, p in fisher.items())
            assert mean == 1, mean
            assert sum(p * bets_on_share((n, x), (m, failures - x), ratio)[bet] for x, p in fisher.items()) <= 1
    for canary, stable, odds in [((240, 9), (2400, 31), Fraction(5, 4)), ((50, 20), (60, 4), Fraction(4))]:
        ours = split_probabilities(canary, stable, odds)[canary[1]]
        theirs = nchypergeom_fisher(canary[0] + stable[0], canary[0], canary[1] + stable[1], float(odds)).pmf(canary[1])
        assert abs(float(ours) / theirs - 1) < 1e-9, (float(ours), theirs)


def main():
    check_definitions()
    rng = random.Random(7)
    claims = [(kind, ratio) for kind in ("SharedBetting", "IndependentFailures", "NotWorse") for ratio in (Fraction(1), Fraction(5, 4), Fraction(2))]

    def arm(most):
        requests = rng.randint(1, most)
        return [requests, min(requests, int(rng.expovariate(1) * requests * rng.choice([0.002, 0.02, 0.3])))]

    pairs = [(arm(most), arm(most)) for most in (5, 40, 300, 3000) for _ in range(4)]
    pairs += [([1, 1], [1, 0]), ([1, 0], [1, 1]), ([10, 10], [10, 10]), ([150, 0], [2850, 14]), ([150, 9], [2850, 14]), ([1500, 40], [1500, 3])]
    pairs += [([2410, 128], [24050, 312]), ([500, 500], [20000, 500]), ([600, 501], [20000, 500]), ([10**15, 3], [10**18, 4]), ([10**18, 0], [1, 1])]
    single = [
        {"claim": kind, "ratio": float(ratio), "canary": canary, "stable": stable, "logFactors": [log(factor) for factor in found]}
        for kind, ratio in claims
        for canary, stable in pairs
        if (found := factors((kind, ratio), canary, stable)) is not None
    ]
    runs = []
    for kind, ratio in claims:
        intervals = [(arm(300), arm(900)) for _ in range(25)] + [([0, 0], [50, 3]), ([50, 0], [70, 0])]
        runs.append({"claim": kind, "ratio": float(ratio), "intervals": intervals, "logE": log(evidence((kind, ratio), intervals))})
    text = json.dumps({"factors": single, "runs": runs}).replace('{"claim"', '\n{"claim"')
    pathlib.Path(__file__).with_name("judge.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
