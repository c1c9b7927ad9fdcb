"""`sluice top` and an API: how it is asked, and what is said of one that is no help."""

import json
import ssl
from pathlib import Path

import pytest
import trustme
from harness import free_port
from top.harness import NOWHERE, Handler, answer, complaint, team, top

# an API that is no help


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((500, '{"error": "internal error: KeyError", "status": 500}'), "answered 500: internal"),
        ((503, "no"), "answered 503: Service Unavailable"),
        ((404, "<html>"), "answered 404: Not Found"),
        ((302, ""), "answered 302: Found"),
        ((403, '{"error": "\\u001b[2Jno"}'), "answered 403: ?[2Jno. Give --token-file"),
        ((200, ""), "is no JSON: is it Sluice?"),
        ((200, "<html>"), "is no JSON: is it Sluice?"),
        ((200, b"\xff\xfe\x00"), "is no JSON"),
        ((200, "[" * 100_000), "is no JSON"),
        ((200, "9" * 5000), "is no JSON"),
        ((200, "[]"), "is no list of teams"),
        ((200, "null"), "is no JSON"),
        ((200, "{}"), "is no list of teams (KeyError('time'))"),
        ((200, '{"time": 5, "teams": []}'), "is no list of teams"),
        ((200, '{"time": "2026-11-23T12:00:00Z", "teams": [5]}'), "is no list of teams"),
        ((200, json.dumps(answer(team(5)))), "5 is not a string"),  # type: ignore[arg-type]
        ((200, json.dumps(answer(team("a", currentUsage=1.5)))), "1.5 is not a number of bytes"),
        ((200, json.dumps(answer(team("a", currentUsage=-1)))), "-1 is not a number of bytes"),
        ((200, json.dumps(answer(team("a", percent="\x1b[2J")))), "is no list of teams"),
        ((200, json.dumps(answer(team("a", forecast=5)))), "is no list of teams"),
        ((200, json.dumps(answer(team("a", forecast={"trend": "up"})))), "is no list of teams"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence_and_exit_code_1(fake, reply, words):
    fake.reply = reply
    line = complaint(fake.url, "--once")
    assert line.startswith(f"sluice top: {fake.url} answered ")
    assert words in line


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"\x1b[2J220 mail.example ESMTP\r\n")


def nothing(handler: Handler) -> None:
    handler.connection.close()


@pytest.mark.parametrize(
    ("reply", "words"),
    [(garbage, "mail.example"), (nothing, "Remote end closed connection without response")],
)
def test_what_is_no_http_is_one_sentence_and_exit_code_1(fake, reply, words):
    fake.reply = reply
    assert words in complaint(fake.url)


def test_nobody_there_is_one_sentence_and_exit_code_1():
    assert complaint(f"http://127.0.0.1:{free_port()}").endswith(": Connection refused")
    said = complaint("http://no.such.host.invalid")
    assert said.startswith("sluice top: http://no.such.host.invalid: ")


def test_an_api_that_hangs_is_given_up(fake):
    fake.hang()
    assert complaint(fake.url).endswith("no answer in 5 s")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--url", "ftp://a"], "expected a URL such as"),
        (["--url", "http://a:99999"], "expected a URL with a port from 1 to 65535"),
        (["--sort", "size"], "is not one of"),
        (["--interval", "0"], "not in the range"),
        (["--limit", "0"], "not in the range"),
        (["--ca", "/nowhere"], "does not exist"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(args, words):
    done = top(NOWHERE, *args)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    said = complaint(NOWHERE, "--token-file", str(tmp_path / "none"))
    assert f"token file {tmp_path / 'none'}: No such file" in said


# how it asks


def test_it_asks_below_the_path_of_the_url_and_shows_no_password(fake):
    url = fake.url.replace("http://", "http://ada:secret@")
    assert top(f"{url}/sluice/", "--once").returncode == 0
    assert fake.seen == [("/sluice/api/teams", None)]
    fake.reply = (500, "")
    said = complaint(f"{url}/sluice", "--once")
    assert "secret" not in said
    assert "/sluice answered 500" in said


def test_certificates_are_checked_and_those_of_ca_trusted(fake, tmp_path: Path):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    fake.socket = tls.wrap_socket(fake.socket, server_side=True)
    fake.has(team("shop"))
    url = fake.url.replace("http:", "https:")
    assert "--ca FILE says which certificates to trust" in complaint(url)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    assert "shop" in top(url, "--ca", str(file)).stdout
    file.write_text("no certificate")
    done = top(url, "--ca", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr
