"""A flush says the truth: also of writes acknowledged on a session before, by a target that lost power since."""

from __future__ import annotations

import pytest

from initiator.errors import FlushInDoubt
from initiator.scsi import cdb
from tests.unit.initiator.recovery_script import ATTENTION, Call, Outage

WRITE, FLUSH = cdb.write(0, 1), cdb.synchronize_cache()
POWER_ON, RESET_OR_MORE, NEXUS_LOSS = (ATTENTION + b"\x29" + bytes((ascq,)) + bytes(4) for ascq in (1, 0, 7))


def written(outage: Outage, command: bytes = WRITE) -> Outage:
    """Have a write acknowledged."""
    outage.start(command, data_out=bytes(512))
    outage.sent()
    outage.good()
    return outage


def come_back(outage: Outage, attention: bytes, *, write_cache: bool = True) -> None:
    """A new session, whose unit has this to say."""
    outage.cut()
    outage.answer()
    while (sent := outage.sent()) == [b""]:
        if attention:
            outage.say_status(2, attention)
            attention = b""
        else:
            outage.good()
    if sent:
        assert sent[0][0] == 0x1A
        (command,) = outage.under_way
        page = bytes((23, 0, 0, 0, 0x08, 18, 4 if write_cache else 0)) + bytes(17)
        flags = {"flags": 0x83, "residual_count": 255 - len(page)}
        outage.now.say(outage.now.script.data_in(command, 0, page, 0, **flags))


def flush(outage: Outage) -> Call:
    call = outage.start(FLUSH)
    outage.sent()
    outage.good()
    return call


def test_after_a_power_on_one_flush_fails_and_the_next_is_believed() -> None:
    outage = written(Outage())
    come_back(outage, POWER_ON)
    call = flush(outage)
    assert isinstance(call.error, FlushInDoubt)
    assert "power on occurred" in str(call.error)
    assert flush(outage).done


def test_after_the_loss_of_the_nexus_alone_a_flush_is_believed() -> None:
    outage = written(Outage())
    come_back(outage, NEXUS_LOSS)
    assert flush(outage).done


def test_after_silence_a_flush_is_believed() -> None:
    outage = written(Outage())
    come_back(outage, b"")
    assert flush(outage).done


@pytest.mark.parametrize(("assume", "believed"), [(False, False), (True, True)])
def test_an_attention_that_may_be_a_power_on_is_one_unless_the_caller_says_not(assume: bool, believed: bool) -> None:
    outage = written(Outage(assume_power_kept=assume))
    come_back(outage, RESET_OR_MORE)
    assert flush(outage).done is believed


@pytest.mark.parametrize(("attention", "believed"), [(RESET_OR_MORE, True), (POWER_ON, False)])
def test_on_a_session_that_lives_on_a_reset_is_no_loss_of_power(attention: bytes, believed: bool) -> None:
    outage = written(Outage())
    call = outage.start(bytes(6))
    outage.sent()
    outage.say_status(2, attention)
    assert call.done
    assert flush(outage).done is believed


def test_a_power_on_is_believed_whatever_the_caller_assumes() -> None:
    outage = written(Outage(assume_power_kept=True))
    come_back(outage, POWER_ON)
    assert not flush(outage).done


def test_a_unit_without_a_write_cache_loses_nothing_with_its_power() -> None:
    outage = written(Outage())
    come_back(outage, POWER_ON, write_cache=False)
    assert flush(outage).done


def test_writes_that_were_flushed_or_forced_to_the_medium_are_not_in_doubt() -> None:
    outage = written(Outage(), cdb.write(0, 1, fua=True))
    come_back(outage, POWER_ON)
    assert flush(outage).done
    written(outage)
    assert flush(outage).done
    come_back(outage, POWER_ON)
    assert flush(outage).done


def test_a_flush_that_was_under_way_when_the_power_went_is_in_doubt() -> None:
    outage = written(Outage())
    call = outage.start(FLUSH)
    outage.sent()
    come_back(outage, POWER_ON)
    assert [each[0] for each in outage.sent()] == [0x35]
    outage.good()
    assert isinstance(call.error, FlushInDoubt)


def test_a_write_that_ends_while_a_flush_runs_is_not_covered_by_it() -> None:
    outage = Outage()
    write = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    call = outage.start(FLUSH)
    outage.sent()
    outage.good()
    assert write.done
    assert call.done
    come_back(outage, POWER_ON)
    assert isinstance(flush(outage).error, FlushInDoubt)


def test_a_flush_of_a_part_says_nothing_of_the_rest() -> None:
    outage = written(Outage())
    part = outage.start(cdb.synchronize_cache(0, 8))
    outage.sent()
    outage.good()
    assert part.done
    come_back(outage, POWER_ON)
    part = outage.start(cdb.synchronize_cache(0, 8))
    outage.sent()
    outage.good()
    assert isinstance(part.error, FlushInDoubt)
    assert isinstance(flush(outage).error, FlushInDoubt), "and does not take the doubt away"


def test_a_flush_that_fails_flushes_nothing() -> None:
    outage = written(Outage())
    outage.start(FLUSH)
    outage.sent()
    outage.say_status(2, b"\x70\0\x03" + bytes(9) + b"\x0c\0" + bytes(4))
    come_back(outage, POWER_ON)
    assert isinstance(flush(outage).error, FlushInDoubt)


def test_a_power_on_under_a_session_that_lasts_is_seen_too() -> None:
    outage = written(Outage())
    outage.start()
    outage.sent()
    outage.say_status(2, POWER_ON)
    assert isinstance(flush(outage).error, FlushInDoubt)


def test_doubt_outlives_a_login_that_fails_after_the_unit_has_spoken() -> None:
    outage = written(Outage())
    outage.cut()
    outage.answer()
    outage.sent()
    outage.say_status(2, POWER_ON)
    outage.now.session.link_lost("cut again")
    outage.clock.advance(1)
    outage.answer()
    outage.sent()
    outage.good()  # it has nothing more to say
    assert [each[0] for each in outage.sent()] == [0x1A]
    outage.say_status(2, b"\x70\0\x05" + bytes(9) + b"\x20\0" + bytes(4))
    assert isinstance(flush(outage).error, FlushInDoubt)
