"""What an engine's process finds in its environment."""

import pytest

from app.config import engine_environment


def test_openmp_spins_for_a_short_while_whatever_the_worker_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    environment = engine_environment()
    assert environment["GOMP_SPINCOUNT"] == "2000"
    assert "OMP_WAIT_POLICY" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


def test_the_spins_that_an_operator_chose_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert engine_environment()["GOMP_SPINCOUNT"] == "7"
