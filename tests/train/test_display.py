import io
import sys

from recsys.train.display import Display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(monkeypatch, stream, kind="auto"):
    monkeypatch.setattr(sys, "stderr", stream)
    with Display(kind, num_steps=10) as display:
        for step in range(1, 11):
            display.step()
            display.look("1/1", step, 0.5, 41234.0, 65.0)
        display.say("step 10  valid  auc 0.75")
    return stream.getvalue()


def test_lines_where_there_is_no_terminal_and_not_one_a_step(monkeypatch):
    lines = show(monkeypatch, io.StringIO()).splitlines()
    assert lines == [
        "epoch 1/1  step 1/10  41.2k rows/s  loss 0.5000  eta 0:01:05",
        "step 10  valid  auc 0.75",
    ]


def test_a_bar_on_a_terminal_with_speed_loss_and_eta(monkeypatch):
    text = show(monkeypatch, Terminal())
    assert "\r" in text and "41.2k rows/s  loss 0.5000  eta 0:01:05" in text
    assert "auc 0.75" in text


def test_nothing_when_asked(monkeypatch):
    assert show(monkeypatch, Terminal(), "none") == ""
