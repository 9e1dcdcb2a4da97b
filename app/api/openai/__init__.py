"""OpenAI's surface under ``/v1``: the shapes of its API reference, over the same jobs.

A call is a job (``n`` choices are ``n`` jobs) that the request waits for or streams; ``bodies``
says what is taken, ``answers`` what is given, ``calls`` how a call becomes jobs and comes back.
"""
