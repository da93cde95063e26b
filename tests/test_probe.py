"""Label quality against joint counts whose answer is known, phones at frame centres, the probe stage."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from birq.evaluate import phones, quality

# ---- quality


def test_independent_labels_say_nothing() -> None:
    """p(phone, code) = p(phone) p(code): no information, and the best guess is the commonest phone."""
    joint = np.outer([2, 1, 1], [1, 1, 1, 1])
    assert quality.pnmi(joint) == pytest.approx(0, abs=1e-12)
    assert quality.phone_purity(joint) == 0.5
    assert quality.cluster_purity(joint) == 0.25


def test_identical_labels_say_all() -> None:
    """One code per phone: nothing is left uncertain in either direction, whatever the phones' frequencies."""
    joint = np.diag([5, 3, 1])[:, [2, 0, 1]]
    assert quality.pnmi(joint) == pytest.approx(1)
    assert quality.phone_purity(joint) == quality.cluster_purity(joint) == 1


def test_split_phones_keep_pnmi_and_lose_cluster_purity() -> None:
    """Two codes for each phone still tell the phone, but no code stands for a whole phone."""
    joint = np.array([[2, 2, 0, 0], [0, 0, 2, 2]])
    assert quality.pnmi(joint) == pytest.approx(1)
    assert quality.phone_purity(joint) == 1
    assert quality.cluster_purity(joint) == 0.5


def test_merged_phones_halve_pnmi() -> None:
    """Four equal phones, codes that tell pairs apart only: one of two bits."""
    assert quality.pnmi(np.array([[1, 0], [1, 0], [0, 1], [0, 1]])) == pytest.approx(0.5)


def test_a_constant_code_or_phone_gives_zero() -> None:
    """No entropy, no information; a division by zero must not come out of it."""
    assert quality.pnmi(np.array([[3], [4]])) == pytest.approx(0)
    assert quality.pnmi(np.array([[3, 4]])) == 0
    assert quality.label_agreement(np.zeros(5, int), np.arange(5)) == 0


def test_against_scikit_learn() -> None:
    """Mutual information from another program, on streams with every degree of dependence."""
    rng = np.random.default_rng(0)
    phone = rng.integers(0, 7, 3000)
    code = (phone * 3 + rng.integers(0, 5, 3000)) % 16
    joint = quality.joint_counts(phone, code, 7, 16)
    assert joint.sum() == 3000
    assert quality.pnmi(joint) == pytest.approx(mutual_info_score(phone, code) / quality.entropy(np.bincount(phone)))
    theirs = normalized_mutual_info_score(phone, code, average_method="geometric")
    assert quality.label_agreement(phone, code) == pytest.approx(theirs)


def test_agreement_does_not_see_the_numbering() -> None:
    """Two quantizers number their codes independently: a permutation of the codes is the same labelling."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 50, 2000)
    assert quality.label_agreement(a, rng.permutation(50)[a]) == pytest.approx(1)


def test_floor_of_random_labels_equals_their_pnmi() -> None:
    """Random labels carry nothing, so all their PNMI is bias, and shifting them cannot change its size."""
    rng = np.random.default_rng(0)
    phone, codes = rng.integers(0, 40, 4000), rng.integers(0, 256, (4000, 2))
    f = quality.phone_figures(phone, codes, 40, 256)
    assert f["pnmi"] > 0.2  # 4000 frames in 10,240 cells: the bias is large
    assert f["pnmi"] == pytest.approx(f["pnmi_floor"], abs=0.02)


def test_floor_of_true_labels_is_far_below() -> None:
    """Shifted labels keep their frequencies and durations, not their meaning: the floor falls to about (P − 1)(V − 1) / 2M nats."""
    rng = np.random.default_rng(0)
    phone = np.repeat(rng.integers(0, 10, 8000), rng.integers(1, 4, 8000))
    f = quality.phone_figures(phone, phone[:, None], 10, 10)
    assert f["pnmi"] == pytest.approx(1)
    assert f["pnmi_floor"] < 0.01


def test_code_figures() -> None:
    """k codes used equally have perplexity k; figures are means over codebooks."""
    codes = np.stack([np.arange(8) % 4, np.zeros(8, int)], axis=1)
    f = quality.code_figures(codes, 8)
    assert f["perplexity"] == pytest.approx((4 + 1) / 2)
    assert f["used_share"] == pytest.approx((4 / 8 + 1 / 8) / 2)
    shares = quality.usage(codes[:, 0], 8)
    assert shares.tolist() == [0.25] * 4 + [0.0] * 4


# ---- phones


def alignment(rows: list[tuple[str, float, float, str]]) -> pa.Table:
    u, s, e, p = zip(*rows, strict=True)
    return pa.table({"id": u, "start_s": s, "end_s": e, "phone": p, "word": ["w"] * len(rows)})


def test_frame_centres() -> None:
    """Four frames of 25 ms every 10 ms span 55 ms, so the first stack's middle is at 27.5 ms and stacks follow every 40 ms."""
    assert phones.frame_centres_s(3, 4, 10.0, 25.0) == pytest.approx([0.0275, 0.0675, 0.1075])
    assert phones.frame_centres_s(2, 1, 10.0, 25.0) == pytest.approx([0.0125, 0.0225])


def test_phone_at_the_centre() -> None:
    """The segment that holds the time gives the phone; outside all segments there is none."""
    table = alignment([("b", 0.1, 0.2, "T"), ("a", 0.2, 0.3, "SIL"), ("a", 0.0, 0.1, "AH"), ("a", 0.1, 0.2, "T"), ("c", 0, 1, "Z")])
    segments, names = phones.segments_by_id([table], {"a", "b", "none"})
    assert sorted(segments) == ["a", "b"] and names == ["AH", "SIL", "T"]
    at = phones.phones_at(segments["a"], np.array([0.0, 0.05, 0.1, 0.25, 0.3, 0.9]))
    assert at.tolist() == [0, 0, 2, 1, phones.NO_PHONE, phones.NO_PHONE]
    assert phones.phones_at(segments["b"], np.array([0.05, 0.15])).tolist() == [phones.NO_PHONE, 2]


def test_phones_of_several_corpora_are_one_inventory() -> None:
    """The same phone in two tables is one phone, or PNMI would reward telling corpora apart."""
    one, two = alignment([("a", 0, 1, "T")]), alignment([("b", 0, 1, "T"), ("b", 1, 2, "S")])
    segments, names = phones.segments_by_id([one, two], {"a", "b"})
    assert names == ["S", "T"] and segments["a"][2].tolist() == [1] and segments["b"][2].tolist() == [1, 0]
    assert phones.segments_by_id([], {"a"}) == ({}, [])
