"""The API as ``scripts/up`` uses it: over HTTP, like any customer."""

from typing import Any

import requests

Json = dict[str, Any]


def answers(url: str) -> bool:
    """Whether something says 200 at this local address."""
    with requests.Session() as session:
        session.trust_env = False  # a proxy has no business with 127.0.0.1
        try:
            return session.get(url, timeout=5).status_code == 200
        except requests.RequestException:
            return False


class Client:
    """One API and one key."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = f"{url}/api/v1"
        self._session = requests.Session()
        self._session.trust_env = False
        # A connection kept open would keep the API from stopping at once.
        self._session.headers["Connection"] = "close"
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def healthy(self) -> bool:
        """Whether the API answers."""
        return answers(f"{self._url}/health")

    def has_worker(self, model: str, state: str, name: str = "") -> bool:
        """Whether a worker of this model is in this state: loading, ready or failed; and whether
        the engine of one with this ``name`` has loaded.
        """
        try:
            status = self._session.get(f"{self._url}/status", timeout=5).json()
        except requests.RequestException:
            return False
        found = status.get("models", {}).get(model, {})
        loaded = {engine["worker"] for engine in found.get("engines", ())}
        return bool(found.get("workers", {}).get(state, 0) > 0) and (not name or name in loaded)

    def chat(self, request: Json) -> requests.Response:
        """Submit a chat job."""
        return self._session.post(f"{self._url}/chat", json=request, timeout=10)

    def job(self, job_id: str, wait_seconds: int) -> Json:
        """The job; at once when it has ended, else after this many seconds."""
        answer = self._session.get(
            f"{self._url}/jobs/{job_id}",
            headers={"Prefer": f"wait={wait_seconds}"},
            timeout=wait_seconds + 10,
        )
        answer.raise_for_status()
        job: Json = answer.json()
        return job
