"""The measures of layers: linear probe, ABX, effective rank, k-means. Cases whose answer is known, and definitions written out slowly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from birq.evaluate import abx, geometry, linear, quality
from birq.settings.params import Score

HOW = Score(confidence=0.9, bootstrap_samples=500, seed=0)

# ---- ABX


def tokens(phone: list[int], speaker: list[int]) -> abx.Tokens:
    """Tokens of one frame each."""
    n = np.arange(len(phone))
    return abx.Tokens(n, n + 1, np.array(phone), np.array(speaker))


def brute_force(means_ND: np.ndarray, t: abx.Tokens) -> tuple[float | None, float | None]:
    """The definition in birq/evaluate/abx.py, term by term."""
    unit = means_ND / np.linalg.norm(means_ND, axis=1, keepdims=True)
    angle = np.arccos(np.clip(unit @ unit.T, -1, 1))
    phones, speakers, index = np.unique(t.phone_N), np.unique(t.speaker_N), range(len(t))

    def of(phone: int, speaker: int) -> list[int]:
        return [i for i in index if t.phone_N[i] == phone and t.speaker_N[i] == speaker]

    def e(a: int, b: int, s: int, u: int) -> float | None:
        triples = [(i, j, x) for i in of(a, s) for j in of(b, s) for x in of(a, u) if x != i]
        worse = [1.0 if angle[i, x] > angle[j, x] else 0.5 if angle[i, x] == angle[j, x] else 0.0 for i, j, x in triples]
        return float(np.mean(worse)) if worse else None

    def mean(values: list[float | None]) -> float | None:
        there = [v for v in values if v is not None]
        return float(np.mean(there)) if there else None

    pairs = list(itertools.permutations(phones, 2))
    within = mean([mean([e(a, b, s, s) for s in speakers]) for a, b in pairs])
    across = mean([mean([mean([e(a, b, s, u) for u in speakers if u != s]) for s in speakers]) for a, b in pairs])
    return within, across


@pytest.mark.parametrize("seed", range(6))
def test_abx_is_its_definition(seed: int) -> None:
    """Uneven numbers of tokens, phones that a speaker lacks, speakers with one token: every mean is over what there is."""
    rng = np.random.default_rng(seed)
    t = tokens(rng.integers(0, 4, 40).tolist(), (rng.integers(0, 3, 40) ** 2).tolist())
    means = rng.normal(size=(40, 3)) + t.phone_N[:, None] * [0.6, 0, -0.3]
    assert abx.error_rates(means, t) == pytest.approx(brute_force(means, t), abs=1e-6)


def test_abx_by_hand() -> None:
    """One speaker, phone 0 at 0° and 40°, phone 1 at 30°. (0, 1): X at 0° is 40° from A and 30° from B, an error; X at 40° is 40° from A
    and 10° from B, an error: 1. (1, 0): one token of phone 1, so no pair A, X. The mean over what there is: 1."""
    angles = np.deg2rad([0, 40, 30])
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert abx.error_rates(means, tokens([0, 0, 1], [0, 0, 0])) == (1.0, None)
    # phone 1 at 90°: X = 0° is 40° from A and 90° from B, right; X = 40° is 40° from A and 50° from B, right
    means[2] = [0, 1]
    assert abx.error_rates(means, tokens([0, 0, 1], [0, 0, 0])) == (0.0, None)


def test_abx_counts_a_tie_as_half() -> None:
    """Outputs that are all equal say nothing: chance, also where a layer has collapsed onto zero."""
    t = tokens([0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1])
    assert abx.error_rates(np.ones((8, 4)), t) == (0.5, 0.5)
    assert abx.error_rates(np.zeros((8, 4)), t) == (0.5, 0.5)


def test_abx_across_speakers_sees_what_within_does_not() -> None:
    """Phone on one axis, a large part of the speaker on another: within a speaker it cancels, across speakers X lies far from both."""
    t = tokens([0, 0, 1, 1] * 2, [0] * 4 + [1] * 4)
    means = np.array([[1, 0.1], [1, 0.1], [-1, 0.1], [-1, 0.1], [-1, 0.1], [-1, 0.1], [1, 0.1], [1, 0.1]])
    within, across = abx.error_rates(means, t)
    assert within == 0 and across == 1


def test_tokens_are_runs_of_one_segment() -> None:
    """A segment's end, an utterance's end and a pause divide; frames outside all segments belong to no token."""
    segment = np.array([0, 0, 1, -1, 2, 2, 2, 3])
    utterance = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    phone = np.array([4, 4, 5, -1, 4, 4, 6, 7])
    t = abx.tokens_of(segment, phone, utterance, np.array([0, 0, 0, 0, 0, 0, 9, 9]), {7})
    assert list(zip(t.begin_N, t.end_N, t.phone_N, t.speaker_N, strict=True)) == [(0, 2, 4, 0), (2, 3, 5, 0), (4, 6, 4, 0), (6, 7, 6, 9)]
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    assert t.means(x).tolist() == [[1, 2], [4, 5], [9, 10], [12, 13]]


def test_the_cap_is_per_phone_and_speaker_and_spread() -> None:
    """No more than asked of any pair, all of the rarer ones, chosen over the whole length and without a draw."""
    t = tokens([0] * 10 + [1] * 2 + [0] * 3, [0] * 12 + [1] * 3)
    kept = t.capped(4)
    assert kept.begin_N.tolist() == [0, 2, 5, 7, 10, 11, 12, 13, 14]
    assert abx.why_not(t) == (None, None)
    assert "one" in abx.why_not(tokens([0, 1], [3, 3]))[1]
    assert all("two phones" in why for why in abx.why_not(tokens([0, 0], [0, 1])))
    assert all("two phones" in why for why in abx.why_not(tokens([], [])))
    assert len(tokens([], []).capped(4)) == 0


# ---- linear probe


def classes(n: int, seed: int, d: int = 6, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes with correlated dimensions of unlike size."""
    centres = np.random.default_rng(99).normal(0, 1.0, (k, d))
    rng = np.random.default_rng(seed)
    phone = rng.integers(0, k, n)
    x = (centres[phone] + rng.normal(0, 1, (n, d))) @ np.random.default_rng(98).normal(0, 1, (d, d)) * np.logspace(0, 3, d)
    return x.astype(np.float32), phone


