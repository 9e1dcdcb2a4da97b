"""Where webhooks may go: a corpus of the ways in which private addresses are disguised."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import WebhookURLRefused
from app.webhooks import addresses
from app.webhooks.addresses import Address, Target

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",  # CGNAT
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.1",
    "169.254.169.254",  # the metadata service of clouds
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",  # 6to4 relay
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible 127.0.0.1
    "::808:808",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::ffff:0:127.0.0.1",  # IPv4-translated
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::808:808",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "fec0::1",  # site-local
    "ff02::1",
    "ff0e::1",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.169.0.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2606:4700::1111",
    "2a00:1450:4001::1",
]

# Each reaches this machine, by the rules of inet_aton or by name.
DISGUISED = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://0x7f.1/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://127.0.0.1:80/",
    "http://127.0.0.1./",
    "http://0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "HTTP://localhost:5432/",
]

MALFORMED = [
    "",
    "/",
    "example.com",
    "//example.com/",
    "http:",
    "http://",
    "http:///path",
    "http://:80/",
    "http://./",
    "http://../",
    "http:example.com",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://@example.com/",
    "http://:@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://example.com:port/",
    "http://example.com:65536/",
    "http://example.com:-1/",
    "http://[::1/",
    "http://::1/",
    "http://[zz]/",
    "http://a..b/",
    "http://" + "a" * 64 + ".com/",
    "http://exa mple.com/",
    "http://example.com/\r\nHost: x",
    "http://example.com/\x00",
    "http://ex\u00e4mple.com/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://example.com/" + "a" * 2048,
]


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
    target = addresses.parse(url)
    try:
        reached = addresses.vet(target, ())
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
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target, authority: str) -> None:
    assert addresses.parse(url) == target
    assert target.authority == authority


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    target = addresses.parse("https://a.example/")
    assert addresses.vet(target, (), _answers("8.8.8.8", "1.1.1.1"))
    for private in ("10.0.0.1", "::1"):
        for answers in (("8.8.8.8", private), (private, "8.8.8.8")):
            with pytest.raises(WebhookURLRefused):
                addresses.vet(target, (), _answers(*answers))


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

    addresses.check("https://later.example/", (), unknown)
    with pytest.raises(WebhookURLRefused):
        addresses.check("https://later.example/", (), _answers("10.0.0.1"))
