"""What is told while fetching, on a terminal and off."""

import pytest

from jaxtune.pretrained.progress import say, transfer_bar, waiting


def test_off_a_terminal_only_plain_lines(capsys):
    say("fetching [x] from /a/very/long/path " + "y" * 200)
    with waiting("spinner"), transfer_bar("bar", 10) as advance:
        advance(5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "fetching [x] from /a/very/long/path " + "y" * 200 + "\n"


@pytest.mark.parametrize("total", [1000, None])
def test_on_a_terminal_a_bar_is_drawn(monkeypatch, capsys, total):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with transfer_bar("model.safetensors", total) as advance:
        advance(500)
    with waiting("pip download"):
        pass
    err = capsys.readouterr().err
    assert "model.safetensors" in err
    assert ("0.5/1.0 kB" if total else "500/?") in err
