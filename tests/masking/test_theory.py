"""Closed forms against enumerations of all choices of starts, and against each other."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.masking import theory


def enumerate_starts(length, span, starts, inside):
    """Coverage of each position and mean number of runs, over all choices of ``starts`` places."""
    places = length - span + 1 if inside else length
    coverage, runs, choices = [0.0] * length, 0.0, list(itertools.combinations(range(places), starts))
    for choice in choices:
        hidden = {(start + offset) % length for start in choice for offset in range(span)}
        for position in hidden:
            coverage[position] += 1 / len(choices)
        runs += sum(position not in hidden or position - 1 in hidden for position in range(length)) / len(choices)
    return coverage, length - runs


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("length", "span"), [(9, 1), (9, 2), (10, 3), (8, 5), (6, 5), (7, 7)])
def test_coverage_and_runs_equal_the_enumeration(length, span, inside):
    places = length - span + 1 if inside else length
    previous = None
    for starts in range(places + 1):
        coverage, runs = enumerate_starts(length, span, starts, inside)
        assert theory.position_coverage(length, span, starts, inside) == pytest.approx(coverage, abs=1e-12)
        assert theory.expected_coverage(length, span, starts, inside) == pytest.approx(sum(coverage) / length)
        assert theory.expected_runs(length, span, starts, inside) == pytest.approx(runs, abs=1e-12)
        if previous is not None:  # rounding at random mixes the neighbours
            mixed = [0.7 * low + 0.3 * high for low, high in zip(previous, coverage, strict=True)]
            found = theory.position_coverage(length, span, starts - 0.7, inside)
            assert found == pytest.approx(mixed, abs=1e-12)
        previous = coverage


def test_the_published_figures_of_wav2vec2_and_relatives():
    """Start probability 0.065 and length 10: 48.9 % hidden, mean run 14.7 (Baevski et al. 2020); HuBERT's 0.08."""
    assert theory.span_coverage(0.065, 10) == pytest.approx(0.489, abs=5e-4)
    assert theory.mean_run_length(0.065, 10) == pytest.approx(14.7, abs=0.05)
    assert theory.span_coverage(0.08, 10) == pytest.approx(0.566, abs=5e-4)
    assert theory.span_coverage(0.01, 40) == pytest.approx(0.331, abs=5e-4)


def test_spans_of_one_token_are_independent_positions():
    """Coverage is the start probability itself and runs are geometric with mean 1 / (1 - p)."""
    assert theory.span_coverage(0.3, 1) == pytest.approx(0.3)
    assert theory.mean_run_length(0.3, 1) == pytest.approx(1 / 0.7)


@pytest.mark.parametrize("inside", [False, True])
def test_long_sequences_approach_the_forms_without_a_length(inside):
    length, probability, span = 10**6, 0.065, 10
    coverage = theory.expected_coverage(length, span, probability * length, inside)
    assert coverage == pytest.approx(theory.span_coverage(probability, span), rel=1e-4)
    runs = theory.expected_runs(length, span, probability * length, inside)
    assert length * coverage / runs == pytest.approx(theory.mean_run_length(probability, span), rel=1e-4)


@given(st.floats(0.001, 0.999), st.integers(1, 100))
def test_start_probability_inverts_coverage(fraction, span):
    assert theory.span_coverage(theory.start_probability(fraction, span), span) == pytest.approx(fraction, rel=1e-9)


@settings(deadline=None)
@given(st.data())
def test_starts_for_coverage_inverts_expected_coverage(data):
    span = data.draw(st.integers(1, 12))
    length = data.draw(st.integers(span + 1, 200))
    inside = data.draw(st.booleans())
    fraction = data.draw(st.floats(0.01, 0.95))
    starts = theory.starts_for_coverage(length, span, fraction, inside)
    assert theory.expected_coverage(length, span, starts, inside) == pytest.approx(fraction, rel=1e-9)


@given(st.integers(2, 5000), st.floats(0.001, 0.999))
def test_hidden_count_is_that_of_mae(length, fraction):
    keep = int(length * (1 - fraction))
    if keep == 0:
        with pytest.raises(UserError, match=f"{length} tokens leaves nothing visible"):
            theory.hidden_count(length, fraction)
    else:
        assert theory.hidden_count(length, fraction) == length - keep
    assert theory.hidden_count(196, 0.75) == 147


@pytest.mark.parametrize("fraction", [0, 1, -1, 2, math.nan, math.inf, None, "half"])
def test_bad_fractions_are_refused(fraction):
    with pytest.raises(UserError, match="mask_fraction must be between 0 and 1"):
        theory.hidden_count(100, fraction)


def test_a_fraction_that_hides_nothing_is_refused():
    with pytest.raises(UserError, match="leaves nothing hidden"):
        theory.hidden_count(10, 1e-17)


@pytest.mark.parametrize(("length", "span", "sentence"), [(5, 6, "longer than the sequence"), (5, 0, "at least 1")])
def test_bad_spans_are_refused(length, span, sentence):
    with pytest.raises(UserError, match=sentence):
        theory.position_coverage(length, span, 1)
