"""A browser, where the machine has one."""

import html
import re
import shutil
import subprocess

import pytest


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("browser")

    def dump(page: str, script: str) -> str:
        """The page after a script that it loads in a frame of 420 pixels has run."""
        (folder / "inner.html").write_text(f"{page}<script>{script}</script>", encoding="utf-8")
        (folder / "outer.html").write_text(
            '<iframe src="inner.html" style="width:420px;height:900px;border:0"></iframe>'
            "<p id=told></p><script>onmessage = e => told.textContent = e.data</script>"
        )
        found = subprocess.run(
            [path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={folder / 'profile'}",
             "--virtual-time-budget=3000", "--dump-dom", (folder / "outer.html").as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
        return html.unescape(re.search('id="told">(.*?)<', found)[1])

    return dump