def test_the_linear_probe_minimises_what_is_written() -> None:
    """At the optimum of a convex function its gradient is zero: here that of the documented loss, worked out apart from the fit."""
    x, phone = classes(800, 0)
    penalty = 0.01
    u = linear.Whitening(x)(x)
    fitted = linear.fit(u, phone, penalty)
    logits = u @ fitted.coef_.T + fitted.intercept_
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    residual = p - np.eye(4)[phone]
    assert np.abs(residual.T @ u / len(u) + penalty * fitted.coef_).max() < 1e-4
    assert np.abs(residual.mean(0)).max() < 1e-4


def test_the_linear_probe_does_not_see_the_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whitened, a layer and any invertible linear map of it are the same up to a rotation, which the penalty does not see.

    The ridge keeps out axes that hold only rounding; here all of them hold something.
    """
    monkeypatch.setattr(linear, "RIDGE", 1e-9)
    (x, phone), (test, truth) = classes(1500, 0), classes(600, 1)
    turn = (np.random.default_rng(5).normal(size=(6, 6)) / x.std(0)[:, None]).astype(np.float32)
    one = linear.found_phones(x, phone, test, 0.01) == truth
    two = linear.found_phones(x @ turn + 3, phone, test @ turn + 3, 0.01) == truth
    assert one.mean() > 0.6 and (one != two).mean() < 0.01


def test_a_large_penalty_leaves_the_commonest_phone() -> None:
    """Weights of zero leave the biases, and those say how frequent the phones are."""
    (x, phone), (test, truth) = classes(600, 0), classes(300, 1)
    phone = np.where(np.arange(600) < 400, 2, phone)
    assert (linear.found_phones(x, phone, test, 1e6) == truth).tolist() == (truth == 2).tolist()


def test_phones_that_training_lacks_are_errors() -> None:
    """They stay in the denominator: leaving them out would make a probe better that heard fewer phones."""
    (x, phone), (test, truth) = classes(600, 0), classes(300, 1)
    known = phone < 3
    right = linear.found_phones(x[known], phone[known], test, 0.01) == truth
    assert not right[truth == 3].any() and right[truth < 3].mean() > 0.6


def test_dead_dimensions_do_no_harm() -> None:
    """A constant dimension, and one that is the sum of two others, hold nothing new."""
    (x, phone), (test, truth) = classes(1500, 0), classes(600, 1)

    def widened(y: np.ndarray) -> np.ndarray:
        return np.concatenate([y, np.full((len(y), 1), 7, np.float32), y[:, :1] + y[:, 1:2]], axis=1)

    one = linear.found_phones(x, phone, test, 0.01) == truth
    two = linear.found_phones(widened(x), phone, widened(test), 0.01) == truth
    assert abs(one.mean() - two.mean()) < 0.02


def test_confusions_by_hand() -> None:
    """Most frames first within a layer; the right ones too, so that shares of a phone's frames can be taken."""
    phone = np.array(["a", "a", "b", "a"])
    rows = linear.confusions([np.array(["a", "b", "b", "b"]), phone], phone).to_pylist()
    assert [tuple(r.values()) for r in rows] == [(0, "a", "b", 2), (0, "a", "a", 1), (0, "b", "b", 1), (1, "a", "a", 3), (1, "b", "b", 1)]
    assert linear.confusions([], phone).schema == linear.CONFUSIONS


