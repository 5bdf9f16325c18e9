"""Errors as a user of a script meets them."""

import pytest

from recsys.errors import ConfigError, TrainingError, exit_on_error


def test_a_program_ends_with_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError("`ratio` must be positive, got 0.")
    error.add_note("in model.yaml")
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise error
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.err == "ConfigError: `ratio` must be positive, got 0.\n  in model.yaml\n"
    assert said.out == ""


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(TrainingError), exit_on_error(debug=True):
        raise TrainingError("the loss is nan")
    with pytest.raises(ZeroDivisionError), exit_on_error():
        _ = 1 / 0
