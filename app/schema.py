"""Every declared table. A process imports this before its first query, and so do migrations."""

from app.accounts import tables as accounts
from app.billing import tables as billing
from app.db import Base
from app.fleet import tables as fleet
from app.jobs import tables as jobs
from app.webhooks import tables as webhooks

PARTS = (accounts, billing, fleet, jobs, webhooks)
metadata = Base.metadata
