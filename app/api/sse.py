"""What all server-sent events have in common
(https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

MEDIA_TYPE = "text/event-stream"
# "Do not buffer" is nginx's word for it, which others understand as well.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
# Whoever is gone is noticed by writing only, so something is written now and then.
KEEP_ALIVE_SECONDS = 15.0
