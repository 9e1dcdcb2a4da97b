"""The outbox of events and their signed delivery, by the Standard Webhooks specification."""
