"""Amounts: what people write, the number behind it, and the text that is given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanovirt.resources.quantities import Bits, Bytes, Quantity


@pytest.mark.parametrize(
    ("kind", "written", "amount"),
    [
        (Bytes, "4Gi", 4 * 2**30),
        (Bytes, "1.5Gi", 3 * 2**29),
        (Bytes, "0", 0),
        (Bytes, 512, 512),
        (Bits, "200M", 200_000_000),
        (Bits, "1.5G", 1_500_000_000),
    ],
)
def test_amount_is_read_and_remembers_how_it_was_written(kind: type[Quantity], written: str | int, amount: int) -> None:
    assert kind(written) == amount
    assert kind(str(kind(written))) == amount
    if isinstance(written, str):
        assert str(kind(written)) == written


@pytest.mark.parametrize(
    "written", ["", "Gi", "4GB", "4 Gi", "-4Gi", "4gi", "1e9", "0.0000001Ki", "9" * 30, "4Gi\n", "٤Gi"]
)
def test_what_is_no_amount_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(ValueError, match=r"4Gi|whole amount"):
        Bytes(written)


@given(st.integers(0, 2**59))
def test_bytes_are_written_in_the_largest_unit_that_divides_them(amount: int) -> None:
    assert Bytes(str(Bytes(amount))) == amount


def test_even_bytes_read_well() -> None:
    assert [str(Bytes(n)) for n in (0, 1, 1024, 2**30, 3 * 2**29)] == ["0", "1", "1Ki", "1Gi", "1536Mi"]


def test_truth_is_no_amount_even_after_one_was_read() -> None:
    assert Bytes(1) == 1
    with pytest.raises(ValueError, match="not an amount"):
        Bytes(True)
