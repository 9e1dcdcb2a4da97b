"""The engine ``openai``: any server beside the worker that speaks OpenAI's API, over HTTP.

``protocol`` says what is sent and reads what comes, ``link`` is one kept connection, ``call`` one
request on its way, ``engine`` has the threads and decides when a request is sent again.
"""
