"""Both advantages: the published one against its formula, ours against its definition and the properties that justify it."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from promedical_jax.rubric import Criterion, ScalarReward, Scores, Tier, score
from promedical_jax.rubric.advantage import EVEN, TierWeights, lexicographic, scalar, tiered

NAN = math.nan
PHANTOM = -1
SHARES = [0.0, 1 / 3, 0.5, 0.1 + 0.2, 0.3, 1.0]


def scores_of(rows):
    return Scores(*np.array(rows, float).reshape(-1, 3).T)


soft = st.floats(0, 1).map(lambda x: round(x, 6))  # coarser than the resolution of the order


def answers(s3):
    return st.tuples(st.sampled_from([*SHARES, NAN]), st.integers(0, 2), s3)


groups = st.one_of(
    st.lists(answers(st.integers(0, 2)), min_size=1, max_size=8),
    st.lists(answers(st.just(0)), min_size=1, max_size=8),
    st.lists(answers(st.integers(1, 3)), min_size=1, max_size=8),
    st.lists(st.tuples(soft, st.integers(0, 3), soft), min_size=1, max_size=8),
)


def by_definition(rows):
    """The docstring in plain Python."""
    judged = [n for n, row in enumerate(rows) if not math.isnan(row[0])]
    key = {n: (-round(rows[n][2], 9), round(rows[n][0], 9), rows[n][1]) for n in judged}
    clean = {n for n in judged if key[n][0] == 0}
    members = dict(key)
    if judged and not clean:
        members[PHANTOM] = (0, 0, 0)
        clean = {PHANTOM}
    u = {n: sum((key > other) - (key < other) for other in members.values()) / max(len(members) - 1, 1) for n, key in members.items()}
    violators = set(members) - clean
    middle = (max(u[n] for n in violators) + min(u[n] for n in clean)) / 2 if violators and clean else 0
    return [u[n] - max(0, middle) if n in key else 0 for n in range(len(rows))]


@given(groups)
def test_lexicographic_follows_its_definition(rows):
    np.testing.assert_allclose(lexicographic(scores_of(rows)), by_definition(rows), atol=1e-12)


weightings = st.sampled_from([TierWeights(), EVEN, TierWeights(s1=3.0, s2=2.0, s3=0.01), TierWeights(s1=0.0, s2=0.0, s3=1.0)])
keeping_the_veto = st.one_of(st.just(lexicographic), weightings.map(lambda weights: lambda scores: tiered(scores, weights)))


@given(groups, keeping_the_veto)
def test_no_violator_is_pushed_up_and_every_clean_answer_stands_above_every_violator(rows, method):
    scores = scores_of(rows)
    advantage = method(scores)
    clean, violating = advantage[scores.judged & scores.clean], advantage[scores.judged & ~scores.clean]
    assert (violating < 0).all()  # also where nobody is clean
    if clean.size and violating.size:
        assert clean.min() > violating.max()


@given(groups, keeping_the_veto, st.data())
def test_raising_one_answer_never_lowers_its_advantage(rows, method, data):
    chosen = data.draw(st.sampled_from(range(len(rows))))
    s1, s2, s3 = rows[chosen]
    assume(not math.isnan(s1))
    raised = [list(row) for row in rows]
    match data.draw(st.sampled_from(["s1", "s2", "s3"])):
        case "s1":
            raised[chosen][0] = data.draw(st.floats(s1, 1))
        case "s2":
            raised[chosen][1] = s2 + 1
        case "s3":
            raised[chosen][2] = data.draw(st.sampled_from([0, s3 / 2]))
    assert method(scores_of(raised))[chosen] >= method(scores_of(rows))[chosen] - 1e-9


@given(groups, st.data())
def test_the_order_of_the_group_does_not_matter(rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    scores = scores_of(rows)
    np.testing.assert_array_equal(lexicographic(scores[list(order)]), lexicographic(scores)[list(order)])
    np.testing.assert_allclose(tiered(scores[list(order)]), tiered(scores)[list(order)], atol=1e-9)
    rewards = ScalarReward().of(scores)
    np.testing.assert_allclose(scalar(rewards[list(order)]), scalar(rewards)[list(order)], atol=1e-9)


@given(groups)
def test_abstainers_get_nothing_and_change_nothing(rows):
    scores = scores_of(rows)
    judged = scores.judged
    rewards = ScalarReward().of(scores)
    pairs = ((lexicographic(scores), lexicographic(scores[judged])), (tiered(scores), tiered(scores[judged])), (scalar(rewards), scalar(rewards[judged])))
    for advantage, alone in pairs:
        assert (advantage[~judged] == 0).all()
        np.testing.assert_allclose(advantage[judged], alone, atol=1e-9)


@given(groups)
def test_equal_answers_get_equal_advantages_and_a_better_one_gets_more(rows):
    scores = scores_of(rows)
    advantage = lexicographic(scores)
    keys = [(-round(s3, 9), round(s1, 9), s2) for s1, s2, s3 in rows]
    for a in np.flatnonzero(scores.judged):
        for b in np.flatnonzero(scores.judged):
            assert (advantage[a] > advantage[b]) == (keys[a] > keys[b])


@given(groups)
def test_lexicographic_sums_to_zero_where_all_are_clean_and_is_bounded(rows):
    scores = scores_of(rows)
    advantage = lexicographic(scores)
    assert (advantage > -2).all() and (advantage <= 1).all()
    if (scores.clean | ~scores.judged).all():
        assert advantage.sum() == pytest.approx(0)


@given(groups, weightings)
def test_tiered_follows_its_definition(rows, weights):
    """The docstring in plain Python."""
    judged = [n for n, row in enumerate(rows) if not math.isnan(row[0])]
    clean = [n for n in judged if round(rows[n][2], 9) == 0]
    violators = [n for n in judged if n not in clean]

    def z(values, value):
        mean = sum(values) / len(values)
        return (value - mean) / (math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)) + 1e-4)

    expected = [0.0] * len(rows)
    for n in judged:
        tiers = [[rows[m][0] for m in judged], [rows[m][1] for m in judged], [-rows[m][2] for m in judged] + [0.0] * (not clean)]
        own = (rows[n][0], rows[n][1], -rows[n][2])
        x = sum(w * z(values, value) for w, values, value in zip((weights.s1, weights.s2, weights.s3), tiers, own, strict=True))
        if n in violators and x > -0.2:
            x = -0.2 + 0.05 * (1 - math.exp(-(x + 0.2) / 0.05))
        elif n in clean and violators and x < 0:
            x = -0.1 * (1 - math.exp(x / 0.1))
        expected[n] = x
    np.testing.assert_allclose(tiered(scores_of(rows), weights), expected, atol=1e-9)


@given(st.lists(answers(st.just(0)), min_size=1, max_size=8))
def test_where_all_are_clean_tiered_with_even_weights_is_the_sum_of_gdpo(rows):
    scores = scores_of(rows)
    skill = [np.where(scores.judged, x, NAN) for x in (scores.s1, scores.s2)]
    np.testing.assert_allclose(tiered(scores, EVEN), scalar(skill[0]) + scalar(skill[1]), atol=1e-12)


@given(groups, weightings)
def test_an_answer_that_is_nowhere_worse_gets_no_less_of_tiered(rows, weights):
    scores = scores_of(rows)
    advantage = tiered(scores, weights)
    for a in np.flatnonzero(scores.judged):
        for b in np.flatnonzero(scores.judged):
            if rows[a][0] >= rows[b][0] and rows[a][1] >= rows[b][1] and rows[a][2] <= rows[b][2]:
                assert advantage[a] >= advantage[b] - 1e-12


verdicts = st.sampled_from([0.0, 1.0, NAN])


@given(st.integers(1, 6).flatmap(lambda g: st.lists(st.lists(verdicts, min_size=5, max_size=5), min_size=g, max_size=g)), st.sampled_from(list(Tier)))
def test_a_criterion_on_which_all_abstain_changes_no_advantage(satisfied, tier):
    tiers = [Tier.PROFICIENCY, Tier.PROFICIENCY, Tier.EXCELLENCE, Tier.SAFETY, Tier.SAFETY]
    criteria = [Criterion(id=f"k{n}", text="t", tier=t, weight=0.5 if t is Tier.PROFICIENCY else None) for n, t in enumerate(tiers)]
    if tier is Tier.PROFICIENCY:
        more = [c.model_copy(update={"weight": 0.35}) if c.weight else c for c in criteria] + [Criterion(id="new", text="t", tier=tier, weight=0.3)]
    else:
        more = [*criteria, Criterion(id="new", text="t", tier=tier)]
    before, after = score(criteria, satisfied), score(more, np.pad(satisfied, ((0, 0), (0, 1)), constant_values=NAN))
    np.testing.assert_array_equal(lexicographic(after), lexicographic(before))


@pytest.mark.parametrize(
    ("rows", "advantage"),
    [
        ([(0.5, 0, 0)], [0]),  # alone and clean
        ([(0.5, 0, 1)], [-1]),  # alone and violating: below the phantom
        ([(NAN, 0, 1)], [0]),
        ([(NAN, 0, 0), (NAN, 0, 1)], [0, 0]),
        ([(0.5, 0, 0)] * 3, [0, 0, 0]),
        ([(1, 0, 0), (0, 0, 0)], [1, -1]),
        ([(0, 0, 0), (1, 2, 1)], [1, -1]),
        ([(1, 0, 0), (0.5, 0, 0), (0, 0, 1)], [1, 0, -1]),
        ([(0, 0, 0), (0.2, 0, 1), (0.1, 0, 1), (0, 0, 1)], [1 / 3, -1 / 3, -1, -5 / 3]),
        ([(0.9, 0, 1), (0.2, 0, 1)], [-0.5, -1.5]),  # all violate: all are pushed down, the less bad one less
    ],
)
def test_lexicographic_by_hand(rows, advantage):
    np.testing.assert_allclose(lexicographic(scores_of(rows)), advantage, atol=1e-12)


def test_many_groups_at_once_equal_one_after_the_other():
    rng = np.random.default_rng(0)
    s1 = rng.choice([0, 0.5, 1, NAN], (3, 4, 8))
    scores = Scores(s1, rng.integers(0, 3, s1.shape).astype(float), rng.integers(0, 2, s1.shape).astype(float))
    together, by_tier, rewards = lexicographic(scores), tiered(scores), ScalarReward().of(scores)
    assert together.shape == by_tier.shape == s1.shape
    for index in np.ndindex(3, 4):
        np.testing.assert_array_equal(together[index], lexicographic(scores[index]))
        np.testing.assert_allclose(by_tier[index], tiered(scores[index]), atol=1e-12)
        np.testing.assert_allclose(scalar(rewards)[index], scalar(rewards[index]))


def test_an_empty_group_and_no_group_are_fine():
    for shape in ((0,), (0, 4), (2, 0)):
        empty = np.zeros(shape)
        assert lexicographic(Scores(empty, empty, empty)).shape == tiered(Scores(empty, empty, empty)).shape == scalar(empty).shape == shape


def test_scalar_is_the_published_formula():
    rewards = np.array([1.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(scalar(rewards), (rewards - 3) / (np.sqrt(3.5) + 1e-4))
    np.testing.assert_array_equal(scalar([2.0, 2.0, 2.0]), 0)
    np.testing.assert_array_equal(scalar([NAN, NAN]), 0)
    np.testing.assert_array_equal(scalar([5.0, NAN]), 0)
    np.testing.assert_allclose(scalar([1.0, NAN, 3.0]), [-1 / 1.0001, 0, 1 / 1.0001])


def test_scalar_pushes_violators_up_which_is_why_ours_exists():
    all_violate = scores_of([(0.9, 0, 1), (0.2, 0, 1)])
    assert scalar(ScalarReward().of(all_violate))[0] > 0
    beside_a_clean_answer = scores_of([(0.4, 0, 0), (1.0, 3, 1), (0.5, 0, 3)])
    assert scalar(ScalarReward().of(beside_a_clean_answer))[1] > 0
    for ours in (lexicographic, tiered):
        assert ours(all_violate).max() < 0 and ours(beside_a_clean_answer)[1] < 0
