"""Where webhooks may go: what is refused, and what is not."""

import ipaddress
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings
from app.errors import WebhookURLRefused
from app.webhooks import addresses
from app.webhooks.addresses import Address, Target
from tests.destinations import DISGUISED, MALFORMED, PRIVATE, PUBLIC

NOTHING_LISTED = Settings()


def _address(text: str) -> Address:
    return ipaddress.ip_address(text)


def _answers(*texts: str) -> addresses.Resolver:
    return lambda _host, _port: [_address(text) for text in texts]


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not addresses.allowed(_address(text), ())


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_allowed(text: str) -> None:
    assert addresses.allowed(_address(text), ())


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_when_it_is_mapped_into_ipv6(
    address: ipaddress.IPv4Address,
) -> None:
    mapped = _address(f"::ffff:{address}")
    assert addresses.allowed(mapped, ()) == addresses.allowed(address, ())


@given(st.ip_addresses(v=4))
def test_no_ipv6_form_that_carries_an_ipv4_address_is_allowed(
    address: ipaddress.IPv4Address,
) -> None:
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    for form in ("::{0:x}:{1:x}", "64:ff9b::{0:x}:{1:x}", "2002:{0:x}:{1:x}::", "2001:0:{0:x}::"):
        assert not addresses.allowed(_address(form.format(high, low)), ())


@pytest.mark.parametrize("url", DISGUISED)
def test_a_disguised_way_to_this_machine_is_refused(url: str) -> None:
    try:
        reached = addresses.vet(addresses.parse(url), NOTHING_LISTED)
    except (WebhookURLRefused, OSError):
        return
    pytest.fail(f"{url} reaches {reached}")


@pytest.mark.parametrize("url", MALFORMED, ids=lambda url: ascii(url)[:40])
def test_a_malformed_url_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(WebhookURLRefused) as refused:
        addresses.parse(url)
    assert refused.value.message


@given(st.text() | st.text().map("http://{}".format) | st.from_regex(r"https?://[!-~]*"))
def test_no_text_makes_the_parser_fail_or_pass_what_no_resolver_takes(url: str) -> None:
    try:
        target = addresses.parse(url)
    except WebhookURLRefused:
        return
    assert target.scheme in {"http", "https"}
    assert target.host.encode("idna")
    assert target.path.startswith("/")
    assert target.path.isascii()
    assert target.path.isprintable()


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("http://a.example", Target("http", "a.example", 80, "/"), "a.example"),
        ("HTTPS://A.Example/x?y=1#z", Target("https", "a.example", 443, "/x?y=1"), "a.example"),
        ("https://a.example.:444", Target("https", "a.example", 444, "/"), "a.example:444"),
        (
            "http://[2606:4700::1]:8/?q",
            Target("http", "2606:4700::1", 8, "/?q"),
            "[2606:4700::1]:8",
        ),
        ("https://a.example//b", Target("https", "a.example", 443, "//b"), "a.example"),
        ("http://a.example?q", Target("http", "a.example", 80, "/?q"), "a.example"),
        ("http://a.example:0", Target("http", "a.example", 0, "/"), "a.example:0"),
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target, authority: str) -> None:
    assert addresses.parse(url) == target
    assert target.authority == authority


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    target = addresses.parse("https://a.example/")
    assert addresses.vet(target, NOTHING_LISTED, _answers("8.8.8.8", "1.1.1.1"))
    for private in ("10.0.0.1", "::1"):
        for answers in (("8.8.8.8", private), (private, "8.8.8.8")):
            with pytest.raises(WebhookURLRefused):
                addresses.vet(target, NOTHING_LISTED, _answers(*answers))


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("127.0.0.0/8", "127.0.0.1", "10.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
        ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
        ("fd00::/8", "fd12::1", "fc00::1"),
        ("::1/128", "::1", "::2"),
        ("64:ff9b::/96", "64:ff9b::7f00:1", "64:ff9b:1::1"),
        ("2001:db8::/32", "2001:db8::1", "127.0.0.1"),
    ],
)
def test_a_network_that_is_listed_is_allowed_and_nothing_beside_it(
    network: str, inside: str, outside: str
) -> None:
    networks = (ipaddress.ip_network(network),)
    assert addresses.allowed(_address(inside), networks)
    assert not addresses.allowed(_address(outside), networks)
    assert addresses.allowed(_address("8.8.8.8"), networks)


def test_a_name_that_does_not_resolve_yet_is_accepted_at_submit() -> None:
    def unknown(_host: str, _port: int) -> list[Address]:
        raise OSError

    addresses.check("https://later.example/", NOTHING_LISTED, unknown)
    with pytest.raises(WebhookURLRefused):
        addresses.check("https://later.example/", NOTHING_LISTED, _answers("10.0.0.1"))


@pytest.mark.parametrize("port", [80, 443, 1024, 8443, 65535])
def test_a_port_of_the_allow_list_is_one_to_send_to(port: int) -> None:
    addresses.check(f"http://a.example:{port}/", NOTHING_LISTED, _answers("8.8.8.8"))


@pytest.mark.parametrize("port", [0, 1, 22, 25, 79, 81, 442, 444, 1023])
def test_another_port_is_refused_but_in_a_network_that_is_listed(port: int) -> None:
    with pytest.raises(WebhookURLRefused, match=f"port {port}[.]"):
        addresses.check(f"http://a.example:{port}/", NOTHING_LISTED, _answers("8.8.8.8"))
    listed = Settings(webhook_allowed_networks="10.0.0.0/8")
    for address in ("10.0.0.1", "::ffff:10.0.0.1"):
        addresses.check(f"http://a.example:{port}/", listed, _answers(address))
    with pytest.raises(WebhookURLRefused, match=f"port {port}[.]"):
        addresses.check(f"http://a.example:{port}/", listed, _answers("10.0.0.1", "8.8.8.8"))


def test_the_allow_list_of_ports_is_a_setting() -> None:
    settings = Settings(webhook_ports="443, 8000-8100")
    assert settings.webhook_ports == ((443, 443), (8000, 8100))
    addresses.check("https://a.example:8100/", settings, _answers("8.8.8.8"))
    with pytest.raises(WebhookURLRefused):
        addresses.check("http://a.example/", settings, _answers("8.8.8.8"))
    for nonsense in ("", "http", "80-", "80--90", "80,,443", "-80"):
        with pytest.raises(ValueError, match="webhook_ports"):
            Settings(webhook_ports=nonsense)


@pytest.mark.timeout(20)
def test_a_resolver_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hangs(*_: object, **__: object) -> list[object]:
        ended.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    monkeypatch.setattr(addresses, "_RESOLVE_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        addresses.resolve("a.example", 443)
    addresses.check("https://a.example/", NOTHING_LISTED)
    ended.set()
