"""Every declared table. A process imports this before its first query, and so do migrations."""

from app.accounts import tables as accounts
from app.batches import tables as batches
from app.billing import tables as billing
from app.db import Base
from app.files import tables as files
from app.fleet import tables as fleet
from app.jobs import tables as jobs
from app.webhooks import tables as webhooks

PARTS = (accounts, batches, billing, files, fleet, jobs, webhooks)
metadata = Base.metadata
