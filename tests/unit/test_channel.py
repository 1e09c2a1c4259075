"""Does the job channel accept exactly what is proven, and prove what could end a job?"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firecrestspawner import channel, singleuser
from firecrestspawner.errors import ChannelError
from firecrestspawner.models import Secret

NONCE = "0" * 32
OTHER = "1" * 32


def body(**message: object) -> bytes:
    return json.dumps(message).encode()


def hello(line: channel.Line, nonce: str = NONCE, **extra: object) -> bytes:
    return body(message="hello", ticket=line.ticket.reveal(), nonce=nonce, job_id="17", **extra)


def read(raw: bytes) -> channel.Message:
    return channel.parse(raw)[0]


def refused(raw: bytes) -> ChannelError:
    with pytest.raises(ChannelError) as caught:
        channel.parse(raw)
    return caught.value


def test_a_hello_is_read_with_its_ticket_taken_apart() -> None:
    line = channel.Line.new()
    message = read(hello(line))
    assert isinstance(message, channel.Hello)
    assert (message.spawn_id, message.nonce, message.job_id) == (line.spawn_id, NONCE, "17")


@pytest.mark.parametrize(
    ("said", "number"), [("1234.pbs01", "1234"), ("1234.pbs01.example.org", "1234"), ("17", "17")]
)
def test_a_jobs_number_is_the_one_that_firecrest_has_for_it(said: str, number: str) -> None:
    """FirecREST cuts PBS's at the first dot, and its paths take letters and digits only."""
    line = channel.Line.new()
    raw = {"message": "hello", "ticket": line.ticket.reveal(), "nonce": NONCE, "job_id": said}
    message, _ = channel.parse(json.dumps(raw).encode())
    assert isinstance(message, channel.Hello) and message.job_id == number
    assert message.ticket_secret == line.ticket_secret


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'"hello"',
        b"[" * 5000,
        body(message="dance"),
        body(message=["hello"]),
        body(message="alive", spawn_id="0" * 16),
        body(message="alive", spawn_id="0" * 16, mac="", more=1),
        body(message="alive", spawn_id="short", mac=""),
        body(message="alive", spawn_id=7, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=[], port=1, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses="h", port=1, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=["h\n"], port=1, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=["h"] * 17, port=1, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=["h"], port=0, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=["h"], port=65536, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=["h"], port=True, mac=""),
        body(message="ready", spawn_id="0" * 16, addresses=["h"], port="80", mac=""),
        body(message="exiting", spawn_id="0" * 16, code="0", reason="", walltime=None, mac=""),
        body(message="exiting", spawn_id="0" * 16, code=0, reason="x" * 201, walltime=1, mac=""),
        body(message="exiting", spawn_id="0" * 16, code=0, reason="", walltime="1", mac=""),
    ],
)
def test_anything_but_the_documented_fields_and_types_is_a_400(raw: bytes) -> None:
    """S3."""
    assert refused(raw).status == 400


def test_an_extra_field_is_named_in_the_400() -> None:
    """S3."""
    error = refused(hello(channel.Line.new(), debug=True))
    assert error.status == 400
    assert "debug" in error.message


def test_a_body_beyond_the_bound_is_not_parsed() -> None:
    assert refused(b" " * (channel.MAX_BODY + 1)).status == 413


@given(st.binary(max_size=300))
def test_no_bytes_at_all_bring_the_parser_down(raw: bytes) -> None:
    try:
        channel.parse(raw)
    except ChannelError as error:
        assert error.status == 400


def greet(line: channel.Line, nonce: str) -> bool:
    message = read(hello(line, nonce))
    assert isinstance(message, channel.Hello)
    return line.greet(message)


def test_the_first_nonce_binds_and_may_ask_again_until_ready() -> None:
    """S4."""
    line = channel.Line.new()
    assert greet(line, NONCE) is True
    assert greet(line, NONCE) is False
    line.ready = True
    with pytest.raises(ChannelError) as caught:
        greet(line, NONCE)
    assert caught.value.status == 403


