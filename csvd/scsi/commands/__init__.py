"""The command table: all rows, from the modules that hold their layouts and handlers."""

from __future__ import annotations

from typing import Final

from csvd.scsi.command import tables
from csvd.scsi.commands import (
    atomic,
    buffers,
    capacity,
    defect_data,
    extended_copy,
    format_unit,
    identifying_information,
    inquiry,
    lba_status,
    log_sense,
    media,
    mode_select,
    mode_sense,
    persistent_reserve_in,
    persistent_reserve_out,
    prefetch,
    readiness,
    receive_copy_results,
    report_luns,
    reserve_release,
    sanitize,
    start_stop,
    supported,
    synchronize_cache,
    target_port_groups,
    tokens,
    unmap,
    verify,
    write_same,
)

COMMANDS: Final = (
    *readiness.COMMANDS,
    *inquiry.COMMANDS,
    *report_luns.COMMANDS,
    *capacity.COMMANDS,
    *mode_sense.COMMANDS,
    *mode_select.COMMANDS,
    *start_stop.COMMANDS,
    *media.COMMANDS,
    *synchronize_cache.COMMANDS,
    *verify.COMMANDS,
    *atomic.COMMANDS,
    *write_same.COMMANDS,
    *unmap.COMMANDS,
    *lba_status.COMMANDS,
    *prefetch.COMMANDS,
    *supported.COMMANDS,
    *format_unit.COMMANDS,
    *sanitize.COMMANDS,
    *extended_copy.COMMANDS,
    *receive_copy_results.COMMANDS,
    *tokens.COMMANDS,
    *reserve_release.COMMANDS,
    *persistent_reserve_in.COMMANDS,
    *persistent_reserve_out.COMMANDS,
    *target_port_groups.COMMANDS,
    *identifying_information.COMMANDS,
    *log_sense.COMMANDS,
    *defect_data.COMMANDS,
    *buffers.COMMANDS,
)

TABLES: Final = tables(COMMANDS)
"""The command table of each kind of logical unit."""
