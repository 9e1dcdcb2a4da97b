"""What a view can reach: the things that ``create_app`` composed."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from app.api.authentication import Authenticator
from app.api.reading import Reader
from app.api.submitting import Submitter
from app.api.watchers import Watchers
from app.catalog import Catalog
from app.config import Settings
from app.db import Database
from app.queues import Broker


@dataclass(frozen=True, slots=True)
class Services:
    """One of each per process."""

    settings: Settings
    catalog: Catalog
    database: Database
    broker: Broker
    submitter: Submitter
    reader: Reader
    authenticator: Authenticator
    watchers: Watchers


def services() -> Services:
    """The services of the application that handles this request."""
    return cast(Services, current_app.extensions["gptqueue"])
