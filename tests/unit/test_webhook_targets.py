"""Where webhooks may go: which addresses are refused, in whatever form they come."""

import socket
import threading
from typing import Any

import pytest

from orders.webhooks import targets
from orders.webhooks.targets import BadTarget, Resolver, Target, is_public, read_target

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"]
NOT_PUBLIC = [
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3",  # noqa: S104
    "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.254", "192.0.0.8", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1", "3fff::1", "5f00::1", "4000::1",
    "not an address", "", "127.1", "0x7f000001",
]  # fmt: skip

WELL_FORMED = {
    "https://hooks.example.com/orders?shop=1": ("hooks.example.com", 443),
    "https://hooks.example.com:8443/": ("hooks.example.com", 8443),
    "HTTPS://Hooks.Example.COM": ("hooks.example.com", 443),
    "https://bücher.example/": ("xn--bcher-kva.example", 443),
    "https://hooks。example。com/": ("hooks.example.com", 443),
    "https://8.8.8.8/": ("8.8.8.8", 443),
    "https://[2606:4700:4700::1111]:444/x": ("2606:4700:4700::1111", 444),
}

REFUSED = {
    "http://hooks.example.com/": "begins with https",
    "ftp://hooks.example.com/": "begins with https",
    "file:///etc/passwd": "begins with https",
    "hooks.example.com": "begins with https",
    "//hooks.example.com/": "begins with https",
    "https:hooks.example.com": "not a host name",
    "https://": "not a host name",
    "https:///path": "not a host name",
    "https://user:secret@hooks.example.com/": "user name and password",
    "https://user@hooks.example.com/": "user name and password",
    "https://hooks.example.com@127.0.0.1/": "user name and password",
    "https://hooks.example.com/#part": "#",
    "https://hooks.example.com/#": "#",
    "https://hooks.example.com:0/": "port",
    "https://hooks.example.com:65536/": "port",
    "https://hooks.example.com:port/": "valid",
    "https://hooks.example.com/a b": "blanks",
    "https://hooks.example.com\\@evil.example/": "backslashes",
    "https://hooks.example.com/\r\nX-Evil: 1": "control characters",
    "https://hooks.example.com/\u202e": "control characters",
    "https://hooks.example.com/\x00": "control characters",
    "https://localhost/": "public internet",
    "https://shop.localhost/": "public internet",
    "https://localhost./": "dot at the end",
    "https://hooks.example.com./": "dot at the end",
    "https://intranet/": "public internet",
    "https://LOCALHOST/": "public internet",
    "https://printer.local/": "public internet",
    "https://metadata.google.internal/": "public internet",
    "https://shop.lan/": "public internet",
    "https://nas.home.arpa/": "public internet",
    "https://2130706433/": "not a host name",
    "https://0x7f000001/": "not a host name",
    "https://0x7f.1/": "not a host name",
    "https://127.1/": "not a host name",
    "https://127.0.1/": "not a host name",
    "https://017700000001/": "not a host name",
    "https://0177.0.0.1/": "valid",
    "https://127.0.0.256/": "valid",
    "https://127%2e0%2e0%2e1/": "not a host name",
    "https://①②⑦.⓪.⓪.①/": "valid",
    "https://\uff11\uff12\uff17.0.0.1/": "valid",
    "https://127.0.0.1/": "public internet",
    "https://[::1]/": "public internet",
    "https://[::ffff:127.0.0.1]/": "public internet",
    "https://[::ffff:7f00:1]/": "public internet",
    "https://[fe80::1%25eth0]/": "public internet",
    "https://[64:ff9b::7f00:1]/": "public internet",
    "https://[::1": "valid",
    "https://169.254.169.254/latest/meta-data": "public internet",
    "https://10.0.0.1:8443/": "public internet",
    "https://a_b.example/": "not a host name",
    "https://-a.example/": "not a host name",
    "https://a..example/": "not a host name",
    "https://.example.com/": "not a host name",
    "https://xn--.example/": "not a host name",
    "https://" + "a" * 64 + ".example/": "not a host name",
    "https://hooks.example.com/" + "a" * 500: "at most 500",
    "https://hooks.example.com/" + "ä" * 200: "at most 500",
}  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_address_of_the_public_internet_is_told(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_any_other_address_is_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", WELL_FORMED)
def test_well_formed_address_is_read(text: str) -> None:
    target = read_target(text)
    assert (target.host, target.port) == WELL_FORMED[text]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("https://8.8.8.8", "https://8.8.8.8/"),
        ("https://8.8.8.8:443/", "https://8.8.8.8/"),
        ("HTTPS://Hooks.Example.COM:443?shop=1", "https://hooks.example.com/?shop=1"),
        ("https://hooks.example.com/a?", "https://hooks.example.com/a?"),
        ("https://hooks.example.com:8443/A%2fb", "https://hooks.example.com:8443/A%2fb"),
        ("https://[2606:4700:4700:0:0:0:0:1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://BÜCHER.example:0443", "https://xn--bcher-kva.example/"),
        ("https://XN--BCHER-KVA.example/", "https://xn--bcher-kva.example/"),
        ("https://hooks。example。com:", "https://hooks.example.com/"),
        ("https://hooks.example.com/a/../b/./ä", "https://hooks.example.com/b/%C3%A4"),
        ("https://homelocal.example/", "https://homelocal.example/"),
    ],
)
def test_same_address_is_written_the_same(text: str, written: str) -> None:
    assert str(read_target(text)) == written
    assert str(read_target(written)) == written


