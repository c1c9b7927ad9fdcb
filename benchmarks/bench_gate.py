"""gate.push, with its commit, against bare snappy: what a push costs beyond being unpacked."""

from typing import Any

import cramjam
import data
import orjson
import pytest
from race import add_row, ms, times
from shippers import Push, unpacked

from sluice import Gate
from sluice.wire import loki

# (teams with a budget, streams in a push): a node's pods, and pushes that many teams share.
CROWDS = [(10, 40), (10_000, 40), (1000, 1000), (10_000, 5000)]
MIB = "1 MiB"


class Pushed:
    """A push and a gate: what happens to it, and the least that this could cost."""

    def __init__(self, gate: Gate, push: Push, dialect: loki.Dialect) -> None:
        self.gate, self.push, self.dialect = gate, push, dialect
        self.encoding = push.headers.get("Content-Encoding", "")
        judgement = self.judge()
        self.forwarded: bytes | None = judgement.body
        self.kept = float(judgement.tally[:, 3].sum() / judgement.tally[:, 3:8:2].sum())
        if dialect is loki.Dialect.PROTOBUF:
            self.room = bytearray(cramjam.snappy.decompress_raw_len(push.body))
            self.filtered = cramjam.snappy.decompress_raw(self.forwarded or b"\0")

    def judge(self) -> Any:
        judgement = self.gate.push(
            self.push.body, self.encoding, now=data.NOW, dialect=self.dialect
        )
        judgement.commit()
        return judgement

    def decompress(self) -> None:
        cramjam.snappy.decompress_raw_into(self.push.body, self.room)

    def recompress(self) -> None:
        """Unpack the push, and pack what is left of it."""
        self.decompress()
        cramjam.snappy.compress_raw(self.filtered)

    def loads(self) -> None:
        """What a Python author begins with."""
        orjson.loads(unpacked(self.push.body, self.push.headers))


def gate_of(teams: int, state: str) -> Gate:
    """A gate whose teams are under budget, or half of them over it, or all in the band."""
    limits = (data.PLENTY, 0) if state == "half dropped" else (data.PLENTY,)
    gate = Gate(data.budgets(teams, limits))
    if state == "half sampled":
        team = gate.resolve([data.team_name(i) for i in range(teams)])
        gate.evaluate(team, [data.PLENTY * 9 // 10] * teams, now=data.NOW)
    return gate


def run(race: Any, push: Push, state: str, teams: int, streams: int) -> None:
    case = Pushed(gate_of(teams, state), push, loki.Dialect.PROTOBUF)
    rivals = {"decompress": case.decompress}
    if state == "under budget":
        assert case.forwarded == push.body
    else:
        assert 0.4 < case.kept < 0.6
        rivals["recompress"] = case.recompress
    result = race(case.judge, rivals, rounds=100)
    raw = ms(result.best("recompress")) if "recompress" in rivals else ""
    ratio = times(result.ratio("recompress")) if "recompress" in rivals else ""
    add_row(
        f"gate.push and commit, {state}",
        raw_log=next(name for name, n in data.SIZES.items() if abs(push.billed / n - 1) < 0.1),
        teams=teams,
        streams=streams,
        ms=ms(result.best()),
        decompression_ms=ms(result.best("decompress")),
        of_decompression=times(result.ratio("decompress")),
        **({"and recompression ms": raw, "of both": ratio} if raw else {}),
    )


@pytest.mark.parametrize("size", data.SIZES)
@pytest.mark.parametrize("state", ["under budget", "half dropped", "half sampled"])
def bench_push(race: Any, state: str, size: str) -> None:
    push = data.push(data.SIZES[size])
    run(race, push, state, 1000, len(push.streams))


@pytest.mark.parametrize(("teams", "streams"), CROWDS)
@pytest.mark.parametrize("state", ["under budget", "half dropped", "half sampled"])
def bench_push_of_crowds(race: Any, state: str, teams: int, streams: int) -> None:
    run(race, data.push(data.SIZES[MIB], teams, streams), state, teams, streams)


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("state", ["under budget", "half dropped", "half sampled"])
def bench_json(race: Any, state: str, encoding: str) -> None:
    case = Pushed(
        gate_of(1000, state), data.json_push(data.SIZES[MIB], encoding), loki.Dialect.JSON
    )
    result = race(case.judge, {"loads": case.loads})
    add_row(
        "gate.push and commit, JSON, 1 MiB of raw log",
        encoding=encoding or "none",
        state=state,
        ms=ms(result.best()),
        orjson_loads_ms=ms(result.best("loads")),
        of_orjson_loads=times(result.ratio("loads")),
    )
