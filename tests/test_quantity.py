"""A quantity that is refused says how to write what it seems to mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import errors, quantity


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("0.5Gi", "write 512Mi"),
        ("1.5Gi", "write 1536Mi"),
        ("1e9", "write 1000000000"),
        ("1.5E3", "write 1500"),
        ("1K", "write 1k or 1Ki"),
        ("10GB", "write 10G or 10Gi"),
        ("10gib", "write 10Gi"),
        ("100m", "write 100M or 100Mi"),
        ("10 Gi", "write 10Gi"),
        ("1_000", "write 1000"),
        ("1,000,000", "write 1000000"),
        # A decimal comma is none of ours: 15Gi would be ten times what was meant.
        ("1,5Gi", "such as 1000000, 500M or 10Gi"),
        ("1.5", "such as 1000000, 500M or 10Gi"),
        ("much", "such as 1000000, 500M or 10Gi"),
        ("", "such as 1000000, 500M or 10Gi"),
    ],
)
def test_a_refused_quantity_names_the_right_form(text: str, advice: str) -> None:
    with pytest.raises(errors.BadBudget) as refused:
        quantity.parse(text, "spec.dailyLimit")
    assert refused.value.message.startswith(f"spec.dailyLimit: {text!r} is not a whole number")
    assert refused.value.message.endswith(advice)


@given(st.text(st.sampled_from("0123456789.,_ eEkKmMGgiIbB+-"), max_size=12))
def test_every_form_that_is_advised_is_one_that_is_taken(text: str) -> None:
    """For any text: each form in the advice parses."""
    advice = quantity.hint(text)
    for form in advice.removeprefix(": write ").split(" or ") if ": write " in advice else ():
        assert quantity.parse(form, "here") >= 0


@given(
    number=st.integers(0, 7),  # 8Ei is one byte too much
    suffix=st.sampled_from(sorted(quantity.UNIT.keys() - {""})),
    b=st.booleans(),
)
def test_advice_for_a_quantity_with_a_b_at_its_end_is_the_quantity(number, suffix, b) -> None:
    """For any quantity: with B behind it, or a space inside, it is among the advised forms."""
    written = f"{number} {suffix}" if b else f"{number}{suffix}B"
    advised = quantity.hint(written).removeprefix(": write ").split(" or ")
    assert any(quantity.parse(form, "") == number * quantity.UNIT[suffix] for form in advised)
