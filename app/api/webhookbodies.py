"""What clients say of webhook endpoints and their deliveries."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field

from app.api.payloads import PageQuery
from app.jobs.bodies import Body, NonEmpty, Text
from app.webhooks.events import EventType
from app.webhooks.signing import is_secret
from app.webhooks.tables import SubscriptionState


def _a_secret(text: str) -> str:
    if not is_secret(text):
        raise ValueError("is not whsec_ and 24 to 64 bytes in base64")
    return text


Url = Annotated[NonEmpty, Field(max_length=2048)]
Description = Annotated[Text, Field(max_length=256)]
Events = Annotated[list[EventType], Field(max_length=100, description="None stands for all.")]


class NewEndpointBody(Body):
    """An endpoint to be told of the account's events."""

    url: Url
    description: Description = ""
    events: Events = Field([])
    secret: Annotated[str, AfterValidator(_a_secret)] | None = Field(
        None, description="whsec_ and 24 to 64 bytes in base64; a new one if there is none."
    )


class EndpointChangeBody(Body):
    """What to change; what is absent or null stays as it is."""

    url: Url | None = None
    description: Description | None = None
    events: Events | None = None
    state: SubscriptionState | None = None


class ReplayBody(Body):
    """From when on to send again what failed."""

    since: AwareDatetime = Field(description="By when it was recorded first.")


class DeliveriesQuery(PageQuery):
    """Which deliveries to list, newest first."""

    endpoint: UUID | None = None
    job: UUID | None = None
    state: Literal["pending", "delivered", "abandoned"] | None = None
    since: AwareDatetime | None = Field(None, description="By when it was recorded first.")
