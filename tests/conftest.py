"""Options of the test run, and threads: tests run on small tensors."""

import pytest
import torch

# The suites assert like tests do; without this their failures would show no values.
pytest.register_assert_rewrite("recsys.testing")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/golden/*.json anew; review the change",
    )


def pytest_configure() -> None:
    torch.set_num_threads(1)
