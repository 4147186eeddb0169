"""The embedded services as a developer meets them: real processes, each test in a data dir of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest

from config.embedded import read_status
from config.embedded.guardian import FIRST_CLIENT_SECONDS, LINGER_SECONDS
from config.embedded.postgres import choose_account
from tests.local_services import (
    ALL,
    CHECKOUT,
    client_environment,
    fetch,
    find_processes,
    find_processes_by_service,
    has_workflow,
    list_mail,
    query,
    read_services,
    running,
    send_mail,
    start_client,
    start_workflow,
    stat_modes,
    wait_until,
    wait_until_nothing_is_left,
)


def test_services_are_ready_local_private_and_keep_their_data(data_dir: Path) -> None:
    before = stat_modes(data_dir, CHECKOUT, Path(sys.executable), Path("/var/tmp"))  # noqa: S108
    with running(data_dir, ALL) as client:
        first = client.environment
        assert first["ORDER_DESK_EMBEDDED"] == "1"
        assert query(first, "SHOW max_connections") == [("200",)]
        assert query(first, "SHOW server_version_num")[0][0] >= "180000"
        query(first, "CREATE TABLE kept (name text)")
        query(first, "INSERT INTO kept VALUES ('row')")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(first["DATABASE_URL"].replace("orders:", "orders:wrong"), connect_timeout=5)
        start_workflow(first, "kept")
        assert b"<html" in fetch(first["TEMPORAL_UI_URL"]).lower()
        fetch(f"{first['PAYMENT_GATEWAY_URL']}/health")
        send_mail(first, to="Ada <ada@example.org>", subject="kept")

        services = read_services(data_dir)
        pids = {service["pid"] for service in services.values()}
        sockets = [one for pid in pids for one in psutil.Process(pid).net_connections("tcp")]
        sockets = [one for one in sockets if one.status == "LISTEN"]
        assert len(sockets) >= 8
        assert {one.laddr.ip for one in sockets} == {"127.0.0.1"}
        for name in ("postgres-password", "secret-key", "temporal.db", "gateway.sqlite3", "guardian.sock"):
            assert (data_dir / name).stat().st_mode & 0o077 == 0, name
        assert set(services) <= set(find_processes_by_service(data_dir))
    wait_until_nothing_is_left(data_dir)

    with running(data_dir, ALL) as client:
        second = client.environment
        assert second["DJANGO_SECRET_KEY"] == first["DJANGO_SECRET_KEY"]
        assert second["DATABASE_URL"] == first["DATABASE_URL"]
        assert query(second, "SELECT name FROM kept") == [("row",)]
        assert has_workflow(second, "kept")
        assert [one["subject"] for one in list_mail(second)] == ["kept"]
    assert stat_modes(*before).items() >= before.items()


def test_mail_sink_shows_what_it_caught_and_runs_none_of_it(data_dir: Path) -> None:
    with running(data_dir, "mail") as client:
        sink = client.environment["MAIL_SINK_URL"]
        assert list_mail(client.environment) == []
        assert b"No message yet" in fetch(sink)
        send_mail(client.environment, to="ada@example.org", subject="one")
        both = "Grace <grace@example.org>, ada@example.org"
        broken = "<<b>two</b>@example.org>"  # Python's own parser crashes on it
        send_mail(client.environment, to=both, subject="<b>two</b>", message_id=broken)

        caught = list_mail(client.environment)
        assert [one["subject"] for one in caught] == ["<b>two</b>", "one"]
        assert caught[0]["message_id"] == broken
        assert caught[1] | {"headers": None, "key": None, "received_at": None} == {
            "message_id": "<1@example.org>", "to": "ada@example.org", "from": "desk@example.org",
            "subject": "one", "headers": None, "key": None, "received_at": None,
        }  # fmt: skip
        assert [one["subject"] for one in list_mail(client.environment, "?to=GRACE@example.org")] == [
            "<b>two</b>"
        ]
        assert b"<b>two" not in fetch(sink)
        page = fetch(f"{sink}/messages/{caught[1]['key']}")
        assert b"plain &lt;text&gt;" in page
        assert b"alert(1)" not in page
        with urllib.request.urlopen(f"{sink}/messages/{caught[1]['key']}/html", timeout=10) as part:  # noqa: S310
            assert b"<p>rich</p>" in part.read()
            policy = part.headers["Content-Security-Policy"]
        assert "sandbox" in policy
        assert "script-src" not in policy
        assert "default-src 'none'" in policy
        with pytest.raises(urllib.request.HTTPError, match="404") as refused:
            fetch(f"{sink}/messages/../../../etc/passwd")
        refused.value.close()


def test_clients_share_one_guardian_until_the_last_is_killed(data_dir: Path) -> None:
    both = [start_client(data_dir, "postgres,gateway,mail", wait=False) for _ in range(2)]
    for client in both:
        client.read_answer()
    first, second = both
    assert first.environment == second.environment
    status = read_status(data_dir)
    assert sorted(one["pid"] for one in status["clients"]) == sorted(one.process.pid for one in both)
    # Ctrl-C goes to the terminal's foreground processes: the guardian is not among them.
    assert os.getsid(status["guardian_pid"]) != os.getsid(first.process.pid)

    first.leave()
    wait_until(lambda: len(read_status(data_dir)["clients"]) == 1)
    time.sleep(LINGER_SECONDS + 0.3)  # past the moment at which a guardian without clients would stop
    assert query(second.environment, "SELECT 1") == [(1,)]
    assert read_status(data_dir)["guardian_pid"] == status["guardian_pid"]

    second.kill()
    wait_until_nothing_is_left(data_dir)
    wait_until(lambda: not read_status(data_dir)["running"])  # the kernel frees the lock last
    assert read_status(data_dir) == {"guardian_pid": None, "clients": [], "services": {}, "running": False}


def test_client_killed_during_the_start_leaves_nothing(data_dir: Path) -> None:
    client = start_client(data_dir, ALL, wait=False)
    wait_until(lambda: len(find_processes(data_dir)) >= 3)
    client.kill()
    wait_until_nothing_is_left(data_dir)
    with running(data_dir, ALL) as client:
        assert query(client.environment, "SELECT 1") == [(1,)]


def test_killed_guardian_leaves_nothing(data_dir: Path) -> None:
    with running(data_dir, ALL) as client:
        assert set(find_processes_by_service(data_dir)) == set(ALL.split(","))
        os.kill(read_status(data_dir)["guardian_pid"], signal.SIGKILL)
        wait_until_nothing_is_left(data_dir)
        assert client.process.poll() is None  # not even a signal for the client
        wait_until(lambda: not read_status(data_dir)["running"])


def test_client_can_tell_that_its_guardian_was_killed(data_dir: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from config.embedded import attach_services, is_connection_lost\n"
        "attach_services(Path.cwd(), 'x', need={'mail'})\n"
        "while True: print(is_connection_lost(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=client_environment(data_dir),
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "False\n"
        guardian = read_status(data_dir)["guardian_pid"]
        os.kill(guardian, signal.SIGKILL)
        pipes = client.stdin, client.stdout

        def has_noticed() -> bool:
            pipes[0].write("\n")
            pipes[0].flush()
            return pipes[1].readline() == "True\n"

        wait_until(has_noticed)
        client.kill()


def test_removed_data_dir_keeps_nothing_alive(data_dir: Path) -> None:
    client = start_client(data_dir, ALL)
    assert set(find_processes_by_service(data_dir)) == set(ALL.split(","))
    shutil.rmtree(data_dir, ignore_errors=True)  # `make clean` while the demo runs
    assert not (data_dir / "guardian.json").exists()
    client.kill()
    # Sooner than a guardian gives up on its first client, which would hide that the last one's end is missed.
    wait_until(lambda: not find_processes(data_dir), FIRST_CLIENT_SECONDS / 2)


def test_next_start_recovers_from_orphans_when_guardian_and_minders_were_killed(data_dir: Path) -> None:
    with running(data_dir, ALL) as client:
        query(client.environment, "CREATE TABLE kept (name text)")
        start_workflow(client.environment, "kept")
        status = read_status(data_dir)
        services = status["services"]
        # Minders first would be seen by the guardian; stopped, it cannot react before it dies too.
        os.kill(status["guardian_pid"], signal.SIGSTOP)
        for pid in (services["postgres"]["minder_pid"], services["temporal"]["minder_pid"]):
            os.kill(pid, signal.SIGKILL)
        os.kill(status["guardian_pid"], signal.SIGKILL)
    orphans = {services["postgres"]["pid"], services["temporal"]["pid"]}
    wait_until(lambda: status["guardian_pid"] not in find_processes(data_dir))
    assert orphans <= set(find_processes(data_dir))  # control: there is something to recover from

    with running(data_dir, ALL) as client:
        assert not orphans & set(find_processes(data_dir))
        assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]
        assert has_workflow(client.environment, "kept")
    wait_until_nothing_is_left(data_dir)


def test_terminated_guardian_stops_everything_and_a_client_that_comes_meanwhile_gets_the_next(
    data_dir: Path,
) -> None:
    with running(data_dir, "postgres,temporal"):
        old = read_status(data_dir)
        # `stop` sends SIGTERM to the guardian.
        stop = [sys.executable, "-m", "config.embedded", "stop"]
        subprocess.run(stop, cwd=CHECKOUT, env=client_environment(data_dir), check=True, timeout=20)
        with running(data_dir, "postgres,temporal") as late:
            assert query(late.environment, "SELECT 1") == [(1,)]
            now = read_status(data_dir)
            assert now["guardian_pid"] != old["guardian_pid"]
            stopped = {old["guardian_pid"], *(service["pid"] for service in old["services"].values())}
            assert not stopped & set(find_processes(data_dir))
            assert "database system is shut down" in (data_dir / "logs" / "postgres.log.1").read_text()
            assert (data_dir / "logs" / "guardian.log.1").read_text().endswith("INFO stopped\n")
            os.kill(now["guardian_pid"], signal.SIGTERM)
            wait_until_nothing_is_left(data_dir)
    assert not (data_dir / "guardian.sock").exists()


def test_killed_service_comes_back_on_its_port_with_its_data(data_dir: Path) -> None:
    with running(data_dir, ALL) as client:
        query(client.environment, "CREATE TABLE kept (name text)")
        start_workflow(client.environment, "kept")
        before = read_services(data_dir)
        for service in before.values():
            os.kill(service["pid"], signal.SIGKILL)

        def came_back() -> bool:
            now = read_services(data_dir)
            return all(
                now[name]["state"] == "ready" and now[name]["pid"] != before[name]["pid"] for name in before
            )

        wait_until(came_back)
        after = read_services(data_dir)
        for name in before:
            ports = {key for key in before[name] if key.endswith("port")}
            assert {key: after[name][key] for key in ports} == {key: before[name][key] for key in ports}
            assert after[name]["restarts"] >= 1
        assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]
        assert has_workflow(client.environment, "kept")
        send_mail(client.environment, to="ada@example.org")

        # A killed minder leaves its PostgreSQL behind: that one is stopped before the next is started.
        orphan = after["postgres"]["pid"]
        os.kill(after["postgres"]["minder_pid"], signal.SIGKILL)
        wait_until(lambda: read_services(data_dir)["postgres"]["pid"] not in (orphan, None))
        wait_until(lambda: read_services(data_dir)["postgres"]["state"] == "ready")
        assert not psutil.pid_exists(orphan)
        assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]


def test_stale_files_of_a_crashed_machine_are_no_obstacle_and_reused_pids_are_spared(data_dir: Path) -> None:
    with running(data_dir, "postgres") as client:
        query(client.environment, "CREATE TABLE kept (name text)")
    wait_until_nothing_is_left(data_dir)
    account = choose_account()
    stranger = subprocess.Popen(["/bin/sleep", "300"], cwd="/", **account.drop_arguments())
    try:
        cluster = data_dir / "postgres" / "data"
        (cluster / "postmaster.pid").write_text(f"{stranger.pid}\n{cluster}\n1\n5432\n\n127.0.0.1\n")
        record = {"pid": stranger.pid, "created": psutil.Process(stranger.pid).create_time(), "marker": "x"}
        for name in ALL.split(","):
            (data_dir / "run" / f"{name}.json").write_text(json.dumps(record))
        abandoned = socket.socket(socket.AF_UNIX)
        abandoned.bind(str(data_dir / "guardian.sock"))
        abandoned.close()
        (data_dir / "guardian.json").write_text(
            json.dumps({"guardian_pid": stranger.pid, "socket": str(data_dir / "guardian.sock")})
        )
        (data_dir / "guardian.lock").write_text("held by nobody")
        (data_dir / "ports.json").write_text('{"postgres": 2')
        (data_dir / "temporal.db").write_bytes(b"")  # its making was cut short
        unfinished = data_dir / "postgres" / "data.99999"  # so was this initdb
        unfinished.mkdir()

        with running(data_dir, ALL) as client:
            assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]
            assert not unfinished.exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_emptied_data_dir_starts_afresh(data_dir: Path) -> None:
    with running(data_dir, "postgres") as client:
        query(client.environment, "CREATE TABLE old (name text)")
    wait_until_nothing_is_left(data_dir)
    (data_dir / "postgres-password").unlink()
    with running(data_dir, "postgres") as client:
        assert query(client.environment, "SELECT to_regclass('old')") == [(None,)]
        assert any("set aside" in note for note in client.answer["notes"])
    assert (data_dir / "postgres" / "data.previous" / "PG_VERSION").exists()


def test_two_data_dirs_do_not_touch_each_other(data_dir: Path) -> None:
    other = data_dir / "test"  # as `.local/test` lies in `.local`
    with running(data_dir, "postgres,mail") as demo:
        with running(other, "postgres,mail") as suite:
            assert not set(demo.environment.values()) & set(suite.environment.values()) - {"1", "127.0.0.1"}
            query(demo.environment, "CREATE TABLE demo_only (name text)")
            assert query(suite.environment, "SELECT to_regclass('demo_only')") == [(None,)]
            send_mail(demo.environment, to="ada@example.org")
            assert list_mail(suite.environment) == []
        wait_until(lambda: not read_status(other)["running"])
        assert query(demo.environment, "SELECT count(*) FROM demo_only") == [(0,)]


def test_taken_ui_port_is_replaced_and_told(data_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # taken by someone else is just as good
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        client = stack.enter_context(running(data_dir, "temporal"))
        address = client.environment["TEMPORAL_UI_URL"]
        assert not address.endswith(":8080")
        assert f"port 8080 is taken, Temporal UI is on {address}" in client.answer["notes"]
        assert b"<html" in fetch(address).lower()


def test_deep_data_dir_gets_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("x" * 60) / ("y" * 60)
    with running(deep, "mail") as client:
        send_mail(client.environment, to="ada@example.org")
        place = Path(read_status(deep)["socket"])
        assert len(os.fsencode(place)) < 100
        assert place.parent.stat().st_mode & 0o077 == 0
    wait_until(lambda: not read_status(deep)["running"])
    assert not place.parent.exists()


def test_service_that_cannot_start_is_explained_with_its_log(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "mail").write_text("not a directory")
    client = start_client(data_dir, "mail")
    client.leave()
    assert client.process.returncode == 1
    assert "mail sink ended with code 1" in client.answer["error"]
    assert str(data_dir / "logs" / "mail.log") in client.answer["error"]
    assert "set EMAIL_HOST to an SMTP server" in client.answer["error"]
