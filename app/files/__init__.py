"""Files of customers, in PostgreSQL: every replica sees them, and no broken upload is ever seen."""
