"""A page to read and try the API: Swagger UI, whose files come from a package and no other host."""

from importlib.resources import files

from flask import Blueprint, Response, send_file

from app import errors
from app.api.operations import operation

blueprint = Blueprint("console", __name__)

_FILES = {
    "swagger-ui.css": "css/swagger-ui.css",
    "swagger-ui-bundle.js": "js/swagger-ui-bundle.js",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>GPTQueue API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#page", deepLinking: true, docExpansion: "list",
  defaultModelsExpandDepth: 0, validatorUrl: null, tryItOutEnabled: true
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


@operation(blueprint, "GET", "/docs", answer=None, public=True)
def docs_page() -> Response:
    """Show this document as a page to try it at: "Authorize" takes an API key."""
    response = Response(_PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@operation(
    blueprint, "GET", "/docs/<name>", answer=None, public=True, errors=(errors.RouteNotFound,)
)
def docs_file(name: str) -> Response:
    """Read a file of that page."""
    if name == "start.js":
        return Response(_START, mimetype="text/javascript")
    if name not in _FILES:
        raise errors.RouteNotFound
    path = files("flask_openapi3_swagger") / "templates" / "swagger" / _FILES[name]
    return send_file(str(path), max_age=86_400)