def test_another_nonce_is_refused() -> None:
    """S4."""
    line = channel.Line.new()
    greet(line, NONCE)
    with pytest.raises(ChannelError) as caught:
        greet(line, OTHER)
    assert caught.value.status == 403
    assert line.nonce == NONCE


def test_someone_elses_ticket_is_refused_and_binds_nothing() -> None:
    """S3, S4."""
    line, other = channel.Line.new(), channel.Line.new()
    stolen = channel.Hello(line.spawn_id, other.ticket_secret, NONCE, "17")
    with pytest.raises(ChannelError) as caught:
        line.greet(stolen)
    assert caught.value.status == 403
    assert line.nonce == ""


@pytest.mark.parametrize("mac", ["", "0" * 64, "ü", 7, None])
def test_a_message_with_a_wrong_signature_is_a_403(mac: object) -> None:
    line = channel.Line.new()
    _, raw = channel.parse(body(message="alive", spawn_id=line.spawn_id, mac=mac))
    with pytest.raises(ChannelError) as caught:
        line.prove(raw)
    assert caught.value.status == 403


def test_a_signature_covers_every_field() -> None:
    line = channel.Line.new()
    message = {"message": "exiting", "spawn_id": line.spawn_id, "code": 0, "reason": "x"}
    signed = channel.signed({**message, "walltime": None}, line.secret)
    line.prove(signed)
    for field in ("code", "reason", "walltime", "spawn_id"):
        with pytest.raises(ChannelError):
            line.prove({**signed, field: "other"})


def test_what_a_job_says_of_its_end_is_one_line_that_prints() -> None:
    """It goes into the Hub's log, and a job's code can say whatever it wants."""
    said = "killed\n[W 2026-11-28 06:00:00 JupyterHub] mallory is an admin\r\x1b[2J\u2028\u202eabc"
    message, _ = channel.parse(
        body(message="exiting", spawn_id="0" * 16, code=0, reason=said, walltime=1, mac="")
    )
    assert isinstance(message, channel.Exiting)
    assert message.reason.isprintable() and message.reason.startswith("killed [W 2026")


def test_hub_and_launcher_sign_alike() -> None:
    """The launcher may import nothing of ours, so its signing is written a second time."""
    message = {"message": "ready", "addresses": ["ü", "b"], "port": 7, "spawn_id": "0" * 16}
    key = channel.new_secret()
    assert channel.mac(message, key) == singleuser.signature(message, key.reveal())


def test_a_verdict_that_ends_a_job_is_signed_with_the_key_the_job_has() -> None:
    """R7: at hello that is the ticket's secret, afterwards the channel's."""
    line = channel.Line.new()
    line.ended = "stopped"
    channel.prove(line.farewell(at_hello=True), line.ticket_secret)
    channel.prove(line.farewell(), line.secret)
    with pytest.raises(ChannelError):
        channel.prove(line.farewell(), line.ticket_secret)


def test_the_answer_about_an_unknown_spawn_proves_nothing() -> None:
    """R7."""
    assert "mac" not in channel.unknown("0" * 16)


@pytest.mark.parametrize("servers", [1, 100, 1000, 10_000, 50_000])
def test_any_number_of_servers_makes_a_bounded_rate_of_calls(servers: int) -> None:
    """C4."""
    pauses = [channel.next_call(servers) for _ in range(200)]
    mean = sum(pauses) / len(pauses)
    assert servers / mean <= 21
    assert len(set(pauses)) > 1 or servers == 1


def test_no_repr_shows_a_secret() -> None:
    """S1."""
    line = channel.Line.new()
    message = read(hello(line))
    for shown in (repr(line), repr(message), f"{line.ticket}", str(Secret("abc"))):
        assert line.secret.reveal() not in shown
        assert line.ticket_secret.reveal() not in shown
        assert "abc" not in shown