def test_accuracy_and_intervals_follow_the_counts() -> None:
    """Utterances of 4 and 2 frames, two layers. Speakers b and a: all of one's frames right, none of the other's, so from 0 to 1."""
    right = [np.array([1, 1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 0, 1, 0], bool)]
    t = linear.table(right, np.array([0, 0, 0, 0, 1, 1]), ["v", "u"], ["b", "a"])
    assert t.to_pydict() == {
        "layer": [0, 0, 1, 1], "id": ["u", "v", "u", "v"], "speaker": ["a", "b", "a", "b"],
        "frames": [2, 4, 2, 4], "correct": [0, 4, 1, 1],
    }  # fmt: skip
    zero, one = linear.figures(t, HOW)
    assert zero["linear"] == pytest.approx(4 / 6) and one["linear"] == pytest.approx(2 / 6)
    assert (zero["linear_low"], zero["linear_high"]) == (0, 1) == (zero["linear_speaker_low"], zero["linear_speaker_high"])
    assert (one["linear_low"], one["linear_high"]) == (0.25, 0.5)
    alone = linear.figures(linear.table(right, np.array([0, 0, 0, 0, 1, 1]), ["v", "u"], ["a", "a"]), HOW)[0]
    assert alone["linear_speaker_low"] is None and alone["linear_low"] == 0


# ---- geometry


def test_effective_rank_counts_equal_directions() -> None:
    """k directions of equal variance: k. Shares (1/2, 1/4, 1/4): e^(1.5 ln 2) = 2^1.5. A constant layer has none."""
    corners = np.array(list(itertools.product([-1, 1], repeat=3)), np.float32)
    assert geometry.effective_rank(corners + 50) == pytest.approx(3)
    assert geometry.effective_rank(corners * np.sqrt(np.float32([2, 1, 1]))) == pytest.approx(2**1.5)
    assert geometry.effective_rank(corners[:, :1] * np.float32([1, 2, -3])) == pytest.approx(1)
    assert geometry.effective_rank(np.full((10, 4), 0.1, np.float32)) == 0


def test_kmeans_finds_separate_groups_and_is_the_same_twice() -> None:
    """Groups far apart are clusters, so their PNMI is 1; the draws are fixed."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 600)
    x = (np.eye(4)[group] * 100 + rng.normal(size=(600, 4))).astype(np.float32)
    found = geometry.kmeans(x, 12)
    assert (found == geometry.kmeans(x, 12)).all() and found.max() < 12
    assert quality.phone_figures(group, found[:, None], 4, 12)["pnmi"] > 0.99


def test_few_frames_have_few_clusters() -> None:
    """As many as codes, but never so many that a cluster has a handful of frames."""
    assert geometry.clusters(100_000, 128) == 128
    assert geometry.clusters(800, 128) == 50
    assert geometry.clusters(3, 128) == 1
