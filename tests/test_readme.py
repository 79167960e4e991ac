"""What the README and the tutorials print is what happens."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from captum_sig.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_one_after_the_other(capsys):
    exec(compile("\n".join(blocks("python")), "README.md", "exec"), {})
    assert "('not', " in capsys.readouterr().out


def test_the_main_command_stands_by_line_30_and_explains():
    lines = README.splitlines()
    number = lines.index("<!-- main command -->")
    assert number < 30
    install, _, explain = lines[number + 2].partition(" && ")
    assert install == "pip install ."
    program, *arguments = shlex.split(explain)
    assert program == "captum-sig"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith("NEGATIVE")


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    awk = re.search(r"\$\((awk '.*?' README\.md)\)", script, flags=re.DOTALL).group(1)
    found = subprocess.check_output(["bash", "-c", awk], cwd=ROOT, text=True)
    assert found.strip() == 'pip install -e ".[test]" && python -m pytest'


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(path):
    assert "assert " in path.read_text(encoding="utf-8")
    runpy.run_path(str(path))
