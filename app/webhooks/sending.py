"""One attempt to deliver one event.

The name is resolved once, every answer is vetted, and exactly that address is connected to, with
the Host header and the TLS name of the URL; so a resolver that changes its answer gains nothing.
Redirects are not followed.
"""

import time

import urllib3
from urllib3.exceptions import HTTPError

from app.config import Settings
from app.errors import WebhookURLRefused
from app.webhooks import addresses, signing
from app.webhooks.addresses import Address, Resolver, Target
from app.webhooks.outbox import Answer, Parcel


def send(parcel: Parcel, settings: Settings, resolver: Resolver = addresses.resolve) -> Answer:
    """Post the event; every way in which that can go wrong is an Answer, not an exception."""
    try:
        target = addresses.parse(parcel.url)
        reachable = addresses.vet(target, settings.webhook_allowed_networks, resolver)
        return _post(parcel, target, reachable[0], settings.webhook_timeout_seconds)
    except WebhookURLRefused as error:
        return Answer(error=error.message)
    except OSError:
        return Answer(error="The host name does not resolve.")
    except HTTPError as error:
        return Answer(error=type(error).__name__)


def _post(parcel: Parcel, target: Target, address: Address, timeout: float) -> Answer:
    signed = signing.headers(
        parcel.secret,
        parcel.body,
        message_id=f"msg_{parcel.id.hex}",
        timestamp=int(time.time()),
    )
    with _pool(target, address, timeout) as pool:
        response = pool.urlopen(
            "POST",
            target.path,
            body=parcel.body,
            headers={
                "Host": target.authority,
                "Content-Type": "application/json",
                "User-Agent": "GPTQueue-Webhooks/1",
                **signed,
            },
            redirect=False,
            retries=False,
            preload_content=False,
            assert_same_host=False,
        )
        status, retry_after = response.status, response.headers.get("Retry-After", "")
        response.close()  # what it says beyond its status does not matter
    seconds = int(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    return Answer(status=status, retry_after_seconds=seconds)


def _pool(target: Target, address: Address, timeout: float) -> urllib3.HTTPConnectionPool:
    limits = urllib3.Timeout(total=timeout)
    if target.scheme == "http":
        return urllib3.HTTPConnectionPool(str(address), target.port, timeout=limits)
    return urllib3.HTTPSConnectionPool(
        str(address),
        target.port,
        timeout=limits,
        server_hostname=target.host,
        assert_hostname=target.host,
    )
