"""What HTTP adds around every answer: compression, and the origins whose pages may ask."""

from flask import Flask
from flask_compress import Compress
from flask_cors import CORS

from app.api.openai.streams import CHARGED_HEADER, JOBS_HEADER
from app.config import Settings

_SHOWN = ["ETag", "Location", "Retry-After", "X-Request-ID", JOBS_HEADER, CHARGED_HEADER]


def install(app: Flask, settings: Settings) -> None:
    """Compress what is long and asked for so (not streams); answer browsers by the setting."""
    app.config.update(
        COMPRESS_MIMETYPES=["application/json", "application/problem+json"],
        COMPRESS_MIN_SIZE=1000,
        COMPRESS_STREAMS=False,
    )
    Compress(app)
    if settings.cors_origins:
        CORS(app, origins=list(settings.cors_origins), expose_headers=_SHOWN, max_age=3600)
