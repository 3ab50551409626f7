import made_up
import matplotlib.pyplot as plt
import pytest

from study.tables import with_settings


@pytest.fixture
def runs():
    return with_settings(made_up.reported())


@pytest.fixture
def curves():
    return made_up.curves()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")
