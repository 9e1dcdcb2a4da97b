"""The schema's history; ``alembic -c migrations/alembic.ini upgrade head`` brings it up to date."""