@pytest.mark.parametrize("text", REFUSED)
def test_address_that_is_not_wanted_is_refused_and_says_why(text: str) -> None:
    with pytest.raises(BadTarget) as refusal:
        read_target(text)
    assert REFUSED[text] in str(refusal.value)


@pytest.mark.parametrize("text", ["http://127.0.0.1:9000/x", "http://localhost/", "https://receiver/x"])
def test_setting_allows_private_addresses(settings: Any, text: str) -> None:
    with pytest.raises(BadTarget):
        read_target(text)
    settings.WEBHOOK_ALLOW_PRIVATE = True
    assert str(read_target(text)) == text


@pytest.mark.parametrize("text", ["http://2130706433/", "http://localhost./", "http://a:b@c.example/"])
def test_setting_allows_no_odd_forms(settings: Any, text: str) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with pytest.raises(BadTarget):
        read_target(text)


# --- names ----------------------------------------------------------------------------------------------


async def find_addresses(target: Target, client_id: int = 1) -> list[str]:
    return await Resolver().find_addresses(target, client_id=client_id)


def answer_with(*addresses: str) -> Any:
    return lambda host, port: list(addresses)


@pytest.mark.parametrize("address", [address for address in NOT_PUBLIC if address])
async def test_name_with_one_address_that_is_not_public_is_refused(monkeypatch: Any, address: str) -> None:
    monkeypatch.setattr(targets, "look_up", answer_with("8.8.8.8", address, "1.1.1.1"))
    with pytest.raises(BadTarget) as refusal:
        await find_addresses(read_target("https://hooks.example.com/"))
    # For staff: clients read no delivery's errors.
    assert str(refusal.value) == f"hooks.example.com does not lead to the public internet: it is {address}."


async def test_name_with_public_addresses_is_taken(monkeypatch: Any) -> None:
    monkeypatch.setattr(targets, "look_up", answer_with("8.8.8.8", "2606:4700:4700::1111"))
    target = read_target("https://hooks.example.com/")
    assert await find_addresses(target) == ["8.8.8.8", "2606:4700:4700::1111"]


async def test_name_nobody_knows_is_refused(monkeypatch: Any) -> None:
    def fail(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(targets, "look_up", fail)
    with pytest.raises(BadTarget, match="check the host name"):
        await find_addresses(read_target("https://hooks.example.com/"))


async def test_name_server_that_hangs_holds_nobody_up(monkeypatch: Any) -> None:
    answer = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        answer.wait(30)
        return ["8.8.8.8"]

    monkeypatch.setattr(targets, "look_up", hang)
    monkeypatch.setattr(targets, "LOOK_UP_TIMEOUT", 0.2)
    try:
        with pytest.raises(BadTarget, match="could not be looked up"):
            await find_addresses(read_target("https://hooks.example.com/"))
    finally:
        answer.set()


@pytest.mark.parametrize("text", ["https://8.8.8.8/", "https://[2606:4700:4700::1111]/"])
async def test_ip_address_is_not_looked_up(monkeypatch: Any, text: str) -> None:
    monkeypatch.setattr(targets, "look_up", answer_with("10.0.0.8"))
    target = read_target(text)
    assert await find_addresses(target) == [target.host]


async def test_place_is_taken_until_its_thread_is_free(monkeypatch: Any) -> None:
    """Who stops waiting frees no place: otherwise one client could take all threads after all."""
    asked: list[str] = []
    answer = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        asked.append(host)
        answer.wait(30)
        return ["8.8.8.8"]

    monkeypatch.setattr(targets, "look_up", hang)
    monkeypatch.setattr(targets, "LOOK_UP_TIMEOUT", 0.1)
    resolver = Resolver()
    target = read_target("https://hooks.example.com/")
    try:
        for _ in range(targets.LOOK_UPS_PER_CLIENT + 3):
            with pytest.raises(BadTarget, match="could not be looked up"):
                await resolver.find_addresses(target, client_id=1)
        assert len(asked) == targets.LOOK_UPS_PER_CLIENT
    finally:
        answer.set()
    monkeypatch.setattr(targets, "LOOK_UP_TIMEOUT", 5.0)
    assert await resolver.find_addresses(target, client_id=1) == ["8.8.8.8"]
    assert len(asked) == targets.LOOK_UPS_PER_CLIENT + 1


async def test_the_systems_own_resolver_is_asked(settings: Any) -> None:
    """The one look-up that needs no network: of this machine's own name for itself."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    assert set(targets.look_up("localhost", 80)) & {"127.0.0.1", "::1"}
    settings.WEBHOOK_ALLOW_PRIVATE = False
    with pytest.raises(BadTarget):
        await find_addresses(Target(read_target("https://x.example/").url, "localhost", 80))
