"""GPTQueue: accept a generation job, hold its price, run it once, settle, tell the customer.

The map, in the direction in which data flows; each layer imports only what stands below it
(held by ``tests/unit/test_architecture.py``)::

    api        HTTP only: parse a request, call the layer below, render the answer
    jobs       the spine: one file per arrow of a job's state machine
    billing    integer prices and an append-only ledger
    webhooks   the outbox and its signed deliveries
    accounts   who owns jobs and keys
    fleet      which workers are alive, and with which model
    catalog    the served models;  tokens: how many tokens a prompt has
    queues     the Celery application and its queues
    db, errors, logs, config

``workers`` stands beside ``api``: it imports everything here but ``app.api``.
"""
