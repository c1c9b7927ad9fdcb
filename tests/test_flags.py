"""Flags that are refused, with what is wrong and what is expected."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sluice import flags, settings
from sluice.commands import main


def refused(*words: str) -> str:
    """What the command prints when it refuses these words; it must end with exit code 2."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


RUN = ("run", "--budgets", "b.yaml", "--upstream", "http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["ns,team", "bad label", "", "a-b", "a.b", "1a"])
def test_a_namespace_label_is_the_name_of_one_label(name: str) -> None:
    said = refused(*RUN, "--namespace-label", name)
    assert f"expected the name of one label, such as namespace, got {name!r}" in said


@pytest.mark.parametrize(
    ("again", "value"), [("--budgets", "c.yaml"), ("--upstream", "http://127.0.0.1:8")]
)
def test_two_of_a_flag_whose_first_would_be_lost_are_refused(again: str, value: str) -> None:
    assert f"{again} was given 2 times: give it once" in refused(*RUN, again, value)


def test_the_agent_refuses_two_upstreams_too() -> None:
    said = refused("agent", "--upstream", "http://a", "--upstream", "http://b")
    assert "--upstream was given 2 times: give it once" in said


def test_a_flag_that_may_be_repeated_is_taken_as_often_as_it_is_given(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    labels = ("--namespace-label", "ns", "--namespace-label", "team")
    done = CliRunner().invoke(
        main, ["run", "--budgets", str(missing), "--upstream", "http://127.0.0.1:9", *labels]
    )
    # Its first mistake is the missing file.
    assert "none.yaml" in done.output
    assert "given" not in done.output


@pytest.mark.parametrize(
    ("type_", "value", "wanted"),
    [
        (flags.AddressType(), " 127.0.0.1:8080\n", settings.Address("127.0.0.1", 8080)),
        (flags.UrlType(), "\thttp://prometheus:9090/ \n", "http://prometheus:9090"),
        (flags.SinkType(), "alertmanager://a:9093 ", "alertmanager://a:9093"),
    ],
)
def test_white_space_around_an_address_is_not_a_part_of_it(type_, value, wanted):
    assert type_.convert(value, None, None) == wanted


@pytest.mark.parametrize("port", ["0", "65536", "99999", "http"])
def test_a_port_that_is_none_is_said_without_the_rest_of_a_url(port):
    with pytest.raises(click.BadParameter, match="from 1 to 65535") as caught:
        flags.UrlType().convert(f"http://user:secret@prometheus:{port}", None, None)
    assert "secret" not in caught.value.message
