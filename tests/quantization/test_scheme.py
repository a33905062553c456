import pytest

from bitroute.errors import CapabilityError, ConfigError
from bitroute.quantization.scheme import BITS, GROUPS, SLICES, Scheme, top_planes


def every_scheme() -> list[Scheme]:
    return [
        Scheme(bits, group, method, nested)
        for bits in BITS
        for group in (*GROUPS, None)
        for method in ("rtn", "gptq")
        for nested in (None, *SLICES[bits])
    ]


def test_names_and_schemes_are_one_to_one() -> None:
    schemes = every_scheme()
    assert len({str(scheme) for scheme in schemes}) == len(schemes) == 80
    assert all(Scheme.parse(str(scheme)) == scheme for scheme in schemes)
    assert str(Scheme(2, 64, "rtn")) == "w2g64-rtn"
    assert str(Scheme(8, 128, "gptq", 4)) == "w8n4g128-gptq"


def test_planes_and_bits_a_weight() -> None:
    assert Scheme(3, 64, "rtn").planes(3) == (3,)
    assert Scheme(8, 64, "rtn", 4).planes(8) == (4, 4)
    assert Scheme(4, 32, "rtn", 3).planes(4) == (3, 1)
    assert Scheme(3, 64, "rtn").bits_per_weight(256) == 3.5
    assert Scheme(2, 32, "rtn").bits_per_weight(256) == 3.0
    assert Scheme(8, 128, "rtn", 4).bits_per_weight(256) == 8.25


def test_a_whole_row_is_a_group_of_its_length() -> None:
    scheme = Scheme.parse("w3row-gptq")
    assert scheme.group is None
    assert [scheme.group_of(inputs) for inputs in (576, 1536)] == [576, 1536]
    assert scheme.bits_per_weight(1536) == 3 + 32 / 1536


def test_a_mean_lies_between_two_widths_and_needs_text_to_choose_by() -> None:
    scheme = Scheme.parse("w2.5g64-rtn")
    assert (str(scheme), scheme.levels, scheme.calibrated, scheme.bits_per_weight(64)) == ("w2.5g64-rtn", (2, 3), True, 3.0)
    assert Scheme.parse("w3.25row-gptq").levels == (3, 4)
    whole = Scheme.parse("w3g64-rtn")
    assert (whole.levels, whole.mixed, whole.calibrated) == ((3,), False, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown scheme ''"),
        ("int4", "unknown scheme 'int4'"),
        ("w4g64", "unknown scheme 'w4g64'"),
        ("w4g64-rtn ", "unknown scheme 'w4g64-rtn '"),
        ("w5g64-rtn", "5 bits are not offered, choose one of 2, 3, 4, 8, or a mean between 2 and 4"),
        ("w4.5g64-rtn", "4.5 bits are not offered"),
        ("w2.50g64-rtn", "unknown scheme 'w2.50g64-rtn'"),
        ("w3.0g64-rtn", "unknown scheme 'w3.0g64-rtn'"),
        ("w3.5n3g64-rtn", "3 bits cannot be nested in 3.5, offered: none"),
        ("w3grow-rtn", "unknown scheme 'w3grow-rtn'"),
        ("w4g48-rtn", "groups of 48 are not offered, choose one of 32, 64, 128, 192, or row"),
        ("w4g64-awq", "unknown method 'awq', choose rtn or gptq"),
        ("w8n2g64-rtn", "2 bits cannot be nested in 8, offered: 4"),
        ("w2n1g64-rtn", "1 bits cannot be nested in 2, offered: none"),
    ],
)
def test_an_unknown_scheme_is_refused_in_one_line_that_says_what_is_offered(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Scheme.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slice_ends_where_a_plane_ends() -> None:
    assert top_planes((4, 4), 4) == (4,)
    assert top_planes((4, 4), 8) == (4, 4)
    with pytest.raises(CapabilityError, match=r"planes of 4\+4 bits have no slice of 3 bits"):
        top_planes((4, 4), 3)
