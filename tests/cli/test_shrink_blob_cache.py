"""``zeolith shrink-blob-cache``."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeolith.cli.main import USAGE, main


def test_the_size_may_have_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("zeolith.client.blobsizes.shrink_cache", lambda *args: asked.append(args))
    for text, size in (("0", 0), ("250", 250), ("2KB", 2048), ("3mb", 3 << 20), ("1GB", 1 << 30)):
        assert main(["shrink-blob-cache", str(tmp_path), text]) == 0
        assert asked.pop() == (str(tmp_path), size)


def test_what_is_no_cache_or_no_size_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shrink-blob-cache", str(tmp_path), "much"]) == USAGE
    assert "'much' is no size" in capsys.readouterr().err
    assert main(["shrink-blob-cache", str(tmp_path), "-1"]) == USAGE
    capsys.readouterr()
    (tmp_path / ".layout").write_text("bushy")
    assert main(["shrink-blob-cache", str(tmp_path), "0"]) == USAGE
    assert "its layout is 'bushy'" in capsys.readouterr().err
