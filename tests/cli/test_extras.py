"""Optional packages: advice where one is missing, and only there."""

import pytest

from potluck.cli.extras import MissingExtra, needs


@pytest.mark.parametrize("name", ["torch", "transformers", "psutil"])
def test_a_missing_package_becomes_advice(name: str):
    with (
        pytest.raises(MissingExtra, match=f"this command needs {name}, which is not installed") as caught,
        needs("client"),
    ):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert caught.value.__notes__ == ["fix: pip install 'potluck[client]'"]


@pytest.mark.parametrize("name", ["potluck.client.sessions", "potluck.clients", None])
def test_a_missing_module_of_our_own_is_our_bug(name: str | None):
    with pytest.raises(ModuleNotFoundError), needs("client"):
        raise ModuleNotFoundError("No module", name=name)


def test_what_goes_well_and_what_fails_otherwise_pass_through():
    with needs("client"):
        pass
    with pytest.raises(KeyError), needs("client"):
        raise KeyError("torch")
