"""What Loki itself does, where Sluice's books rest on it."""

import pytest
import shippers
from loki.harness import Loki

pytestmark = pytest.mark.loki


@pytest.mark.parametrize("name", shippers.SHIPPERS)
def test_loki_bills_lines_and_metadata_but_no_detected_level(loki: Loki, name: str) -> None:
    tenant = f"bill-{name}"
    push = shippers.SHIPPERS[name](shippers.make_streams(1, ["shop", "pay"]))
    assert loki.send(push, tenant).status == 204
    assert loki.received_bytes(tenant) == push.billed
    assert loki.received_lines(tenant) == push.entries

    found = loki.query('{namespace=~".+"}', tenant)
    assert sum(line.billed for line in found) == push.billed
    sent = {(e.ts_ns, e.line) for stream in push.streams for e in stream.entries}
    assert {(line.ts_ns, line.line) for line in found} == sent
    assert len(found) == push.entries


def test_a_long_answer_is_read_page_by_page(loki: Loki) -> None:
    streams = shippers.make_streams(2, ["shop"], streams=3, entries=4000, line_bytes=10)
    # Pages end in the middle of equal timestamps.
    rounded = [
        shippers.Stream(s.labels, [e._replace(ts_ns=e.ts_ns // 10**8 * 10**8) for e in s.entries])
        for s in streams
    ]
    push = shippers.promtail(rounded)
    assert loki.send(push, "pages").status == 204
    found = loki.query('{namespace="shop"}', "pages")
    assert len(found) == push.entries
    assert sum(line.billed for line in found) == push.billed


def test_loki_refuses_a_push_without_streams_and_takes_one_without_entries(loki: Loki) -> None:
    assert loki.send(shippers.promtail([]), "empty").status == 422
    assert loki.send(shippers.promtail([shippers.Stream({"app": "a"}, [])]), "empty").status == 204
    assert loki.received_bytes("empty") == 0


@pytest.mark.parametrize("encoding", ["zlib", "zstd"])
def test_loki_refuses_what_sluice_has_to_encode_anew(loki: Loki, encoding: str) -> None:
    push = shippers.vector_json(shippers.make_streams(3, ["shop"]), encoding)
    assert loki.send(push, "encodings").status == 400
