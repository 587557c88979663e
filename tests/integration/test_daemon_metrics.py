"""Metrics of a running daemon: on the control socket always, at a TCP address where that is configured."""

from __future__ import annotations

import http.client
import subprocess

from tests.integration.daemon_rig import TARGET, Daemons, free_ports
from tests.unit.api.test_api_metrics import parse


def test_metrics_are_answered_on_the_control_socket_and_where_it_is_configured(daemons: Daemons) -> None:
    (port,) = free_ports(1)
    node = daemons.node(more=f'[metrics]\nlisten = "127.0.0.1:{port}"\n').start().ready()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    samples = parse(answer.read().decode())
    assert samples["csvd_unit_size_bytes"] == [({"target": TARGET, "lun": "0"}, 16 << 20)]
    assert samples["csvd_cluster_member_up"] == [({"member": "node1"}, 1)]
    assert samples["csvd_process_open_files"][0][1] > 5
    for path in ("/v1/status", "/v1/targets", "/v1/guests"):
        connection.request("GET", path)
        refused = connection.getresponse()
        assert refused.status == 404
        refused.read()
    connection.close()
    curl = ["curl", "-sf", "--unix-socket", str(node.socket), "http://csvd/metrics"]
    done = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=30)
    assert parse(done.stdout)["csvd_info"]
    assert node.terminate() == 0


def test_an_address_that_is_taken_is_one_line(daemons: Daemons) -> None:
    first = daemons.node().start().ready()
    node = daemons.node("node2", more=f'[metrics]\nlisten = "{first.portal}"\n')
    status, _, log = node.start().end_of_process()
    assert status == 1
    assert log[-1].startswith(f"csvd run: {first.portal}: can not listen for those who ask for metrics: ")
